"""Asks for a refused host as fast as it can until a file appears; prints how often it was answered and how often cut off."""
import json, os, socket, sys, threading, time

stop, hosts = sys.argv[1], sys.argv[2:]
answered, cut = {host: 0 for host in hosts}, {host: 0 for host in hosts}
lock = threading.Lock()


def answer(stream):
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.recv(65536)
        if not more:
            raise ConnectionError("no answer")
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 403"), head
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        more = stream.recv(65536)
        if not more:
            # The head was sent, so it was counted.
            return
        body += more


def storm(host):
    request = f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    while not os.path.exists(stop):
        try:
            with socket.create_connection(("203.0.113.10", 80), timeout=5) as stream:
                while not os.path.exists(stop):
                    asked = False
                    try:
                        stream.sendall(request)
                        asked = True
                        answer(stream)
                        with lock:
                            answered[host] += 1
                    except OSError:
                        with lock:
                            cut[host] += asked
                        raise
        except OSError:
            time.sleep(0.01)


threads = [threading.Thread(target=storm, args=(host,)) for host in hosts for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"answered": answered, "cut": cut}))
