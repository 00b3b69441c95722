"""Opens COUNT connections where the daemon takes MOST, has a request under way on each that it took, and says what became of
them in one line of JSON. It goes on when the file `use`, and when the file `end` is there.

descriptors.py COUNT MOST
"""
import json
import os
import select
import socket
import sys
import time

count, most = int(sys.argv[1]), int(sys.argv[2])
family, kind, protocol, _, address = socket.getaddrinfo("example.com", 80, type=socket.SOCK_STREAM)[0]


def connection():
    one = socket.socket(family, kind, protocol)
    one.settimeout(60)
    one.connect(address)
    return one


def read(one, until):
    """What comes up to this, or to the end."""
    said = b""
    try:
        while until not in said and (part := one.recv(4096)):
            said += part
    except ConnectionResetError:
        pass
    return said


def served(one):
    try:
        one.sendall(b"GET /status/204 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    except OSError:
        return False
    return read(one, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")


def stage(reached, following):
    with open(reached, "w"):
        pass
    while not os.path.exists(following):
        time.sleep(0.05)


told = {}
kept = connection()
told["kept"] = [served(kept)]
others = [connection() for _ in range(count - 1)]
# The kernel completes a connection before the daemon looks at it: those beyond are closed a moment later.
beyond, end = set(), time.monotonic() + 60
while len(beyond) < count - most and time.monotonic() < end:
    beyond.update(select.select([one for one in others if one not in beyond], [], [], 1)[0])
told["beyond"] = len(beyond)
told["bytes"] = sum(len(read(one, b"\n")) for one in beyond)
told["kept"].append(served(kept))
stage("full", "use")

taken, answers = [one for one in others if one not in beyond], {}
for one in taken:
    one.sendall(b"POST /echo HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\na")
    status = read(one, b"\r\n\r\n")[len("HTTP/1.1 ") :][:3].decode()
    answers.setdefault(status, []).append(one)
told["answers"] = {status: len(those) for status, those in answers.items()}
stage("used", "end")

held = answers.get("200", [])
for one in held:
    one.sendall(b"b")
told["ended"] = sum(b"b" in read(one, b"b") for one in held)
told["kept"].append(served(kept))
for one in others[: count // 2]:
    one.close()
# The daemon has to see the ends first.
told["new"], end = False, time.monotonic() + 60
while not told["new"] and time.monotonic() < end:
    told["new"] = served(connection())
print(json.dumps(told))
