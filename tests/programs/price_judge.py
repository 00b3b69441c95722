"""Exchanges with every provider, and what each costs: by a price list, a reading and an arithmetic of its own.

    price_judge.py cases PRICES DIRECTORY           every model in every framing with every billed dimension
    price_judge.py random PRICES DIRECTORY N SEED   N requests
    price_judge.py answers PRICES DIRECTORY SEED    their answers, by a provider that honours the caps of what caracald sends

`random` leaves requests.jsonl for `caracald prices bill`, whose lines `answers` reads in said.jsonl. The others leave
exchanges.jsonl, and expected.jsonl, a line for each: {"nano": ..., "capped": ...}.
Standard library only. Amounts are fractions of a dollar until the one rounding, up to the next nano-dollar.
"""

import base64
import csv
import gzip
import json
import pathlib
import random
import struct
import sys
import zlib
from fractions import Fraction

HOSTS = {
    "openai": "api.openai.com",
    "anthropic": "api.anthropic.com",
    "google": "generativelanguage.googleapis.com",
    "bedrock": "bedrock-runtime.us-east-1.amazonaws.com",
    "mistral": "api.mistral.ai",
    "groq": "api.groq.com",
    "deepseek": "api.deepseek.com",
    "xai": "api.x.ai",
}
CHAT = {"mistral": "/v1", "groq": "/openai/v1", "deepseek": "/v1", "xai": "/v1", "openai": "/v1"}
MILLION = Fraction(1, 1_000_000)
# For one search: with the tool of today, and with the older one.
FEES = ("search", "preview")


class Prices:
    def __init__(self, path):
        lines = [line for line in open(path) if not line.startswith("#")]
        self.rows = {}
        for row in csv.DictReader(lines):
            key = (row["provider"], row["model"])
            plain = Fraction(row["input"])
            write = Fraction(row["write_5m"]) if row["write_5m"] else plain
            price = {
                "input": plain,
                "read": Fraction(row["read"]) if row["read"] else plain,
                "write_5m": write,
                "write_1h": Fraction(row["write_1h"]) if row["write_1h"] else write,
                "output": Fraction(row["output"] or "0"),
                "search": Fraction(row["search"] or "0") / 1000,
                "preview": Fraction(row["preview"] or row["search"] or "0") / 1000,
            }
            self.rows.setdefault(key, []).append((row["tier"], int(row["above"]), price))

    def tiers(self, key):
        return sorted({tier for tier, _, _ in self.rows[key]})

    def bill(self, key, tier, tokens, searches=0, times=Fraction(1), fee="search"):
        """`tokens`: input, read, write_5m, write_1h, output; disjoint. Fees for searches are never multiplied."""
        whole = sum(tokens.get(name, 0) for name in ("input", "read", "write_5m", "write_1h"))
        fitting = [(above, price) for t, above, price in self.rows[key] if t == tier and (above == 0 or whole > above)]
        price = max(fitting, key=lambda one: one[0])[1]
        dollars = sum(Fraction(tokens.get(name, 0)) * price[name] * MILLION for name in price if name not in FEES)
        nano = (dollars * times + searches * price[fee]) * 1_000_000_000
        return -(-nano.numerator // nano.denominator)


def frame(kind, payload):
    """One message of AWS's event stream."""
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        name, value = name.encode(), value.encode()
        headers += bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def dump(value):
    return json.dumps(value, separators=(",", ":"))


def events(documents, named=False, done=False):
    text = ""
    for document in documents:
        text += f"event: {document['type']}\n" if named else ""
        text += f"data: {dump(document)}\n\n"
    return text + ("data: [DONE]\n\n" if done else "")


class Out:
    def __init__(self, directory):
        self.exchanges = open(directory / "exchanges.jsonl", "w")
        self.expected = open(directory / "expected.jsonl", "w")

    def add(self, provider, path, request, answer, kind, nano, capped=None, headers=None, packed=False):
        if isinstance(answer, str):
            answer = answer.encode()
        answer_headers = {"content-type": kind}
        if packed:
            answer, answer_headers["content-encoding"] = gzip.compress(answer, 1), "gzip"
        answer_headers.update(headers or {})
        line = {"host": HOSTS[provider], "path": path, "request": request if isinstance(request, str) else dump(request)}
        line |= {"answer_headers": answer_headers, "answer": base64.b64encode(answer).decode()}
        self.exchanges.write(dump(line) + "\n")
        self.expected.write(dump({"nano": nano, "capped": capped}) + "\n")


def as_long_as(tokens):
    """A prompt of as many bytes as the input has tokens: no token is shorter."""
    return "x" * sum(tokens.get(name, 0) for name in ("input", "read", "write_5m", "write_1h"))


JSON, SSE, AWS = "application/json", "text/event-stream", "application/vnd.amazon.eventstream"


def chat_usage(provider, tokens, reasoning):
    prompt = tokens.get("input", 0) + tokens.get("read", 0)
    output = tokens.get("output", 0)
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if provider == "deepseek":
        usage |= {"prompt_cache_hit_tokens": tokens.get("read", 0), "prompt_cache_miss_tokens": tokens.get("input", 0)}
    else:
        usage["prompt_tokens_details"] = {"cached_tokens": tokens.get("read", 0)}
    usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if provider == "xai":
        # Reasoning stands in the total alone.
        usage["completion_tokens"] = output - reasoning
    return usage


def chat(out, prices, key, tier, tokens, reasoning, shape):
    provider, model = key
    request = {"model": model, "messages": [{"role": "user", "content": as_long_as(tokens)}]}
    answer = {"id": "c", "object": "chat.completion", "model": model}
    if provider == "openai":
        # The answer says what it was served at, whatever was asked for.
        request["service_tier"] = {"standard": "auto", "flex": "flex", "priority": "priority"}[tier]
        answer["service_tier"] = {"standard": "default"}.get(tier, tier)
    if tier == "flex":
        request["service_tier"] = "flex"
    usage = chat_usage(provider, tokens, reasoning)
    nano = prices.bill(key, tier, tokens)
    path = CHAT[provider] + "/chat/completions"
    if shape == "stream":
        request |= {"stream": True}
        if provider in ("openai", "groq", "deepseek", "xai"):
            request["stream_options"] = {"include_usage": True}
        piece = answer | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "a"}}]}
        last = answer | {"choices": [], "usage": usage}
        out.add(provider, path, request, events([piece, piece, last], done=True), SSE, nano)
    else:
        answer |= {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}
        out.add(provider, path, request, dump(answer | {"usage": usage}), JSON, nano, packed=shape == "packed")


