//! Reads usage off an answer as it streams by: server-sent events or JSON, plain or compressed.
//! The bytes that are forwarded are untouched, but for a usage chunk that only we asked for. Memory per stream is
//! bounded; an answer that cannot be read gives no usage.

use super::book::Tier;
use super::failure::Failure;
use super::frames::Frames;
use super::scan::Scanner;
use super::seen::Seen;
use super::shape::{Caching, Shape, Tongue};
use super::strip::Stripper;
use super::tee::Tee;
use crate::event::Usage;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use std::io::{self, Write};
use std::sync::Arc;

/// Decoded bytes of one answer that are read at most: a bomb costs no more than this.
const DECODED_LIMIT: u64 = 256 << 20;

/// Terms that an answer reports and that change its price. `None`: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The service tier.
    pub tier: Option<Tier>,
    /// Processed in the US, at an uplift.
    pub geo_us: Option<bool>,
    /// Processed at the dearer speed.
    pub fast: Option<bool>,
}

/// What an answer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The final usage, if it was seen.
    pub usage: Option<Usage>,
    /// The answer is a 4xx or 5xx without usage. What that costs, [`super::Call::failed`] says.
    pub failure: Option<Failure>,
    /// The terms reported.
    pub terms: Terms,
    /// The model that answered, as reported.
    pub model: Option<Arc<str>>,
    /// What was told and delivered, also where no final usage was seen.
    pub so_far: SoFar,
}

/// What a stream has told and delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoFar {
    /// The least that is billed for it.
    pub least: Usage,
    /// Bytes of its text: no fewer than its tokens.
    pub delivered: u64,
}

/// Where a stream can be ended with an event of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Bytes at the end of what was fed that belong to an event that has not ended: they are left out.
    pub unfinished: usize,
    /// The number of the event after the last one, where events have numbers.
    pub next: u64,
}

/// Reads an answer as it streams by.
#[derive(Debug)]
pub struct UsageReader {
    tee: Tee,
    strip: Option<Stripper>,
    status: StatusCode,
    /// The bytes of a request whose price has no part in what the answer says, and of its answer so far.
    counted: Option<(u64, u64)>,
}

