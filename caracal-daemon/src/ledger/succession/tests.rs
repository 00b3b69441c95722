use super::*;
use crate::keeper::ledger_key::{LedgerKey, read_history, read_signed};
use crate::ledger::keyring::Keyring;
use crate::ledger::note::{Checkpoint, NoteError, Verifier, host_of, next_name, origin};
use crate::ledger::proof::{consistency, tests::tiles};
use crate::ledger::tests::{TestSigner, sample};
use crate::ledger::tree::tests::{leaves, naive_root};
use crate::ledger::verify::{Against, verify};
use crate::ledger::{Store, files::Files, files_verify};

#[test]
fn a_log_in_anothers_place_has_its_hosts_name_and_a_number() {
    assert_eq!((next_name("h"), next_name("h.2"), next_name("h.9")), ("h.2".into(), "h.3".into(), "h.10".into()));
    for (name, host) in [
        ("h", "h"),
        ("h.2", "h"),
        ("h.1", "h.1"),
        ("h.02", "h.02"),
        ("a.b", "a.b"),
        (".2", ".2"),
        ("fleet-0", "fleet-0"),
    ] {
        assert_eq!(host_of(name), host);
    }
}

#[test]
fn a_frozen_log_signs_nothing_more_and_its_keys_are_worth_nothing_behind_its_end() {
    let (dir, thief) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let leaves = leaves(40);
    let root = |size: usize| naive_root(&leaves[..size]);
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    key.sign_checkpoint(9, root(9), &[]).expect("signed");
    for entry in std::fs::read_dir(dir.path()).expect("listed").flatten() {
        std::fs::copy(entry.path(), thief.path().join(entry.file_name())).expect("copied");
    }
    let other = LedgerKey::open(dir.path(), "h").expect("the same keys, in another process");
    let (frozen, note) = key.freeze(&origin("h.2")).expect("frozen");
    assert_eq!((frozen.size, frozen.root, frozen.successor.as_str()), (9, root(9), "caracal/h.2/ledger"));
    let proof = consistency(9, 40, &tiles(&leaves)).expect("a proof");
    for key in [&key, &other] {
        let refused = key.sign_checkpoint(40, root(40), &proof).expect_err("frozen").to_string();
        assert!(refused.contains("was frozen at 9 records"), "{refused}");
        assert!(key.rotate().is_err());
    }
    assert_eq!(key.freeze(&origin("h.7")).expect("again").0, frozen, "the first statement stays");
    // What is signed with stolen keys behind the end is refused by whoever knows of it.
    let forged =
        LedgerKey::open(thief.path(), "h").expect("keys").sign_checkpoint(40, root(40), &proof).expect("signed");
    let ring = Keyring::parse(&read_history(dir.path()).expect("readable").expect("a history")).expect("a keyring");
    assert!(matches!(Checkpoint::open(&forged, &ring.keys), Err(NoteError::OutOfTime { size: 40, .. })));
    assert_eq!((ring.frozen, ring.hand_overs.len()), (vec![frozen], 1));
    assert!(matches!(Checkpoint::open(&note, &ring.keys), Err(NoteError::Malformed(_))), "it is no checkpoint");
    drop(other);
    // The next ones here are those of the log in its place, also when a crash left the old ones.
    let old = key.public_keys();
    let kept: Vec<_> = ["ledger-p256.pem", "ledger-signed"]
        .iter()
        .map(|name| (name, std::fs::read(dir.path().join(name)).expect("a file")))
        .collect();
    let history = std::fs::read(dir.path().join("ledger-history")).expect("a history");
    key.make_room("h.2").expect("room");
    for (name, bytes) in kept {
        std::fs::write(dir.path().join(name), bytes).expect("left by a crash");
    }
    std::fs::write(dir.path().join("ledger-history"), history).expect("left by a crash");
    let next = LedgerKey::open(dir.path(), "h").expect("new keys");
    let keys = Verifier::parse_all(&next.public_keys()).expect("keys");
    assert_eq!(
        (keys[0].name(), keys[1].name(), keys[2].name()),
        ("caracal/h.2/ledger", "caracal/h.2/ledger", "caracal/h/host")
    );
    assert!(
        Verifier::parse_all(&old).expect("keys").iter().take(2).all(|old| keys.iter().all(|new| new.id() != old.id()))
    );
    assert_eq!(read_signed(dir.path()).expect("readable"), None);
    assert!(dir.path().join("frozen-h/ledger-history").is_file());
}

#[tokio::test]
async fn the_ledger_in_anothers_place_has_all_of_it_and_says_so_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, _) = sample(dir.path()).await;
    let key = LedgerKey::open(&state.keeper(), "h").expect("keys");
    let signed = key.signed();
    let mut old = SqliteStore::read(&state.ledger()).await.expect("a store");
    must_be(&mut old, signed).await.expect("the ledger that was signed");
    assert!(must_be(&mut old, Signed { root: [7; 32], ..signed }).await.is_err());
    let (frozen, note) = key.freeze(&origin("h.2")).expect("frozen");
    let totals = old.totals().await.expect("totals");
    let into = dir.path().join("next.sqlite");
    let first = first_leaf("h", &frozen, &note, UnixNanos(1_790_000_000_000_000_000));
    let size = replay(&mut old, &into, ("h", &frozen.successor), first.clone()).await.expect("made");
    assert_eq!(size, 451);
    key.make_room("h.2").expect("room");
    let signer = TestSigner(LedgerKey::open(&state.keeper(), "h").expect("new keys"));
    let mut ledger = Ledger::open(SqliteStore::open(&into).await.expect("a store"), "h").await.expect("a ledger");
    ledger.ingest(&[], None, Some(&signer)).await.expect("signed");
    assert_eq!(ledger.store().totals().await.expect("totals"), totals, "budgets start from the same sums");
    let record = crate::event::Record::parse(&first).expect("a record");
    assert_eq!(record.kind, SUCCESSION);
    let value: serde_json::Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(value["data"]["caracal.predecessor.origin"], "caracal/h/ledger");
    assert_eq!(value["data"]["caracal.predecessor.root"], hex::encode(signed.root));
    assert_eq!(value["data"]["caracal.predecessor.statement"], note);
    // It is audited like any other, in the database and as files, and the journal goes on behind it.
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let journal = state.journal();
    let signed = read_signed(&state.keeper()).expect("what was signed");
    let against = Against { host_id: "h", keys: &keys, journal: Some(&journal), signed, kept: &[], books: &[] };
    let mut store = SqliteStore::read(&into).await.expect("a store");
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    assert_eq!((report.findings, report.leaves, report.journal_records, report.anomalies), (Vec::new(), 451, 90, 0));
    let out = dir.path().join("export");
    crate::ledger::export::export(ledger.store(), &out, &mut |_, _| {}).await.expect("exported");
    let mut files = Files::Folder(out);
    let report = files_verify::verify(&mut files, &keys, &[], &[], &mut |_, _| {}).await.expect("read");
    assert_eq!((report.findings, report.leaves), (Vec::new(), 451));
}
