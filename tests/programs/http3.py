"""Asks for HTTP/3 as a browser's library would, and for HTTP/2 beside it: how much later does the first answer come?"""
import statistics
import time

import curl_cffi
from curl_cffi import CurlHttpVersion, CurlOpt

tried = 0


def watch(kind, data):
    global tried
    text = bytes(data).decode(errors="replace").lower()
    if kind == 0 and ("quic" in text or "h3" in text or "http/3" in text):
        tried += 1


def once(version):
    began = time.monotonic()
    # A session of its own: no connection and no look-up is kept.
    with curl_cffi.Session(verify="/etc/ssl/certs/ca-certificates.crt", debug=False) as session:
        session.curl.setopt(CurlOpt.VERBOSE, 1)
        session.curl.setopt(CurlOpt.DEBUGFUNCTION, watch)
        answer = session.get("https://example.com/hello", http_version=version, timeout=30)
    assert answer.status_code == 200 and answer.text == "hello from the stand-in\n", answer
    return (time.monotonic() - began) * 1_000


for version in (CurlHttpVersion.V2_0, CurlHttpVersion.V3):
    once(version)
tried = 0
pairs = [(once(CurlHttpVersion.V2_0), once(CurlHttpVersion.V3)) for _ in range(9)]
# Pairs that ran side by side: what else the machine does is in both.
late = statistics.median(three - two for two, three in pairs)
print("pairs", [(round(two), round(three)) for two, three in pairs])
print("tried", tried)
print("fallback_ms", max(0, round(late)))
