//! OpenAI chat completions and embeddings, in the shapes of the public API reference.

use super::World;
use super::bill::{self, Line, Tokens};
use super::compatible::Whose;
use super::deliver::{Delivery, Event, Out, answer};
use super::directive::Directive;
use super::plan::{self, Ask, Plan};
use bytes::Bytes;
use hyper::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The provider's own error body.
#[must_use]
pub fn error(status: u16, message: &str) -> Response<Out> {
    let (kind, code) = match status {
        429 => ("requests", "rate_limit_exceeded"),
        404 => ("invalid_request_error", "model_not_found"),
        400 => ("invalid_request_error", "invalid_value"),
        _ => ("server_error", "server_error"),
    };
    answer(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// The directives of an OpenAI-shaped list of messages: those of the last user message that has any.
#[must_use]
pub fn directive(messages: &Value, extra: Option<&str>) -> Directive {
    let users = messages.as_array().into_iter().flatten().filter(|item| item["role"] == "user");
    let mut text: String = users.map(|item| plan::text_of(&item["content"]) + "\n").collect();
    if let Value::String(only) = messages {
        text.clone_from(only);
    }
    let mut read = Directive::in_text(&text);
    read.take(extra.unwrap_or_default());
    read
}

/// `POST /v1/chat/completions`.
#[must_use]
pub fn completions(world: &Arc<World>, whose: Whose, body: &Value, bytes: u64, extra: Option<&str>) -> Response<Out> {
    let ask = Ask {
        // A deployment's name stands for the model, whatever the body says.
        model: whose.model.clone().unwrap_or_else(|| body["model"].as_str().unwrap_or_default().to_owned()),
        bytes,
        cap: body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64()),
        directive: directive(&body["messages"], extra),
        tool_results: 0,
        tools: Vec::new(),
    };
    if let Some(status) = ask.directive.status {
        return error(status, "The stand-in was asked to fail.");
    }
    let Some(mut plan) = plan::plan(&ask) else {
        return error(404, &format!("The model `{}` does not exist", ask.model));
    };
    // Each choice has the cap to itself, and all of them are billed.
    let choices = body["n"].as_u64().unwrap_or(1);
    plan.tokens.output *= choices;
    plan.tokens.reasoning *= choices;
    let stream = body["stream"] == true;
    let include = body["stream_options"]["include_usage"] == true || whose.always_tells();
    let call = world.next_call();
    let line = line(call, whose.provider, "/v1/chat/completions", &ask, stream);
    let shape = Shape { call, model: ask.model.clone(), choices, include, usage: !ask.directive.no_usage, whose };
    let delivery = Delivery::new(world, line, plan.clone(), ask.directive);
    if stream { delivery.stream(shape.events(&plan)) } else { delivery.whole(&shape.whole(&plan)) }
}

/// The bill's line of a call that starts.
#[must_use]
pub fn line(call: u64, provider: &str, path: &str, ask: &Ask, stream: bool) -> Line {
    Line {
        call,
        id: ask.directive.id.clone(),
        provider: provider.to_owned(),
        model: ask.model.clone(),
        path: path.to_owned(),
        stream,
        cap: ask.cap,
        tokens: Tokens::default(),
        nano: 0,
        cut: false,
        usage_sent: false,
    }
}

struct Shape {
    call: u64,
    model: String,
    /// How many were asked for.
    choices: u64,
    include: bool,
    usage: bool,
    whose: Whose,
}

impl Shape {
    fn head(&self, object: &str) -> Map<String, Value> {
        let mut head = Map::new();
        head.insert("id".into(), json!(format!("chatcmpl-standin{}", self.call)));
        head.insert("object".into(), json!(object));
        head.insert("created".into(), json!(1_795_000_000));
        head.insert("model".into(), json!(self.model));
        if matches!(self.whose.provider, "openai" | "azure") {
            head.insert("service_tier".into(), json!("default"));
        }
        head.insert("system_fingerprint".into(), json!("fp_standin"));
        head
    }

    fn whole(&self, plan: &Plan) -> Value {
        let mut out = self.head("chat.completion");
        let finish = if plan.capped { "length" } else { "stop" };
        let message = json!({"role": "assistant", "content": plan.pieces.concat(), "refusal": null, "annotations": []});
        let choice = |index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish});
        out.insert("choices".into(), (0..self.choices).map(choice).collect());
        if self.usage {
            out.insert("usage".into(), self.whose.usage(&plan.tokens));
        }
        Value::Object(out)
    }

    /// As the API sends them: with `include_usage` every chunk but the last has `usage: null`, and the last has no
    /// choices; without it no chunk has the field at all.
    fn events(&self, plan: &Plan) -> Vec<Event> {
        let mut events = Vec::new();
        let mut push = |choices: Value, usage: Option<Value>, pieces: usize| {
            let mut out = self.head("chat.completion.chunk");
            out.insert("choices".into(), choices);
            let says = usage.is_some();
            if self.include {
                out.insert("usage".into(), usage.unwrap_or(Value::Null));
            }
            let bytes = Bytes::from(format!("data: {}\n\n", Value::Object(out)));
            events.push(Event { bytes, pieces, usage: says });
        };
        let choice = |delta: Value, finish: Value| -> Value {
            let one = |index| json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
            (0..self.choices).map(one).collect()
        };
        push(choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null), None, 0);
        for (index, piece) in plan.pieces.iter().enumerate() {
            push(choice(json!({"content": piece}), Value::Null), None, index + 1);
        }
        let all = plan.pieces.len();
        let told = (self.include && self.usage).then(|| self.whose.usage(&plan.tokens));
        let (at_the_stop, own) = if self.whose.tells_at_the_stop() { (told, None) } else { (None, told) };
        push(choice(json!({}), json!(if plan.capped { "length" } else { "stop" })), at_the_stop, all);
        if own.is_some() {
            push(json!([]), own, all);
        }
        events.push(Event { bytes: Bytes::from_static(b"data: [DONE]\n\n"), pieces: all, usage: false });
        events
    }
}

