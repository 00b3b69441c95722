"""Providers that speak OpenAI's shape at bases of their own, whole and streamed, and what of OpenAI's costs nothing."""
import openai

ALL = "Say something. [[output=9 cached=7 reasoning=2]]"
# They tell neither what was cached nor what was reasoning.
FEW = "Say something. [[output=9]]"
PLACES = [
    ("mistral", "https://api.mistral.ai/v1", "mistral-large-latest", ALL),
    ("groq", "https://api.groq.com/openai/v1", "openai/gpt-oss-120b", ALL),
    ("deepseek", "https://api.deepseek.com", "deepseek-chat", ALL),
    ("deepseek v1", "https://api.deepseek.com/v1", "deepseek-chat", ALL),
    ("xai", "https://api.x.ai/v1", "grok-4.5", ALL),
    ("openrouter", "https://openrouter.ai/api/v1", "anthropic/claude-haiku-4.5", ALL),
    ("together", "https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", FEW),
    ("azure v1", "https://mine.openai.azure.com/openai/v1", "desk-4o", ALL),
    ("ollama", "https://ollama.example/v1", "llama3.2", FEW),
    ("own base", "https://llm.example/serve/v1", "qwen3-own", FEW),
]
clients = [(name, openai.OpenAI(base_url=base, api_key="stand-in"), model, text) for name, base, model, text in PLACES]
azure = openai.AzureOpenAI(azure_endpoint="https://mine.openai.azure.com", api_version="2025-01-01-preview", api_key="stand-in")
clients.append(("azure", azure, "desk-4o", ALL))
for place, (name, client, model, text) in enumerate(clients):
    call = {"model": model, "messages": [{"role": "user", "content": text}]}
    answer = client.chat.completions.create(max_tokens=100 + 2 * place, **call)
    print(f"{name}: {answer.choices[0].message.content}")
    chunks = list(client.chat.completions.create(max_tokens=101 + 2 * place, stream=True, **call))
    told = sum(1 for chunk in chunks if chunk.usage)
    print(f"{name} stream, usage {told}:", "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
answer = clients[7][1].responses.create(model="desk-4o", input=ALL, max_output_tokens=199)
print("azure responses:", answer.output_text)
print("moderations:", openai.OpenAI(api_key="stand-in").moderations.create(input="hello").results[0].flagged)
