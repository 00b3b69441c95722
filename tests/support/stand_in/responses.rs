//! OpenAI Responses over HTTP, with the events that Codex and the SDKs read.

use super::World;
use super::bill::Tokens;
use super::chat;
use super::deliver::{Delivery, Event, Out};
use super::plan::{self, Ask, Plan};
use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// One call on a socket.
#[derive(Debug)]
pub struct Turn {
    /// The response's id.
    pub id: String,
    /// Its events.
    pub events: Vec<Event>,
    /// What sends and bills it.
    pub delivery: Delivery,
}

/// A `response.create` whose input has `bytes`. `None` for a model that is not served.
#[must_use]
pub fn turn(world: &Arc<World>, body: &Value, bytes: u64) -> Option<Turn> {
    let ask = asked(body, bytes, None);
    let plan = plan::plan(&ask)?;
    let call = world.next_call();
    let line = chat::line(call, "openai", "/v1/responses", &ask, true);
    let shape = Shape { call, model: ask.model.clone(), usage: !ask.directive.no_usage };
    let events = shape.events(&plan);
    Some(Turn { id: format!("resp_standin{call}"), events, delivery: Delivery::new(world, line, plan, ask.directive) })
}

fn asked(body: &Value, bytes: u64, extra: Option<&str>) -> Ask {
    let results = ["function_call_output", "custom_tool_call_output", "local_shell_call_output"];
    let items = body["input"].as_array().into_iter().flatten();
    Ask {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        bytes,
        cap: body["max_output_tokens"].as_u64(),
        directive: chat::directive(&body["input"], extra),
        tool_results: items.filter(|item| results.iter().any(|kind| item["type"] == *kind)).count(),
        tools: tools(body),
    }
}

/// `POST /v1/responses`.
#[must_use]
pub fn create(world: &Arc<World>, provider: &str, body: &Value, bytes: u64, extra: Option<&str>) -> Response<Out> {
    let ask = asked(body, bytes, extra);
    if let Some(status) = ask.directive.status {
        return chat::error(status, "The stand-in was asked to fail.");
    }
    let Some(plan) = plan::plan(&ask) else {
        return chat::error(404, &format!("The model `{}` does not exist", ask.model));
    };
    let stream = body["stream"] == true;
    let call = world.next_call();
    let line = chat::line(call, provider, "/v1/responses", &ask, stream);
    let shape = Shape { call, model: ask.model.clone(), usage: !ask.directive.no_usage };
    let delivery = Delivery::new(world, line, plan.clone(), ask.directive);
    if stream { delivery.stream(shape.events(&plan)) } else { delivery.whole(&shape.response(&plan, true)) }
}

/// Names of the tools offered: those of `tools`, and those that Codex puts into the input, in namespaces.
fn tools(body: &Value) -> Vec<String> {
    fn names(list: &Value, out: &mut Vec<String>) {
        for tool in list.as_array().into_iter().flatten() {
            names(&tool["tools"], out);
            out.extend(tool["name"].as_str().or_else(|| tool["type"].as_str()).map(str::to_owned));
        }
    }
    let mut out = Vec::new();
    names(&body["tools"], &mut out);
    for item in body["input"].as_array().into_iter().flatten().filter(|item| item["type"] == "additional_tools") {
        names(&item["tools"], &mut out);
    }
    out
}

struct Shape {
    call: u64,
    model: String,
    usage: bool,
}

impl Shape {
    fn usage_of(tokens: &Tokens) -> Value {
        let input = tokens.input + tokens.cache_read;
        json!({
            "input_tokens": input, "input_tokens_details": {"cached_tokens": tokens.cache_read},
            "output_tokens": tokens.output, "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": input + tokens.output,
        })
    }

    fn item(&self, plan: &Plan, done: bool) -> Value {
        let status = if done { "completed" } else { "in_progress" };
        match &plan.tool {
            Some(tool) if tool.freeform() => {
                let input = if done { tool.text() } else { String::new() };
                json!({"id": format!("ctc_standin{}", self.call), "type": "custom_tool_call", "status": status,
                    "call_id": format!("call_standin{}", self.call), "name": tool.name, "namespace": "functions", "input": input})
            }
            Some(tool) => {
                let arguments = if done { tool.arguments.to_string() } else { String::new() };
                json!({"id": format!("fc_standin{}", self.call), "type": "function_call", "status": status,
                    "call_id": format!("call_standin{}", self.call), "name": tool.name, "arguments": arguments})
            }
            None => {
                let text =
                    json!({"type": "output_text", "text": plan.pieces.concat(), "annotations": [], "logprobs": []});
                let content = if done { json!([text]) } else { json!([]) };
                json!({"id": format!("msg_standin{}", self.call), "type": "message", "status": status,
                    "role": "assistant", "content": content})
            }
        }
    }