/// `POST /v1/embeddings`.
#[must_use]
pub fn embeddings(world: &Arc<World>, body: &Value, bytes: u64, extra: Option<&str>) -> Response<Out> {
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    let inputs: Vec<String> = match &body["input"] {
        Value::Array(all) => all.iter().map(plan::text_of).collect(),
        one => vec![plan::text_of(one)],
    };
    let mut directive = Directive::in_text(&inputs.join("\n"));
    directive.take(extra.unwrap_or_default());
    let ask = Ask { model, bytes, cap: None, directive, tool_results: 0, tools: Vec::new() };
    if let Some(status) = ask.directive.status {
        return error(status, "The stand-in was asked to fail.");
    }
    if bill::ceiling(&ask.model) != Some(0) {
        return error(404, &format!("The model `{}` does not exist", ask.model));
    }
    let tokens = Tokens { input: inputs.iter().map(|text| (text.len() as u64).div_ceil(4)).sum(), ..Tokens::default() };
    // Clients ask for base64 by default: four little-endian floats.
    let vector = if body["encoding_format"] == "base64" {
        json!("AACAPwAAAAAAAAAAAAAAAA==")
    } else {
        json!([1.0, 0.0, 0.0, 0.0])
    };
    let data: Vec<Value> =
        (0..inputs.len()).map(|index| json!({"object": "embedding", "index": index, "embedding": vector})).collect();
    let mut value = json!({"object": "list", "data": data, "model": ask.model});
    if !ask.directive.no_usage {
        value["usage"] = json!({"prompt_tokens": tokens.input, "total_tokens": tokens.input});
    }
    let line = line(world.next_call(), "openai", "/v1/embeddings", &ask, false);
    let plan = Plan { pieces: Vec::new(), tool: None, tokens, capped: false };
    Delivery::new(world, line, plan, ask.directive).whole(&value)
}
