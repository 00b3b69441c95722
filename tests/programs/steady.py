"""Requests of a governed process, each over a connection of its own, until a file exists. One line for each that failed,
and at the end how many there were.

steady.py CA_FILE HOST ADDRESS STOP_FILE
"""

import os
import socket
import ssl
import sys
import threading

ca, host, address, stop = sys.argv[1:5]
context = ssl.create_default_context(cafile=ca)
lock = threading.Lock()
count = 0


def one():
    with socket.create_connection((address, 443), timeout=60) as plain:
        with context.wrap_socket(plain, server_hostname=host) as wrapped:
            wrapped.sendall(b"GET /hello HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host.encode())
            head = b""
            while b"\r\n" not in head:
                more = wrapped.recv(4096)
                if not more:
                    raise OSError("closed without an answer")
                head += more
    status = head.split(b" ")[1]
    if status != b"200":
        raise OSError("status %s" % status.decode())


def work():
    global count
    while not os.path.exists(stop):
        try:
            one()
        except OSError as error:
            print("failed:", repr(error), flush=True)
        with lock:
            count += 1


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("requests", count, flush=True)
