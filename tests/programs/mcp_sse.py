"""A server of tools over the older transport (HTTP with SSE): messages are posted, and their answers come over the stream that was
opened first. So does our refusal: this client does not hand on what a POST is answered."""
import asyncio

from mcp import ClientSession
from mcp.client.sse import sse_client


async def main():
    async with sse_client("https://mcp.example/sse") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            print("tools:", sorted(tool.name for tool in (await session.list_tools()).tools))
            for name in ("search", "delete_everything", "delete_everything", "lookup", "search"):
                answer = await session.call_tool(name, {"query": "x"})
                denial = (answer.meta or {}).get("caracal/denial", {})
                print(f"{name}: {answer.is_error} {denial.get('reason')} {answer.content[0].text}")


asyncio.run(main())
