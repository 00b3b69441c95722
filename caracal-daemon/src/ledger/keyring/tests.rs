use super::*;
use crate::keeper::ledger_key::{LedgerKey, read_history};

/// The history of a log whose keys changed at sizes 0, 5 and 5; what each generation was; and its directory.
fn history() -> (tempfile::TempDir, String, Vec<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    let mut generations = vec![key.public_keys()];
    key.rotate().expect("handed over");
    generations.push(key.public_keys());
    key.sign_checkpoint(5, [5; 32], &[]).expect("signed");
    for _ in 0..2 {
        key.rotate().expect("handed over");
        generations.push(key.public_keys());
    }
    let text = read_history(dir.path()).expect("readable").expect("a history");
    (dir, text, generations)
}

#[test]
fn a_history_gives_each_key_its_time() {
    let (_dir, text, generations) = history();
    let ring = Keyring::parse(&text).expect("a keyring");
    let times: Vec<String> =
        ring.keys.iter().filter(|key| key.is_ecdsa() && key.name().ends_with("/ledger")).map(Verifier::time).collect();
    assert_eq!(times, ["from 0 to 0", "from 0 to 5", "from 5 to 5", "from 5 on"]);
    let sizes: Vec<u64> = ring.hand_overs_of("caracal/h/ledger").iter().map(|one| one.size).collect();
    assert_eq!((sizes, ring.hand_overs_of("caracal/g/ledger").len()), (vec![0, 5, 5], 0));
    // Whoever came later follows from where they are; strangers do not.
    for (generation, left) in generations.iter().zip([3, 2, 1, 0]) {
        let mut ring = Keyring::parse(generation).expect("keys");
        ring.follow(&text).expect("it follows");
        assert_eq!(ring.hand_overs.len(), left);
        let last = Verifier::parse_all(&generations[3]).expect("keys");
        assert!(
            last.iter().all(|key| ring.keys.iter().any(|one| one.to_string() == key.to_string() && one.is_in_force()))
        );
    }
    let stranger = LedgerKey::open(tempfile::tempdir().expect("a directory").path(), "h").expect("keys").public_keys();
    let mut ring = Keyring::parse(&stranger).expect("keys");
    ring.follow(&text).expect("nothing to follow");
    assert_eq!((ring.hand_overs.len(), ring.keys.iter().all(Verifier::is_in_force)), (0, true));
}

#[test]
fn a_hand_over_that_was_changed_is_refused() {
    let (_dir, text, generations) = history();
    let (first, notes) = split(&text).expect("parts");
    let refused = |text: &str, why: &str| assert!(Keyring::parse(text).is_err(), "{why}");
    let join = |notes: &[String]| format!("{first}\n{}", notes.join("\n"));
    assert!(Keyring::parse(&join(&notes)).is_ok());
    refused(&join(&notes[1..]), "the first one is missing");
    refused(&join(&[notes[0].clone(), notes[2].clone()]), "one in the middle is missing");
    refused(&join(&[notes[1].clone(), notes[0].clone(), notes[2].clone()]), "two are swapped");
    refused(&join(&[notes[0].clone(), notes[0].clone()]), "one stands there twice");
    let lines: Vec<&str> = notes[1].lines().collect();
    assert_eq!(lines.len(), 11);
    for dropped in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(dropped);
        refused(&join(&[notes[0].clone(), fewer.join("\n") + "\n"]), "a line is missing");
    }
    // Every byte of it counts.
    for at in 0..notes[0].len() {
        let mut bytes = notes[0].clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(changed) = String::from_utf8(bytes) {
            refused(&join(&[changed]), &format!("byte {at} is another one"));
        }
    }
    // Keys of somebody who signs for themselves alone.
    let thief = tempfile::tempdir().expect("a directory");
    let key = LedgerKey::open(thief.path(), "h").expect("keys");
    key.rotate().expect("handed over");
    let own = read_history(thief.path()).expect("readable").expect("a history");
    let (_, foreign) = split(&own).expect("parts");
    refused(&format!("{}\n{}", generations[0], foreign[0]), "another log's hand-over");
}

#[test]
fn a_hand_over_is_no_checkpoint() {
    use crate::ledger::note::Checkpoint;
    let (_dir, text, _) = history();
    let ring = Keyring::parse(&text).expect("a keyring");
    for note in split(&text).expect("parts").1 {
        assert!(matches!(Checkpoint::open(&note, &ring.keys), Err(NoteError::Malformed(_))));
    }
}
