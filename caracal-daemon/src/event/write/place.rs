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
    read_schema(record)?;
    let rest = record.get(BEFORE_SCHEMA.len() + 1..)?.strip_prefix(BEFORE_SEQUENCE)?;
    let (digits, rest) = rest.split_first_chunk::<SEQUENCE_DIGITS>()?;
    let rest = rest.strip_prefix(BEFORE_PREV)?;
    let (prev, rest) = rest.split_first_chunk::<PREV_DIGITS>()?;
    rest.strip_prefix(AFTER_PREV)?;
    Some((decimal(digits)?, lower_hex(prev)?))
}

/// The version of a record that begins as every record does.
pub(crate) fn read_schema(record: &[u8]) -> Option<u64> {
    let schema = record.strip_prefix(BEFORE_SCHEMA)?.first()?;
    (b'1'..=b'0' + SCHEMA).contains(schema).then(|| u64::from(schema - b'0'))
}

fn decimal(digits: &[u8; SEQUENCE_DIGITS]) -> Option<u64> {
    let wrong = digits.iter().fold(false, |wrong, digit| wrong | !digit.is_ascii_digit());
    // Half of them always fit.
    let ([high, low], []) = digits.as_chunks::<10>() else { return None };
    let [high, low] = [high, low].map(|half| half.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit & 0xf)));
    let sum = high.checked_mul(10_000_000_000)?.checked_add(low)?;
    (!wrong).then_some(sum)
}

/// A hash in hex digits, none of them a capital: all digits in the same way, so that the compiler takes many at once.
fn lower_hex(digits: &[u8; PREV_DIGITS]) -> Option<Hash> {
    let (mut wrong, mut values) = (false, [0_u8; PREV_DIGITS]);
    for (value, digit) in values.iter_mut().zip(digits) {
        let is_letter = matches!(digit, b'a'..=b'f');
        wrong |= !is_letter & !digit.is_ascii_digit();
        *value = (digit & 0xf) + if is_letter { 9 } else { 0 };
    }
    let mut hash = [0_u8; 32];
    for (byte, [high, low]) in hash.iter_mut().zip(values.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
    (!wrong).then_some(hash)
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
    // Behind the type, as ours have it: found without a search, since an audit asks for each.
    let kind = near.strip_prefix(br#""type":""#).and_then(|kind| kind.iter().position(|byte| *byte == b'"'));
    let behind_type = kind.map(|end| br#""type":""#.len() + end + 1);
    let at = behind_type.filter(|at| near.get(*at..).is_some_and(|rest| rest.starts_with(BEFORE)));
    let found = || near.windows(BEFORE.len()).position(|window| window == BEFORE);
    let at = at.or_else(found)? + BEFORE.len();
    std::str::from_utf8(rest.get(at..at + uuid::fmt::Hyphenated::LENGTH)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_twenty_digits_and_a_hash_in_small_letters() {
        let mut bytes = Vec::new();
        place(SCHEMA, u64::MAX, &[0xaf; 32], &mut bytes);
        assert_eq!(read_place(&bytes), Some((u64::MAX, [0xaf; 32])));
        let sequence = BEFORE_SCHEMA.len() + 1 + BEFORE_SEQUENCE.len();
        let prev = sequence + SEQUENCE_DIGITS + BEFORE_PREV.len();
        let places = (sequence..sequence + SEQUENCE_DIGITS).chain(prev..prev + PREV_DIGITS);
        for at in places {
            for byte in 0..=255_u8 {
                let mut odd = bytes.clone();
                odd[at] = byte;
                let good = byte.is_ascii_digit() || at >= prev && (b'a'..=b'f').contains(&byte);
                // One more than can be counted.
                let fits = at >= prev || odd[sequence..sequence + SEQUENCE_DIGITS] <= b"18446744073709551615"[..];
                assert_eq!(read_place(&odd).is_some(), good && fits, "{at} {byte}");
            }
        }
    }
}
