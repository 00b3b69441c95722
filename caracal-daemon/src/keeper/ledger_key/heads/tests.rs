use super::*;
use crate::bus::signed_run::tests::Host;
use crate::journal::Entry;
use crate::keeper::ledger_key::LedgerKey;

/// Ten records of one history, and three of another behind the first five.
fn histories() -> (Vec<Entry>, Vec<Entry>) {
    let mut honest = Host::new("h");
    let one: Vec<Entry> = (0..10).map(|_| honest.record("as it was")).collect();
    let mut forger = Host::new("h");
    let other = (0..8).map(|at| forger.record(if at < 5 { "as it was" } else { "as it was not" })).collect();
    (one, other)
}

fn sign(key: &LedgerKey, record: &Entry) -> Result<Vec<u8>, KeeperError> {
    key.sign_chain_head(record.sequence, &record.leaf)
}

fn prove(key: &LedgerKey, known: u64, records: &[Entry]) -> Result<(), KeeperError> {
    key.prove_chain_head(known, &records.iter().map(|record| record.bytes.as_slice()).collect::<Vec<_>>())
}

#[test]
fn no_second_history_is_signed_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, other) = histories();
    let key = LedgerKey::open(dir.path(), "h").expect("keys");
    for at in [3, 7] {
        sign(&key, &one[at]).expect("the next one");
    }
    drop(key);
    let key = LedgerKey::open(dir.path(), "h").expect("the same keys");
    sign(&key, &one[7]).expect("the same again");
    assert!(matches!(sign(&key, &other[7]), Err(KeeperError::HeadFork { asked: 7 })));
    // Before it neither history is signed until it is shown, and only one can be.
    assert!(matches!(sign(&key, &one[5]), Err(KeeperError::HeadBehind { asked: 5, known: 7 })));
    assert!(matches!(sign(&key, &other[5]), Err(KeeperError::HeadBehind { asked: 5, known: 7 })));
    for wrong in [&other[6..8], &one[6..7], &one[5..7], &[][..], &[one[7].clone(), one[6].clone()]] {
        let _refused = prove(&key, 7, wrong);
        assert!(matches!(sign(&key, &one[5]), Err(KeeperError::HeadBehind { .. })), "{wrong:?}");
    }
    assert!(matches!(prove(&key, 9, &one[6..10]), Err(KeeperError::HeadFork { asked: 9 })), "9 was not signed");
    prove(&key, 7, &one[6..8]).expect("it leads there");
    sign(&key, &one[5]).expect("shown");
    assert!(matches!(sign(&key, &other[5]), Err(KeeperError::HeadFork { asked: 5 })));
    // In parts, back to the first.
    prove(&key, 5, &one[3..6]).expect("a part");
    prove(&key, 2, &one[1..3]).expect("the next part");
    sign(&key, &one[0]).expect("shown");
    prove(&key, 0, &one[..1]).expect("nothing is before it");
    // The last one stays the last one.
    sign(&key, &one[9]).expect("the next one");
    drop(key);
    let key = LedgerKey::open(dir.path(), "h").expect("the same keys");
    assert!(matches!(sign(&key, &one[8]), Err(KeeperError::HeadBehind { known: 9, .. })));
}

#[test]
fn a_new_key_may_begin_a_new_chain_and_a_damaged_memory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, other) = histories();
    sign(&LedgerKey::open(dir.path(), "h").expect("keys"), &one[7]).expect("signed");
    let path = dir.path().join(SIGNED_HEAD);
    let said = std::fs::read_to_string(&path).expect("what was signed");
    std::fs::write(&path, &said[..70]).expect("cut");
    let error = LedgerKey::open(dir.path(), "h").expect_err("damaged");
    assert!(error.to_string().contains("restore it"), "{error}");
    std::fs::write(&path, said).expect("restored");
    std::fs::remove_file(dir.path().join("host-p256.pem")).expect("the host's key");
    let key = LedgerKey::open(dir.path(), "h").expect("another host key");
    sign(&key, &other[2]).expect("another enrolment");
    assert!(sign(&key, &one[2]).is_ok(), "the same record of both");
    assert!(matches!(sign(&key, &one[1]), Err(KeeperError::HeadBehind { .. })));
}

#[test]
fn what_is_known_has_a_bound_and_the_last_head_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let verifier = LedgerKey::open(dir.path(), "h").expect("keys").host_verifier().clone();
    let mut heads = Heads::open(dir.path(), &verifier).expect("nothing yet");
    for sequence in 0..3 * MOST as u64 {
        heads.learn(sequence, [1; 32]);
        assert!(heads.known.len() <= MOST && heads.known.contains_key(&sequence));
    }
}
