"""Two processes and one UDP port on loopback. `receive` is somebody's service: it says `ready`, then what came. `broadcast`
sends to all sockets of the port while it has the broadcast address for itself. `filter` puts a program of its own into the
group of sockets that share the port, which then chooses whose a packet is."""
import ctypes
import socket
import struct
import sys

PORT, TOKEN = 7_812, b"caracal-canary"
role = sys.argv[1]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if role == "receive":
    s.bind(("0.0.0.0", PORT))
    s.settimeout(float(sys.argv[2]))
    print("ready", flush=True)
    try:
        print(s.recv(100).decode(), flush=True)
    except TimeoutError:
        print("nothing", flush=True)
elif role == "broadcast":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.bind((sys.argv[2], PORT))
    try:
        s.sendto(TOKEN, (sys.argv[2], PORT))
        print("sent")
    except PermissionError:
        print("refused")
elif role == "filter":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", PORT + 1))
    # BPF_RET | BPF_K: the first of them (linux/filter.h).
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(code))
    try:
        s.setsockopt(socket.SOL_SOCKET, 51, program)
        print("attached")
    except PermissionError:
        print("refused")
