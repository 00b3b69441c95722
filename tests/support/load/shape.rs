//! What a request looks like: a small chat call, or a model call of an agent as it was measured. Sizes, models, caps and
//! tools are those of Claude Code 2.1.197 and 2.1.330 and of Codex 0.169.0; the words are made up.

use crate::Args;
use anyhow::Result;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use std::io::Write as _;

/// Whose requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Chat completions, with a cap of their own each.
    Chat,
    /// Claude Code: 48 KB with three cache marks and nine tools; every eighth one is a title call, 2 KB for a smaller model.
    Claude,
    /// A newer one: 42 KB as gzip, twelve tools, the model's whole output as its cap.
    ClaudeNew,
    /// Codex over HTTP: 68 KB and no cap.
    Codex,
}

impl Shape {
    /// Its name on the command line.
    pub(crate) fn named(name: &str) -> Result<Shape> {
        Ok(match name {
            "chat" => Shape::Chat,
            "claude" => Shape::Claude,
            "claude-new" => Shape::ClaudeNew,
            "codex" => Shape::Codex,
            _ => anyhow::bail!("no shape {name:?}"),
        })
    }

    /// The host it goes to.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Shape::Chat | Shape::Codex => "api.openai.com",
            Shape::Claude | Shape::ClaudeNew => "api.anthropic.com",
        }
    }

    /// Whether client `n` speaks HTTP/2. Agents are one thing; of small calls every other one is.
    pub(crate) fn two(self, n: u64) -> bool {
        match self {
            Shape::Chat => n.is_multiple_of(2),
            Shape::Claude | Shape::ClaudeNew => false,
            Shape::Codex => true,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Shape::Chat => "/v1/chat/completions",
            Shape::Codex => "/v1/responses",
            Shape::Claude | Shape::ClaudeNew => "/v1/messages",
        }
    }

    fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Shape::Chat => &[("authorization", "Bearer sk-stand-in")],
            Shape::Codex => &[("authorization", "Bearer sk-stand-in"), ("accept", "text/event-stream")],
            Shape::Claude => &[
                ("x-api-key", "sk-ant-stand-in"),
                ("anthropic-version", "2023-06-01"),
                ("anthropic-beta", "context-1m-2025-08-07"),
            ],
            Shape::ClaudeNew => {
                &[("x-api-key", "sk-ant-stand-in"), ("anthropic-version", "2023-06-01"), ("content-encoding", "gzip")]
            }
        }
    }

    /// The body of request `i`, before any encoding. `cap` is put in the place of the agent's own output cap.
    fn body(self, args: &Args, i: u64, cap: Option<u64>) -> Value {
        let id = if args.same { 0 } else { i };
        match self {
            Shape::Chat => chat(args, id),
            Shape::Claude if i % 8 == 7 && cap.is_none() => title(id),
            Shape::Claude => messages("claude-opus-4-8", cap.unwrap_or(64_000), 9, 48_000, id),
            Shape::ClaudeNew => messages("claude-opus-5-5", cap.unwrap_or(128_000), 12, 42_000, id),
            Shape::Codex => responses(cap, id),
        }
    }

    /// Request `i`.
    pub(crate) fn request(self, args: &Args, i: u64, two: bool) -> Result<Request<Full<Bytes>>> {
        let path = if args.host == "api.anthropic.com" {
            format!("{}?beta=true", self.path())
        } else {
            self.path().to_owned()
        };
        let target = if two { format!("https://{}{path}", args.host) } else { path };
        let mut request = Request::post(target).header("content-type", "application/json");
        if !two {
            request = request.header("host", &args.host);
        }
        for (name, value) in self.headers() {
            request = request.header(*name, *value);
        }
        let body = self.body(args, i, None).to_string();
        Ok(request.body(Full::from(if self == Shape::ClaudeNew { gzip(&body)? } else { body.into_bytes() }))?)
    }

    /// The largest request with an output cap of `cap`, as an exchange of which `caracald prices bill` says the hold.
    pub(crate) fn exchange(self, args: &Args, cap: u64) -> Value {
        let body = self.body(args, 0, Some(cap)).to_string();
        let headers: serde_json::Map<String, Value> = self
            .headers()
            .iter()
            .filter(|(name, _)| *name != "content-encoding")
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        json!({"host": args.host, "path": self.path(), "headers": headers, "request": body, "answer": ""})
    }
}

