"""What people do with requests."""
import hashlib
import requests

session = requests.Session()
assert session.get("https://example.com/hello", timeout=30).text == "hello from the stand-in\n"
body = bytes(n % 251 for n in range(300_000))
answer = session.post("https://example.com/hash", data=body, timeout=30).json()
assert answer == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}, answer
answer = session.post("https://example.com/hash", data=(body[n:n + 1000] for n in range(0, len(body), 1000)), timeout=30).json()
assert answer["sha256"] == hashlib.sha256(body).hexdigest(), answer
with session.get("https://example.com/sse/50", stream=True, timeout=30) as answer:
    assert sum(1 for line in answer.iter_lines() if line.startswith(b"data:")) == 50
assert session.get("https://example.com/gzip", timeout=30).text.startswith("line 0 of")
denied = session.get("https://denied.example/", timeout=30)
assert denied.status_code == 403 and denied.text.lower().find("caracal") >= 0, (denied.status_code, denied.text)
print("requests: done")
