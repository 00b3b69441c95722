// The Anthropic API, whole and streamed, as its Node SDK sees it.
import { createRequire } from "node:module";
const Anthropic = createRequire("NODE_PREFIX/")("@anthropic-ai/sdk");

const client = new Anthropic();
const messages = [{ role: "user", content: "Say something. [[output=5]]" }];
const answer = await client.messages.create({ model: "claude-haiku-4-5", messages, max_tokens: 200 });
console.log("message:", answer.content[0].text, answer.usage.output_tokens);
const stream = client.messages.stream({ model: "claude-haiku-4-5", messages, max_tokens: 201 });
let text = "";
stream.on("text", (delta) => { text += delta; });
const final = await stream.finalMessage();
console.log("stream:", text, final.usage.output_tokens);