fn gzip(text: &str) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(text.as_bytes())?;
    Ok(out.finish()?)
}

fn chat(args: &Args, i: u64) -> Value {
    let stream = args.stream || args.stream_every.is_some_and(|every| i.is_multiple_of(every));
    // What a provider can do to a budget, each in one of so many requests.
    let (worse, choices) = match i % 48 {
        5 if args.adverse => (" max", 1),
        17 if args.adverse => (" max no-usage", 1),
        29 if args.adverse => (" max cut=9 reset", 1),
        41 if args.adverse => ("", 2),
        _ => ("", 1),
    };
    let prompt = format!("Count for me. [[id={i} {}{worse}]]", args.words);
    let mut body =
        json!({"model": args.model, "max_tokens": args.cap(i), "messages": [{"role": "user", "content": prompt}]});
    if choices > 1 {
        body["n"] = json!(choices);
    }
    if stream {
        body["stream"] = json!(true);
        // Half of the clients do not ask for the usage: the daemon must.
        if i.is_multiple_of(2) {
            body["stream_options"] = json!({"include_usage": true});
        }
    }
    body
}

/// The user's words: how much is answered differs from turn to turn, from a line to some pages.
fn prompt(i: u64) -> String {
    // Numbers of one length, so that no request is larger than another.
    format!("Go on with the next step. [[id={i:06} say=done output={:04}]]", 200 + i.wrapping_mul(997) % 2_800)
}

/// `bytes` of words, others for each `i`.
fn words(bytes: usize, i: u64) -> String {
    const WORDS: [&str; 12] =
        ["file", "change", "test", "the", "answer", "in", "module", "returns", "every", "path", "of", "error"];
    let mut out = String::with_capacity(bytes + 16);
    let mut state = i.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    while out.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS.get(usize::try_from((state >> 33) % 12).unwrap_or(0)).copied().unwrap_or_default();
        out.push_str(word);
        out.push(' ');
    }
    out.truncate(bytes);
    out
}

fn schema(bytes: usize) -> Value {
    json!({"type": "object", "properties": {"command": {"type": "string", "description": words(bytes, 3)}}, "required": ["command"]})
}

fn title(i: u64) -> Value {
    json!({
        "model": "claude-haiku-4-5", "max_tokens": 32_000, "stream": true,
        "system": [{"type": "text", "text": words(1_000, 1)}],
        "output_format": {"type": "json_schema", "schema": {"type": "object", "properties": {"title": {"type": "string"}}}},
        "messages": [{"role": "user", "content": [{"type": "text", "text": format!("{} [[id={i:06} say=title output=20]]", words(500, i))}]}],
    })
}

fn messages(model: &str, cap: u64, tools: usize, bytes: usize, i: u64) -> Value {
    let mark = json!({"type": "ephemeral"});
    let each = bytes / 2 / tools;
    let tools: Vec<Value> = (0..tools)
        .map(|n| json!({"name": format!("tool_{n}"), "description": words(each, 5), "input_schema": schema(80)}))
        .collect();
    json!({
        "model": model, "max_tokens": cap, "stream": true, "thinking": {"type": "adaptive"}, "tools": tools,
        "system": [
            {"type": "text", "text": words(200, 1), "cache_control": mark},
            {"type": "text", "text": words(bytes / 4, 2), "cache_control": mark},
        ],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": words(bytes / 5, i)},
            {"type": "text", "text": prompt(i), "cache_control": mark},
        ]}],
    })
}

fn responses(cap: Option<u64>, i: u64) -> Value {
    let tools: Vec<Value> = (0..12)
        .map(|n| json!({"type": "function", "name": format!("tool_{n}"), "description": words(2_000, 5), "strict": false, "parameters": schema(80)}))
        .collect();
    let text = |text: String| json!([{"type": "input_text", "text": text}]);
    let mut body = json!({
        "model": "gpt-6.1-sol", "instructions": words(20_000, 1), "store": false, "stream": true, "tools": tools,
        "tool_choice": "auto", "parallel_tool_calls": true, "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "7c6f",
        "input": [
            {"type": "message", "role": "developer", "content": text(words(14_000, 2))},
            {"type": "message", "role": "user", "content": text(words(6_000, i))},
            {"type": "message", "role": "user", "content": text(prompt(i))},
        ],
    });
    if let Some(cap) = cap {
        body["max_output_tokens"] = json!(cap);
    }
    body
}
