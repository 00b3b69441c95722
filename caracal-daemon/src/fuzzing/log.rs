//! What comes to the ledger from elsewhere: messages of the shared bus, the history of a log's keys, paths that readers ask for.

use crate::bus::signed_run::{HEADERS, MAX_RECORDS, payload, read};
use crate::event::leaf_hash;
use crate::event::write::read_place;
use crate::ledger::keyring::Keyring;
use crate::ledger::note::Verifier;
use crate::ledger::serve::File;

/// A message of the bus: its key and its three headers, each on a line, and behind them its payload.
///
/// # Panics
/// When it is taken for something that a host signed, or a record is not the bytes that came.
pub fn bus_message(bytes: &[u8]) {
    let mut parts = bytes.splitn(5, |byte| *byte == b'\n');
    let [key, sequence, leaf, signature] = [(); 4].map(|()| parts.next().filter(|part| !part.is_empty()));
    let body = parts.next();
    let values = [None, sequence, leaf, signature];
    let header =
        |name: &str| HEADERS.iter().position(|known| *known == name).and_then(|at| values.get(at).copied().flatten());
    let Ok(run) = read(key, body, header) else { return };
    assert!((1..=MAX_RECORDS).contains(&run.records.len()));
    for record in &run.records {
        assert_eq!(record.leaf, leaf_hash(&record.bytes));
        assert_eq!(read_place(&record.bytes), Some((record.sequence, record.prev)));
        let part = |window: &[u8]| window == record.bytes.as_slice();
        assert!(
            body.is_some_and(|body| body.windows(record.bytes.len()).any(part)),
            "other bytes than those that came"
        );
    }
    let nobody = Verifier::ed25519("caracal/h/host", [7; 32]);
    assert!(run.check(&nobody).is_err(), "signed with a key that nobody has");
    let again = read(key, Some(&payload(&run.records)), header).expect("our own form");
    assert_eq!(again, run);
}

/// The history of a log's keys.
///
/// # Panics
/// When a key is in force behind another one, or a hand-over counts that the keys of nobody signed.
pub fn key_history(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut strangers = Keyring { keys: vec![Verifier::ed25519("caracal/h/ledger", [7; 32])], ..Keyring::default() };
    if strangers.follow(text).is_ok() {
        assert!(strangers.hand_overs.is_empty(), "a hand-over follows from a key that nobody has");
    }
    let Ok(ring) = Keyring::parse(text) else { return };
    for one in &ring.hand_overs {
        let after = |key: &Verifier| key.name() == one.origin && key.is_in_force();
        let is_frozen = ring.frozen.iter().any(|frozen| frozen.origin == one.origin);
        assert!(ring.keys.iter().any(after) != is_frozen, "no key is in force, or one is after the end");
    }
    assert!(ring.hand_overs.is_sorted_by_key(|one| one.size), "a hand-over goes back");
}

/// A path of a log's files.
///
/// # Panics
/// When a file has two names.
pub fn log_path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(file) = File::parse(text) {
        assert_eq!(file.path(), text);
    }
}