def responses(out, prices, key, tier, tokens, reasoning, searches, shape, fee="search"):
    provider, model = key
    request = {"model": model, "input": as_long_as(tokens), "service_tier": {"standard": "auto"}.get(tier, tier)}
    if searches:
        tool = {"search": "web_search", "preview": "web_search_preview"}[fee]
        request |= {"tools": [{"type": tool}], "max_tool_calls": searches, "max_output_tokens": 64}
    prompt = sum(tokens.get(name, 0) for name in ("input", "read", "write_5m"))
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": tokens.get("read", 0), "cache_write_tokens": tokens.get("write_5m", 0)},
        "output_tokens": tokens.get("output", 0),
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + tokens.get("output", 0),
    }
    items = [{"type": "web_search_call", "action": {"type": "search", "query": "q"}} for _ in range(searches)]
    # Opening a page is no search.
    items += [{"type": "web_search_call", "action": {"type": "open_page"}}] * min(searches, 1)
    answer = {"id": "r", "object": "response", "status": "completed", "model": model, "output": items, "usage": usage}
    answer["service_tier"] = {"standard": "default"}.get(tier, tier)
    nano = prices.bill(key, tier, tokens, searches, fee=fee)
    if shape == "stream":
        request["stream"] = True
        started = {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": [], "usage": None}}
        text = events([started, {"type": "response.completed", "response": answer}], named=True)
        out.add(provider, "/v1/responses", request, text, SSE, nano)
    else:
        out.add(provider, "/v1/responses", request, dump(answer), JSON, nano, packed=shape == "packed")


def anthropic_usage(tokens, searches, more):
    five, hour = tokens.get("write_5m", 0), tokens.get("write_1h", 0)
    usage = {
        "input_tokens": tokens.get("input", 0),
        "cache_read_input_tokens": tokens.get("read", 0),
        "cache_creation_input_tokens": five + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "output_tokens": tokens.get("output", 0),
        "service_tier": "standard",
    }
    if searches:
        usage["server_tool_use"] = {"web_search_requests": searches}
    return usage | more


def addressed(request, provider, model):
    """Names the model as Anthropic's own surface or Bedrock wants it; gives the path."""
    if provider == "anthropic":
        request["model"] = model
        return "/v1/messages"
    request["anthropic_version"] = "bedrock-2023-05-31"
    return "/model/" + model.replace(":", "%3A") + "/invoke"


def messages(out, prices, key, tokens, searches, shape, asked=None, more=None, times=Fraction(1)):
    provider, model = key
    content = {"type": "text", "text": as_long_as(tokens)}
    if "write_5m" in tokens or "write_1h" in tokens:
        content["cache_control"] = {"type": "ephemeral", "ttl": "1h" if "write_1h" in tokens else "5m"}
    cap = max(64, tokens.get("output", 0))
    request = {"max_tokens": cap, "messages": [{"role": "user", "content": [content]}]} | (asked or {})
    if searches:
        request["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": searches}]
    path = addressed(request, provider, model)
    usage = anthropic_usage(tokens, searches, more or {})
    nano = prices.bill(key, "standard", tokens, searches, times)
    if shape == "stream" and provider == "anthropic":
        request["stream"] = True
        start = {"type": "message_start", "message": {"id": "m", "model": model, "usage": usage | {"output_tokens": 1}}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
        # Counts are cumulative: the last one holds.
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": usage["output_tokens"]}}
        text = events([start, {"type": "ping"}, delta, end, {"type": "message_stop"}], named=True)
        out.add(provider, path, request, text, SSE, nano)
    else:
        answer = {"id": "m", "type": "message", "model": model, "content": [], "usage": usage}
        if provider == "bedrock":
            answer.pop("model")
        out.add(provider, path, request, dump(answer), JSON, nano, packed=shape == "packed" and provider == "anthropic")


def gemini(out, prices, key, tokens, reasoning, tools, grounded, shape, tier="standard"):
    provider, model = key
    request = {"contents": [{"role": "user", "parts": [{"text": as_long_as(tokens)}]}]}
    if grounded:
        request["tools"] = [{"googleSearch": {}}]
    if tier != "standard":
        request["serviceTier"] = tier
    usage = {
        "promptTokenCount": tokens.get("input", 0) - tools + tokens.get("read", 0),
        "cachedContentTokenCount": tokens.get("read", 0),
        "candidatesTokenCount": tokens.get("output", 0) - reasoning,
        "thoughtsTokenCount": reasoning,
        "toolUsePromptTokenCount": tools,
        "totalTokenCount": sum(tokens.values()),
    }
    candidate = {"index": 0, "content": {"parts": [{"text": "a"}]}}
    last = candidate | {"finishReason": "STOP"}
    if grounded:
        last["groundingMetadata"] = {"webSearchQueries": ["q", "r"]}
    first = {"candidates": [candidate], "usageMetadata": {"promptTokenCount": usage["promptTokenCount"]}}
    whole = {"candidates": [last], "usageMetadata": usage, "modelVersion": model}
    nano = prices.bill(key, tier, tokens, 1 if grounded else 0)
    verb = "generateContent" if shape in ("whole", "packed") else "streamGenerateContent"
    path = f"/v1beta/models/{model}:{verb}"
    if shape == "stream":
        out.add(provider, path, request, events([first, whole]), SSE, nano)
    elif shape == "array":
        out.add(provider, path, request, "[" + dump(first) + "\n,\r\n" + dump(whole) + "\n]", JSON, nano)
    else:
        out.add(provider, path, request, dump(whole), JSON, nano, packed=shape == "packed")


def converse(out, prices, key, tokens, shape, tier="standard"):
    provider, model = key
    content = [{"text": as_long_as(tokens) or "x"}]
    if "write_5m" in tokens or "write_1h" in tokens:
        content.append({"cachePoint": {"type": "default"} | ({"ttl": "1h"} if "write_1h" in tokens else {})})
    cap = max(64, tokens.get("output", 0))
    request = {"messages": [{"role": "user", "content": content}], "inferenceConfig": {"maxTokens": cap}}
    five, hour = tokens.get("write_5m", 0), tokens.get("write_1h", 0)
    usage = {
        "inputTokens": tokens.get("input", 0),
        "outputTokens": tokens.get("output", 0),
        "totalTokens": sum(tokens.values()),
        "cacheReadInputTokens": tokens.get("read", 0),
        "cacheWriteInputTokens": five + hour,
    }
    if hour:
        usage["cacheDetails"] = [{"ttl": "1h", "inputTokens": hour}, {"ttl": "5m", "inputTokens": five}]
    if tier != "standard":
        request["serviceTier"] = {"type": tier}
    nano = prices.bill(key, tier, tokens)
    path = "/model/" + model.replace(":", "%3A") + ("/converse-stream" if shape == "stream" else "/converse")
    if shape == "stream":
        stream = frame("messageStart", b'{"role":"assistant"}') + frame("contentBlockDelta", b'{"delta":{"text":"a"}}')
        stream += frame("messageStop", b'{"stopReason":"end_turn"}') + frame("metadata", dump({"usage": usage}).encode())
        out.add(provider, path, request, stream, AWS, nano)
    else:
        out.add(provider, path, request, dump({"output": {}, "stopReason": "end_turn", "usage": usage}), JSON, nano)


def nova(out, prices, key, tokens):
    provider, model = key
    content, cap = [{"text": as_long_as(tokens)}], max(64, tokens.get("output", 0))
    request = {"messages": [{"role": "user", "content": content}], "inferenceConfig": {"maxTokens": cap}}
    counts = {"inputTokenCount": tokens.get("input", 0), "outputTokenCount": tokens.get("output", 0)}
    counts["cacheReadInputTokenCount"] = tokens.get("read", 0)
    path = "/model/" + model.replace(":", "%3A") + "/invoke-with-response-stream"
    last = {"amazon-bedrock-invocationMetrics": counts}
    stream = b"".join(
        frame("chunk", dump({"bytes": base64.b64encode(dump(piece).encode()).decode()}).encode())
        for piece in ({"contentBlockDelta": {"delta": {"text": "a"}}}, last)
    )
    out.add(provider, path, request, stream, AWS, prices.bill(key, "standard", tokens))


def embeddings(out, prices, key, count, shape):
    provider, model = key
    tokens = {"input": count}
    nano = prices.bill(key, "standard", tokens)
    if provider == "openai":
        path, request = "/v1/embeddings", {"model": model, "input": as_long_as(tokens)}
        usage = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "data": [{"embedding": [0.1, -0.2]}], "model": model, "usage": usage}
    else:
        path, request = f"/v1beta/models/{model}:embedContent", {"content": {"parts": [{"text": as_long_as(tokens)}]}}
        answer = {"embedding": {"values": [0.1, -0.2]}, "usageMetadata": {"promptTokenCount": count, "totalTokenCount": count}}
        if shape == "batch":
            path = path.replace("embedContent", "batchEmbedContents")
            request = {"requests": [request | {"model": f"models/{model}"}]}
            answer["embeddings"] = [answer.pop("embedding")]
    out.add(provider, path, request, dump(answer), JSON, nano, packed=shape == "packed")


