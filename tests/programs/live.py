"""A workload with every kind of socket, half of them made outside the cgroup that its inner process is moved into.

    live.py DIRECTORY HOST PORT HOST6 UID

Starts as root, for raw sockets, and goes on as UID. What this kernel does not have is `absent`, with its reason. Files in DIRECTORY tell what is done (`pids`, `ready`, `seen`) and ask for more (`moved`, `late`, `hostile`).
"""

import ctypes
import errno
import json
import os
import socket
import sys
import time

work, host, port, host6, uid = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
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


UDPLITE, MPTCP = 136, 262
V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
# Of each kind that is connected: its three numbers, and where to.
KINDS = {
    "tcp": ((V4, STREAM, 0), (host, port)),
    "udp": ((V4, DATAGRAM, 0), (host, port)),
    "tcp6": ((V6, STREAM, 0), (host6, port)),
    "udp6": ((V6, DATAGRAM, 0), (host6, port)),
    "udplite": ((V4, DATAGRAM, UDPLITE), (host, port)),
    "udplite6": ((V6, DATAGRAM, UDPLITE), (host6, port)),
    "ping": ((V4, DATAGRAM, socket.IPPROTO_ICMP), (host, 0)),
    "ping6": ((V6, DATAGRAM, socket.IPPROTO_ICMPV6), (host6, 0)),
    "raw": ((V4, RAW, socket.IPPROTO_ICMP), (host, 0)),
    "raw6": ((V6, RAW, socket.IPPROTO_ICMPV6), (host6, 0)),
    "mptcp": ((V4, STREAM, MPTCP), (host, port)),
}
# What the kernel says of a kind that it does not have.
ABSENT = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT, errno.ENOPROTOOPT)
absent = {}


def connected(kind):
    """A new one, or None where this kernel has none."""
    numbers, to = KINDS[kind]
    try:
        made = socket.socket(*numbers)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        absent[kind] = errno.errorcode[error.errno]
        return None
    made.settimeout(5)
    made.connect(to)
    return made


def all_of(kinds, prefix=""):
    made = {prefix + kind: connected(kind) for kind in kinds}
    return {name: one for name, one in made.items() if one}


def kind_of(name):
    name = name.removeprefix("own-")
    return name if name in KINDS else "tcp" if name in ("passed", "late", "fresh-tcp") else "udp"


def bytes_of(name):
    """What is sent: the canary, in an echo request where only those pass."""
    if kind_of(name) in ("ping", "raw"):
        request = b"\x08\0\0\0\0\1\0\1" + CANARY + b"x"
        total = sum(request[at] << 8 | request[at + 1] for at in range(0, len(request), 2))
        total = (total & 0xffff) + (total >> 16)
        return request[:2] + ((~total & 0xffff).to_bytes(2, "big")) + request[4:]
    if kind_of(name) in ("ping6", "raw6"):
        return b"\x80\0\0\0\0\1\0\1" + CANARY
    return CANARY


def drop():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def listener(address):
    made = socket.socket()
    made.bind((address, 0))
    made.listen()
    return made


# An MPTCP socket from outside cannot be fenced: with one the attach is refused, which a test of its own shows.
SAME = [kind for kind in KINDS if kind != "mptcp"]
outside = {
    **all_of(SAME),
    "listener": listener("0.0.0.0"),
    "fresh-tcp": socket.socket(),
    "fresh-udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
}
passed = connected("tcp")
near, far = socket.socketpair()
inner = os.fork()
if inner:
    far.close()
    drop()
    say("pids", {"outside": os.getpid(), "inside": inner})
    until("moved")
    socket.send_fds(near, [b"x"], [passed.fileno()])
    until("late")
    late = connected("tcp")
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
sockets.update(all_of(KINDS, "own-"))
sockets.update({"own-listener": local, "client": client, "server": server})
drop()
far.setblocking(False)
for one in sockets.values():
    one.setblocking(False)
say("ready", {
    "fds": {name: one.fileno() for name, one in sockets.items()},
    "ports": {"listener": sockets["listener"].getsockname()[1]},
    "unix": far.fileno(),
    "absent": absent,
})


def attempt(work):
    try:
        work()
        return "sent"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def again(name):
    """Takes a socket that was ended and connects it once more: connect(2) with AF_UNSPEC, then to the canary."""
    libc.connect(sockets[name].fileno(), ctypes.create_string_buffer(16), 16)
    sockets[name].connect_ex(KINDS[kind_of(name)][1])


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
            seen[name] = attempt(lambda: one.send(bytes_of(name)))
        if name in ("client", "server"):
            attempt(lambda: one.recv(65536))
    if asked("hostile"):
        for name in [name for name in sockets if name.removeprefix("own-") in KINDS or name in ("passed", "fresh-tcp")]:
            again(name)
            seen["again-" + name] = attempt(lambda: sockets[name].send(bytes_of(name)))
    say("seen", seen)
    time.sleep(0.02)
