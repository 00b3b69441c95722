// A server of tools, as the TypeScript SDK of MCP sees it: one tool that costs money, one that is free, one that a rule denies,
// one without a price.
import { createRequire } from "node:module";
const sdk = createRequire("NODE_PREFIX/");
const { Client } = sdk("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = sdk("@modelcontextprotocol/sdk/client/streamableHttp.js");

const client = new Client({ name: "contract", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL("https://mcp.example/mcp")));
console.log("tools:", (await client.listTools()).tools.map((tool) => tool.name).sort().join(" "));
for (const name of ["search", "lookup", "delete_everything", "unpriced"]) {
  const answer = await client.callTool({ name, arguments: { query: "x" } });
  const refused = answer.isError ? `refused: ${answer._meta["caracal/denial"].reason}: ` : "";
  console.log(`${name}: ${refused}${answer.content[0].text}`);
}
await client.close();