def cases(out, prices):
    shapes = ("whole", "stream", "packed")
    for key in prices.rows:
        provider, model = key
        if "embedding" in model:
            for count in (1, 7, 10, 999, 8191 if provider == "openai" else 2048):
                for shape in ("whole", "packed") if provider == "openai" else ("whole", "packed", "batch"):
                    embeddings(out, prices, key, count, shape)
            continue
        above = max(above for _, above, _ in prices.rows[key])
        plain = [
            ({"input": 1, "output": 1}, 0),
            ({"input": 1536, "read": 14080, "output": 96}, 40),
            ({"read": 3, "output": 2}, 0),
            ({"input": 12_345, "output": 6_789}, 6_000),
        ]
        if above:
            plain += [
                ({"input": above, "output": 10}, 0),
                ({"input": above + 2, "output": 10}, 3),
                ({"input": 2, "read": above, "output": 1}, 0),
            ]
        if provider in CHAT:
            for tier in prices.tiers(key):
                for number, (tokens, reasoning) in enumerate(plain):
                    chat(out, prices, key, tier, tokens, reasoning, "stream")
                    chat(out, prices, key, tier, tokens, reasoning, ("whole", "packed")[number % 2])
                    if provider == "openai":
                        responses(out, prices, key, tier, tokens, reasoning, 0, shapes[number % 3])
                if provider == "openai" and model.startswith("gpt-6"):
                    for shape in shapes:
                        written = {"input": 1_000, "read": 4_000, "write_5m": 5_000, "output": 200}
                        responses(out, prices, key, tier, written, 64, 0, shape)
                # The book has no price of gpt-5.4's searches, and refuses them.
                if provider == "openai" and model.startswith(("gpt-5", "gpt-6")) and model != "gpt-5.4":
                    for searches in (1, 3):
                        for shape in ("whole", "stream"):
                            searched = {"input": 777, "read": 3, "output": 44}
                            responses(out, prices, key, tier, searched, 0, searches, shape)
                # Where a model does not reason, the older tool has a fee of its own, and the book has that one, as it is dearer.
                if provider == "openai" and model.startswith("gpt-4"):
                    for searches in (1, 3):
                        for shape in ("whole", "stream"):
                            searched = {"input": 347, "output": 540}
                            responses(out, prices, key, tier, searched, 0, searches, shape, "preview")
        if provider == "anthropic" or "anthropic" in model:
            written = [
                {"input": 3, "write_5m": 100, "output": 7},
                {"input": 3, "write_1h": 100, "output": 7},
                {"input": 10, "read": 2_000, "write_5m": 1_000, "write_1h": 2_001, "output": 41},
                {"input": 1, "read": 49_999, "write_1h": 33_333, "output": 5_001},
            ]
            for tokens in [tokens for tokens, _ in plain] + written:
                for shape in shapes if provider == "anthropic" else ("whole",):
                    messages(out, prices, key, tokens, 0, shape)
        if provider == "anthropic":
            for searches in (1, 5):
                for shape in ("whole", "stream"):
                    if model != "claude-haiku-4-5":
                        messages(out, prices, key, {"input": 99, "read": 7, "output": 31}, searches, shape)
            if model in ("claude-opus-4-8", "claude-opus-5", "claude-opus-5-5"):
                us, fast = {"inference_geo": "us"}, {"speed": "fast"}
                tokens = {"input": 1_001, "read": 9, "write_5m": 77, "output": 103}
                for shape in ("whole", "stream"):
                    messages(out, prices, key, tokens, 0, shape, us, us, Fraction(11, 10))
                    messages(out, prices, key, tokens, 0, shape, fast, fast, Fraction(2))
                    messages(out, prices, key, tokens, 0, shape, us | fast, us | fast, Fraction(22, 10))
                    # Asked for, and not given.
                    messages(out, prices, key, tokens, 0, shape, us, {"inference_geo": "global"})
        if provider == "google":
            for tier in prices.tiers(key):
                for shape in ("whole", "stream") if tier != "standard" else ():
                    for tokens, reasoning in plain:
                        gemini(out, prices, key, tokens, min(reasoning, tokens["output"]), 0, False, shape, tier)
            for number, (tokens, reasoning) in enumerate(plain):
                for shape in ("whole", "stream", "array", "packed"):
                    tools = min(20, tokens.get("input", 0)) if number == 3 else 0
                    gemini(out, prices, key, tokens, min(reasoning, tokens["output"]), tools, False, shape)
            if model.startswith("gemini-2.5"):
                for shape in ("whole", "stream", "array"):
                    gemini(out, prices, key, {"input": 500, "output": 60}, 9, 100, True, shape)
        if provider == "bedrock":
            for tokens, _ in plain:
                for shape in ("whole", "stream"):
                    for tier in prices.tiers(key):
                        converse(out, prices, key, tokens, shape, tier)
            if "anthropic" in model:
                for tokens in written:
                    for shape in ("whole", "stream"):
                        converse(out, prices, key, tokens, shape)
            else:
                for tokens, _ in plain:
                    nova(out, prices, key, tokens)


