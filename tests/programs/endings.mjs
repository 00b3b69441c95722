// Streams that end in the middle, as the official Node SDKs see them: one line of JSON for each call.
import { createRequire } from "node:module";
const sdk = createRequire("NODE_PREFIX/");
const OpenAI = sdk("openai");
const Anthropic = sdk("@anthropic-ai/sdk");

const WORDS = "Say something. [[DIRECTIVE]]";
const messages = [{ role: "user", content: WORDS }];
const one = new OpenAI();
const two = new Anthropic();

const calls = {
  chat: async function* () {
    yield* await one.chat.completions.create({ model: "gpt-4o-mini", messages, max_tokens: 16, stream: true });
  },
  responses: async function* () {
    const stream = await one.responses.create({ model: "gpt-5-mini", input: WORDS, max_output_tokens: 16, stream: true });
    for await (const event of stream) {
      if (event.type === "response.failed") throw new OpenAI.APIError(undefined, event.response.error, undefined, undefined);
      yield event;
    }
  },
  messages: async function* () {
    yield* await two.messages.create({ model: "claude-haiku-4-5", messages, max_tokens: 16, stream: true });
  },
  finalMessage: async function* () {
    const stream = two.messages.stream({ model: "claude-sonnet-4-5", messages, max_tokens: 16 });
    stream.on("text", () => { parts += 1; });
    await stream.finalMessage();
  },
};

let parts = 0;
for (const [call, run] of Object.entries(calls)) {
  parts = 0;
  const line = { call, thrown: false };
  try {
    for await (const _ of run()) parts += 1;
  } catch (error) {
    const known = error instanceof OpenAI.APIError || error instanceof Anthropic.APIError || error instanceof Anthropic.AnthropicError;
    Object.assign(line, { thrown: true, exception: error.constructor.name, sdk: known, said: String(error.message) });
  }
  console.log(JSON.stringify({ ...line, parts }));
}
