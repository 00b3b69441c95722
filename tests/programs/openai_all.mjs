// The OpenAI API as its Node SDK sees it.
import { createRequire } from "node:module";
const OpenAI = createRequire("NODE_PREFIX/")("openai");

const client = new OpenAI();
const messages = [{ role: "user", content: "Say something. [[output=5]]" }];
const answer = await client.chat.completions.create({ model: "gpt-4o-mini", messages, max_tokens: 200 });
console.log("chat:", answer.choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ model: "gpt-4o-mini", messages, max_tokens: 201, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
if (!text.startsWith("word0")) throw new Error(text);
const response = await client.responses.create({ model: "gpt-5-mini", input: "Say something. [[output=5]]", max_output_tokens: 202 });
console.log("responses:", response.output_text);
const embedding = await client.embeddings.create({ model: "text-embedding-3-small", input: "one" });
console.log("embeddings:", embedding.data[0].embedding.length);
