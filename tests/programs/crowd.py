"""Opens COUNT connections, says so in a file, waits for a sign, and looks what became of them."""
import os
import socket
import sys
import time

count, number = int(sys.argv[1]), sys.argv[2]
family, kind, protocol, _, address = socket.getaddrinfo("example.com", 80, type=socket.SOCK_STREAM)[0]
held = []
for _ in range(count):
    one = socket.socket(family, kind, protocol)
    one.settimeout(60)
    one.connect(address)
    held.append(one)
with open("open." + number, "w"):
    pass
while not os.path.exists("go"):
    time.sleep(0.05)

lost, idle = 0, []
for one in held:
    one.setblocking(False)
    try:
        one.recv(1)
        lost += 1
    except BlockingIOError:
        idle.append(one)
    except OSError:
        lost += 1
served = 0
for one in idle[:: max(1, count // 5)]:
    one.settimeout(60)
    one.sendall(b"GET /hello HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
    said = b""
    while part := one.recv(4096):
        said += part
    served += said.startswith(b"HTTP/1.1 200 ")
print(f"crowd: {served} served, {lost} lost")
