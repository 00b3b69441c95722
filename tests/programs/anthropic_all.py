"""The Anthropic API, whole and streamed, as its own SDK sees it."""
import anthropic

client = anthropic.Anthropic()
prompt = [{"role": "user", "content": "Say something. [[output=5]]"}]
answer = client.messages.create(model="claude-haiku-4-5", messages=prompt, max_tokens=100)
print("message:", answer.content[0].text, answer.usage.output_tokens)
with client.messages.stream(model="claude-haiku-4-5", messages=prompt, max_tokens=101) as stream:
    print("stream:", "".join(stream.text_stream), stream.get_final_message().usage.output_tokens)
