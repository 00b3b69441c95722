"""Requests of every shape: `random` of price_judge.py."""

import base64

from price_judge import CHAT, HOSTS, dump

# What a request may be: the longest input and the largest output of one answer, from the providers' model pages.
LIMITS = {
    ("openai", "gpt-5"): (272_000, 128_000),
    ("openai", "gpt-5-mini"): (272_000, 128_000),
    ("openai", "gpt-6.1-sol"): (922_000, 128_000),
    ("openai", "gpt-4o"): (128_000, 16_384),
    ("openai", "gpt-4o-mini"): (128_000, 16_384),
    ("openai", "gpt-4.1"): (1_047_576, 32_768),
    ("openai", "gpt-4.1-mini"): (1_047_576, 32_768),
    ("openai", "o3"): (200_000, 100_000),
    ("anthropic", "claude-haiku-4-5"): (200_000, 64_000),
    ("anthropic", "claude-sonnet-4-5"): (1_000_000, 64_000),
    ("anthropic", "claude-opus-4-5"): (200_000, 64_000),
    ("anthropic", "claude-opus-4-8"): (1_000_000, 128_000),
    ("anthropic", "claude-opus-5-5"): (1_000_000, 128_000),
    ("google", "gemini-2.5-pro"): (1_048_576, 65_536),
    ("google", "gemini-2.5-flash"): (1_048_576, 65_536),
    ("google", "gemini-2.5-flash-lite"): (1_048_576, 65_536),
    ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0"): (200_000, 64_000),
    ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0"): (200_000, 64_000),
    ("bedrock", "amazon.nova-pro-v1:0"): (300_000, 10_000),
    ("bedrock", "amazon.nova-lite-v1:0"): (300_000, 10_000),
    ("mistral", "mistral-large-latest"): (262_144, 262_144),
    ("groq", "openai/gpt-oss-120b"): (131_072, 65_536),
    ("deepseek", "deepseek-chat"): (131_072, 8_192),
    ("xai", "grok-4.5"): (500_000, 500_000),
}
EMBEDDERS = [("openai", "text-embedding-3-small"), ("openai", "text-embedding-3-large"), ("google", "gemini-embedding-001")]
# Those of OpenAI's that take images.
SEEING = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5", "gpt-5-mini", "o3", "gpt-6.1-sol")
WORDS = "the of and a to in is you that it he was for on are as with his they I at be this have from".split()
PIXELS = base64.b64encode(bytes(range(256)) * 8).decode()


