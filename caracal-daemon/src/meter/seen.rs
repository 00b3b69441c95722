//! What an answer has said so far of its usage and the terms it was served on, in each dialect.
//!
//! OpenAI's input tokens include those read from and written to the cache; Anthropic's do not. Anthropic's stream counts
//! are cumulative: the last one holds.

mod bedrock;
mod google;
mod running;

use super::book::Tier;
use super::scan::{Scalar, Sink};
use super::shape::Tongue;
use super::usage::Terms;
use crate::event::Usage;
use std::sync::Arc;

/// Codes of one error that are kept.
const MOST_CODES: usize = 4;

/// Collects the numbers.
#[derive(Debug)]
pub(crate) struct Seen {
    tongue: Tongue,
    stream: bool,
    /// Answers that were asked for.
    choices_asked: u64,
    google: google::Google,
    aws: bedrock::Aws,
    /// A part of the answer could not be read: it tells no usage.
    spoilt: bool,
    total: Option<u64>,
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
    /// An event behind the first one has told the output: the first one's count is of before there was any.
    told_output: bool,
    /// The event being read is the last one that says anything.
    last: bool,
    /// The event being read tells what was put out.
    told: bool,
    /// A chat stream has told usage beside choices: it counts as it goes, and such a count may be any one.
    beside: bool,
    /// The format itself says that the usage is final.
    settled: bool,
    running: running::Running,
    /// The codes of an error.
    codes: Vec<Arc<str>>,
    /// A document has been read to its end.
    whole: bool,
    pub(crate) terms: Terms,
    pub(crate) model: Option<Arc<str>>,
}

impl Seen {
    pub(crate) fn new(tongue: Tongue, choices_asked: u64, stream: bool, long_cache: bool) -> Seen {
        Seen {
            tongue,
            stream,
            choices_asked,
            google: google::Google::default(),
            aws: bedrock::Aws::default(),
            spoilt: false,
            total: None,
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
            told_output: false,
            last: false,
            told: false,
            beside: false,
            settled: false,
            running: running::Running::default(),
            codes: Vec::new(),
            whole: false,
            terms: Terms::default(),
            model: None,
        }
    }

    /// Takes the counts that stand in the head of an answer.
    pub(crate) fn head(&mut self, headers: &http::HeaderMap) {
        if self.tongue == Tongue::Counts {
            self.aws = bedrock::Aws::of_head(headers);
        }
    }

    /// A part of the answer could not be read.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// An event has ended, whole or not.
    pub(crate) fn event_ended(&mut self) {
        (self.choices, self.stops, self.last, self.told) = (false, false, false, false);
        self.running.event_ended();
    }

    /// `data: [DONE]`.
    pub(crate) fn stream_done(&mut self) {
        self.ended |= self.tongue == Tongue::Chat;
        self.settled |= self.ended;
    }

    /// Whether the document that ends here makes the usage final.
    fn finishes(&self) -> bool {
        match self.tongue {
            _ if !self.stream => true,
            // A chat stream tells its usage in a chunk without choices.
            Tongue::Chat => self.closed && !self.choices,
            Tongue::Messages => self.stops && self.told_output,
            _ => self.closed,
        }
    }

    /// Whether the document that ends here has the last usage of its stream, by the word of its format.
    fn settles(&self) -> bool {
        match self.tongue {
            // "This chunk shows the usage of the entire request": it is the one without choices.
            // Source: <https://platform.openai.com/docs/api-reference/chat-streaming>.
            Tongue::Chat => self.told && !self.choices && !self.beside,
            Tongue::Responses => self.told && self.last,
            // Counts are cumulative, and those beside the reason why it stopped count all of it.
            // Source: <https://docs.anthropic.com/en/docs/build-with-claude/streaming>.
            Tongue::Messages => self.last || (self.told && self.stops),
            // `metadata` comes once, after `messageStop`; so do the counts beside an invoke's last piece.
            Tongue::Converse | Tongue::Counts => self.told,
            // Each piece may say that it stopped, and the next one tell more; only the end is an end.
            Tongue::Gemini | Tongue::Embeddings | Tongue::Nothing => false,
        }
    }