    fn response(&self, plan: &Plan, done: bool) -> Value {
        let status = match (done, plan.capped) {
            (false, _) => "in_progress",
            (true, true) => "incomplete",
            (true, false) => "completed",
        };
        let details = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        json!({
            "id": format!("resp_standin{}", self.call), "object": "response", "created_at": 1_795_000_000,
            "status": status, "error": null, "incomplete_details": details, "instructions": null,
            "metadata": {}, "model": self.model, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
            "tool_choice": "auto", "tools": [], "text": {"format": {"type": "text"}}, "truncation": "disabled",
            "output": if done { json!([self.item(plan, true)]) } else { json!([]) },
            "usage": if done && self.usage { Self::usage_of(&plan.tokens) } else { Value::Null },
        })
    }

    fn events(&self, plan: &Plan) -> Vec<Event> {
        let mut out = Stream::default();
        out.push("response.created", json!({"response": self.response(plan, false)}), 0, false);
        out.push("response.in_progress", json!({"response": self.response(plan, false)}), 0, false);
        out.push("response.output_item.added", json!({"output_index": 0, "item": self.item(plan, false)}), 0, false);
        match &plan.tool {
            Some(tool) if tool.freeform() => {
                let item = format!("ctc_standin{}", self.call);
                let input = tool.text();
                out.push(
                    "response.custom_tool_call_input.delta",
                    json!({"item_id": item, "output_index": 0, "delta": input}),
                    0,
                    false,
                );
                out.push(
                    "response.custom_tool_call_input.done",
                    json!({"item_id": item, "output_index": 0, "input": input}),
                    0,
                    false,
                );
            }
            Some(tool) => {
                let item = format!("fc_standin{}", self.call);
                let arguments = tool.arguments.to_string();
                out.push(
                    "response.function_call_arguments.delta",
                    json!({"item_id": item, "output_index": 0, "delta": arguments}),
                    0,
                    false,
                );
                out.push(
                    "response.function_call_arguments.done",
                    json!({"item_id": item, "output_index": 0, "arguments": arguments}),
                    0,
                    false,
                );
            }
            None => self.text(plan, &mut out),
        }
        let all = plan.pieces.len();
        out.push("response.output_item.done", json!({"output_index": 0, "item": self.item(plan, true)}), all, false);
        let last = if plan.capped { "response.incomplete" } else { "response.completed" };
        out.push(last, json!({"response": self.response(plan, true)}), all, self.usage);
        out.events
    }

    fn text(&self, plan: &Plan, out: &mut Stream) {
        let item = format!("msg_standin{}", self.call);
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        out.push(
            "response.content_part.added",
            json!({"item_id": item, "output_index": 0, "content_index": 0, "part": part("")}),
            0,
            false,
        );
        for (index, piece) in plan.pieces.iter().enumerate() {
            let delta = json!({"item_id": item, "output_index": 0, "content_index": 0, "delta": piece, "logprobs": []});
            out.push("response.output_text.delta", delta, index + 1, false);
        }
        let (whole, all) = (plan.pieces.concat(), plan.pieces.len());
        out.push(
            "response.output_text.done",
            json!({"item_id": item, "output_index": 0, "content_index": 0, "text": whole, "logprobs": []}),
            all,
            false,
        );
        out.push(
            "response.content_part.done",
            json!({"item_id": item, "output_index": 0, "content_index": 0, "part": part(&whole)}),
            all,
            false,
        );
    }
}

#[derive(Default)]
struct Stream {
    events: Vec<Event>,
}

impl Stream {
    fn push(&mut self, kind: &str, mut data: Value, pieces: usize, usage: bool) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.events.len());
        let bytes = Bytes::from(format!("event: {kind}\ndata: {data}\n\n"));
        self.events.push(Event { bytes, pieces, usage });
    }
}
