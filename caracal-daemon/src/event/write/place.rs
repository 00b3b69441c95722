//! Where every record begins: its version, its sequence number and the hash of the one before it, at fixed offsets, so
//! that they are written and read without reading the record. Takes bytes of any kind; refuses what does not begin so.

use super::SCHEMA;
use crate::event::Hash;
use std::io::Write as _;

const BEFORE_SCHEMA: &[u8] = br#"{"specversion":"1.0","caracalschema":"#;
const BEFORE_SEQUENCE: &[u8] = br#","sequence":""#;
const BEFORE_PREV: &[u8] = br#"","caracalprev":""#;
const AFTER_PREV: &[u8] = br#"","#;
const SEQUENCE_DIGITS: usize = 20;
const PREV_DIGITS: usize = 64;
/// Bytes of a record before what [`super::Scribe::seal`] made.
pub(crate) const PLACE_BYTES: usize = BEFORE_SCHEMA.len()
    + 1
    + BEFORE_SEQUENCE.len()
    + SEQUENCE_DIGITS
    + BEFORE_PREV.len()
    + PREV_DIGITS
    + AFTER_PREV.len();

/// Writes the beginning of a record: its version, which has one digit, and its place.
pub(crate) fn place(schema: u8, sequence: u64, prev: &Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(BEFORE_SCHEMA);
    out.push(b'0' + schema);
    out.extend_from_slice(BEFORE_SEQUENCE);
    let _ = write!(out, "{sequence:020}");
    out.extend_from_slice(BEFORE_PREV);
    let mut digits = [0u8; PREV_DIGITS];
    let _ = hex::encode_to_slice(prev, &mut digits);
    out.extend_from_slice(&digits);
    out.extend_from_slice(AFTER_PREV);
}

/// The sequence number and the previous leaf hash of a record, if it begins as every record does.
#[must_use]
pub fn read_place(record: &[u8]) -> Option<(u64, Hash)> {
    let (schema, rest) = record.strip_prefix(BEFORE_SCHEMA)?.split_first()?;
    if !(b'1'..=b'0' + SCHEMA).contains(schema) {
        return None;
    }
    let rest = rest.strip_prefix(BEFORE_SEQUENCE)?;
    let (digits, rest) = rest.split_at_checked(SEQUENCE_DIGITS)?;
    let rest = rest.strip_prefix(BEFORE_PREV)?;
    let (prev, rest) = rest.split_at_checked(PREV_DIGITS)?;
    rest.strip_prefix(AFTER_PREV)?;
    let mut sequence = 0_u64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sequence = sequence.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some((sequence, lower_hex(prev)?))
}

/// A hash in hex digits, none of them a capital. An audit reads one of each record: 22 ns by a table, 250 where each digit is asked
/// what it is.
fn lower_hex(digits: &[u8]) -> Option<Hash> {
    const NONE: u8 = 0x80;
    static VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut at = 0;
        while at < 16 {
            values[b"0123456789abcdef"[at] as usize] = at as u8;
            at += 1;
        }
        values
    };
    let value = |digit: u8| VALUES.get(usize::from(digit)).copied().unwrap_or(NONE);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let (mut hash, mut wrong) = ([0_u8; 32], 0);
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let (high, low) = (value(*high), value(*low));
        wrong |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (wrong & NONE == 0).then_some(hash)
}

/// A record's id, read without reading the record.
#[must_use]
pub(crate) fn event_id(record: &[u8]) -> Option<&str> {
    id_in(record.get(PLACE_BYTES..)?)
}

/// The id in what stands behind a record's place.
pub(super) fn id_in(rest: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = br#","id":""#;
    let near = rest.get(..rest.len().min(160))?;
    let at = near.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    std::str::from_utf8(rest.get(at..at + uuid::fmt::Hyphenated::LENGTH)?).ok()
}
