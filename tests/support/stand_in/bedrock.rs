//! AWS Bedrock: converse and invoke, whole and in event-stream frames. A signature is checked, so that a body or a signed
//! header that somebody edited on the way is a 403, as it is there.

use super::World;
use super::bill::Tokens;
use super::chat;
use super::deliver::{Delivery, Event, Out, answer};
use super::messages;
use super::plan::{self, Ask, Plan};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, Uri};
use serde_json::{Value, json};
use std::sync::Arc;

/// The secret of every key here.
pub const SECRET: &str = "stand-in-secret";
const FRAMES: &str = "application/vnd.amazon.eventstream";

/// The service's own error.
#[must_use]
pub fn error(status: u16, kind: &'static str, message: &str) -> Response<Out> {
    let mut out = answer(status, &json!({"message": message}));
    out.headers_mut().insert(HeaderName::from_static("x-amzn-errortype"), HeaderValue::from_static(kind));
    out
}

/// `POST /model/MODEL/...`.
#[must_use]
pub fn call(
    world: &Arc<World>,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Value,
    bytes: &Bytes,
    extra: Option<&str>,
) -> Response<Out> {
    if let Some(why) = wrongly_signed(uri, headers, bytes) {
        return error(403, "InvalidSignatureException", &why);
    }
    let path = uri.path();
    let Some((id, call)) = path.strip_prefix("/model/").and_then(|rest| rest.split_once('/')) else {
        return error(404, "ResourceNotFoundException", "no such path");
    };
    let model = id.replace("%3A", ":");
    let converse = call.starts_with("converse");
    let stream = matches!(call, "converse-stream" | "invoke-with-response-stream");
    if !stream && !matches!(call, "converse" | "invoke") {
        return error(404, "ResourceNotFoundException", "no such call");
    }
    let cap = if converse { &body["inferenceConfig"]["maxTokens"] } else { &body["max_tokens"] };
    let ask = Ask {
        model,
        bytes: bytes.len() as u64,
        cap: cap.as_u64(),
        directive: chat::directive(&body["messages"], extra),
        tool_results: 0,
        tools: Vec::new(),
    };
    if let Some(status) = ask.directive.status {
        return error(status, "ThrottlingException", "The stand-in was asked to fail.");
    }
    let Some(mut plan) = plan::plan(&ask) else {
        return error(400, "ValidationException", "The provided model identifier is invalid.");
    };
    if body.to_string().contains("\"cachePoint\"") {
        let written = plan.tokens.input / 4;
        plan.tokens.cache_write_5m = written;
        plan.tokens.input -= written;
    }
    let number = world.next_call();
    let line = chat::line(number, "bedrock", path, &ask, stream);
    let usage = !ask.directive.no_usage;
    let delivery = Delivery::new(world, line, plan.clone(), ask.directive);
    match (converse, stream) {
        (true, false) => delivery.whole(&conversed(&plan, usage)),
        (true, true) => delivery.stream_as(FRAMES, conversing(&plan, usage)),
        (false, false) => delivery.whole(&messages::Shape { call: number, model: ask.model, usage }.whole(&plan)),
        (false, true) => {
            let events = messages::Shape { call: number, model: ask.model, usage }.events(&plan);
            delivery.stream_as(FRAMES, events.into_iter().filter_map(chunked).collect())
        }
    }
}

fn usage_of(tokens: &Tokens) -> Value {
    json!({
        "inputTokens": tokens.input, "outputTokens": tokens.output,
        "totalTokens": tokens.input + tokens.output + tokens.cache_read + tokens.cache_write_5m,
        "cacheReadInputTokens": tokens.cache_read, "cacheWriteInputTokens": tokens.cache_write_5m,
    })
}

fn stop(plan: &Plan) -> &'static str {
    if plan.capped { "max_tokens" } else { "end_turn" }
}

fn conversed(plan: &Plan, usage: bool) -> Value {
    let message = json!({"role": "assistant", "content": [{"text": plan.pieces.concat()}]});
    let mut out = json!({"output": {"message": message}, "stopReason": stop(plan), "metrics": {"latencyMs": 1}});
    if usage {
        out["usage"] = usage_of(&plan.tokens);
    }
    out
}

fn conversing(plan: &Plan, usage: bool) -> Vec<Event> {
    let mut events = Vec::new();
    let mut push = |kind: &str, payload: Value, pieces: usize, usage: bool| {
        events.push(Event { bytes: frame(kind, payload.to_string().as_bytes()), pieces, usage });
    };
    push("messageStart", json!({"role": "assistant", "p": "abcdefgh"}), 0, false);
    for (index, piece) in plan.pieces.iter().enumerate() {
        push("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": piece}}), index + 1, false);
    }
    let all = plan.pieces.len();
    push("contentBlockStop", json!({"contentBlockIndex": 0}), all, false);
    push("messageStop", json!({"stopReason": stop(plan)}), all, false);
    let mut metadata = json!({"metrics": {"latencyMs": 1}});
    if usage {
        metadata["usage"] = usage_of(&plan.tokens);
    }
    push("metadata", metadata, all, usage);
    events
}

/// An event of the model's own stream, in a frame.
fn chunked(event: Event) -> Option<Event> {
    let text = std::str::from_utf8(&event.bytes).ok()?;
    let json = text.lines().find_map(|line| line.strip_prefix("data: "))?;
    let inner = base64::engine::general_purpose::STANDARD.encode(json);
    let bytes = frame("chunk", json!({"bytes": inner, "p": "abc"}).to_string().as_bytes());
    Some(Event { bytes, ..event })
}

fn check(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

fn frame(kind: &str, payload: &[u8]) -> Bytes {
    let mut heads = Vec::new();
    for (name, value) in [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")] {
        heads.push(u8::try_from(name.len()).unwrap_or(0));
        heads.extend(name.bytes());
        heads.push(7);
        heads.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        heads.extend(value.bytes());
    }
    let length = |of: usize| u32::try_from(of).unwrap_or(0).to_be_bytes();
    let mut out = Vec::new();
    out.extend(length(16 + heads.len() + payload.len()));
    out.extend(length(heads.len()));
    out.extend(check(&out));
    out.extend(heads);
    out.extend(payload);
    out.extend(check(&out));
    out.into()
}

/// What is wrong with the request's signature (SigV4); `None` for a right one, and for a bearer key.
fn wrongly_signed(uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let authorization = text("authorization");
    if authorization.starts_with("Bearer ") {
        return None;
    }
    let Some(parts) = authorization.strip_prefix("AWS4-HMAC-SHA256 ") else { return Some("not signed".to_owned()) };
    let part = |name: &str| parts.split(", ").find_map(|part| part.strip_prefix(name)).unwrap_or_default();
    let (credential, signed, given) = (part("Credential="), part("SignedHeaders="), part("Signature="));
    let scope = credential.split_once('/').map_or("", |(_, scope)| scope);
    let mut heads = String::new();
    for name in signed.split(';') {
        // HTTP/2 has the host elsewhere.
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let value = if name == "host" && text(name).is_empty() { authority } else { text(name) };
        heads.push_str(&format!("{name}:{value}\n"));
    }
    // The path is encoded once more.
    let path = uri.path().replace('%', "%25").replace(':', "%3A");
    let canonical = format!("POST\n{path}\n{}\n{heads}\n{signed}\n{}", uri.query().unwrap_or_default(), hash(body));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", text("x-amz-date"), hash(canonical.as_bytes()));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for step in scope.split('/') {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec();
    }
    let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes()).as_ref());
    (signature != given).then(|| format!("the signature does not match: {canonical}"))
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
