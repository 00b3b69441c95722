"""A server of tools, as the MCP SDK sees it: one tool that costs money, one that is free, one that a rule denies, one without
a price; and a plain API beside it."""
import asyncio

import requests
from mcp import ClientSession, MCPError
from mcp.client.streamable_http import streamable_http_client


async def main():
    async with streamable_http_client("https://mcp.example/mcp") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            print("tools:", sorted(tool.name for tool in (await session.list_tools()).tools))
            for name in ("search", "lookup", "delete_everything", "unpriced"):
                try:
                    answer = await session.call_tool(name, {"query": "x"})
                    print(f"{name}:", answer.content[0].text)
                except MCPError as error:
                    print(f"{name}: MCPError:", error)


asyncio.run(main())
print("api:", requests.get("https://mcp.example/geocode", timeout=30).json())
