"""OpenAI's responses over a WebSocket: a chain of calls, as the `websockets` package sees them."""
import asyncio
import json
import socket as plain
import ssl
import sys

import websockets


def create(words, cap, **more):
    said = [{"role": "user", "content": [{"type": "input_text", "text": words}]}]
    return {"type": "response.create", "model": "gpt-5-mini", "store": False, "max_output_tokens": cap, "input": said, **more}


async def ask(socket, message):
    """Sends, and reads to the end of the answer: its type, its id, its text or why there is none."""
    await socket.send(json.dumps(message))
    text = ""
    while True:
        event = json.loads(await asyncio.wait_for(socket.recv(), 60))
        if event["type"] == "response.output_text.delta":
            text += event["delta"]
        elif event["type"] == "error":
            return event["type"], None, event["error"]["message"]
        elif event["type"] in ("response.completed", "response.incomplete"):
            return event["type"], event["response"]["id"], text
        elif event["type"] == "response.failed":
            return event["type"], None, event["response"]["error"]["message"]


async def ends(socket, count):
    """Reads to the end of so many answers: which ends and errors there were."""
    seen = []
    while sum(kind != "error" for kind in seen) < count:
        kind = json.loads(await asyncio.wait_for(socket.recv(), 60))["type"]
        seen += [kind] if kind in ("error", "response.completed") else []
    return seen


def post(upgrade):
    """A whole call over HTTP/1.1 that asks for an upgrade as well."""
    body = json.dumps({"model": "gpt-5-mini", "max_output_tokens": 300, "input": "Hello. [[output=40]]"})
    head = ["POST /v1/responses HTTP/1.1", "Host: api.openai.com", "Connection: Upgrade", f"Upgrade: {upgrade}",
            "Content-Type: application/json", "x-stand-in: socket", f"Content-Length: {len(body)}", "", body]
    with plain.create_connection(("api.openai.com", 443), 60) as tcp:
        with ssl.create_default_context().wrap_socket(tcp, server_hostname="api.openai.com") as tls:
            tls.sendall("\r\n".join(head).encode())
            return tls.recv(1 << 16).split(b"\r\n", 1)[0].decode()


async def main(mode):
    if mode == "post":
        for upgrade in ("x", "websocket", "h2c"):
            print(f"{upgrade}:", post(upgrade))
        return
    heads = {"x-stand-in": "socket", "authorization": "Bearer stand-in"}
    async with websockets.connect("wss://api.openai.com/v1/responses", additional_headers=heads) as socket:
        if mode == "beyond":
            print("beyond:", *(await ask(socket, create("[[beyond=2500]]", 16)))[::2])
            print("again:", *(await ask(socket, create("Hello. [[output=5]]", 17)))[::2])
            return
        if mode == "stray":
            # A message that costs nothing before a call: whatever is answered to it ends no call.
            await socket.send(json.dumps({"type": "response.cancel"}))
            await socket.send(json.dumps(create("One. [[output=40]]", 300)))
            print("cancel, then one:", await ends(socket, 1))
            # An answer that fails in the middle and goes on, and a dear call behind it.
            await socket.send(json.dumps(create("Two. [[output=4 error=4]]", 20)))
            await socket.send(json.dumps(create("Three. [[output=60]]", 30_000)))
            print("two and three:", await ends(socket, 2))
            return
        if mode == "leave":
            await socket.send(json.dumps(create("[[output=40 slow=20]]", 200)))
            await asyncio.wait_for(socket.recv(), 60)
            return
        if mode == "cut":
            try:
                print("cut:", await ask(socket, create("[[output=40 cut=20]]", 201)))
            except websockets.exceptions.ConnectionClosed:
                print("cut: closed")
            return
        kind, first, text = await ask(socket, create("Hello. [[output=5]]", 100))
        print("first:", kind, text)
        kind, second, text = await ask(socket, create("And now? [[output=6]]", 101, previous_response_id=first))
        print("second:", kind, text)
        kind, _, text = await ask(socket, create("Last. [[output=7]]", 102, previous_response_id=second))
        print("third:", kind, text)
        print("other type:", *(await ask(socket, {"type": "session.update", "session": {}}))[::2])
        print("no price:", *(await ask(socket, create("x", 103) | {"model": "gpt-99"}))[::2])
        await asyncio.wait_for(await socket.ping(), 30)
        # Two at once: the second waits for the first.
        await socket.send(json.dumps(create("One. [[output=3 slow=5]]", 104)))
        print("after it:", *(await ask(socket, create("Two. [[output=4]]", 105)))[::2])
        print("two:", (await asyncio.wait_for(socket.recv(), 60)) is not None)
    print("closed:", socket.close_code)


asyncio.run(main(sys.argv[1]))
