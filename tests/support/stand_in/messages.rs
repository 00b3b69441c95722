//! Anthropic messages, with the events that Claude Code and the SDKs read.

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
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    answer(status, &json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_standin"}))
}

/// `POST /v1/messages`.
#[must_use]
pub fn create(world: &Arc<World>, body: &Value, bytes: u64, extra: Option<&str>) -> Response<Out> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let ask = Ask {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        bytes,
        cap: body["max_tokens"].as_u64(),
        directive: chat::directive(&body["messages"], extra),
        tool_results: results(&body["messages"]),
        tools: tools.filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect(),
    };
    if ask.cap.is_none() {
        return error(400, "max_tokens: Field required");
    }
    if let Some(status) = ask.directive.status {
        return error(status, "The stand-in was asked to fail.");
    }
    let Some(mut plan) = plan::plan(&ask) else { return error(404, &format!("model: {}", ask.model)) };
    cache(&body.to_string(), &mut plan.tokens);
    let stream = body["stream"] == true;
    let call = world.next_call();
    let line = chat::line(call, "anthropic", "/v1/messages", &ask, stream);
    let shape = Shape { call, model: ask.model.clone(), usage: !ask.directive.no_usage };
    let delivery = Delivery::new(world, line, plan.clone(), ask.directive);
    if stream { delivery.stream(shape.events(&plan)) } else { delivery.whole(&shape.whole(&plan)) }
}

fn results(messages: &Value) -> usize {
    let parts = messages.as_array().into_iter().flatten().filter_map(|message| message["content"].as_array());
    parts.flatten().filter(|part| part["type"] == "tool_result").count()
}

/// A request with cache marks writes a quarter of its input to the cache and reads a half from it.
fn cache(body: &str, tokens: &mut Tokens) {
    if !body.contains("\"cache_control\"") {
        return;
    }
    let all = tokens.input;
    tokens.cache_read += all / 2;
    let written = all / 4;
    if body.contains("\"ttl\":\"1h\"") {
        tokens.cache_write_1h = written;
    } else {
        tokens.cache_write_5m = written;
    }
    tokens.input = all - all / 2 - written;
}

/// How an answer is told.
pub(super) struct Shape {
    /// The call's number.
    pub(super) call: u64,
    /// The model.
    pub(super) model: String,
    /// The answer says what it cost.
    pub(super) usage: bool,
}

impl Shape {
    fn usage_of(tokens: &Tokens, output: u64) -> Value {
        json!({
            "input_tokens": tokens.input,
            "cache_creation_input_tokens": tokens.cache_write_5m + tokens.cache_write_1h,
            "cache_read_input_tokens": tokens.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": tokens.cache_write_5m, "ephemeral_1h_input_tokens": tokens.cache_write_1h},
            "output_tokens": output, "service_tier": "standard",
        })
    }

    fn block(&self, plan: &Plan, full: bool) -> Value {
        match &plan.tool {
            Some(tool) => {
                let input = if full { tool.arguments.clone() } else { json!({}) };
                json!({"type": "tool_use", "id": format!("toolu_standin{}", self.call), "name": tool.name, "input": input})
            }
            None => json!({"type": "text", "text": if full { plan.pieces.concat() } else { String::new() }}),
        }
    }

    fn stop(plan: &Plan) -> &'static str {
        match (&plan.tool, plan.capped) {
            (Some(_), _) => "tool_use",
            (None, true) => "max_tokens",
            (None, false) => "end_turn",
        }
    }

    fn message(&self) -> Value {
        json!({"id": format!("msg_standin{}", self.call), "type": "message", "role": "assistant", "model": self.model,
            "content": [], "stop_reason": null, "stop_sequence": null})
    }

    pub(super) fn whole(&self, plan: &Plan) -> Value {
        let mut out = self.message();
        out["content"] = json!([self.block(plan, true)]);
        out["stop_reason"] = json!(Self::stop(plan));
        if self.usage {
            out["usage"] = Self::usage_of(&plan.tokens, plan.tokens.output);
        }
        out
    }

    pub(super) fn events(&self, plan: &Plan) -> Vec<Event> {
        let mut events = Vec::new();
        let mut push = |kind: &str, mut data: Value, pieces: usize, usage: bool| {
            data["type"] = json!(kind);
            events.push(Event { bytes: Bytes::from(format!("event: {kind}\ndata: {data}\n\n")), pieces, usage });
        };
        let mut message = self.message();
        message["usage"] = Self::usage_of(&plan.tokens, 1);
        push("message_start", json!({"message": message}), 0, false);
        push("content_block_start", json!({"index": 0, "content_block": self.block(plan, false)}), 0, false);
        push("ping", json!({}), 0, false);
        if let Some(tool) = &plan.tool {
            let delta = json!({"type": "input_json_delta", "partial_json": tool.arguments.to_string()});
            push("content_block_delta", json!({"index": 0, "delta": delta}), 0, false);
        }
        for (index, piece) in plan.pieces.iter().enumerate() {
            push(
                "content_block_delta",
                json!({"index": 0, "delta": {"type": "text_delta", "text": piece}}),
                index + 1,
                false,
            );
        }
        let all = plan.pieces.len();
        push("content_block_stop", json!({"index": 0}), all, false);
        let mut last = json!({"delta": {"stop_reason": Self::stop(plan), "stop_sequence": null}});
        if self.usage {
            last["usage"] = Self::usage_of(&plan.tokens, plan.tokens.output);
        }
        push("message_delta", last, all, self.usage);
        push("message_stop", json!({}), all, false);
        events
    }
}
