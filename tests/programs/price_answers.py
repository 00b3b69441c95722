"""What a provider that honours their caps makes of the requests of price_random.py: `answers` of price_judge.py.

It answers what caracald sends, which may have lower caps than what was drawn, and a wish for the usage.
"""

import base64
import gzip
import json
from fractions import Fraction

from price_judge import AWS, JSON, SSE, anthropic_usage, chat_usage, dump, events, frame
from price_random import LIMITS, PIXELS

# The most tokens of one image by the providers' rules for tiles and patches; Google's have no bound but the input's.
IMAGE = {"gpt-4o": 1_445, "gpt-4o-mini": 48_169, "gpt-4.1": 1_445, "gpt-4.1-mini": 2_489, "gpt-5": 1_190, "gpt-5-mini": 2_489}
IMAGE |= {"o3": 1_275, "gpt-6.1-sol": 12_000, "claude-opus-4-8": 4_784, "claude-opus-5-5": 4_784}
CLAUDE_IMAGE = 1_600
# What OpenAI's search puts before the model at once.
SEARCHED = 128_000
# Words of the provider's own before any prompt, and for a tool that it describes itself.
OWN_WORDS, TOOL_WORDS = 500, 735


def allowed(sent, make, provider, most_output):
    """The output of one pass, answers asked for, searches: as the provider reads them in what was sent."""
    config = sent.get("generationConfig") or sent.get("inferenceConfig") or {}
    caps = {
        "chat": [sent.get("max_completion_tokens") if provider in ("openai", "groq", "xai") else None, sent.get("max_tokens")],
        "responses": [sent.get("max_output_tokens")],
        "messages": [sent.get("max_tokens")],
        "gemini": [config.get("maxOutputTokens")],
    }.get(make, [config.get("maxTokens")])
    cap = min(min((cap for cap in caps if cap is not None), default=most_output), most_output)
    choices = max(sent.get("n") or 1, config.get("candidateCount") or 1)
    kinds = [(tool.get("type") or "", tool) for tool in sent.get("tools") or []]
    searches = sum(tool["max_uses"] for kind, tool in kinds if kind.startswith("web_search_2025") and "max_uses" in tool)
    if make == "responses" and any(kind.startswith("web_search") for kind, _ in kinds):
        # Without a limit of its own it stops when it likes.
        searches = sent.get("max_tool_calls", 32)
    typed = sum(1 for kind, _ in kinds if kind and kind not in ("function", "custom"))
    return cap, choices, searches, typed


