"""A server of tools, as the MCP SDK sees it: one tool that costs money, one that is free, one that a rule denies, one without
a price; and a plain API beside it."""
import asyncio

import requests
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main():
    async with streamable_http_client("https://mcp.example/mcp") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            print("tools:", sorted(tool.name for tool in (await session.list_tools()).tools))
            for name in ("search", "lookup", "delete_everything", "unpriced"):
                answer = await session.call_tool(name, {"query": "x"})
                refused = f"refused: {answer.meta['caracal/denial']['reason']}: " if answer.is_error else ""
                print(f"{name}: {refused}{answer.content[0].text}")


asyncio.run(main())
print("api:", requests.get("https://mcp.example/geocode", timeout=30).json())
