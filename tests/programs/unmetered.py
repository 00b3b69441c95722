"""Calls that are not metered: each place of a table, then as the official SDKs see them. One line each."""
import asyncio
import http.client
import json
import ssl
import sys

import anthropic
import openai
import websockets

for host, path in json.loads(sys.argv[1]):
    connection = http.client.HTTPSConnection(host, timeout=60, context=ssl.create_default_context())
    connection.request("POST", path, "{}", {"content-type": "application/json", "authorization": "Bearer x"})
    answer = connection.getresponse()
    said = answer.read().decode()
    print(f"{host}{path} {answer.status} {answer.headers['x-caracal-reason']} {'because' in said}")
    connection.close()

one, two = openai.OpenAI(api_key="stand-in"), anthropic.Anthropic(api_key="stand-in")
batch = {"custom_id": "x", "params": {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []}}
for name, call in {
    "images": lambda: one.images.generate(prompt="a pixel", model="gpt-image-1").data[0].b64_json,
    "speech": lambda: one.audio.speech.create(model="tts-1", voice="alloy", input="hello"),
    "openai batch": lambda: one.batches.create(input_file_id="f", endpoint="/v1/responses", completion_window="24h"),
    "anthropic batch": lambda: two.messages.batches.create(requests=[batch]),
}.items():
    try:
        print(f"{name}: {call()}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")


async def session():
    async with websockets.connect("wss://api.openai.com/v1/realtime?model=gpt-realtime"):
        print("realtime: open")


try:
    asyncio.run(session())
except websockets.exceptions.InvalidStatus as error:
    print(f"realtime: {error.response.status_code} {error.response.headers['x-caracal-reason']}")
