//! What one call generates: the same for every provider, before it is put into a provider's shape.

use super::bill::{self, Tokens};
use super::directive::Directive;
use super::script::{self, ToolCall};
use serde_json::Value;

/// A call, read from a provider's request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The model named.
    pub model: String,
    /// Bytes of the decoded request.
    pub bytes: u64,
    /// The output cap, tokens.
    pub cap: Option<u64>,
    /// The user's words.
    pub directive: Directive,
    /// Tool results in the input so far: how far a session has come.
    pub tool_results: usize,
    /// The tools offered.
    pub tools: Vec<String>,
}

/// What is generated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The text, in the pieces of a stream. Empty when a tool is called.
    pub pieces: Vec<String>,
    /// The tool called, if any.
    pub tool: Option<ToolCall>,
    /// What it costs.
    pub tokens: Tokens,
    /// The cap ended it.
    pub capped: bool,
}

/// Every text in the parts of `value` that a user wrote.
#[must_use]
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect::<Vec<_>>().join("\n"),
        Value::Object(part) => part.get("text").map(text_of).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Decides what `ask` generates. `None` for a model that is not served.
#[must_use]
pub fn plan(ask: &Ask) -> Option<Plan> {
    let ceiling = bill::ceiling(&ask.model)?;
    let limit = ask.cap.unwrap_or(ceiling).min(ceiling);
    let input = ask.bytes.div_ceil(4);
    let cached = ask.directive.cached.min(input);
    let mut tokens = Tokens { input: input - cached, cache_read: cached, ..Tokens::default() };
    if ask.directive.session && !ask.tools.is_empty() {
        let turn = script::turn(ask.directive.dir.as_deref().unwrap_or("/tmp"), ask.tool_results, &ask.tools);
        tokens.output = 32.min(limit);
        tokens.reasoning = ask.directive.reasoning.min(tokens.output);
        return Some(match turn {
            script::Turn::Call(tool) => Plan { pieces: Vec::new(), tool: Some(tool), tokens, capped: false },
            script::Turn::Done(text) => Plan { pieces: vec![text], tool: None, tokens, capped: false },
        });
    }
    if let Some(output) = ask.directive.beyond {
        let pieces = (0..output).map(|n| format!("{}{n} ", "x".repeat(100))).collect();
        return Some(Plan { pieces, tool: None, tokens: Tokens { output, ..tokens }, capped: false });
    }
    let wanted = ask.directive.output.unwrap_or(64);
    let shown = wanted.min(limit);
    tokens.output = if ask.directive.max { limit } else { shown };
    tokens.reasoning = ask.directive.reasoning.min(tokens.output);
    let pieces = match &ask.directive.say {
        Some(text) => text.split_inclusive(' ').map(str::to_owned).collect(),
        None => (0..shown.min(4_096)).map(|n| format!("word{n} ")).collect(),
    };
    Some(Plan { pieces, tool: None, tokens, capped: wanted > limit || ask.directive.max })
}

/// How far the output had come after `done` of `all` pieces, tokens: what a call that is cut here is billed.
#[must_use]
pub fn generated(plan: &Plan, done: usize, all: usize) -> Tokens {
    let (done, all) = (done as u64, all.max(1) as u64);
    let output = (plan.tokens.output * done).div_ceil(all).min(plan.tokens.output);
    Tokens { output, reasoning: plan.tokens.reasoning.min(output), ..plan.tokens }
}
