//! JSON as a record has it: takes values, appends their text. Text is cut where its room ends and escaped like every
//! JSON string, so that no value can end a member. Here is the hot path: everything is written where it will stand.

use super::{ROOM_LIST, ROOM_NAME};
use crate::clock::UnixNanos;
use std::io::Write as _;

/// RFC 3339 with nanoseconds, in UTC.
#[inline]
pub(crate) fn time(out: &mut Vec<u8>, nanos: u64) {
    // A u64 of nanoseconds ends in the year 2554, well inside the range of a timestamp.
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    let _ = write!(out, "{at:.9}");
}

/// Writes `text` as a JSON string of at most `room` escaped bytes between the quotes. What does not fit is cut.
#[inline]
pub(crate) fn string(out: &mut Vec<u8>, text: &str, room: usize) {
    out.push(b'"');
    let end = out.len() + room;
    if text.len() <= room && text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        for character in text.chars() {
            let before = out.len();
            escape(out, character);
            if out.len() > end {
                out.truncate(before);
                break;
            }
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        low if low < '\u{20}' => {
            let _ = write!(out, "\\u{:04x}", u32::from(low));
        }
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Writes the members of one JSON object and keeps the commas right.
pub(super) struct Members<'a> {
    pub(super) out: &'a mut Vec<u8>,
    first: bool,
}

impl Members<'_> {
    /// Of an object whose brace `out` has.
    #[inline]
    pub(super) fn of(out: &mut Vec<u8>) -> Members<'_> {
        Members { out, first: true }
    }

    #[inline]
    pub(super) fn key(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    #[inline]
    pub(super) fn text(&mut self, name: &str, value: Option<&str>, room: usize) {
        if let Some(value) = value {
            self.key(name);
            string(self.out, value, room);
        }
    }

    #[inline]
    pub(super) fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(name);
            let _ = write!(self.out, "{value}");
        }
    }

    /// A number of nano-USD that may be below zero.
    #[inline]
    pub(super) fn change(&mut self, name: &str, value: i64) {
        self.key(name);
        let _ = write!(self.out, "{value}");
    }

    /// RFC 3339, UTC.
    #[inline]
    pub(super) fn moment(&mut self, name: &str, at: UnixNanos) {
        self.key(name);
        self.out.push(b'"');
        time(self.out, at.0);
        self.out.push(b'"');
    }

    #[inline]
    pub(super) fn list<'t>(&mut self, name: &str, values: impl Iterator<Item = &'t str>) {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return;
        }
        self.key(name);
        self.out.push(b'[');
        let end = self.out.len() + ROOM_LIST;
        let mut first = true;
        for value in values {
            if self.out.len() + ROOM_NAME > end {
                break;
            }
            if !first {
                self.out.push(b',');
            }
            first = false;
            string(self.out, value, ROOM_NAME);
        }
        self.out.push(b']');
    }
}
