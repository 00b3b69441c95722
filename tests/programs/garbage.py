"""What no client should send. None of it may reach anybody, and the next one is served."""
import socket
import ssl

ADDRESS = ("example.com", 443)


def raw(data, port=443):
    with socket.create_connection((ADDRESS[0], port), timeout=10) as plain:
        plain.settimeout(5)
        try:
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(4096):
                pass
        except OSError:
            pass


def inside(data):
    context = ssl.create_default_context()
    with socket.create_connection(ADDRESS, timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=ADDRESS[0]) as tls:
            tls.settimeout(5)
            said = b""
            try:
                tls.sendall(data)
                while part := tls.recv(4096):
                    said += part
            except OSError:
                pass
            return said


raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 500)
raw(b"\x16\x03\x01\xff\xff" + b"\x00" * 100)
raw(b"\x00" * 1000)
raw(b"SSH-2.0-nobody\r\n", port=80)
raw(b"GET / HTTP/1.1\r\nHost: example.com\r\nX: " + b"a" * (1 << 20), port=80)
idle = [socket.create_connection(ADDRESS, timeout=10) for _ in range(50)]
for head in (
    b"GET /hello HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost: example.com\r\nHost: github.com\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost: example.com\r\nX: a\r\n b\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"GET /hello HTTP/1.1\r\nHost : example.com\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost: example.com\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
):
    said = inside(head)
    assert b" 200 " not in said.split(b"\r\n")[0], (head[:80], said[:200])
for one in idle:
    one.close()
print("garbage: done")
