// A server of tools, as the TypeScript SDK of MCP sees it: one tool that costs money, one that is free, one that a rule denies,
// one without a price.
import { createRequire } from "node:module";
const sdk = createRequire("NODE_PREFIX/");
const { Client } = sdk("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = sdk("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { McpError } = sdk("@modelcontextprotocol/sdk/types.js");

const client = new Client({ name: "contract", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL("https://mcp.example/mcp")));
console.log("tools:", (await client.listTools()).tools.map((tool) => tool.name).sort().join(" "));
for (const name of ["search", "lookup", "delete_everything", "unpriced"]) {
  try {
    console.log(`${name}:`, (await client.callTool({ name, arguments: { query: "x" } })).content[0].text);
  } catch (error) {
    const kind = error instanceof McpError ? "McpError" : error.constructor.name;
    console.log(`${name}: ${kind} ${error.code} ${error.data?.reason}: ${error.message}`);
  }
}
await client.close();