def random_requests(prices, directory, count, seed):
    from price_random import drawn

    dice = random.Random(seed)
    with open(directory / "requests.jsonl", "w") as requests, open(directory / "plans.jsonl", "w") as plans:
        for _ in range(count):
            line, plan = drawn(prices, dice)
            requests.write(dump(line) + "\n")
            plans.write(dump(plan) + "\n")


def answers(prices, directory, seed):
    from price_answers import answer

    dice = random.Random(seed)
    files = [open(directory / name) for name in ("requests.jsonl", "plans.jsonl", "said.jsonl")]
    with open(directory / "exchanges.jsonl", "w") as exchanges, open(directory / "expected.jsonl", "w") as expected:
        for line, plan, said in zip(*files, strict=True):
            whole, bill = answer(prices, dice, json.loads(plan), json.loads(line), json.loads(said))
            exchanges.write(dump(whole) + "\n")
            expected.write(dump(bill) + "\n")


def main():
    verb, prices, directory = sys.argv[1:4]
    prices, directory = Prices(prices), pathlib.Path(directory)
    if verb == "cases":
        cases(Out(directory), prices)
    elif verb == "random":
        random_requests(prices, directory, int(sys.argv[4]), int(sys.argv[5]))
    else:
        answers(prices, directory, int(sys.argv[4]))


if __name__ == "__main__":
    main()