impl UsageReader {
    pub(crate) fn new(shape: &Shape, strip: bool, status: StatusCode, headers: &HeaderMap) -> UsageReader {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
                .unwrap_or("")
                .trim()
                .to_ascii_lowercase()
        };
        let kind = text(CONTENT_TYPE);
        let framing = match kind.as_str() {
            _ if kind.starts_with("text/event-stream") => Framing::Events(Lines::default()),
            _ if kind.starts_with("application/vnd.amazon.eventstream") => Framing::Frames(Frames::default()),
            _ => Framing::Whole,
        };
        let encoding = text(CONTENT_ENCODING);
        // Gemini streams an array that grows where no events are asked for.
        let stream = !matches!(framing, Framing::Whole) || (shape.tongue == Tongue::Gemini && shape.stream);
        let mut seen = Seen::new(shape.tongue, shape.choices, stream, shape.caching == Caching::Long);
        seen.head(headers);
        let feed = Feed { framing, scanner: Scanner::new(), seen, left: DECODED_LIMIT };
        let plain = encoding.is_empty() || encoding == "identity";
        let strip = (strip && matches!(feed.framing, Framing::Events(_)) && plain && status.is_success())
            .then(Stripper::default);
        let counted = (shape.tongue == Tongue::Nothing).then_some((shape.sent, 0));
        let tee = if counted.is_some() { Tee::Unread } else { Tee::new(&encoding, feed) };
        UsageReader { tee, strip, status, counted }
    }

    /// A reader of an answer that comes in messages, each of which is fed whole.
    pub(crate) fn of_messages(shape: &Shape) -> UsageReader {
        let seen = Seen::new(shape.tongue, shape.choices, true, shape.caching == Caching::Long);
        let feed = Feed { framing: Framing::Messages, scanner: Scanner::new(), seen, left: DECODED_LIMIT };
        UsageReader { tee: Tee::Plain(Box::new(feed)), strip: None, status: StatusCode::OK, counted: None }
    }

    /// The number of the event after the last one, where events have numbers.
    #[must_use]
    pub fn next_event(&self) -> u64 {
        self.tee.get().map_or(0, |feed| feed.seen.next_event())
    }

    /// The agent may get other bytes than `feed` takes, or an end of our own: a Content-Length of the answer must not be
    /// forwarded.
    #[must_use]
    pub fn edits_answer(&self) -> bool {
        self.strip.is_some() || self.ending().is_some()
    }

    /// What a stream has told and delivered so far, where that is more than when it was asked last. `None` once its usage is
    /// final.
    pub fn grown(&mut self) -> Option<Reading> {
        let feed = self.tee.get_mut().filter(|feed| feed.seen.is_stream() && !feed.seen.is_final())?;
        feed.seen.has_grown().then(|| feed.reading())
    }

    /// What a stream has said once its format says that its usage is final, though it goes on: nothing that follows changes it.
    #[must_use]
    pub fn settled(&self) -> Option<Reading> {
        let feed = self.tee.get().filter(|feed| feed.seen.is_settled() && self.status.is_success())?;
        let usage = feed.seen.usage()?;
        Some(Reading { usage: Some(usage), ..feed.reading() })
    }

    /// How an event of our own can follow what was fed. `None` where none can: the answer is compressed, or is no stream of
    /// events.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        let Tee::Plain(feed) = &self.tee else { return None };
        let unfinished = match &feed.framing {
            Framing::Whole | Framing::Messages => return None,
            // The stripper gives whole events only.
            Framing::Events(_) if self.strip.is_some() => 0,
            Framing::Events(lines) => lines.unfinished,
            Framing::Frames(frames) => frames.unfinished(),
        };
        Some(Ending { unfinished, next: feed.seen.next_event() })
    }

    /// Takes the next bytes of the answer and gives those that the agent gets: the same, but for a usage chunk that only we asked for.
    pub fn feed(&mut self, bytes: Bytes) -> Bytes {
        if let Some((_, received)) = &mut self.counted {
            *received = received.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
        self.tee.feed(&bytes);
        match &mut self.strip {
            None => bytes,
            Some(strip) => strip.feed(&bytes),
        }
    }

    /// Bytes still held back, for the agent, before the end of the answer.
    pub fn flush(&mut self) -> Bytes {
        self.strip.as_mut().map(Stripper::flush).unwrap_or_default()
    }

    /// The end of an answer in messages, whose last one was an error before any work.
    #[must_use]
    pub fn refused(self) -> Reading {
        UsageReader { status: StatusCode::BAD_REQUEST, ..self }.finish()
    }

    /// The end of the answer, clean or not.
    #[must_use]
    pub fn finish(self) -> Reading {
        let failed = self.status.is_client_error() || self.status.is_server_error();
        let status = self.status.as_u16();
        if let Some((sent, received)) = self.counted.filter(|_| !failed) {
            return Reading {
                usage: Some(Usage { calls: 1, sent, received, ..Usage::default() }),
                ..Reading::default()
            };
        }
        let Some(mut feed) = self.tee.finish() else {
            let failure = failed.then(|| Failure { status, ..Failure::default() });
            return Reading { failure, ..Reading::default() };
        };
        feed.end();
        let usage = feed.seen.usage();
        let (codes, whole) = feed.seen.error();
        let failure = (failed && usage.is_none()).then(|| Failure { status, codes: codes.to_vec(), whole });
        Reading { failure, usage, ..feed.reading() }
    }
}

/// How an answer is cut into documents.
#[derive(Debug)]
enum Framing {
    /// It is one.
    Whole,
    /// Server-sent events.
    Events(Lines),
    /// AWS event-stream frames.
    Frames(Frames),
    /// Messages, each of which is one and is written whole.
    Messages,
}

