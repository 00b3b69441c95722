use super::pair::{CURRENT, NEXT};
use super::*;
use crate::ledger::keyring::Keyring;
use crate::ledger::note::{Checkpoint, NoteError};
use crate::ledger::proof::{consistency, tests::tiles};
use crate::ledger::tree::tests::{leaves, naive_root};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

#[test]
fn a_checkpoint_opens_with_the_exported_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    let note = key.sign_checkpoint(3, [7; 32], &[]).expect("signed");
    let trusted = Verifier::parse_all(&key.public_keys()).expect("public keys");
    let opened = Checkpoint::open(&note, &trusted).expect("opened");
    assert_eq!((opened.size, opened.root, opened.signed_by.len()), (3, [7; 32], 2));
    assert_eq!(Checkpoint::open(&note.replace("\n3\n", "\n4\n"), &trusted).map(|_| ()).ok(), None);
    let signature = key.sign_chain_head(9, &[1; 32]).expect("signed");
    assert!(key.host_verifier().verify(&head::signed_bytes("h", 9, &[1; 32]), &signature));
    assert!(!key.host_verifier().verify(&head::signed_bytes("h", 8, &[1; 32]), &signature));
}

#[test]
fn a_fork_is_refused_across_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let leaves = leaves(40);
    let root = |size: usize| naive_root(&leaves[..size]);
    let prove = |old: u64, new: usize| consistency(old, new as u64, &tiles(&leaves[..new])).expect("a proof");
    LedgerKey::open(dir.path(), "h").expect("keys").sign_checkpoint(5, root(5), &[]).expect("signed");
    let key = LedgerKey::open(dir.path(), "h").expect("the same keys");
    assert!(matches!(key.sign_checkpoint(4, root(4), &[]), Err(KeeperError::Fork { asked: 4, signed: 5 })));
    assert!(matches!(key.sign_checkpoint(5, root(6), &[]), Err(KeeperError::Fork { .. })));
    key.sign_checkpoint(5, root(5), &[]).expect("the same again");
    key.sign_checkpoint(6, root(6), &prove(5, 6)).expect("a larger one");
    key.sign_checkpoint(40, root(40), &prove(6, 40)).expect("a much larger one");
}

/// What a data path that was taken over would ask for.
#[test]
fn a_larger_tree_that_does_not_begin_with_the_signed_one_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    let honest = leaves(300);
    let root = |size: usize| naive_root(&honest[..size]);
    let prove = |leaves: &[Hash], old: u64| consistency(old, leaves.len() as u64, &tiles(leaves)).expect("a proof");
    key.sign_checkpoint(0, empty_root(), &[]).expect("the empty tree");
    key.sign_checkpoint(100, root(100), &[]).expect("every tree begins with the empty one");
    let mut forged = honest.clone();
    forged[42][0] ^= 1;
    let refused = |size: usize, root: Hash, proof: &[Hash]| {
        let answer = key.sign_checkpoint(size as u64, root, proof);
        assert!(matches!(answer, Err(KeeperError::Unproven { signed: 100, .. })), "{answer:?}");
    };
    // Its own proof, the honest tree's proof, none, one for another size, and one without an end.
    refused(300, naive_root(&forged), &prove(&forged, 100));
    refused(300, naive_root(&forged), &prove(&honest, 100));
    refused(300, root(300), &[]);
    refused(300, root(300), &prove(&honest, 101));
    refused(300, root(300), &vec![[0; 32]; 1 << 16]);
    // What was refused is not remembered as signed.
    assert_eq!(read_signed(dir.path()).expect("readable").map(|signed| signed.size), Some(100));
    key.sign_checkpoint(300, root(300), &prove(&honest, 100)).expect("the honest tree");
}