    /// The usage, if it is whole and final.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self.tongue {
            _ if !self.ended || self.spoilt => return None,
            Tongue::Gemini => return self.google.usage(),
            Tongue::Converse | Tongue::Counts => return self.aws.usage(self.long_cache),
            Tongue::Nothing => return None,
            _ if !self.closed => return None,
            _ => {}
        }
        let output = match self.tongue {
            Tongue::Embeddings => 0,
            // Some count reasoning in the total alone.
            Tongue::Chat => self.output?.max(self.total.unwrap_or(0).saturating_sub(self.input?)),
            _ => self.output?,
        };
        let long = self.cache_write_long.unwrap_or(if self.long_cache { self.cache_write } else { 0 });
        let written = self.cache_write.max(long);
        let input = match self.tongue {
            Tongue::Messages => self.input?,
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
            ..Usage::default()
        })
    }

    /// The answer comes in parts.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream
    }

    /// The usage is final: nothing that follows changes it.
    pub(crate) fn is_final(&self) -> bool {
        self.ended
    }

    /// The usage is final by the word of the format, though the stream goes on. Less often true than [`Seen::is_final`],
    /// which a stream that counts as it goes may contradict until its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled && self.stream
    }

    /// The codes of an error in OpenAI's or Anthropic's words, and whether all of it was read.
    pub(crate) fn error(&self) -> (&[Arc<str>], bool) {
        (&self.codes, self.whole && !self.spoilt)
    }

    fn number(&mut self, path: &[&str], value: u64) {
        match path {
            ["prompt_tokens" | "input_tokens"] => self.input = Some(value),
            ["completion_tokens" | "output_tokens"] => (self.output, self.told) = (Some(value), true),
            ["total_tokens"] => self.total = Some(value),
            ["cache_read_input_tokens"]
            | ["prompt_cache_hit_tokens"]
            | ["prompt_tokens_details" | "input_tokens_details", "cached_tokens"] => self.cache_read = value,
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
            ["error", "code"] | ["error", "innererror" | "inner_error", "code"] if self.codes.len() < MOST_CODES => {
                self.codes.push(Arc::from(value));
            }
            ["model"] if !value.is_empty() => self.model = Some(Arc::from(value)),
            ["type"] if value == "message_stop" => (self.stops, self.last) = (true, true),
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
fn bare<'p, 'a>(tongue: Tongue, path: &'p [&'a str]) -> &'p [&'a str] {
    match (tongue, path) {
        (Tongue::Responses, ["response", rest @ ..]) | (Tongue::Messages, ["message", rest @ ..]) => rest,
        _ => path,
    }
}

impl Sink for Seen {
    fn scalar(&mut self, path: &[&str], value: Scalar<'_>) {
        match self.tongue {
            Tongue::Gemini => return google::scalar(self, path, value),
            Tongue::Converse | Tongue::Counts => return bedrock::scalar(self, path, value),
            Tongue::Nothing => return,
            _ => {}
        }
        running::scalar(self, path, value);
        self.told_output |= matches!(path, ["usage", "output_tokens"]);
        let path = bare(self.tongue, path);
        if let ["choices", ..] = path {
            self.choices = true;
        }
        match (path, value) {
            (["usage", rest @ ..], Scalar::Number(value)) => self.number(rest, value),
            (_, Scalar::Text(value, _)) => self.text(path, value),
            _ => {}
        }
    }

    fn closed(&mut self, path: &[&str]) {
        match self.tongue {
            Tongue::Gemini => return google::closed(self, path),
            Tongue::Converse | Tongue::Counts => return bedrock::closed(self, path),
            Tongue::Nothing => return,
            _ => {}
        }
        if path.is_empty() {
            self.whole = true;
            self.ended |= self.finishes();
            self.beside |= self.told && self.choices;
            self.settled |= self.settles();
            return;
        }
        match bare(self.tongue, path) {
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
