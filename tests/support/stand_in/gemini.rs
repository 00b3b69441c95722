//! Google Gemini: generateContent whole, as events, and as the array that grows where no events are asked for.

use super::World;
use super::bill::Tokens;
use super::chat;
use super::deliver::{Delivery, Event, Out, answer};
use super::plan::{self, Ask, Plan};
use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// The provider's own error body.
#[must_use]
pub fn error(status: u16, message: &str) -> Response<Out> {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        _ => "INTERNAL",
    };
    answer(status, &json!({"error": {"code": status, "message": message, "status": name}}))
}

/// `POST /v1beta/models/MODEL:generateContent`, `:streamGenerateContent`, `:countTokens`.
#[must_use]
pub fn call(
    world: &Arc<World>,
    path: &str,
    query: &str,
    body: &Value,
    bytes: u64,
    extra: Option<&str>,
) -> Response<Out> {
    let versions = ["/v1beta/models/", "/v1/models/"];
    let rest = versions.into_iter().find_map(|version| path.strip_prefix(version));
    let named = rest.and_then(|call| call.rsplit_once(':'));
    let Some((model, call)) = named else { return error(404, "no such path") };
    if call == "countTokens" {
        return answer(200, &json!({"totalTokens": bytes.div_ceil(4)}));
    }
    let stream = call == "streamGenerateContent";
    if !stream && call != "generateContent" {
        return error(404, "no such call");
    }
    let turns = body["contents"].as_array().into_iter().flatten();
    let said: Value = turns.map(|turn| json!({"role": turn["role"], "content": turn["parts"]})).collect();
    let ask = Ask {
        model: model.to_owned(),
        bytes,
        cap: body["generationConfig"]["maxOutputTokens"].as_u64(),
        directive: chat::directive(&said, extra),
        tool_results: 0,
        tools: Vec::new(),
    };
    if let Some(status) = ask.directive.status {
        return error(status, "The stand-in was asked to fail.");
    }
    let Some(plan) = plan::plan(&ask) else { return error(404, &format!("models/{model} is not found")) };
    let line = chat::line(world.next_call(), "google", path, &ask, stream);
    let shape = Shape { model: ask.model.clone(), usage: !ask.directive.no_usage };
    let delivery = Delivery::new(world, line, plan.clone(), ask.directive);
    if !stream {
        return delivery.whole(&shape.part(&plan.pieces.concat(), Some(&plan), plan.tokens.output, &plan));
    }
    if query.split('&').any(|pair| pair == "alt=sse") {
        return delivery.stream(shape.events(&plan, |_, json| format!("data: {json}\r\n\r\n")));
    }
    let last = plan.pieces.len();
    let piece = move |index: usize, json: String| match index {
        0 if last == 0 => format!("[{json}\n]"),
        0 => format!("[{json}"),
        _ if index == last => format!("\n,\r\n{json}\n]"),
        _ => format!("\n,\r\n{json}"),
    };
    delivery.stream_as("application/json; charset=UTF-8", shape.events(&plan, piece))
}

struct Shape {
    model: String,
    usage: bool,
}

impl Shape {
    fn usage_of(tokens: &Tokens, output: u64) -> Value {
        let prompt = tokens.input + tokens.cache_read;
        let mut out = json!({"promptTokenCount": prompt, "totalTokenCount": prompt + output,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]});
        let thoughts = tokens.reasoning.min(output);
        // What is nothing is left out.
        for (name, count) in [
            ("candidatesTokenCount", output - thoughts),
            ("thoughtsTokenCount", thoughts),
            ("cachedContentTokenCount", tokens.cache_read),
        ] {
            if count > 0 {
                out[name] = json!(count);
            }
        }
        out
    }

    /// One document: `end` has why it stopped.
    fn part(&self, text: &str, end: Option<&Plan>, output: u64, plan: &Plan) -> Value {
        let mut candidate = json!({"content": {"parts": [{"text": text}], "role": "model"}, "index": 0});
        if let Some(plan) = end {
            candidate["finishReason"] = json!(if plan.capped { "MAX_TOKENS" } else { "STOP" });
        }
        let mut out = json!({"candidates": [candidate], "modelVersion": self.model, "responseId": "standin"});
        if self.usage {
            out["usageMetadata"] = Self::usage_of(&plan.tokens, output);
        }
        out
    }

    /// Each document tells the usage so far, the last one all of it.
    fn events(&self, plan: &Plan, framed: impl Fn(usize, String) -> String) -> Vec<Event> {
        let all = plan.pieces.len();
        let mut events: Vec<Event> = Vec::new();
        for (index, piece) in plan.pieces.iter().enumerate() {
            let so_far = plan::generated(plan, index + 1, all.max(1)).output.saturating_sub(1);
            let json = self.part(piece, None, so_far, plan).to_string();
            events.push(Event { bytes: Bytes::from(framed(index, json)), pieces: index + 1, usage: false });
        }
        let json = self.part("", Some(plan), plan.tokens.output, plan).to_string();
        events.push(Event { bytes: Bytes::from(framed(all, json)), pieces: all, usage: self.usage });
        events
    }
}
