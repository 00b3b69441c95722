"""What no client should send. None of it may reach anybody, and the next one is served. Prints what each is told, as JSON."""
import json
import socket
import ssl

ADDRESS = ("example.com", 443)
LONG = b"a" * (1 << 20)


def until_closed(stream):
    """What is said until the other side closes; to wait in vain for that is a failure."""
    said = b""
    try:
        while part := stream.recv(65536):
            said += part
    except (ConnectionError, ssl.SSLError):
        pass
    return said


def raw(data, port=443):
    with socket.create_connection((ADDRESS[0], port), timeout=10) as plain:
        plain.settimeout(60)
        try:
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return until_closed(plain)


def inside(data):
    context = ssl.create_default_context()
    with socket.create_connection(ADDRESS, timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=ADDRESS[0]) as tls:
            tls.settimeout(60)
            try:
                tls.sendall(data)
            except (ConnectionError, ssl.SSLError):
                pass
            return until_closed(tls)


def told(name, said):
    head, _, body = said.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    status = lines[0].split(" ")[1] if lines[0].startswith("HTTP/1.1 ") else None
    reason = fields.get("x-caracal-reason")
    print(json.dumps({"name": name, "status": status, "reason": reason, "body": body.decode("latin-1")[:500]}), flush=True)


head = b"GET /hello HTTP/1.1\r\nHost: example.com\r\n"
told("half a hello", raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 500))
told("a record without end", raw(b"\x16\x03\x01\xff\xff" + b"\x00" * 100))
told("zeros", raw(b"\x00" * 1000))
told("ssh", raw(b"SSH-2.0-nobody\r\n", port=80))
told("long, in the clear", raw(head + b"X: " + LONG, port=80))
idle = [socket.create_connection(ADDRESS, timeout=10) for _ in range(50)]
told("two framings", inside(head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
told("two hosts", inside(head + b"Host: github.com\r\n\r\n"))
told("a folded line", inside(head + b"X: a\r\n b\r\n\r\n"))
told("two lengths", inside(head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"))
told("a space before a colon", inside(b"GET /hello HTTP/1.1\r\nHost : example.com\r\n\r\n"))
told("long", inside(head + b"X: " + LONG + b"\r\n\r\n"))
for one in idle:
    one.close()
print("garbage: done")