def spent(dice, plan, sent, text_sent):
    """Tokens of an answer: at worst one for each byte and all of the cap, else as texts are and as answers are."""
    provider, model = plan["key"]
    make, worst = plan["make"], plan["worst"]
    most_input, most_output = LIMITS.get((provider, model), (1 << 30, 0))
    cap, choices, searches, typed = allowed(sent, make, provider, most_output)
    images = text_sent.count(PIXELS)
    size = len(text_sent.encode()) - images * len(PIXELS)
    if worst:
        first, output = size + dice.randrange(OWN_WORDS + 1) + typed * TOOL_WORDS, cap
    else:
        first, output = size // 4 + 8, dice.randrange(cap // 4, cap + 1)
    if images:
        pdf = "application/pdf" in text_sent
        boundless = pdf or provider == "google"
        most = most_input if boundless else images * IMAGE.get(model, CLAUDE_IMAGE)
        first += most if worst else dice.randrange(most // 4 + 1)
    first = min(first, most_input)
    made = dice.randrange(searches + 1) if not worst else searches
    passes = 1
    if made:
        added = (SEARCHED if provider == "openai" else most_input) if worst else 3_000
        whole = sum(min(first + n * added, most_input) for n in range(made + 1))
        # Anthropic's cap is for each pass.
        passes = made + 1 if make == "messages" else 1
    else:
        whole = first
    if make == "embeddings":
        return {"input": whole}, 0, 0
    read = dice.randrange(whole + 1) if dice.random() < 0.4 else 0
    tokens = {"input": whole - read, "read": read, "output": output * choices * passes}
    kept = "cache_control" in text_sent or "cachePoint" in text_sent or model.startswith("gpt-6")
    if kept:
        written = dice.randrange(tokens["input"] + 1) if not worst else tokens["input"]
        hour = '"ttl":"1h"' in text_sent
        tokens["input"] -= written
        tokens["write_1h" if hour else "write_5m"] = written
    return tokens, made, dice.randrange(output + 1)


def served(dice, plan, prices):
    """The tier that it is served at, and how an answer calls it."""
    key, asked = tuple(plan["key"]), plan.get("asked")
    sold = prices.tiers(key)
    if key[0] == "openai":
        tier = asked if asked in sold else "standard"
        if asked in (None, "auto") and "priority" in sold and plan["worst"]:
            tier = "priority"
    else:
        tier = asked if asked in ("flex", "priority") else "standard"
    # Too much of it was wanted: served at the usual one.
    if tier == "priority" and key[0] != "bedrock" and dice.random() < 0.2:
        tier = "standard"
    return tier


def answer(prices, dice, plan, line, said):
    """The line of the whole exchange, and its bill."""
    key, make = tuple(plan["key"]), plan["make"]
    provider, model = key
    text_sent = said.get("sent", line["request"])
    sent = json.loads(text_sent)
    tokens, searches, reasoning = spent(dice, plan, sent, text_sent)
    tier = served(dice, plan, prices)
    times, kind, heads = Fraction(1), JSON, {}
    stream = bool(sent.get("stream")) or "stream" in line["path"].lower()
    if make == "chat":
        body, kind = chat_answer(sent, provider, model, tokens, reasoning, tier, stream)
    elif make == "responses":
        body, kind = responses_answer(model, tokens, reasoning, searches, tier, stream)
    elif make == "messages":
        more, times = terms(dice, plan)
        body, kind = messages_answer(provider, model, tokens, searches, more, stream)
    elif make == "gemini":
        grounded = any(name in dump(sent.get("tools") or []) for name in ("googleSearch", "google_search"))
        searches = 1 if grounded and (plan["worst"] or dice.random() < 0.5) else 0
        body, kind = gemini_answer(dice, model, tokens, reasoning, searches, tier, stream, plan["array"], sent)
    elif make == "converse":
        body, kind = converse_answer(tokens, tier, stream)
    elif make == "nova":
        body, kind, heads = nova_answer(tokens, stream)
    else:
        body = embedded(provider, model, tokens["input"])
    older = make == "responses" and any("web_search_preview" in (tool.get("type") or "") for tool in sent.get("tools") or [])
    nano = prices.bill(key, tier, tokens, searches, times, "preview" if older else "search")
    heads = {"content-type": kind} | heads
    body = body.encode() if isinstance(body, str) else body
    if kind != AWS and dice.random() < 0.1 and "include_usage" not in dump(said.get("edits", [])):
        body, heads["content-encoding"] = gzip.compress(body, 1), "gzip"
    whole = line | {"answer_headers": heads, "answer": base64.b64encode(body).decode()}
    return whole, {"nano": nano, "capped": plan["usual"], "make": make, "granted": "granted" in line}


def chat_answer(sent, provider, model, tokens, reasoning, tier, stream):
    usage = chat_usage(provider, tokens, min(reasoning, tokens["output"]))
    if model.startswith("gpt-6"):
        usage["prompt_tokens"] += tokens.get("write_5m", 0)
        usage["total_tokens"] += tokens.get("write_5m", 0)
        usage["prompt_tokens_details"]["cache_write_tokens"] = tokens.get("write_5m", 0)
    head = {"id": "c", "object": "chat.completion", "model": model}
    if provider == "openai":
        head["service_tier"] = {"standard": "default"}.get(tier, tier)
    if not stream:
        return dump(head | {"choices": [], "usage": usage}), JSON
    pieces = [head | {"choices": [{"index": 0, "delta": {"content": "a"}}]}] * 2
    # Told to who asks; Mistral always tells.
    if provider == "mistral" or (sent.get("stream_options") or {}).get("include_usage"):
        pieces = [*pieces, head | {"choices": [], "usage": usage}]
    return events(pieces, done=True), SSE


def responses_answer(model, tokens, reasoning, searches, tier, stream):
    prompt = sum(tokens.get(name, 0) for name in ("input", "read", "write_5m"))
    details = {"cached_tokens": tokens["read"], "cache_write_tokens": tokens.get("write_5m", 0)}
    usage = {"input_tokens": prompt, "input_tokens_details": details, "output_tokens": tokens["output"]}
    usage |= {"output_tokens_details": {"reasoning_tokens": reasoning}, "total_tokens": prompt + tokens["output"]}
    items = [{"type": "web_search_call", "action": {"type": "search", "query": "q"}}] * searches
    whole = {"id": "r", "object": "response", "status": "completed", "model": model, "output": items, "usage": usage}
    whole["service_tier"] = {"standard": "default"}.get(tier, tier)
    if not stream:
        return dump(whole), JSON
    started = {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": [], "usage": None}}
    return events([started, {"type": "response.completed", "response": whole}], named=True), SSE


def terms(dice, plan):
    """Where and how fast: what the answer says of it, and by how much its tokens are dearer."""
    more, times = {}, Fraction(1)
    if "geo" in plan:
        # Without a wish the workspace's own setting decides.
        us = plan["geo"] == "us" or (plan["geo"] is None and dice.random() < 0.5)
        more["inference_geo"] = "us" if us else "global"
        fast = plan["speed"] == "fast" and dice.random() < 0.9
        more["speed"] = "fast" if fast else "standard"
        times = (Fraction(11, 10) if us else 1) * (2 if fast else 1)
    return more, times


def messages_answer(provider, model, tokens, searches, more, stream):
    usage = anthropic_usage(tokens, searches, more)
    if not stream:
        return dump({"type": "message", "content": [], "usage": usage} | ({"model": model} if provider == "anthropic" else {})), JSON
    started = {"id": "m"} | ({"model": model} if provider == "anthropic" else {})
    start = {"type": "message_start", "message": started | {"usage": usage | {"output_tokens": 1}}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    last = {"output_tokens": usage["output_tokens"]} | {name: usage[name] for name in ("server_tool_use",) if name in usage}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last}
    pieces = [start, {"type": "ping"}, delta, end, {"type": "message_stop"}]
    if provider == "anthropic":
        return events(pieces, named=True), SSE
    chunk = lambda piece: frame("chunk", dump({"bytes": base64.b64encode(dump(piece).encode()).decode()}).encode())
    return b"".join(map(chunk, pieces)), AWS


def gemini_answer(dice, model, tokens, reasoning, searches, tier, stream, array, sent):
    choices = (sent.get("generationConfig") or {}).get("candidateCount") or 1
    tools = min(dice.randrange(200), tokens["input"]) if searches else 0
    thoughts = min(reasoning, tokens["output"])
    usage = {"promptTokenCount": tokens["input"] - tools + tokens["read"], "cachedContentTokenCount": tokens["read"]}
    usage |= {"candidatesTokenCount": tokens["output"] - thoughts, "thoughtsTokenCount": thoughts}
    usage |= {"toolUsePromptTokenCount": tools, "totalTokenCount": sum(tokens.values()), "serviceTier": tier.upper()}
    ends = [{"index": index, "content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"} for index in range(choices)]
    if searches:
        ends[0]["groundingMetadata"] = {"webSearchQueries": ["q", "r"]}
    whole = {"candidates": ends, "usageMetadata": usage, "modelVersion": model}
    if not stream:
        return dump(whole), JSON
    first = {"candidates": [{"index": 0, "content": {"parts": [{"text": "a"}]}}], "usageMetadata": {"promptTokenCount": 1}}
    if array:
        return "[" + dump(first) + "\n,\r\n" + dump(whole) + "\n]", JSON
    return events([first, whole]), SSE


def converse_answer(tokens, tier, stream):
    five, hour = tokens.get("write_5m", 0), tokens.get("write_1h", 0)
    usage = {"inputTokens": tokens["input"], "outputTokens": tokens["output"], "totalTokens": sum(tokens.values())}
    usage |= {"cacheReadInputTokens": tokens["read"], "cacheWriteInputTokens": five + hour}
    if hour:
        usage["cacheDetails"] = [{"ttl": "1h", "inputTokens": hour}]
    named = {"serviceTier": {"type": {"standard": "default"}.get(tier, tier)}}
    if not stream:
        return dump({"output": {}, "stopReason": "end_turn", "usage": usage} | named), JSON
    body = frame("messageStart", b'{"role":"assistant"}') + frame("contentBlockDelta", b'{"delta":{"text":"a"}}')
    return body + frame("messageStop", b'{"stopReason":"end_turn"}') + frame("metadata", dump({"usage": usage} | named).encode()), AWS


def nova_answer(tokens, stream):
    counts = {"inputTokenCount": tokens["input"], "outputTokenCount": tokens["output"], "cacheReadInputTokenCount": tokens["read"]}
    if stream:
        pieces = ({"contentBlockDelta": {"delta": {"text": "a"}}}, {"amazon-bedrock-invocationMetrics": counts})
        chunk = lambda piece: frame("chunk", dump({"bytes": base64.b64encode(dump(piece).encode()).decode()}).encode())
        return b"".join(map(chunk, pieces)), AWS, {}
    heads = {"input": tokens["input"], "output": tokens["output"], "cache-read-input": tokens["read"]}
    return dump({"output": {}}), JSON, {f"x-amzn-bedrock-{name}-token-count": str(count) for name, count in heads.items()}


def embedded(provider, model, count):
    if provider == "openai":
        usage = {"prompt_tokens": count, "total_tokens": count}
        return dump({"object": "list", "data": [{"embedding": [0.1, -0.2]}], "model": model, "usage": usage})
    return dump({"embedding": {"values": [0.1]}, "usageMetadata": {"promptTokenCount": count, "totalTokenCount": count}})
