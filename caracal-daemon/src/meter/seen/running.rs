//! What a stream has certainly cost so far: the counts that it told, and the text that it delivered.
//!
//! Text bounds tokens from below by its ASCII letters and digits. Counted in the vocabularies that are public (o200k, cl100k,
//! p50k and Anthropic's first): a token has at most 26, 41, 32 and 104 of them. Blanks and other signs are left out, since one token can be
//! a thousand of these. So are thoughts: what is shown of them may be a summary, which is not what is billed.

use super::Seen;
use crate::event::Usage;
use crate::meter::scan::{Scalar, Size};
use crate::meter::shape::Tongue;

/// Letters and digits of one token at most.
const MOST_LETTERS: u64 = 128;

/// What was delivered so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Running {
    /// The output.
    text: Size,
    /// What the event being read brings, and that it is output.
    delta: (Size, bool),
    /// The number of the next event.
    next: u64,
    /// What was looked at last: letters in tokens, and counts.
    looked: (u64, u64),
}

impl Running {
    /// The event being read has ended.
    pub(super) fn event_ended(&mut self) {
        if let (size, true) = std::mem::take(&mut self.delta) {
            self.add(size);
        }
    }

    fn add(&mut self, size: Size) {
        self.text.letters = self.text.letters.saturating_add(size.letters);
        self.text.bytes = self.text.bytes.saturating_add(size.bytes);
    }
}

/// The events of responses that bring output, each as `delta`. Summaries of thoughts are others.
fn is_output(kind: &str) -> bool {
    let Some(part) = kind.strip_prefix("response.").and_then(|kind| kind.strip_suffix(".delta")) else { return false };
    matches!(part, "output_text" | "refusal" | "function_call_arguments" | "custom_tool_call_input")
}

/// Takes a scalar of OpenAI's or Anthropic's.
pub(super) fn scalar(seen: &mut Seen, path: &[&str], value: Scalar<'_>) {
    match (seen.tongue, path, value) {
        (
            Tongue::Chat,
            ["choices", "*", "delta", "content" | "refusal"]
            | ["choices", "*", "delta", "tool_calls", "*", "function", "arguments"],
            Scalar::Text(_, size),
        )
        | (Tongue::Messages, ["delta", "text" | "partial_json"], Scalar::Text(_, size)) => seen.written(size),
        (Tongue::Responses, ["delta"], Scalar::Text(_, size)) => seen.running.delta.0 = size,
        (Tongue::Responses, ["type"], Scalar::Text(kind, _)) => {
            seen.running.delta.1 = is_output(kind);
            seen.last = matches!(kind, "response.completed" | "response.incomplete" | "response.failed");
        }
        (Tongue::Responses, ["sequence_number"], Scalar::Number(number)) => {
            seen.running.next = number.saturating_add(1);
        }
        _ => {}
    }
}

impl Seen {
    /// Output was delivered.
    pub(super) fn written(&mut self, size: Size) {
        self.running.add(size);
    }

    /// The number of the event after the last one.
    pub(crate) fn next_event(&self) -> u64 {
        self.running.next
    }

    /// The bytes of the output so far, escapes as they stand: it has no more tokens than that.
    pub(crate) fn delivered(&self) -> u64 {
        self.running.text.bytes
    }

    /// The least that is billed for what was told and delivered so far.
    pub(crate) fn so_far(&self) -> Usage {
        let told = match self.tongue {
            Tongue::Gemini => self.google.so_far(),
            Tongue::Converse | Tongue::Counts => self.aws.so_far(),
            Tongue::Nothing | Tongue::Embeddings => Usage::default(),
            Tongue::Chat | Tongue::Responses | Tongue::Messages => self.told(),
        };
        Usage { output: told.output.max(self.running.text.letters / MOST_LETTERS), ..told }
    }

    fn told(&self) -> Usage {
        let long = self.cache_write_long.unwrap_or(0);
        let written = self.cache_write.max(long);
        let input = self.input.unwrap_or(0);
        let cached = self.cache_read.saturating_add(written);
        Usage {
            input: if self.tongue == Tongue::Messages { input } else { input.saturating_sub(cached) },
            cache_read: self.cache_read,
            cache_write_5m: written - long,
            cache_write_1h: long,
            output: self.output.unwrap_or(0),
            web_searches: self.searches,
            ..Usage::default()
        }
    }

    /// Whether there is more than at the last look; a look is dearer than the piece of text that most events bring.
    pub(crate) fn has_grown(&mut self) -> bool {
        let so_far = self.so_far();
        let now = (self.running.text.letters / MOST_LETTERS, so_far.tokens());
        now != std::mem::replace(&mut self.running.looked, now)
    }
}
