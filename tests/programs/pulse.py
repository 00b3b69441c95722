"""Two flows of a governed process, felt several hundred times a second: connections that are made anew, and one that is
open. Each line: nanoseconds of CLOCK_MONOTONIC before the attempt; nanoseconds that it took; 1 if the new connection was
made, else 0; 1 if the other side has taken more of the open one's bytes since the line before, else 0.

pulse.py CA_FILE HOST ADDRESS
"""

import socket
import ssl
import struct
import sys
import time

ca, host, address = sys.argv[1:4]
context = ssl.create_default_context(cafile=ca)
BYTES_ACKED = 120  # struct tcp_info of linux/tcp.h


def open_one():
    plain = socket.create_connection((address, 443), timeout=5)
    wrapped = context.wrap_socket(plain, server_hostname=host)
    # A request whose head does not end: more of it comes for as long as this runs.
    wrapped.sendall(b"GET /hello HTTP/1.1\r\nhost: %s\r\nx-pulse: " % host.encode())
    wrapped.setblocking(False)
    return wrapped


def taken(flow):
    info = flow.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return struct.unpack_from("Q", info, BYTES_ACKED)[0]


flow, before, sent = None, 0, 0
while True:
    at = time.monotonic_ns()
    new = socket.socket()
    # No TIME_WAIT, and nothing left for a daemon that cannot read.
    new.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    new.settimeout(0.05)
    try:
        new.connect((address, 443))
        made = 1
    except OSError:
        made = 0
    new.close()
    moved = 0
    try:
        if flow is None and made:
            flow, sent = open_one(), 0
            before = taken(flow)
        if flow is not None:
            now = taken(flow)
            moved = int(now > before)
            before = now
            flow.send(b"x")
            sent += 1
            if sent > 4000:
                flow.close()
                flow = None
    except (BlockingIOError, ssl.SSLWantWriteError):
        pass
    except OSError:
        flow = None
    print(at, time.monotonic_ns() - at, made, moved, flush=True)
    time.sleep(0.002)