#[test]
fn loose_modes_are_refused() {
    for name in [CURRENT[0], CURRENT[1], HOST] {
        let dir = tempfile::tempdir().expect("a directory");
        LedgerKey::open(dir.path(), "h").expect("keys");
        let path = dir.path().join(name);
        assert_eq!(std::fs::metadata(&path).expect("a key").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = LedgerKey::open(dir.path(), "h").expect_err("a loose mode");
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }
}

fn ring(dir: &Path) -> Keyring {
    Keyring::parse(&read_history(dir).expect("readable").expect("a history")).expect("a keyring")
}

#[test]
fn keys_are_handed_over_and_what_was_signed_is_still_remembered() {
    let dir = tempfile::tempdir().expect("a directory");
    let leaves = leaves(40);
    let root = |size: usize| naive_root(&leaves[..size]);
    let prove = |old: u64, new: usize| consistency(old, new as u64, &tiles(&leaves[..new])).expect("a proof");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    // Another process with the same keys, a worker for instance.
    let other = LedgerKey::open(dir.path(), "h").expect("the same keys");
    let first = key.public_keys();
    let old = key.sign_checkpoint(9, root(9), &[]).expect("signed");
    assert_eq!(key.rotate().expect("handed over"), Signed { size: 9, root: root(9) });
    assert_ne!(key.public_keys(), first);
    assert!(!dir.path().join("ledger-p256.pem.next").exists());
    // Nothing of before may be contradicted by the new keys either, and the other process has them too.
    for key in [&key, &other, &LedgerKey::open(dir.path(), "h").expect("keys")] {
        assert!(matches!(key.sign_checkpoint(8, root(8), &[]), Err(KeeperError::Fork { asked: 8, signed: 9 })));
        assert!(matches!(key.sign_checkpoint(9, root(8), &[]), Err(KeeperError::Fork { .. })));
        assert!(matches!(
            key.sign_checkpoint(20, root(20), &prove(8, 20)),
            Err(KeeperError::Unproven { signed: 9, .. })
        ));
    }
    let new = other.sign_checkpoint(20, root(20), &prove(9, 20)).expect("signed");
    let ring = ring(dir.path());
    let opens = |note: &str, keys: &[Verifier]| Checkpoint::open(note, keys).map(|one| one.is_signed_by_both());
    assert_eq!((opens(&old, &ring.keys), opens(&new, &ring.keys)), (Ok(true), Ok(true)));
    // An auditor who has the old keys only cannot take the new ones' word, and one with the new ones not the old ones'.
    let (old_keys, new_keys) =
        (Verifier::parse_all(&first).expect("keys"), Verifier::parse_all(&key.public_keys()).expect("keys"));
    assert_eq!(opens(&new, &old_keys), Err(NoteError::Unsigned));
    assert_eq!(opens(&old, &new_keys), Err(NoteError::Unsigned));
    // The checkpoint of the hand-over is everybody's.
    let both = std::fs::read_to_string(dir.path().join(hand_over_file(9))).expect("a checkpoint");
    for keys in [&old_keys, &new_keys, &ring.keys] {
        assert_eq!(opens(&both, keys), Ok(true));
    }
    // With the hand-over they can.
    let mut followed = Keyring { keys: old_keys, ..Keyring::default() };
    followed.follow(&read_history(dir.path()).expect("readable").expect("a history")).expect("it follows");
    assert_eq!(opens(&new, &followed.keys), Ok(true));
    assert_eq!(followed.hand_overs.len(), 1);
}

#[test]
fn the_keys_before_sign_nothing_behind_their_hand_over() {
    let (dir, thief) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let leaves = leaves(40);
    let root = |size: usize| naive_root(&leaves[..size]);
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    key.sign_checkpoint(9, root(9), &[]).expect("signed");
    // Somebody has a copy of the old keys.
    for entry in std::fs::read_dir(dir.path()).expect("listed").flatten() {
        std::fs::copy(entry.path(), thief.path().join(entry.file_name())).expect("copied");
    }
    key.rotate().expect("handed over");
    let ring = ring(dir.path());
    let stolen = LedgerKey::open(thief.path(), "h").expect("the old keys");
    let proof = consistency(9, 40, &tiles(&leaves)).expect("a proof");
    let forged = stolen.sign_checkpoint(40, root(40), &proof).expect("the thief signs what they like");
    assert!(matches!(Checkpoint::open(&forged, &ring.keys), Err(NoteError::OutOfTime { size: 40, .. })));
    // And the new ones nothing before it.
    let fresh = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir.path()).expect("listed").flatten() {
        let name = entry.file_name();
        if !["ledger-signed", "ledger-history"].contains(&name.to_str().expect("a name")) {
            std::fs::copy(entry.path(), fresh.path().join(name)).expect("copied");
        }
    }
    let early =
        LedgerKey::open(fresh.path(), "h").expect("the new keys").sign_checkpoint(4, root(4), &[]).expect("signed");
    assert!(matches!(Checkpoint::open(&early, &ring.keys), Err(NoteError::OutOfTime { size: 4, .. })));
}

