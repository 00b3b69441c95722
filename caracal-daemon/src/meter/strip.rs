//! Takes a chat stream that was asked for `include_usage` by us alone, out of it what the agent did not ask for: the
//! usage chunk, and the `"usage":null` of the other chunks. Anything that does not look as expected passes as it is.

use super::shape::Raw;
use bytes::Bytes;
use serde::Deserialize;

/// Longest event that is held back to be looked at; a longer one passes as it is.
const MAX_EVENT: usize = 64 << 10;

/// The stripper of one stream.
#[derive(Debug, Default)]
pub(crate) struct Stripper {
    event: Vec<u8>,
    /// The event was too long: the rest of it passes.
    passing: bool,
    /// Bytes of the line being read, CR left out.
    line: usize,
}

impl Stripper {
    /// Takes the next bytes, gives what the agent gets of whole events.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len() + self.event.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.event.extend_from_slice(piece);
            let ends = piece.ends_with(b"\n");
            self.line += piece.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).count();
            let blank = ends && self.line == 0;
            if ends {
                self.line = 0;
            }
            if blank && !self.passing {
                out.extend_from_slice(&edited(std::mem::take(&mut self.event)));
            } else if blank || self.passing || self.event.len() > MAX_EVENT {
                self.passing = !blank;
                out.append(&mut self.event);
            }
        }
        out.into()
    }

    /// What is held back: an event without its end.
    pub(crate) fn flush(&mut self) -> Bytes {
        std::mem::take(&mut self.event).into()
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default, borrow)]
    choices: Raw<'a>,
    #[serde(default, borrow)]
    usage: Raw<'a>,
}

/// The event without its usage; empty when it was for usage only.
fn edited(event: Vec<u8>) -> Vec<u8> {
    match usage_in(&event) {
        Found::Nothing => event,
        Found::Chunk => Vec::new(),
        Found::Member(without) => without,
    }
}

enum Found {
    Nothing,
    Chunk,
    Member(Vec<u8>),
}

fn usage_in(event: &[u8]) -> Found {
    let Ok(text) = std::str::from_utf8(event) else {
        return Found::Nothing;
    };
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let (Some(json), None) = (data.next(), data.next()) else {
        return Found::Nothing;
    };
    let Ok(chunk) = serde_json::from_str::<Chunk<'_>>(json) else {
        return Found::Nothing;
    };
    let Some(span) = chunk.usage.span(text) else {
        return Found::Nothing;
    };
    if chunk.choices.is_array() && chunk.choices.is_nothing() && chunk.usage.text().is_some() {
        return Found::Chunk;
    }
    without_member(text, span).map_or(Found::Nothing, |text| Found::Member(text.into_bytes()))
}

/// `text` without the member `usage`, whose value stands at `span`, and one comma beside it.
fn without_member(text: &str, span: std::ops::Range<usize>) -> Option<String> {
    let before = text.get(..span.start)?.trim_end().strip_suffix(':')?.trim_end().strip_suffix("\"usage\"")?;
    let after = text.get(span.end..)?;
    Some(match before.trim_end().strip_suffix(',') {
        Some(before) => format!("{before}{after}"),
        None => {
            let rest = after.trim_start();
            format!("{before}{}", rest.strip_prefix(',').map_or(after, str::trim_start))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = concat!(
        "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null\"}}],\"usage\":null}\n\n",
        "data: {\"usage\":null,\"id\":\"1\",\"choices\":[]}\r\n\r\n",
        ": comment\n\n",
        "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );
    const PLAIN: &str = concat!(
        "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null\"}}]}\n\n",
        "data: {\"id\":\"1\",\"choices\":[]}\r\n\r\n",
        ": comment\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn litellm_6633_the_agent_sees_what_it_asked_for_at_every_split() {
        for at in 0..=ASKED.len() {
            let (one, two) = ASKED.as_bytes().split_at(at);
            let mut strip = Stripper::default();
            let got = [strip.feed(one), strip.feed(two), strip.flush()].concat();
            assert_eq!(std::str::from_utf8(&got), Ok(PLAIN), "split at {at}");
        }
        let mut strip = Stripper::default();
        let got: Vec<u8> = ASKED.bytes().flat_map(|byte| strip.feed(&[byte])).collect();
        assert_eq!(got, PLAIN.as_bytes());
    }

    #[test]
    fn what_is_too_long_or_odd_passes_as_it_is() {
        let long = format!("data: {{\"choices\":[],\"x\":\"{}\",\"usage\":null}}\n\n", "y".repeat(2 * MAX_EVENT));
        for text in
            [long.as_str(), "data: {broken\n\n", "event: x\ndata: 1\ndata: 2\n\n", "data: {\"usage\":nul", "\n\n\n", ""]
        {
            let mut strip = Stripper::default();
            let got = [strip.feed(text.as_bytes()), strip.flush()].concat();
            assert!(got == text.as_bytes(), "{:.40}", text);
            assert!(strip.event.capacity() <= 4 * MAX_EVENT);
        }
        let mut strip = Stripper::default();
        let after = format!("{long}{ASKED}");
        let got: Vec<u8> = after.as_bytes().chunks(1_000).flat_map(|piece| strip.feed(piece)).collect();
        assert!(got == format!("{long}{PLAIN}").as_bytes());
    }
}
