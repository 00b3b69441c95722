"""One TCP connection from a chosen source port, which says one HTTP request; or one DNS query for a name over UDP.

stale_port.py PORT ADDRESS PATH|NAME break|wait GO_FILE

Begins when the file is there.
`break`: the connection is reset at once; what it sent waits at whoever accepts it later. `wait`: prints the answer's status.
"""

import os
import socket
import struct
import sys
import time

port, address, path, then, go = int(sys.argv[1]), *sys.argv[2:6]
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
over_udp = not path.startswith("/")
connection = socket.socket(type=socket.SOCK_DGRAM if over_udp else socket.SOCK_STREAM)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
connection.bind(("0.0.0.0", port))
connection.settimeout(30)
connection.connect((address, 53 if over_udp else 80))
if over_udp:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in path.split("."))
    for _ in range(200):
        try:
            connection.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack(">B2H", 0, 1, 1))
            break
        except OSError as error:
            # Somebody else's port a moment ago; as every resolver does, it asks again.
            print("refused", error.strerror, flush=True)
            time.sleep(0.05)
else:
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n".encode())
print("sent", flush=True)
if over_udp and then == "wait":
    print("status", connection.recv(4096)[3] & 15, flush=True)
elif over_udp:
    pass
elif then == "break":
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
else:
    answer = b""
    while b"\r\n" not in answer:
        more = connection.recv(4096)
        if not more:
            break
        answer += more
    print("status", answer.split(b" ")[1].decode() if answer else "none", flush=True)
connection.close()
print("over", flush=True)
