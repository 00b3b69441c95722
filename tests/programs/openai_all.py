"""Every shape of the OpenAI API that the contracts use, as its own SDK sees it."""
import openai

client = openai.OpenAI()
prompt = [{"role": "user", "content": "Say something. [[output=5]]"}]
answer = client.chat.completions.create(model="gpt-4o-mini", messages=prompt, max_tokens=100)
print("chat:", answer.choices[0].message.content)
seen = []
for options in ({"include_usage": True}, None):
    chunks = list(client.chat.completions.create(
        model="gpt-4o-mini", messages=prompt, max_tokens=101, stream=True,
        **({"stream_options": options} if options else {})))
    seen.append(sum(1 for chunk in chunks if chunk.usage))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).startswith("word0")
print(f"usage chunks: {seen[0]} of 1 asked, {seen[1]} of 1 not asked")
answer = client.responses.create(model="gpt-5-mini", input="Say something. [[output=5 reasoning=2]]", max_output_tokens=102)
print("responses:", answer.output_text, answer.usage.output_tokens_details.reasoning_tokens)
answer = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
print("embeddings:", len(answer.data), len(answer.data[0].embedding))
