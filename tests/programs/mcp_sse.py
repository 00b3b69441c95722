"""A server of tools over the older transport (HTTP with SSE): messages are posted, and their answers come over the stream that was
opened first. A refusal is the answer to the POST, which this client does not hand on: the call ends by its own time limit, and
the session goes on."""
import asyncio

from mcp import ClientSession, MCPError
from mcp.client.sse import sse_client


async def main():
    async with sse_client("https://mcp.example/sse") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            print("tools:", sorted(tool.name for tool in (await session.list_tools()).tools))
            for name, patience in (("search", 120), ("delete_everything", 3), ("lookup", 120)):
                try:
                    answer = await session.call_tool(name, {"query": "x"}, read_timeout_seconds=patience)
                    print(f"{name}:", answer.content[0].text)
                except MCPError:
                    print(f"{name}: no answer")


asyncio.run(main())