/// Decoded bytes on their way to the scanner.
#[derive(Debug)]
pub(super) struct Feed {
    framing: Framing,
    scanner: Scanner,
    seen: Seen,
    left: u64,
}

impl Feed {
    /// Takes no more.
    pub(super) fn full(self) -> Feed {
        Feed { left: 0, ..self }
    }

    /// Takes the state out of a decoder that cannot be taken apart.
    pub(super) fn take(&mut self) -> Feed {
        let seen = Seen::new(Tongue::Nothing, 1, false, false);
        let empty = Feed { framing: Framing::Whole, scanner: Scanner::new(), seen, left: 0 };
        std::mem::replace(self, empty)
    }

    /// All that is known but for a final usage.
    fn reading(&self) -> Reading {
        let so_far = SoFar { least: self.seen.so_far(), delivered: self.seen.delivered() };
        Reading { terms: self.seen.terms, model: self.seen.model.clone(), so_far, ..Reading::default() }
    }

    fn end(&mut self) {
        if let Framing::Events(lines) = &mut self.framing {
            // A last event without its blank line.
            lines.feed(b"\n\n", &mut self.scanner, &mut self.seen);
        }
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(taken).ok_or_else(|| io::Error::other("more than is read of one answer"))?;
        match &mut self.framing {
            Framing::Events(lines) => lines.feed(bytes, &mut self.scanner, &mut self.seen),
            Framing::Frames(frames) => frames.feed(bytes, &mut self.scanner, &mut self.seen),
            Framing::Whole => self.scanner.feed(bytes, &mut self.seen),
            Framing::Messages => {
                self.scanner.feed(bytes, &mut self.seen);
                self.scanner.reset();
                self.seen.event_ended();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Server-sent events, as far as needed: the data of each event goes to the scanner without being stored.
/// Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
#[derive(Debug, Default)]
struct Lines {
    /// The line's field name so far, at most six bytes.
    name: Vec<u8>,
    part: Part,
    /// The last byte was CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// The data so far, at most seven bytes: enough to know `[DONE]`.
    head: Vec<u8>,
    /// Bytes since the last event's end.
    unfinished: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Name,
    Data,
    Ignored,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], scanner: &mut Scanner, seen: &mut Seen) {
        let mut rest = bytes;
        self.unfinished = self.unfinished.saturating_add(bytes.len());
        while let Some((byte, after)) = rest.split_first() {
            if *byte == b'\n' && std::mem::take(&mut self.after_cr) {
                rest = after;
                continue;
            }
            self.after_cr = *byte == b'\r';
            if matches!(byte, b'\n' | b'\r') {
                if self.line_ends(scanner, seen) {
                    self.unfinished = after.len();
                }
                rest = after;
            } else if self.part == Part::Name {
                self.name_byte(*byte);
                rest = after;
            } else {
                let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
                let (run, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
                if self.part == Part::Data {
                    self.head.extend(
                        run.iter()
                            .copied()
                            .filter(|byte| !byte.is_ascii_whitespace())
                            .take(7usize.saturating_sub(self.head.len())),
                    );
                    scanner.feed(run, seen);
                }
                rest = after;
            }
        }
    }

    fn name_byte(&mut self, byte: u8) {
        if byte == b':' {
            self.part = if self.name == b"data" { Part::Data } else { Part::Ignored };
        } else if self.name.len() < 6 {
            self.name.push(byte);
        }
    }

    /// Gives whether the event has ended with it.
    fn line_ends(&mut self, scanner: &mut Scanner, seen: &mut Seen) -> bool {
        // An empty line ends the event.
        let ends = self.part == Part::Name && self.name.is_empty();
        match self.part {
            _ if ends => {
                if self.head == b"[DONE]" {
                    seen.stream_done();
                }
                scanner.reset();
                seen.event_ended();
                self.head.clear();
            }
            Part::Data => scanner.feed(b"\n", seen),
            _ => {}
        }
        self.name.clear();
        self.part = Part::Name;
        ends
    }
}
