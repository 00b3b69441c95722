//! Takes an AWS event stream in any pieces; gives the payload of each event to the scanner.
//! Refuses a frame whose lengths or checks do not hold, and one longer than 256 KiB: the stream is then not read any
//! further, and tells no usage. Bytes that are forwarded are untouched.
//! Source: <https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html> and the `vnd.amazon.eventstream` format.

use super::scan::Scanner;
use super::seen::Seen;
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;

/// Longest frame that is read, bytes: longer than any event of text.
const MAX_FRAME: usize = 256 << 10;
/// Lengths and their check.
const PRELUDE: usize = 12;
/// The check at the end.
const CHECK: usize = 4;

/// The frames of one stream.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frame: Vec<u8>,
    dead: bool,
}

impl Frames {
    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8], scanner: &mut Scanner, seen: &mut Seen) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.dead {
            let wanted = match self.length() {
                Some(length) => length,
                None => PRELUDE,
            };
            let missing = wanted.saturating_sub(self.frame.len()).min(rest.len());
            let (now, later) = rest.split_at_checked(missing).unwrap_or((rest, &[]));
            self.frame.extend_from_slice(now);
            rest = later;
            if self.frame.len() < wanted {
                continue;
            }
            match self.length() {
                Some(length) if self.frame.len() == length => {
                    let told = event(&self.frame).is_some_and(|event| tell(event, scanner, seen));
                    if !told {
                        self.stop(seen);
                    }
                    self.frame.clear();
                }
                Some(_) => {}
                None => self.stop(seen),
            }
        }
    }

    /// Bytes of a frame that has begun.
    pub(crate) fn unfinished(&self) -> usize {
        self.frame.len()
    }

    /// The length of the frame that has begun, once its prelude is there and holds.
    fn length(&self) -> Option<usize> {
        let prelude = self.frame.get(..PRELUDE)?;
        let (total, headers, check) = (number(prelude, 0)?, number(prelude, 4)?, number(prelude, 8)?);
        let total = usize::try_from(total).ok().filter(|total| *total <= MAX_FRAME)?;
        let least = usize::try_from(headers).ok()?.checked_add(PRELUDE + CHECK)?;
        (crc32fast::hash(prelude.get(..8)?) == check && total >= least).then_some(total)
    }

    /// Nothing that follows can be trusted, and what came before is not the end.
    fn stop(&mut self, seen: &mut Seen) {
        self.dead = true;
        self.frame = Vec::new();
        seen.spoil();
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

/// What an event of a stream is: its type, and its payload.
struct Event<'a> {
    message: &'a [u8],
    kind: &'a [u8],
    payload: &'a [u8],
}

/// Reads a whole frame whose prelude holds.
fn event(frame: &[u8]) -> Option<Event<'_>> {
    let end = frame.len().checked_sub(CHECK)?;
    if crc32fast::hash(frame.get(..end)?) != number(frame, end)? {
        return None;
    }
    let headers = usize::try_from(number(frame, 4)?).ok()?;
    let payload_at = PRELUDE.checked_add(headers)?;
    let mut rest = frame.get(PRELUDE..payload_at)?;
    let (mut message, mut kind): (&[u8], &[u8]) = (b"", b"");
    while let Some((length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        let (format, after) = after.split_first()?;
        // Booleans, integers, byte arrays and texts, times, UUIDs.
        let (skip, length) = match format {
            0 | 1 => (0, 0),
            2 => (0, 1),
            3 => (0, 2),
            4 => (0, 4),
            5 | 8 => (0, 8),
            6 | 7 => (2, usize::from(u16::from_be_bytes(after.get(..2)?.try_into().ok()?))),
            9 => (0, 16),
            _ => return None,
        };
        let (value, after) = after.get(skip..)?.split_at_checked(length)?;
        match name {
            b":message-type" => message = value,
            b":event-type" => kind = value,
            _ => {}
        }
        rest = after;
    }
    Some(Event { message, kind, payload: frame.get(payload_at..end)? })
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    bytes: Option<String>,
}

/// Gives whether the event could be read. An exception is one: it ends the stream, and tells no usage.
fn tell(event: Event<'_>, scanner: &mut Scanner, seen: &mut Seen) -> bool {
    if event.message != b"event" {
        return true;
    }
    if event.kind == b"chunk" {
        let Ok(chunk) = serde_json::from_slice::<Chunk>(event.payload) else { return false };
        let Some(text) = chunk.bytes else { return true };
        let Ok(inner) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
        scanner.feed(&inner, seen);
    } else {
        scanner.feed(event.payload, seen);
    }
    scanner.reset();
    seen.event_ended();
    true
}

/// A frame with these headers, all text.
fn frame_of(named: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in named {
        headers.push(u8::try_from(name.len()).unwrap_or(0));
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let total = PRELUDE + headers.len() + payload.len() + CHECK;
    let mut out = u32::try_from(total).unwrap_or(0).to_be_bytes().to_vec();
    out.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out.extend_from_slice(&headers);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

/// The frame of an exception, which ends a stream.
pub(crate) fn exception(kind: &str, payload: &str) -> Bytes {
    let named = [(":message-type", "exception"), (":exception-type", kind), (":content-type", "application/json")];
    frame_of(&named, payload.as_bytes()).into()
}

/// A frame as a service would send it.
#[cfg(test)]
pub(crate) fn frame(kind: &str, payload: &[u8]) -> Vec<u8> {
    let named = [(":message-type", "event"), (":event-type", kind), (":content-type", "application/json")];
    frame_of(&named, payload)
}