def text(dice):
    # Some that no tokenizer shortens, most as people write; a few that are very long.
    length = dice.choice((3, 40, 400, 2_000)) if dice.random() < 0.997 else dice.randrange(150_000, 300_000)
    if dice.random() < 0.2:
        return "".join(chr(dice.randrange(0x21, 0x7F)) for _ in range(min(length, 2_000)))
    return " ".join(dice.choice(WORDS) for _ in range(length // 4 + 1))


class Draft:
    """A request, and what its answer will be."""

    def __init__(self, dice, key):
        self.dice, self.key = dice, key
        self.provider, self.model = key
        self.most_input, self.most_output = LIMITS.get(key, (0, 0))
        self.capped, self.worst = dice.random() < 0.7, dice.random() < 0.5
        self.cap = min(dice.choice((16, 256, 1_024, 4_096, dice.randrange(16, 16_000))), max(self.most_output, 16))
        self.headers, self.granted = {}, None
        self.plan = {"key": list(key), "worst": self.worst, "usual": self.capped and not self.worst}

    def odd(self, chance):
        """True now and then; such a request is not an everyday one."""
        if self.dice.random() >= chance:
            return False
        self.plan["usual"] = False
        return True

    def note(self, **more):
        self.plan |= more

    def host(self):
        return HOSTS[self.provider]


def sold(draft, prices):
    """Other tiers than the usual one that the model is sold at."""
    return [tier for tier in prices.tiers(draft.key) if tier != "standard"]


def chat(draft, prices):
    dice, provider, model = draft.dice, draft.provider, draft.model
    parts = [{"type": "text", "text": text(dice)}]
    if model in SEEING and draft.odd(0.1):
        url = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PIXELS}}
        parts += [url] * dice.randrange(1, 4)
    if provider == "openai" and model.startswith(("gpt-5", "gpt-4o")) and draft.odd(0.03):
        parts.append({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + PIXELS}})
    request = {"model": model, "messages": [{"role": "user", "content": parts if len(parts) > 1 else parts[0]["text"]}]}
    if draft.capped:
        request["max_completion_tokens" if provider in ("openai", "groq") and dice.random() < 0.8 else "max_tokens"] = draft.cap
    if provider in ("openai", "groq") and dice.random() < 0.2:
        request["n"] = dice.randrange(1, 4)
    if provider == "openai":
        asked = dice.choice((None, "default", "auto", *sold(draft, prices)))
        if asked:
            request["service_tier"] = asked
        draft.note(asked=asked)
    if dice.random() < 0.3:
        request["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    if dice.random() < 0.3:
        request["stream"] = True
        if provider != "mistral" and dice.random() < 0.5:
            request["stream_options"] = dice.choice(({}, {"include_usage": True}, {"include_usage": False}))
    return CHAT[provider] + "/chat/completions", request


def responses(draft, prices):
    dice, model = draft.dice, draft.model
    content = [{"type": "input_text", "text": text(dice)}]
    if model in SEEING and draft.odd(0.1):
        content.append({"type": "input_image", "image_url": "data:image/png;base64," + PIXELS})
    if draft.odd(0.03):
        content.append({"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64," + PIXELS})
    request = {"model": model, "input": [{"role": "user", "content": content}]}
    if draft.capped:
        request["max_output_tokens"] = draft.cap
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}] if dice.random() < 0.3 else []
    tools += [{"type": "local_shell"}] if draft.odd(0.05) else []
    if draft.odd(0.25):
        # At models that do not reason the fee depends on the tool's age, and the book has the dearer one.
        age = ("_preview", "_preview_2025_03_11") if model.startswith("gpt-4") else ("", "_2025_08_26")
        tools.append({"type": "web_search" + dice.choice(age)})
        if dice.random() < 0.7:
            request["max_tool_calls"] = dice.randrange(1, 12)
    if tools:
        request["tools"] = tools
    asked = dice.choice((None, "default", "auto", *sold(draft, prices)))
    if asked:
        request["service_tier"] = asked
    draft.note(asked=asked)
    if dice.random() < 0.4:
        request["stream"] = True
    return "/v1/responses", request


def messages(draft, prices):
    dice, provider, model = draft.dice, draft.provider, draft.model
    # A cap is required here.
    draft.plan["usual"] = not draft.worst
    content = [{"type": "text", "text": text(dice)}]
    data = {"type": "base64", "media_type": "image/png", "data": PIXELS}
    if draft.odd(0.1):
        content += [{"type": "image", "source": data}] * dice.randrange(1, 4)
    if draft.odd(0.05):
        content.append({"type": "document", "source": data | {"media_type": "application/pdf"}})
    request = {"max_tokens": draft.cap, "messages": [{"role": "user", "content": content}]}
    mark = dice.choice((None, None, "5m", "1h"))
    if mark:
        request["system"] = [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": mark}}]
    tools = [{"name": "f", "input_schema": {"type": "object"}}] if dice.random() < 0.3 else []
    tools += [{"type": "bash_20250124", "name": "bash"}] if draft.odd(0.05) else []
    if provider == "anthropic" and model != "claude-haiku-4-5" and draft.odd(0.2):
        tools.append({"type": "web_search_20250305", "name": "web_search", "max_uses": dice.randrange(1, 9)})
    if tools:
        request["tools"] = tools
    if dice.random() < 0.2 and draft.cap > 2_048:
        request["thinking"] = {"type": "enabled", "budget_tokens": dice.randrange(1_024, draft.cap)}
    if provider == "bedrock":
        request["anthropic_version"] = "bedrock-2023-05-31"
        stream = dice.random() < 0.5
        return f"/model/{model.replace(':', '%3A')}/invoke" + ("-with-response-stream" if stream else ""), request
    request["model"] = model
    if dice.random() < 0.4:
        request["stream"] = True
    if model in ("claude-opus-4-8", "claude-opus-5-5"):
        geo, speed = dice.choice((None, "us", "global")), dice.choice((None, None, "fast", "standard"))
        request |= {"inference_geo": geo} if geo else {}
        request |= {"speed": speed} if speed else {}
        draft.note(geo=geo, speed=speed)
    return "/v1/messages", request


def gemini(draft, prices):
    dice = draft.dice
    parts = [{"text": text(dice)}]
    if draft.odd(0.06):
        parts.append({"inlineData": {"mimeType": dice.choice(("image/png", "application/pdf")), "data": PIXELS}})
    request = {"contents": [{"role": "user", "parts": parts}]}
    if draft.capped:
        request["generationConfig"] = {"maxOutputTokens": draft.cap}
        if draft.odd(0.05):
            request["generationConfig"]["candidateCount"] = 2
    tools = [{"functionDeclarations": [{"name": "f"}]}] if dice.random() < 0.3 else []
    if draft.odd(0.15):
        tools.append({dice.choice(("googleSearch", "google_search")): {}})
    if tools:
        request["tools"] = tools
    asked = dice.choice((None, None, "standard", *sold(draft, prices)))
    if asked:
        request[dice.choice(("serviceTier", "service_tier"))] = asked
    draft.note(asked=asked, array=dice.random() < 0.5)
    verb = dice.choice(("generateContent", "streamGenerateContent"))
    return f"/v1beta/models/{draft.model}:{verb}", request


def converse(draft, prices):
    dice, claude = draft.dice, "anthropic" in draft.model
    content = [{"text": text(dice)}]
    if claude and draft.odd(0.1):
        content.append({"image": {"format": "png", "source": {"bytes": PIXELS}}})
    if draft.odd(0.05):
        content.append({"document": {"format": "pdf", "name": "a", "source": {"bytes": PIXELS}}})
    if dice.random() < 0.4:
        content.append({"cachePoint": {"type": "default"} | ({"ttl": "1h"} if claude and dice.random() < 0.4 else {})})
    request = {"messages": [{"role": "user", "content": content}]}
    if draft.capped:
        request["inferenceConfig"] = {"maxTokens": draft.cap}
    if dice.random() < 0.2:
        request["toolConfig"] = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}]}
    asked = dice.choice((None, "default", *sold(draft, prices)))
    if asked:
        request["serviceTier"] = {"type": asked}
    draft.note(asked=asked)
    return f"/model/{draft.model.replace(':', '%3A')}/converse" + dice.choice(("", "-stream")), request


