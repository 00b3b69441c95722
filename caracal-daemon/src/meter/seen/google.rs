//! Gemini's answer: one document, events, or an array of documents that grows. Each carries the usage so far; the last one
//! holds, and it is final once every candidate has said why it stopped.
//! Source: <https://ai.google.dev/api/generate-content#UsageMetadata>.

use super::Seen;
use crate::event::Usage;
use crate::meter::scan::{Scalar, Size};

/// What Gemini has said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Google {
    prompt: u64,
    cached: u64,
    candidates: u64,
    thoughts: u64,
    tools: u64,
    total: Option<u64>,
    /// Candidates that have stopped.
    stopped: u64,
    blocked: bool,
    grounded: bool,
    seen: bool,
    /// The document being read has told usage.
    fresh: bool,
    /// Of the part that is being read: its text, and that it is a thought, of which only a summary is shown.
    part: (Size, bool),
}

impl Google {
    /// The usage, if it is whole. A total that is more than its parts has a part that is not known here.
    pub(super) fn usage(&self) -> Option<Usage> {
        let parts = [self.prompt, self.candidates, self.thoughts, self.tools];
        let sum = parts.into_iter().try_fold(0u64, u64::checked_add)?;
        if !self.seen || self.total.is_some_and(|total| total > sum) {
            return None;
        }
        Some(Usage {
            input: self.prompt.checked_sub(self.cached)?.checked_add(self.tools)?,
            cache_read: self.cached,
            output: self.candidates.checked_add(self.thoughts)?,
            reasoning: self.thoughts,
            web_searches: u64::from(self.grounded),
            ..Usage::default()
        })
    }

    /// What is billed at least: what is told so far.
    pub(super) fn so_far(&self) -> Usage {
        Usage {
            input: self.prompt.saturating_sub(self.cached).saturating_add(self.tools),
            cache_read: self.cached,
            output: self.candidates.saturating_add(self.thoughts),
            web_searches: u64::from(self.grounded),
            ..Usage::default()
        }
    }

    /// Whether `candidates` have all stopped, or the prompt was blocked.
    pub(super) fn finished(&self, candidates: u64) -> bool {
        self.blocked || self.stopped >= candidates
    }
}

/// The path below the place in the array that a growing answer is.
fn bare<'p, 'a>(path: &'p [&'a str]) -> &'p [&'a str] {
    path.strip_prefix(&["*"]).unwrap_or(path)
}

pub(super) fn scalar(seen: &mut Seen, path: &[&str], value: Scalar<'_>) {
    let google = &mut seen.google;
    match (bare(path), value) {
        (["usageMetadata", name], Scalar::Number(value)) => {
            let place = match *name {
                "promptTokenCount" => &mut google.prompt,
                "cachedContentTokenCount" => &mut google.cached,
                "candidatesTokenCount" => &mut google.candidates,
                "thoughtsTokenCount" => &mut google.thoughts,
                "toolUsePromptTokenCount" => &mut google.tools,
                "totalTokenCount" => {
                    google.total = Some(value);
                    return;
                }
                _ => return,
            };
            *place = value;
        }
        (["candidates", "*", "content", "parts", "*", "text"], Scalar::Text(_, size)) => google.part.0 = size,
        (["candidates", "*", "content", "parts", "*", "thought"], _) => google.part.1 = true,
        (["candidates", "*", "finishReason"], Scalar::Text(..)) => google.stopped += 1,
        (["promptFeedback", "blockReason"], Scalar::Text(..)) => google.blocked = true,
        (["candidates", "*", "groundingMetadata", "webSearchQueries", ..], _) => google.grounded = true,
        (["modelVersion"], Scalar::Text(name, _)) if !name.is_empty() => seen.model = Some(name.into()),
        (["usageMetadata", "serviceTier"] | ["serviceTier"], Scalar::Text(name, _)) => {
            seen.terms.tier = super::tier(&name.to_ascii_lowercase());
        }
        _ => {}
    }
}

pub(super) fn closed(seen: &mut Seen, path: &[&str]) {
    match bare(path) {
        ["usageMetadata"] => (seen.google.seen, seen.google.fresh) = (true, true),
        ["candidates", "*", "content", "parts", "*"] => {
            if let (size, false) = std::mem::take(&mut seen.google.part) {
                seen.written(size);
            }
        }
        _ => {}
    }
    // The end of a document, be it the answer, an event, or a place in the array.
    if path.is_empty() || path == ["*"] {
        let whole = path.is_empty() && !seen.stream;
        seen.ended |= whole || (seen.google.fresh && seen.google.finished(seen.choices_asked));
        seen.google.fresh = false;
    }
}