#[test]
fn a_crash_during_a_hand_over_leaves_one_pair_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    key.sign_checkpoint(1, [7; 32], &[]).expect("signed");
    let old: Vec<_> = CURRENT.iter().map(|name| std::fs::read(dir.path().join(name)).expect("a key")).collect();
    let before = key.public_keys();
    drop(key);
    // Before the history says so, the old pair is in force, and what was made is removed.
    Pair::open(dir.path(), NEXT, "caracal/h/ledger").expect("made");
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    assert_eq!((key.public_keys(), dir.path().join(NEXT[0]).exists()), (before.clone(), false));
    key.rotate().expect("handed over");
    let after = key.public_keys();
    drop(key);
    // Behind it the new one is, whichever files were moved when the power went.
    for moved in [&[][..], &[0], &[1]] {
        for at in [0, 1].iter().filter(|at| !moved.contains(*at)) {
            std::fs::rename(dir.path().join(CURRENT[*at]), dir.path().join(NEXT[*at])).expect("moved back");
            std::fs::write(dir.path().join(CURRENT[*at]), &old[*at]).expect("put back");
            std::fs::set_permissions(dir.path().join(CURRENT[*at]), std::fs::Permissions::from_mode(0o600))
                .expect("its mode");
        }
        std::fs::write(dir.path().join(PUBLIC), &before).expect("not written yet");
        let key = LedgerKey::open(dir.path(), "h").expect("keys");
        assert_eq!(key.public_keys(), after);
        assert_eq!(std::fs::read_to_string(dir.path().join(PUBLIC)).expect("public keys"), after);
    }
    // Keys that the history does not know are refused, not taken.
    std::fs::write(dir.path().join(CURRENT[1]), &old[1]).expect("an older backup");
    let error = LedgerKey::open(dir.path(), "h").expect_err("another pair");
    assert!(error.to_string().contains("restore both"), "{error}");
}

#[test]
fn what_the_same_keys_signed_elsewhere_is_remembered() {
    let (here, there) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let leaves = leaves(40);
    let root = |size: usize| naive_root(&leaves[..size]);
    let prove = |old: u64, new: usize| consistency(old, new as u64, &tiles(&leaves[..new])).expect("a proof");
    let signer = LedgerKey::open(here.path(), "h").expect("keys");
    for name in [CURRENT[0], CURRENT[1], HOST] {
        let copied = std::fs::copy(here.path().join(name), there.path().join(name)).expect("the same keys");
        assert!(copied > 0);
    }
    let note = signer.sign_checkpoint(30, root(30), &[]).expect("signed");
    let key = LedgerKey::open(there.path(), "h").expect("keys");
    let thirty = Signed { size: 30, root: root(30) };
    assert_eq!(key.own_checkpoint(note.as_bytes()).expect("its own"), thirty);
    key.remember(thirty).expect("remembered");
    for key in [key, LedgerKey::open(there.path(), "h").expect("keys that were opened again")] {
        assert!(matches!(key.sign_checkpoint(20, root(20), &[]), Err(KeeperError::Fork { asked: 20, signed: 30 })));
        key.sign_checkpoint(30, root(30), &[]).expect("the same");
    }
    // A smaller one takes nothing back; another one of the same size is a fork.
    let key = LedgerKey::open(there.path(), "h").expect("keys");
    key.remember(Signed { size: 20, root: root(20) }).expect("known");
    assert_eq!(key.signed(), thirty);
    let other = Signed { size: 30, root: root(29) };
    assert!(matches!(key.remember(other), Err(KeeperError::Fork { asked: 30, signed: 30 })));
    // After a hand-over, what the keys before it signed is still theirs, up to there.
    let late = signer.sign_checkpoint(40, root(40), &prove(30, 40)).expect("signed");
    key.rotate().expect("a hand-over at 30");
    assert_eq!(key.own_checkpoint(note.as_bytes()).expect("before the hand-over"), thirty);
    let refused = key.own_checkpoint(late.as_bytes()).expect_err("behind the hand-over").to_string();
    assert!(refused.contains("its time is from 0 to 30"), "{refused}");
}

#[test]
fn what_the_keys_did_not_sign_is_no_memory() {
    let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    let note = key.sign_checkpoint(3, [7; 32], &[]).expect("signed");
    let text = |note: &str| note.split_once("\n\n").expect("a note").0.to_owned();
    let lines: Vec<&str> = note.split_once("\n\n").expect("a note").1.lines().collect();
    let foreign = LedgerKey::open(other.path(), "h").expect("keys").sign_checkpoint(9, [7; 32], &[]).expect("signed");
    for forged in [
        String::new(),
        "garbage".into(),
        foreign,
        note.replace("\n3\n", "\n4\n"),
        // One line of the two.
        format!("{}\n\n{}\n", text(&note), lines[0]),
        format!("{}\n\n{}\n", text(&note), lines[1]),
        "x".repeat(2 << 20),
    ] {
        assert!(key.own_checkpoint(forged.as_bytes()).is_err(), "{}", forged.get(..300).unwrap_or(&forged));
    }
    assert!(key.own_checkpoint(&[0xff; 9]).is_err());
    assert_eq!(key.own_checkpoint(note.as_bytes()).expect("its own").size, 3);
}