def nova(draft, prices):
    dice = draft.dice
    request = {"schemaVersion": "messages-v1", "messages": [{"role": "user", "content": [{"text": text(dice)}]}]}
    if draft.capped:
        request["inferenceConfig"] = {"maxTokens": draft.cap}
    asked = dice.choice((None, "default", *sold(draft, prices)))
    if asked:
        draft.headers["x-amzn-bedrock-service-tier"] = asked
    # All of the model's context is held for: far above an everyday bill.
    draft.note(asked=asked, usual=False)
    return f"/model/{draft.model.replace(':', '%3A')}/invoke" + dice.choice(("", "-with-response-stream")), request


def embeddings(draft, prices):
    dice = draft.dice
    draft.note(usual=False)
    several = [text(dice) for _ in range(dice.randrange(1, 5))]
    if draft.provider == "openai":
        numbers = [[dice.randrange(100_000) for _ in range(dice.randrange(1, 50))] for _ in range(2)]
        return "/v1/embeddings", {"model": draft.model, "input": dice.choice((several[0], several, numbers, numbers[0]))}
    requests = [{"model": f"models/{draft.model}", "content": {"parts": [{"text": one}]}} for one in several]
    if dice.random() < 0.5:
        return f"/v1beta/models/{draft.model}:embedContent", requests[0]
    return f"/v1beta/models/{draft.model}:batchEmbedContents", {"requests": requests}


def drawn(prices, dice):
    """One request: its line for caracald, and the plan of its answer."""
    key = dice.choice(EMBEDDERS if dice.random() < 0.04 else list(LIMITS))
    draft = Draft(dice, key)
    provider, model = key
    if key in EMBEDDERS:
        make = embeddings
    elif provider == "openai":
        make = dice.choice((chat, responses))
    elif provider == "google":
        make = gemini
    elif provider == "bedrock":
        make = dice.choice((converse, messages if "anthropic" in model else nova))
    else:
        make = messages if provider == "anthropic" else chat
    path, request = make(draft, prices)
    line = {"host": draft.host(), "path": path, "request": dump(request)}
    if provider == "bedrock" and dice.random() < 0.3:
        # A signed body is never edited.
        draft.headers["authorization"] = "AWS4-HMAC-SHA256 Credential=a/20261129/us-east-1/bedrock/aws4_request"
    if draft.headers:
        line["headers"] = draft.headers
    # Less than all that it may cost: then its caps are lowered.
    if dice.random() < 0.4:
        draft.plan["usual"] = False
        line["granted"] = dice.randrange(1_001)
    return line, draft.plan | {"make": make.__name__}
