"""Streams of five formats, each broken off after a number of events.

cuts.py all          every event x (client reset, client close, upstream reset); one JSON line a call
cuts.py hold N CAP   one stream a format that stands still after N events, a JSON line each; `ready` once all do; ends when
                     they break
"""
import concurrent.futures
import datetime
import http.client
import json
import socket
import ssl
import struct
import sys
import threading

OUTPUT = 3


def chat(words, cap):
    body = {"model": "gpt-4o-mini", "max_tokens": cap, "stream": True, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": words}]}
    return "api.openai.com", "/v1/chat/completions", body, b'"usage":{'


def responses(words, cap):
    body = {"model": "gpt-5-mini", "max_output_tokens": cap, "stream": True, "input": words}
    return "api.openai.com", "/v1/responses", body, b"event: response.completed"


def messages(words, cap):
    body = {"model": "claude-haiku-4-5", "max_tokens": cap, "stream": True,
            "messages": [{"role": "user", "content": words}]}
    return "api.anthropic.com", "/v1/messages", body, b"event: message_delta"


def gemini(words, cap):
    body = {"contents": [{"role": "user", "parts": [{"text": words}]}], "generationConfig": {"maxOutputTokens": cap}}
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    return "generativelanguage.googleapis.com", path, body, b"finishReason"


def bedrock(words, cap):
    body = {"messages": [{"role": "user", "content": [{"text": words}]}], "inferenceConfig": {"maxTokens": cap}}
    host = "bedrock-runtime.us-east-1.amazonaws.com"
    return host, "/model/amazon.nova-pro-v1:0/converse-stream", body, b'"usage":{'


# How many events an answer of OUTPUT tokens has.
FORMATS = {chat: OUTPUT + 4, responses: OUTPUT + 8, messages: OUTPUT + 6, gemini: OUTPUT + 1, bedrock: OUTPUT + 4}


def whole(call, data):
    """The whole events of `data`."""
    if call is not bedrock:
        return data.replace(b"\r\n", b"\n").count(b"\n\n")
    count = 0
    while len(data) >= 4 and len(data) >= (length := struct.unpack(">I", data[:4])[0]):
        data, count = data[length:], count + 1
    return count


def ask(call, cap, words):
    host, path, body, _ = call(f"[[id={cap} output={OUTPUT} {words}]]", cap)
    connection = http.client.HTTPSConnection(host, timeout=120, context=ssl.create_default_context())
    heads = {"content-type": "application/json", "authorization": "Bearer stand-in", "x-api-key": "stand-in"}
    connection.request("POST", path, json.dumps(body), heads)
    # Held, because the answer gives its connection up at its end.
    plug = connection.sock
    answer = connection.getresponse()
    # A reset may take with it what was sent before, the head too, and then the daemon answers.
    early = answer.status == 400 and words.endswith("reset")
    assert answer.status == 200 or early, (answer.status, answer.read())
    return plug, answer


def read(call, answer, events):
    """Reads until there are `events` whole ones, or the end."""
    data = b""
    while whole(call, data) < events:
        try:
            piece = answer.read1(65536)
        except (OSError, http.client.HTTPException):
            break
        if not piece:
            break
        data += piece
    return data


def cut(task):
    call, after, way, cap = task
    plug, answer = ask(call, cap, f"cut={after} reset" if way == "upstream reset" else f"stop={after}")
    data = read(call, answer, 1 << 30 if way == "upstream reset" else after)
    if way == "client reset":
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way != "upstream reset":
        # The answer holds the socket too; this closes it whoever holds it.
        answer.fp.close()
        plug.close()
        with_go = http.client.HTTPSConnection("example.com", timeout=120, context=ssl.create_default_context())
        with_go.request("GET", f"/go/{cap}")
        with_go.getresponse().read()
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
    events = whole(call, data) if answer.status == 200 else 0
    return {"cap": cap, "call": call.__name__, "after": after, "way": way, "events": events,
            "seen": answer.status == 200 and call("", 0)[3] in data, "due": now.strftime("%Y-%m-%dT%H:%M:%S.%f")}


def hold(after, cap):
    calls = list(FORMATS)
    stands, lock = [], threading.Lock()

    def one(place):
        call = calls[place]
        plug, answer = ask(call, cap + place, f"stop={min(after, FORMATS[call])}")
        data = read(call, answer, min(after, FORMATS[call]))
        with lock:
            stands.append(call)
            seen = call("", 0)[3] in data
            print(json.dumps({"cap": cap + place, "call": call.__name__, "seen": seen}), flush=True)
            if len(stands) == len(calls):
                print("ready", flush=True)
        read(call, answer, 1 << 30)
        plug.close()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(one, range(len(calls))))


if sys.argv[1] == "hold":
    hold(int(sys.argv[2]), int(sys.argv[3]))
else:
    points = [(call, after, way) for call, count in FORMATS.items() for after in range(count + 1)
              for way in ("client reset", "client close", "upstream reset")]
    tasks = [(*point, 1000 + place) for place, point in enumerate(points)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for line in pool.map(cut, tasks):
            print(json.dumps(line))
