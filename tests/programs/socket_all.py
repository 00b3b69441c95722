"""OpenAI's responses over a WebSocket: a chain of calls, as the `websockets` package sees them."""
import asyncio
import json
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


async def main(mode):
    heads = {"x-stand-in": "socket", "authorization": "Bearer stand-in"}
    async with websockets.connect("wss://api.openai.com/v1/responses", additional_headers=heads) as socket:
        if mode == "beyond":
            print("beyond:", *(await ask(socket, create("[[beyond=2500]]", 16)))[::2])
            print("again:", *(await ask(socket, create("Hello. [[output=5]]", 17)))[::2])
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
