"""Frames of every length form, text and binary, and a ping, with permessage-deflate on offer."""
import asyncio
import websockets


async def main():
    async with websockets.connect("wss://example.com/ws", max_size=1 << 22) as socket:
        for length in (0, 1, 125, 126, 65_535, 65_536, 1 << 20):
            await socket.send(bytes(n % 256 for n in range(length)))
            back = await asyncio.wait_for(socket.recv(), 30)
            assert back == bytes(n % 256 for n in range(length)), length
        await socket.send("text: \u00e4")
        assert await asyncio.wait_for(socket.recv(), 30) == "text: \u00e4"
        await asyncio.wait_for(await socket.ping(), 30)


asyncio.run(main())
print("websockets: done")
