"""Google Gemini, whole, streamed and counted, as its own SDK sees it."""
from google import genai
from google.genai import types

client = genai.Client(api_key="stand-in")
prompt = "Say something. [[output=5 cached=7 reasoning=2]]"
options = types.GenerateContentConfig(max_output_tokens=100)
answer = client.models.generate_content(model="gemini-2.5-flash", contents=prompt, config=options)
used = answer.usage_metadata
print("whole:", answer.text, used.candidates_token_count, used.thoughts_token_count, used.cached_content_token_count)
options = types.GenerateContentConfig(max_output_tokens=101)
parts = list(client.models.generate_content_stream(model="gemini-2.5-pro", contents=prompt, config=options))
print("stream:", "".join(part.text or "" for part in parts), parts[-1].usage_metadata.candidates_token_count)
print("count:", client.models.count_tokens(model="gemini-2.5-flash", contents=prompt).total_tokens > 0)
