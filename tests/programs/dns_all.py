"""Asks the name server of resolv.conf over UDP and TCP, and prints for each question the code and the answers."""
import ipaddress
import socket
import struct
import sys

server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
KINDS = {"A": 1, "MX": 15, "TXT": 16, "AAAA": 28, "SVCB": 64, "HTTPS": 65, "ANY": 255}


def name_of(message, at):
    labels, end = [], None
    while message[at]:
        if message[at] >= 192:
            end, at = end or at + 2, (message[at] & 63) << 8 | message[at + 1]
            continue
        labels.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), end or at + 1


def query(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack(">B2H", 0, KINDS[kind], 1)


def shown(message):
    flags, _, answers = struct.unpack(">3H", message[2:8])
    at = name_of(message, 12)[1] + 4
    out = []
    for _ in range(answers):
        at = name_of(message, at)[1]
        kind, _, ttl, length = struct.unpack(">2HIH", message[at:at + 10])
        data = message[at + 10:at + 10 + length]
        at += 10 + length
        out.append(f"{ipaddress.ip_address(data)}/{ttl <= 1}" if kind in (1, 28) else f"type{kind}")
    return f"{flags & 15} {','.join(out)}"


def over_udp(message, connected):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        if connected:
            asking.connect((server, 53))
            asking.send(message)
            return asking.recv(4096)
        asking.sendto(message, (server, 53))
        answer, peer = asking.recvfrom(4096)
        assert peer == (server, 53), peer
        return answer


def over_tcp(message):
    with socket.create_connection((server, 53), timeout=20) as asking:
        asking.sendall(struct.pack(">H", len(message)) + message)
        reading = asking.makefile("rb")
        return reading.read(*struct.unpack(">H", reading.read(2)))


for name in sys.argv[1:]:
    for kind in KINDS:
        message = query(name, kind)
        answers = {shown(answer) for answer in (over_udp(message, True), over_udp(message, False), over_tcp(message))}
        print(name, kind, *sorted(answers))
