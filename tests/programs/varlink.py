"""Asks systemd-resolved for an address, a TXT record's name included, by its varlink socket.

varlink.py NAME...
"""

import json
import socket
import sys

for name in sys.argv[1:]:
    try:
        with socket.socket(socket.AF_UNIX) as road:
            road.settimeout(20)
            road.connect("/run/systemd/resolve/io.systemd.Resolve")
            ask = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": {"name": name, "family": 2}}
            road.sendall(json.dumps(ask).encode() + b"\0")
            answer = b""
            while not answer.endswith(b"\0"):
                more = road.recv(65536)
                if not more:
                    break
                answer += more
        said = json.loads(answer.rstrip(b"\0") or b"{}")
        print(name, "asked", said.get("error", "answered"))
    except OSError as error:
        print(name, "not asked", error.strerror)
