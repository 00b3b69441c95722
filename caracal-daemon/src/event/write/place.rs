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
    let (digits, prev) = place_of(record)?;
    Some((decimal(digits)?, lower_hex(prev)?))
}

/// Whether a record begins as every record does, but for what its place says: that may be any letters and digits.
pub(crate) fn has_place(record: &[u8]) -> bool {
    let plain = |digits: &[u8]| digits.iter().fold(true, |plain, digit| plain & digit.is_ascii_alphanumeric());
    place_of(record).is_some_and(|(digits, prev)| plain(digits) && plain(prev))
}

/// The two texts of a record's place.
fn place_of(record: &[u8]) -> Option<(&[u8; SEQUENCE_DIGITS], &[u8; PREV_DIGITS])> {
    read_schema(record)?;
    let rest = record.get(BEFORE_SCHEMA.len() + 1..)?.strip_prefix(BEFORE_SEQUENCE)?;
    let (digits, rest) = rest.split_first_chunk::<SEQUENCE_DIGITS>()?;
    let rest = rest.strip_prefix(BEFORE_PREV)?;
    let (prev, rest) = rest.split_first_chunk::<PREV_DIGITS>()?;
    rest.strip_prefix(AFTER_PREV)?;
    Some((digits, prev))
}

/// The version of a record that begins as every record does.
pub(crate) fn read_schema(record: &[u8]) -> Option<u64> {
    let schema = record.strip_prefix(BEFORE_SCHEMA)?.first()?;
    (b'1'..=b'0' + SCHEMA).contains(schema).then(|| u64::from(schema - b'0'))
}

fn decimal(digits: &[u8; SEQUENCE_DIGITS]) -> Option<u64> {
    let wrong = digits.iter().fold(false, |wrong, digit| wrong | !digit.is_ascii_digit());
    // Half of them always fit. Fives, which do not wait for each other.
    let ([a, b, c, d], []) = digits.as_chunks::<5>() else { return None };
    let value = |five: &[u8; 5]| five.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit & 0xf));
    let (high, low) = (value(a) * 100_000 + value(b), value(c) * 100_000 + value(d));
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

/// How many bytes stand before the quote that ends a string, if each of them stands for itself. Eight at a time: in the sums below
/// the lowest bit that is set is that of the first byte in question, whatever borrows do above it.
pub(crate) fn plain_length(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const SPACES: u64 = ONES * b' ' as u64;
    let below = |word: u64, bound: u64| word.wrapping_sub(bound) & !word & HIGH;
    let (words, tail) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let odd = below(word ^ QUOTES, ONES) | below(word ^ BACKSLASHES, ONES) | below(word, SPACES);
        if odd != 0 {
            at += odd.trailing_zeros() as usize / 8;
            return (bytes.get(at) == Some(&b'"')).then_some(at);
        }
        at += 8;
    }
    let odd = tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    (tail.get(odd) == Some(&b'"')).then_some(at + odd)
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
    use proptest::prelude::*;

    #[test]
    fn every_digit_of_a_sequence_number_counts() {
        for sequence in std::iter::successors(Some(u64::MAX), |one| (*one > 0).then_some(one / 10)) {
            let mut bytes = Vec::new();
            place(SCHEMA, sequence, &[0; 32], &mut bytes);
            assert_eq!(read_place(&bytes).map(|(read, _)| read), Some(sequence));
        }
    }

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
                assert_eq!(has_place(&odd), byte.is_ascii_alphanumeric(), "{at} {byte}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_string_ends_at_its_quote(text in "[\\x1e-\"Z-^\\x7fé]{0,40}", behind in "[a\"]{0,9}") {
            let all = format!("{text}\"{behind}");
            let odd = all.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\').expect("the quote");
            prop_assert_eq!(plain_length(all.as_bytes()), (all.as_bytes()[odd] == b'"').then_some(odd));
        }
    }
}
