//! What was written down or handed over between processes: frames, records, receipts, a journal after a crash.

use super::choice;
use crate::event::{Record, write};
use crate::journal::{Reader, Start, frame as journal_frame, recover, segment};
use crate::keeper::order::{Answer, Order};
use crate::keeper::{control, frame as keeper_frame, refusals};
use crate::ledger::note::{Checkpoint, Verifier};
use crate::ledger::{receipt as receipts, sequence};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::LazyLock;

/// A value that was read can be written, and reads the same again.
fn stable<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = keeper_frame::read::<T>(&mut &*bytes) else { return };
    let mut once = Vec::new();
    keeper_frame::write(&mut once, &value).expect("what was read fits a frame");
    let value: T = keeper_frame::read(&mut once.as_slice()).expect("what we write is read");
    let mut twice = Vec::new();
    keeper_frame::write(&mut twice, &value).expect("and again");
    assert_eq!(once, twice);
}

/// A frame between command line, keeper and data path.
pub fn frame(bytes: &[u8]) {
    let framed;
    let (raw, body) = choice(bytes);
    let bytes = if raw == 0 {
        body
    } else {
        // With a right length, so that what is behind it is reached.
        framed = [&u32::try_from(body.len()).unwrap_or(0).to_le_bytes(), body].concat();
        &framed
    };
    stable::<control::Request>(bytes);
    stable::<Order>(bytes);
    stable::<Answer>(bytes);
    crate::keeper::signing::read_any(bytes);
}

/// A record. Its place reads the same with and without the rest, and what it says of money by hand and by serde.
pub fn record(bytes: &[u8]) {
    assert!(crate::ledger::books::reads_alike(bytes), "read by hand to other fields");
    let place = write::read_place(bytes);
    let id = write::event_id(bytes);
    if let Some(id) = id {
        let _ = sequence::ms_of_id(id);
    }
    let Ok(record) = Record::parse(bytes) else { return };
    assert_eq!(place, Some((record.sequence, record.prev)));
    let _ = record.data.usage();
}

const KEY: [u8; 32] = [7; 32];

static KEYS: LazyLock<Vec<Verifier>> = LazyLock::new(|| vec![Verifier::ed25519("caracal.local/h", KEY)]);

/// A signed checkpoint, and the keys in their text form.
pub fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(Checkpoint::open(text, &KEYS).is_err(), "signed with a key that nobody has");
    for key in Verifier::parse_all(text).into_iter().flatten() {
        assert_eq!(Verifier::parse(&key.to_string()).expect("its own text"), key);
        assert!(!key.verify(b"x", bytes), "any signature is good");
    }
}

/// A receipt.
pub fn receipt(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(receipts::check(text, &KEYS).is_err(), "signed with a key that nobody has");
    }
}

/// A refusal that the kernel tells of.
pub fn kernel_denial(bytes: &[u8]) {
    refusals::told(bytes);
}

/// A journal's last segment after a crash: whole frames, then a damage, then anything.
///
/// The input's first byte says how many records there are, the next three where and how one byte is changed.
pub fn journal_segment(bytes: &[u8]) {
    let (count, bytes) = choice(bytes);
    let (at, bytes) =
        bytes.split_first_chunk::<2>().map_or((0, bytes), |(at, rest)| (usize::from(u16::from_le_bytes(*at)), rest));
    let (change, tail) = choice(bytes);
    let start = Start::default();
    let mut image = segment::header(start).to_vec();
    let (mut next, mut ends) = (start, vec![image.len()]);
    for number in 0..count % 5 {
        let from = journal_frame::begin(&mut image);
        write::place(write::SCHEMA, next.sequence, &next.prev, &mut image);
        image.extend_from_slice(tail.get(..number * 7).unwrap_or(tail));
        let leaf = journal_frame::finish(&mut image, from, next.sequence);
        next = Start { sequence: next.sequence + 1, prev: leaf };
        ends.push(image.len());
    }
    let at = at % image.len();
    let change = u8::try_from(change).unwrap_or(0);
    image[at] ^= change;
    image.extend_from_slice(tail);
    recovered(&image, start, if change == 0 { usize::MAX } else { at }, &ends);
}

/// Recovers from `image`, of which the byte `damaged` was changed; the frames end at `ends`.
fn recovered(image: &[u8], start: Start, damaged: usize, ends: &[usize]) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join(format!("{:020}.seg", start.sequence)), image).expect("a file");
    // A refusal to start is always allowed: then no record is lost unseen.
    let Ok(scan) = recover::scan(dir.path(), start) else { return };
    let whole = ends.iter().take_while(|end| **end <= damaged).count().saturating_sub(1) as u64;
    assert!(scan.next.sequence >= whole, "{} of {whole} records survived", scan.next.sequence);
    let read = Reader::of_files(dir.path(), 0).batch(1_000, usize::MAX).expect("readable");
    let mut place = start;
    for entry in &read {
        assert_eq!((entry.sequence, entry.prev), (place.sequence, place.prev));
        place = Start { sequence: entry.sequence + 1, prev: entry.leaf };
    }
    assert_eq!(place, scan.next, "a reader sees what recovery keeps");
}
