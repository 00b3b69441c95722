"""Two providers that speak OpenAI's shape at bases of their own."""
import openai

prompt = [{"role": "user", "content": "Say something. [[output=5]]"}]
mistral = openai.OpenAI(base_url="https://api.mistral.ai/v1", api_key="stand-in")
answer = mistral.chat.completions.create(model="mistral-large-latest", messages=prompt, max_tokens=100)
print("mistral:", answer.choices[0].message.content)
groq = openai.OpenAI(base_url="https://api.groq.com/openai/v1", api_key="stand-in")
chunks = list(groq.chat.completions.create(model="openai/gpt-oss-120b", messages=prompt, max_tokens=101, stream=True))
print("groq:", "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
