"""A workload with every kind of socket, half of them made outside the cgroup that its inner process is moved into.

    live.py DIRECTORY HOST PORT

Files in DIRECTORY tell what is done (`pids`, `ready`, `seen`) and ask for more (`moved`, `late`, `hostile`).
"""

import ctypes
import errno
import json
import os
import socket
import sys
import time

work, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
CANARY = b"caracal-canary-5b1f"
libc = ctypes.CDLL(None, use_errno=True)


def asked(name):
    return os.path.exists(os.path.join(work, name))


def until(name):
    while not asked(name):
        time.sleep(0.01)


def say(name, value):
    path = os.path.join(work, name)
    with open(path + ".new", "w") as out:
        json.dump(value, out)
    os.rename(path + ".new", path)


def tcp():
    return socket.create_connection((host, port), 5)


def udp():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((host, port))
    return made


def listener(address):
    made = socket.socket()
    made.bind((address, 0))
    made.listen()
    return made


outside = {
    "tcp": tcp(),
    "udp": udp(),
    "listener": listener("0.0.0.0"),
    "fresh-tcp": socket.socket(),
    "fresh-udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
}
passed = tcp()
near, far = socket.socketpair()
inner = os.fork()
if inner:
    far.close()
    say("pids", {"outside": os.getpid(), "inside": inner})
    until("moved")
    socket.send_fds(near, [b"x"], [passed.fileno()])
    until("late")
    late = tcp()
    socket.send_fds(near, [b"x"], [late.fileno()])
    while True:
        time.sleep(1)

near.close()
passed.close()
until("moved")


def receive():
    _, descriptors, _, _ = socket.recv_fds(far, 1, 1)
    return socket.socket(fileno=descriptors[0])


sockets = dict(outside, passed=receive())
local = listener("127.0.0.1")
client = socket.create_connection(local.getsockname())
server, _ = local.accept()
sockets.update({"own-tcp": tcp(), "own-udp": udp(), "own-listener": local, "client": client, "server": server})
far.setblocking(False)
for one in sockets.values():
    one.setblocking(False)
say("ready", {
    "fds": {name: one.fileno() for name, one in sockets.items()},
    "ports": {"listener": sockets["listener"].getsockname()[1]},
    "unix": far.fileno(),
})


def attempt(work):
    try:
        work()
        return "sent"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def again(one):
    """Takes a socket that was ended and connects it once more: connect(2) with AF_UNSPEC, then to the canary."""
    libc.connect(one.fileno(), ctypes.create_string_buffer(16), 16)
    one.connect_ex((host, port))


while True:
    seen = {}
    if asked("late") and "late" not in sockets:
        try:
            sockets["late"] = receive()
            sockets["late"].setblocking(False)
        except BlockingIOError:
            pass
    for name, one in sockets.items():
        if name in ("listener", "own-listener"):
            seen[name] = attempt(lambda: one.accept()[0].send(CANARY))
        elif name == "fresh-udp":
            seen[name] = attempt(lambda: one.sendto(CANARY, (host, port)))
        elif name != "fresh-tcp":
            seen[name] = attempt(lambda: one.send(CANARY))
        if name in ("client", "server"):
            attempt(lambda: one.recv(65536))
    if asked("hostile"):
        for name in ("tcp", "udp", "passed", "fresh-tcp", "own-tcp", "own-udp"):
            again(sockets[name])
            seen["again-" + name] = attempt(lambda: sockets[name].send(CANARY))
    say("seen", seen)
    time.sleep(0.02)
