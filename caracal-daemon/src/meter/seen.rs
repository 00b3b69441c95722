//! What an answer has said so far of its usage and the terms it was served on, in each dialect.
//!
//! OpenAI's input tokens include those read from and written to the cache; Anthropic's do not. Anthropic's stream counts
//! are cumulative: the last one holds.

use super::Operation;
use super::book::Tier;
use super::scan::{Scalar, Sink};
use super::usage::Terms;
use crate::event::Usage;
use std::sync::Arc;

/// Collects the numbers.
#[derive(Debug)]
pub(crate) struct Seen {
    operation: Operation,
    stream: bool,
    /// The request asked for a cache of hours: writes without a breakdown count as long.
    long_cache: bool,
    input: Option<u64>,
    output: Option<u64>,
    cache_read: u64,
    cache_write: u64,
    cache_write_long: Option<u64>,
    reasoning: u64,
    searches: u64,
    item_searches: bool,
    item_navigates: bool,
    closed: bool,
    /// A document that makes the usage final has been read to its end: what stands after the usage counts too.
    ended: bool,
    /// The event being read has choices.
    choices: bool,
    /// The event being read says that the message stops.
    stops: bool,
    pub(crate) terms: Terms,
    pub(crate) model: Option<Arc<str>>,
}

impl Seen {
    pub(crate) fn new(operation: Operation, stream: bool, long_cache: bool) -> Seen {
        Seen {
            operation,
            stream,
            long_cache,
            input: None,
            output: None,
            cache_read: 0,
            cache_write: 0,
            cache_write_long: None,
            reasoning: 0,
            searches: 0,
            item_searches: false,
            item_navigates: false,
            closed: false,
            ended: false,
            choices: false,
            stops: false,
            terms: Terms::default(),
            model: None,
        }
    }

    /// An event has ended, whole or not.
    pub(crate) fn event_ended(&mut self) {
        (self.choices, self.stops) = (false, false);
    }

    /// `data: [DONE]`.
    pub(crate) fn stream_done(&mut self) {
        self.ended |= self.operation == Operation::Chat;
    }

    /// Whether the document that ends here makes the usage final.
    fn finishes(&self) -> bool {
        match self.operation {
            _ if !self.stream => true,
            // A chat stream tells its usage in a chunk without choices.
            Operation::Chat => self.closed && !self.choices,
            Operation::Messages => self.stops,
            Operation::Responses | Operation::Embeddings => self.closed,
        }
    }

    /// The usage, if it is whole and final.
    pub(crate) fn usage(&self) -> Option<Usage> {
        if !self.closed || !self.ended {
            return None;
        }
        let output = if self.operation == Operation::Embeddings { 0 } else { self.output? };
        let long = self.cache_write_long.unwrap_or(if self.long_cache { self.cache_write } else { 0 });
        let written = self.cache_write.max(long);
        let input = match self.operation {
            Operation::Messages => self.input?,
            _ => self.input?.checked_sub(self.cache_read)?.checked_sub(written)?,
        };
        Some(Usage {
            input,
            cache_read: self.cache_read,
            cache_write_5m: written - long,
            cache_write_1h: long,
            output,
            reasoning: self.reasoning.min(output),
            web_searches: self.searches,
        })
    }

    fn number(&mut self, path: &[&str], value: u64) {
        match path {
            ["prompt_tokens" | "input_tokens"] => self.input = Some(value),
            ["completion_tokens" | "output_tokens"] => self.output = Some(value),
            ["cache_read_input_tokens"] | ["prompt_tokens_details" | "input_tokens_details", "cached_tokens"] => {
                self.cache_read = value
            }
            ["cache_creation_input_tokens"]
            | ["prompt_tokens_details" | "input_tokens_details", "cache_write_tokens"] => self.cache_write = value,
            ["cache_creation", "ephemeral_1h_input_tokens"] => self.cache_write_long = Some(value),
            ["prompt_tokens_details" | "input_tokens_details", "cache_write_tokens_details", "ttl_12h_tokens"] => {
                self.cache_write_long = Some(value)
            }
            ["completion_tokens_details" | "output_tokens_details", "reasoning_tokens" | "thinking_tokens"] => {
                self.reasoning = value
            }
            ["server_tool_use", "web_search_requests"] => self.searches = value,
            _ => {}
        }
    }

    fn text(&mut self, path: &[&str], value: &str) {
        match path {
            ["service_tier"] | ["usage", "service_tier"] => self.terms.tier = tier(value),
            ["usage", "inference_geo"] => self.terms.geo_us = Some(value == "us"),
            ["usage", "speed"] => self.terms.fast = Some(value == "fast"),
            ["model"] if !value.is_empty() => self.model = Some(Arc::from(value)),
            ["type"] => self.stops |= value == "message_stop",
            ["delta", "stop_reason"] => self.stops = true,
            ["output", "*", "type"] => self.item_searches = value == "web_search_call",
            // Opening a page and looking in it are not billed as searches.
            ["output", "*", "action", "type"] => {
                self.item_navigates = matches!(value, "open_page" | "find" | "find_in_page")
            }
            _ => {}
        }
    }
}

fn tier(name: &str) -> Option<Tier> {
    match name {
        "default" | "standard" | "scale" => Some(Tier::Standard),
        "flex" => Some(Tier::Flex),
        "priority" | "fast" => Some(Tier::Priority),
        "ultrafast" => Some(Tier::Ultrafast),
        _ => None,
    }
}

/// The path below the envelope in which stream events wrap the answer.
fn bare<'p, 'a>(operation: Operation, path: &'p [&'a str]) -> &'p [&'a str] {
    match (operation, path) {
        (Operation::Responses, ["response", rest @ ..]) | (Operation::Messages, ["message", rest @ ..]) => rest,
        _ => path,
    }
}

impl Sink for Seen {
    fn scalar(&mut self, path: &[&str], value: Scalar<'_>) {
        let path = bare(self.operation, path);
        if let ["choices", ..] = path {
            self.choices = true;
        }
        match (path, value) {
            (["usage", rest @ ..], Scalar::Number(value)) => self.number(rest, value),
            (_, Scalar::Text(value)) => self.text(path, value),
            _ => {}
        }
    }

    fn closed(&mut self, path: &[&str]) {
        if path.is_empty() {
            self.ended |= self.finishes();
            return;
        }
        match bare(self.operation, path) {
            ["usage"] => self.closed |= self.input.is_some(),
            ["output", "*"] => {
                if self.item_searches && !self.item_navigates {
                    self.searches += 1;
                }
                (self.item_searches, self.item_navigates) = (false, false);
            }
            _ => {}
        }
    }
}
