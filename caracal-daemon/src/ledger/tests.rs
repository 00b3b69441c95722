//! The ledger as a whole: rebuilds, faults, gaps, forks, money, audits of tampered ledgers, receipts, exports.

use super::books::{Overrun, Total};
use super::memory::{Fault, MemoryStore};
use super::note::{Checkpoint, Verifier};
use super::tree::tests::naive_root;
use super::verify::{Against, Report, verify};
use super::*;
use crate::clock::{Clock, UnixNanos};
use crate::event::write::tests::paid;
use crate::event::{Data, Draft, Hash, Kind, Scribe, Usage, leaf_hash};
use crate::journal::{Options, head};
use crate::keeper::ledger_key::LedgerKey;
use base64::Engine as _;
use proptest::prelude::*;
use sqlx::{ConnectOptions as _, Connection as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod forged;
mod issues;

/// The keeper's part, in the same process.
#[derive(Debug)]
pub(crate) struct TestSigner(pub(crate) LedgerKey);

impl Signer for TestSigner {
    fn issue_leaf(&self, name: &str, _spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::BadName(name.into()))
    }

    fn sign_checkpoint(&self, size: u64, root: Hash, proof: &[Hash]) -> Result<String, KeeperError> {
        self.0.sign_checkpoint(size, root, proof)
    }

    fn sign_chain_head(&self, sequence: u64, leaf: Hash) -> Result<Vec<u8>, KeeperError> {
        self.0.sign_chain_head(sequence, &leaf)
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.0.prove_chain_head(known, records)
    }
}

pub(crate) fn signer(dir: &Path) -> Arc<TestSigner> {
    Arc::new(TestSigner(LedgerKey::open(&dir.join("keeper"), "h").expect("keys")))
}

fn call(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// Chained entries of these drafts.
pub(crate) fn entries(drafts: &[Draft]) -> Vec<Entry> {
    entries_of("h", drafts)
}

/// The same of another host.
pub(crate) fn entries_of(host: &str, drafts: &[Draft]) -> Vec<Entry> {
    let dir = tempfile::tempdir().expect("a directory");
    let scribe = Scribe::open(host, &dir.path().join("keys")).expect("a scribe");
    let mut prev = [0; 32];
    (0..)
        .zip(drafts)
        .map(|(sequence, draft)| {
            let mut bytes = Vec::new();
            scribe.seal(draft).expect("sealed").place(sequence, &prev, &mut bytes);
            let entry = Entry { sequence, prev, leaf: leaf_hash(&bytes), bytes };
            prev = entry.leaf;
            entry
        })
        .collect()
}

/// Makes the first `old` of them records of schema 1, and chains all of them anew.
pub(crate) fn age(entries: &mut [Entry], old: usize) {
    let mut prev = [0; 32];
    for (at, entry) in entries.iter_mut().enumerate() {
        let text = String::from_utf8(std::mem::take(&mut entry.bytes)).expect("text");
        let schema = if at < old { r#""caracalschema":1"# } else { r#""caracalschema":3"# };
        let text = text.replacen(r#""caracalschema":3"#, schema, 1);
        entry.bytes = text.replacen(&hex::encode(entry.prev), &hex::encode(prev), 1).into_bytes();
        (entry.prev, entry.leaf) = (prev, leaf_hash(&entry.bytes));
        prev = entry.leaf;
    }
}

/// Intents of `count` calls, with outcomes for all but each fifth.
pub(crate) fn drafts(count: u128) -> Vec<Draft> {
    let pair = |number: u128| {
        let outcome = (!number.is_multiple_of(5)).then(|| paid(Kind::Outcome, call(number)));
        std::iter::once(paid(Kind::Intent, call(number))).chain(outcome)
    };
    (0..count).flat_map(pair).collect()
}

async fn memory() -> Ledger<MemoryStore> {
    Ledger::open(MemoryStore::default(), "h").await.expect("a ledger")
}

fn root(ledger: &Ledger<impl Store>) -> Hash {
    ledger.tree.root()
}

#[tokio::test]
async fn every_split_into_batches_gives_the_same_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let entries = entries(&drafts(400));
    let leaves: Vec<Hash> = entries.iter().map(|entry| entry.leaf).collect();
    let mut whole = memory().await;
    whole.ingest(&entries, None, None).await.expect("ingested");
    assert_eq!(root(&whole), naive_root(&leaves));
    for size in [1, 7, 256, 300] {
        let mut split =
            Ledger::open(SqliteStore::open(&dir.path().join(format!("{size}"))).await.expect("a store"), "h")
                .await
                .expect("a ledger");
        for batch in entries.chunks(size) {
            split.ingest(batch, None, None).await.expect("ingested");
        }
        assert_eq!((root(&split), split.cursor()), (root(&whole), whole.cursor()));
        assert_eq!(split.store().totals().await.expect("totals"), whole.store().totals);
        assert_eq!(split.store().load().await.expect("loaded").open, whole.store().state.open);
    }
}

#[tokio::test]
async fn money_is_that_of_the_outcomes_and_nothing_counts_twice() {
    let mut drafts = vec![paid(Kind::Intent, call(1)), paid(Kind::Intent, call(2)), paid(Kind::Intent, call(3))];
    drafts.push(paid(Kind::Outcome, call(1)));
    drafts.push(paid(Kind::Outcome, call(1)));
    drafts.push(paid(Kind::Outcome, call(77)));
    let mut released = paid(Kind::Outcome, call(2));
    released.data.settle = Some("released");
    released.data.cost = None;
    drafts.push(released);
    let mut ledger = memory().await;
    let ingested = ledger.ingest(&entries(&drafts), None, None).await.expect("ingested");
    assert_eq!(ingested.changes.strays, 2);
    let window = drafts[0].data.windows[0].clone();
    assert_eq!(ledger.store().totals, HashMap::from([(window, Total::change(1_234))]));
    let (key, spend) = ingested.changes.spend.first_key_value().expect("spend");
    assert_eq!((key.agent.as_str(), key.model.as_str(), key.day.as_str()), ("coder", "gpt-5", "2026-09-21"));
    assert_eq!((spend.calls, spend.cost, spend.usage.cache_write_1h), (1, NanoUsd(1_234), 40));
    let open = &ledger.store().state.open;
    assert_eq!(open.iter().map(|intent| intent.call.clone()).collect::<Vec<_>>(), [call(3).to_string()]);
    let outcome = open[0].crash_outcome(UnixNanos(9));
    assert_eq!(
        (outcome.data.cost, outcome.data.settle, outcome.data.reason),
        (Some(NanoUsd(5_000)), Some("charged_max"), Some("crash"))
    );
    assert_eq!(outcome.data.call, Some(call(3)));
    assert_eq!(outcome.data.usage, None::<Usage>);
}

#[tokio::test]
async fn a_commit_that_fails_either_way_ends_in_the_same_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let signer = signer(dir.path());
    let entries = entries(&drafts(200));
    let mut sound = memory().await;
    sound.ingest(&entries, None, None).await.expect("ingested");
    for fault in [Fault::Before, Fault::After] {
        let mut ledger = memory().await;
        for batch in entries.chunks(50) {
            ledger.store().fault = Some(fault);
            let fails = ledger.ingest(batch, None, None).await;
            assert!(matches!(fails, Err(LedgerError::Store(_))));
            // The feed gives again what the cursor does not have; a duplicate changes nothing.
            let again = ledger.ingest(batch, None, None).await.expect("ingested");
            assert_eq!(again.duplicates, if fault == Fault::After { batch.len() as u64 } else { 0 });
        }
        assert_eq!(root(&ledger), root(&sound));
        assert_eq!(ledger.store().totals, sound.store().totals);
        ledger.ingest(&[], None, Some(&*signer)).await.expect("signed");
        assert_eq!(ledger.checkpoint().map(|(size, _)| *size), Some(entries.len() as u64));
    }
}

#[tokio::test]
async fn after_a_restore_nothing_is_signed_until_the_log_has_caught_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let signer = signer(dir.path());
    let entries = entries(&drafts(40));
    let mut first = memory().await;
    first.ingest(&entries[..30], None, Some(&*signer)).await.expect("signed");
    let mut restored = memory().await;
    restored.ingest(&entries[..10], None, Some(&*signer)).await.expect("ingested");
    assert_eq!(restored.checkpoint(), None);
    restored.ingest(&entries[10..], None, Some(&*signer)).await.expect("signed");
    assert!(restored.checkpoint().is_some());
    // Another history of the size that was signed is an incident.
    let mut other = memory().await;
    let mut altered = self::entries(&drafts(40));
    altered.truncate(entries.len());
    let fork = other.ingest(&altered, None, Some(&*signer)).await;
    assert!(matches!(fork, Err(LedgerError::Fork(_))), "{fork:?}");
    assert_eq!(other.checkpoint(), None);
    // So is one that is larger by now, whether it was so from the start or grew past that size.
    for (before, after) in [(entries.len(), entries.len()), (5, 20), (5, entries.len())] {
        let mut other = memory().await;
        let longer = self::entries(&drafts(60));
        other.ingest(&longer[..before], None, None).await.expect("ingested");
        let agreed = other.agree(&*signer).await;
        if before == entries.len() {
            assert!(matches!(agreed, Err(LedgerError::Fork(_))), "{agreed:?}");
            continue;
        }
        agreed.expect("nothing to say yet");
        other
            .ingest(&longer[before..after], None, Some(&*signer))
            .await
            .map(drop)
            .or_else(is_fork)
            .expect("a fork or no signature");
        let grown = other.ingest(&longer[other.cursor().sequence as usize..], None, Some(&*signer)).await;
        assert!(matches!(grown, Err(LedgerError::Fork(_))), "{grown:?}");
        assert_eq!(other.checkpoint(), None);
    }
    let mut same = memory().await;
    same.agree(&*signer).await.expect("nothing to say yet");
    same.ingest(&entries, None, Some(&*signer)).await.expect("the same history");
    assert!(same.checkpoint().is_some());
    same.agree(&*signer).await.expect("the same history");
}

fn is_fork(error: LedgerError) -> Result<(), LedgerError> {
    if matches!(error, LedgerError::Fork(_)) { Ok(()) } else { Err(error) }
}

#[tokio::test]
async fn gaps_and_forks_become_leaves() {
    let good = entries(&drafts(10));
    let mut ledger = memory().await;
    ledger.ingest(&good[..4], None, None).await.expect("ingested");
    ledger.ingest(&good[6..8], None, None).await.expect("a gap");
    assert_eq!(ledger.size(), 4 + 1 + 2);
    assert_eq!(ledger.cursor().sequence, 8);
    let other = entries(&drafts(10));
    ledger.ingest(&other[2..3], None, None).await.expect("a fork");
    ledger.ingest(&good[..4], None, None).await.expect("duplicates");
    assert_eq!(ledger.size(), 8);
    ledger.ingest(&other[8..9], None, None).await.expect("a broken chain");
    let kinds: Vec<String> = ledger
        .store()
        .chunks
        .iter()
        .flat_map(|chunk| chunk.records().map(<[u8]>::to_vec).collect::<Vec<_>>())
        .map(|record| crate::event::Record::parse(&record).expect("a record").kind)
        .filter(|kind| kind.starts_with("caracal.gap") || kind.starts_with("caracal.fork"))
        .collect();
    assert_eq!(kinds, [sequence::GAP, sequence::FORK, sequence::FORK]);
    let mut again = memory().await;
    for batch in [&good[..4], &good[6..8], &other[2..3], &other[8..9]] {
        again.ingest(batch, None, None).await.expect("ingested");
    }
    assert_eq!(root(&again), root(&ledger));
}

/// A state directory with a journal and a ledger of 300 calls, with several checkpoints and heads, and more in the
/// journal than in the ledger.
pub(crate) async fn sample(dir: &Path) -> (StateDir, Vec<Verifier>) {
    let state = StateDir::new(dir);
    let signer = signer(dir);
    let (journal, _) = Journal::open(
        &state.journal(),
        &state.detail_keys(),
        "h",
        Options { kept: 64, ..Options::default() },
        &Clock::fixed(UnixNanos(1)),
    )
    .expect("a journal");
    let mut ledger =
        Ledger::open(SqliteStore::open(&state.ledger()).await.expect("a store"), "h").await.expect("a ledger");
    let drafts = drafts(300);
    for (round, part) in drafts.chunks(150).enumerate() {
        for draft in part {
            journal.append(draft.clone()).await.expect("appended");
        }
        journal.flush().await.expect("flushed");
        let next = journal.tail().next();
        let signature = signer.0.sign_chain_head(next.sequence - 1, &next.prev).expect("signed");
        let signed = SignedHead { sequence: next.sequence - 1, leaf: next.prev, signature };
        head::store(journal.dir(), &signed).expect("stored");
        if round < 3 {
            let batch = journal.reader(ledger.cursor().sequence).batch(10_000, 1 << 30).expect("readable");
            ledger.ingest(&batch, Some(signed), Some(&*signer)).await.expect("ingested");
        }
    }
    (state, Verifier::parse_all(&signer.0.public_keys()).expect("public keys"))
}

async fn audit(state: &StateDir, keys: &[Verifier]) -> Report {
    let journal = state.journal();
    let signed = crate::keeper::ledger_key::read_signed(&state.keeper()).expect("what was signed");
    let against = Against { host_id: "h", keys, journal: Some(&journal), signed, kept: &[], books: &[] };
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    // Before the file is put back: what is still open would have its say about the next one.
    store.close().await.expect("closed");
    report
}

/// Runs SQL as somebody with an editor would: with the triggers out of the way for a moment.
async fn edit(state: &StateDir, sql: &'static [&'static str]) {
    let mut connection =
        sqlx::sqlite::SqliteConnectOptions::new().filename(state.ledger()).connect().await.expect("opened");
    let names: Vec<(String, String)> = sqlx::query_as("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        .fetch_all(&mut connection)
        .await
        .expect("triggers");
    for (name, _) in &names {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP TRIGGER {name}")))
            .execute(&mut connection)
            .await
            .expect("dropped");
    }
    for statement in sql {
        let done = sqlx::query(*statement).execute(&mut connection).await.expect("edited");
        assert!(done.rows_affected() > 0, "{statement} changed nothing");
    }
    for (_, sql) in &names {
        sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect("put back");
    }
    connection.close().await.expect("closed");
}

#[tokio::test]
async fn a_sound_ledger_passes_and_any_hand_edit_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let sound = audit(&state, &keys).await;
    assert_eq!(sound.findings, []);
    assert_eq!((sound.leaves, sound.journal_records, sound.checkpoints, sound.heads, sound.tiles), (450, 90, 3, 3, 1));
    let kept = std::fs::read(state.ledger()).expect("the ledger");
    let edits: [&[&str]; 27] = [
        &[
            "UPDATE events SET data = CAST(substr(data, 1, 600) || x'2a' || substr(data, 602) AS BLOB) WHERE first = 150",
        ],
        &["DELETE FROM events WHERE first = 150"],
        &["DELETE FROM events WHERE first = (SELECT max(first) FROM events)"],
        &["UPDATE events SET min_ms = min_ms - 1 WHERE first = 0"],
        &["UPDATE events SET max_ms = max_ms + 1 WHERE first = 256"],
        &["UPDATE events SET count = count - 1 WHERE first = 0"],
        &["UPDATE events SET data = CAST(data || x'00' AS BLOB) WHERE first = 256"],
        &["UPDATE events SET first = first + 1000 WHERE first = 300"],
        &["UPDATE tiles SET data = CAST(substr(data, 1, 8191) || iif(substr(data, -1) = x'00', x'01', x'00') AS BLOB)"],
        &["DELETE FROM tiles"],
        &["INSERT INTO tiles SELECT 1, 0, data FROM tiles"],
        &[
            "UPDATE edges SET data = CAST(substr(data, 1, length(data) - 1) || iif(substr(data, -1) = x'00', x'01', x'00') AS BLOB) WHERE level = 0",
        ],
        &["DELETE FROM edges WHERE level = 1"],
        &["UPDATE checkpoints SET note = replace(note, '150', '151') WHERE size = 150"],
        &["UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 300) WHERE size = 150"],
        &["DELETE FROM checkpoints WHERE size = 150"],
        &["UPDATE checkpoints SET size = size + 1 WHERE size = 300"],
        &["UPDATE host_heads SET leaf = (SELECT leaf FROM host_heads WHERE sequence = 149) WHERE sequence = 299"],
        &[
            "UPDATE host_heads SET signature = CAST(substr(signature, 1, length(signature) - 1) || iif(substr(signature, -1) = x'00', x'01', x'00') AS BLOB) WHERE sequence = 149",
        ],
        &["DELETE FROM host_heads WHERE sequence = 149"],
        &["UPDATE log SET size = size - 1"],
        &["UPDATE log SET root = (SELECT leaf FROM host_heads WHERE sequence = 149)"],
        &["UPDATE log SET next_sequence = next_sequence - 1"],
        &["UPDATE log SET origin = 'caracal/other/ledger'"],
        &["UPDATE totals SET nano = nano - 1"],
        &["UPDATE spend SET nano = nano - 1"],
        &["DELETE FROM open_intents WHERE leaf = 0"],
    ];
    for sql in edits {
        edit(&state, sql).await;
        assert!(!audit(&state, &keys).await.findings.is_empty(), "{sql:?} was not found");
        put_back(&state, &kept);
    }
    assert_eq!(audit(&state, &keys).await.findings, []);
    // The whole ledger rolled back to an older, sound one.
    let older: &[&str] = &[
        "DELETE FROM events WHERE first >= 300",
        "DELETE FROM checkpoints WHERE size > 300",
        "DELETE FROM host_heads WHERE sequence > 299",
    ];
    edit(&state, older).await;
    assert!(!audit(&state, &keys).await.findings.is_empty());
    put_back(&state, &kept);
    let mut connection =
        sqlx::sqlite::SqliteConnectOptions::new().filename(state.ledger()).connect().await.expect("opened");
    assert!(sqlx::query("DELETE FROM events").execute(&mut connection).await.is_err(), "the triggers refuse");
    sqlx::query("DROP TRIGGER events_keep_update").execute(&mut connection).await.expect("dropped");
    connection.close().await.expect("closed");
    assert_eq!(audit(&state, &keys).await.findings[0].code, "schema");
}

fn put_back(state: &StateDir, bytes: &[u8]) {
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", state.ledger().display()));
    }
    std::fs::write(state.ledger(), bytes).expect("put back");
}

#[tokio::test]
async fn an_audit_accepts_a_gap_that_the_ledger_recorded_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, signer) = (StateDir::new(dir.path()), signer(dir.path()));
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let all = entries(&drafts(20));
    let mut ledger =
        Ledger::open(SqliteStore::open(&state.ledger()).await.expect("a store"), "h").await.expect("a ledger");
    ledger.ingest(&all[..10], None, Some(&*signer)).await.expect("ingested");
    ledger.ingest(&all[12..], None, Some(&*signer)).await.expect("ingested");
    drop(ledger);
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("public keys");
    let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &[] };
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    assert_eq!((report.findings, report.anomalies), (Vec::new(), 1));
}

#[tokio::test]
async fn a_changed_journal_head_or_wrong_key_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let segment = state.journal().join(format!("{:020}.seg", 0));
    let bytes = std::fs::read(&segment).expect("the segment");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("records") + 1;
    for at in (0..used).step_by(used / 23) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        std::fs::write(&segment, flipped).expect("written");
        assert!(!audit(&state, &keys).await.findings.is_empty(), "byte {at} of {used}");
    }
    std::fs::write(&segment, &bytes).expect("put back");
    let mut signed = head::load(&state.journal()).expect("readable").expect("a head");
    signed.sequence -= 1;
    head::store(&state.journal(), &signed).expect("stored");
    assert!(audit(&state, &keys).await.findings.iter().any(|finding| finding.code == "head_signature"));
    let other = tempfile::tempdir().expect("a directory");
    let strangers = Verifier::parse_all(&signer(other.path()).0.public_keys()).expect("keys");
    assert!(audit(&state, &strangers).await.findings.iter().any(|finding| finding.code == "checkpoint"));
}

#[tokio::test]
async fn a_receipt_convinces_with_the_public_key_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let read = || async { SqliteStore::read(&state.ledger()).await.expect("a store") };
    let (events, _) = query::events(&state, &query::Filter::default(), 1_000).await.expect("events");
    assert_eq!(events.len(), 540);
    for event in [&events[0], &events[255], &events[256], &events[449]] {
        let text = receipt::prove(&mut read().await, &event.record.id).await.expect("a receipt");
        // Either key alone is enough.
        for key in &keys[..2] {
            let proven = receipt::check(&text, std::slice::from_ref(key)).expect("it holds");
            assert_eq!((Some(proven.index), &proven.record), (event.index, &event.bytes));
        }
        assert!(receipt::check(&text, &keys[2..]).is_err(), "the host's key signs no checkpoints");
        let by_index = receipt::prove(&mut read().await, &event.index.expect("in the ledger").to_string())
            .await
            .expect("a receipt");
        assert_eq!(by_index, text);
        assert!(text.len() < 4_096);
    }
    // With both keys at hand, both must have signed: one of them may be stolen.
    let whole = receipt::prove(&mut read().await, "3").await.expect("a receipt");
    let signatures: Vec<&str> = whole.lines().filter(|line| line.starts_with('\u{2014}')).collect();
    assert_eq!(signatures.len(), 2);
    for line in signatures {
        let forged = whole.replacen(&format!("{line}\n"), "", 1);
        assert!(receipt::check(&forged, &keys).is_err(), "without {line}");
        assert!(keys[..2].iter().any(|key| receipt::check(&forged, std::slice::from_ref(key)).is_ok()));
    }
    // A witness may add its line: receipts and checkpoints say what they said. A line that claims to be a key's of ours must be.
    let note = whole.split_once("\n\n").expect("a checkpoint").1;
    let (proven, opened) = (receipt::check(&whole, &keys), Checkpoint::open(note, &keys));
    let line = |name: &str, id: [u8; 4]| {
        let signature = base64::engine::general_purpose::STANDARD.encode([&id[..], &[7; 72]].concat());
        format!("\u{2014} {name} {signature}\n")
    };
    for witness in
        [line("witness.example/w", [1; 4]), line(keys[0].name(), [1; 4]), line("witness.example/w", keys[0].id())]
    {
        let checked = receipt::check(&format!("{whole}{witness}"), &keys);
        assert_eq!(checked.expect(&witness), *proven.as_ref().expect("it holds"));
        assert_eq!(Checkpoint::open(&format!("{note}{witness}"), &keys).ok(), opened.as_ref().ok().cloned());
        let alone = whole.replace(note, &format!("{}\n\n{witness}", note.split_once("\n\n").expect("lines").0));
        assert!(receipt::check(&alone, &keys).is_err(), "{witness} alone");
    }
    let forged = line(keys[0].name(), keys[0].id());
    assert!(
        receipt::check(&format!("{whole}{forged}"), &keys).is_err()
            && Checkpoint::open(&format!("{note}{forged}"), &keys).is_err()
    );
    assert!(receipt::prove(&mut read().await, "450").await.is_err());
    assert!(receipt::prove(&mut read().await, "no such id").await.is_err());
    let text = receipt::prove(&mut read().await, "3").await.expect("a receipt");
    let end = text.find("\n\n").expect("a checkpoint")
        + 2
        + text[text.find("\n\n").expect("one") + 2..].find("\n\n").expect("lines");
    for at in 0..end {
        let mut bad = text.clone().into_bytes();
        bad[at] ^= 1;
        if let Ok(bad) = String::from_utf8(bad) {
            assert!(receipt::check(&bad, &keys).is_err(), "byte {at} changed and it still holds");
        }
    }
}

#[tokio::test]
async fn an_export_holds_the_tree() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let out = dir.path().join("export");
    for _ in 0..2 {
        let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
        assert_eq!(export::export(&mut store, &out, &mut |_, _| {}).await.expect("exported"), 450);
    }
    let note = std::fs::read_to_string(out.join("checkpoint")).expect("a checkpoint");
    let checkpoint = Checkpoint::open(&note, &keys).expect("a checkpoint");
    let mut leaves = Vec::new();
    for name in ["tile/entries/000", "tile/entries/001.p/194"] {
        let bundle = std::fs::read(out.join(name)).expect("a bundle");
        leaves.extend(store::Records(&bundle).map(leaf_hash));
    }
    assert_eq!((leaves.len() as u64, naive_root(&leaves)), (checkpoint.size, checkpoint.root));
    let tiles: Vec<u8> = ["tile/0/000", "tile/0/001.p/194"]
        .iter()
        .flat_map(|name| std::fs::read(out.join(name)).expect("a tile"))
        .collect();
    assert_eq!(tiles, leaves.as_flattened());
    assert_eq!(std::fs::read(out.join("tile/1/000.p/1")).expect("a tile"), naive_root(&leaves[..256]));
}

#[tokio::test]
async fn the_running_ledger_recovers_signs_and_lets_segments_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = StateDir::new(dir.path());
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let signer = signer(dir.path());
    let options = Options { segment_bytes: 128 << 10, kept: 64, ..Options::default() };
    let pace =
        RunOptions { gather: Duration::from_millis(1), head_every: Duration::from_millis(5), ..RunOptions::default() };
    let mut expected = 0;
    for round in 0..3u128 {
        let mut ledger =
            Ledger::open(SqliteStore::open(&state.ledger()).await.expect("a store"), "h").await.expect("a ledger");
        let options = Options { start: ledger.cursor(), ..options.clone() };
        let (journal, _) =
            Journal::open(&state.journal(), &state.detail_keys(), "h", options, &Clock::fixed(UnixNanos(1)))
                .expect("a journal");
        let recovery = ledger.recover(&journal).await.expect("recovered");
        assert_eq!(recovery.open.len(), usize::from(round > 0));
        for intent in &recovery.open {
            journal.durable(intent.crash_outcome(UnixNanos(1_790_000_000_000_000_000))).await.expect("durable");
            expected += intent.hold.0;
        }
        let view = crate::spend::View::default();
        let handle = spawn(ledger, &journal, signer.clone(), view.clone(), pace).expect("running");
        for number in 0..200 {
            journal.append(paid(Kind::Intent, call(round * 1_000 + number))).await.expect("appended");
            journal.append(paid(Kind::Outcome, call(round * 1_000 + number))).await.expect("appended");
            expected += 1_234;
        }
        let progress = handle.flush().await.expect("flushed");
        assert_eq!((progress.size, progress.checkpoint), (journal.tail().next().sequence, progress.size));
        let total: u64 = query::spend(&state, &query::Filter::default())
            .await
            .expect("spend")
            .iter()
            .map(|(_, spend)| spend.cost.0)
            .sum();
        assert_eq!(total, expected);
        // A daemon that dies here has sent this call, perhaps.
        journal.durable(paid(Kind::Intent, call(round * 1_000 + 999))).await.expect("durable");
        drop(handle);
        journal.flush().await.expect("flushed");
        let window = paid(Kind::Intent, call(0)).data.windows.remove(0);
        let total = query::budget_window(&state, &window.budget, &window.scope, &window.window).await.expect("a total");
        assert_eq!(total, NanoUsd(expected));
    }
    let segments = std::fs::read_dir(state.journal()).expect("the journal").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "seg"))
    });
    assert_eq!(segments.count(), 1, "segments that the ledger holds are deleted");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let report = audit(&state, &keys).await;
    assert_eq!(report.findings, []);
    assert!(report.heads > 0 && report.checkpoints > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_a_daemon_lets_go_during_an_audit_are_no_fault() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, signer) = (StateDir::new(dir.path()), signer(dir.path()));
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let store = SqliteStore::open(&state.ledger()).await.expect("a store");
    let ledger = Ledger::open(store, "h").await.expect("a ledger");
    let options = Options { segment_bytes: 80 << 10, kept: 64, ..Options::default() };
    let (journal, _) = Journal::open(&state.journal(), &state.detail_keys(), "h", options, &Clock::fixed(UnixNanos(1)))
        .expect("a journal");
    let pace =
        RunOptions { gather: Duration::from_millis(1), head_every: Duration::from_millis(5), ..RunOptions::default() };
    let handle = spawn(ledger, &journal, signer.clone(), crate::spend::View::default(), pace).expect("running");
    let more = async |from: u128| {
        for number in from..from + 400 {
            journal.append(paid(Kind::Intent, call(number))).await.expect("appended");
            journal.append(paid(Kind::Outcome, call(number))).await.expect("appended");
        }
        handle.flush().await.expect("flushed");
        // Behind the release that follows the commit.
        journal.probe().await.expect("alive");
    };
    let oldest = || crate::journal::Reader::of_files(&state.journal(), 0).oldest().expect("listed").expect("a segment");
    more(0).await;
    // Some that only the journal has when the audit begins, perhaps.
    journal.durable(paid(Kind::Intent, call(9_999))).await.expect("durable");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let dir = state.journal();
    for round in 1..4u128 {
        let signed = crate::keeper::ledger_key::read_signed(&state.keeper()).expect("what was signed");
        let against = Against { host_id: "h", keys: &keys, journal: Some(&dir), signed, kept: &[], books: &[] };
        let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
        let (before, mut went_on) = (oldest(), false);
        let mut meanwhile = |_, _| {
            if !std::mem::replace(&mut went_on, true) {
                let going_on = more(round * 1_000);
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(going_on));
            }
        };
        let report = verify(&mut store, &against, &mut meanwhile).await.expect("an audit");
        assert_eq!(report.findings, [], "round {round}");
        assert!(went_on && oldest() > before, "no segment was let go");
    }
    drop(handle);
    let log = state.ledger().with_extension("sqlite-wal");
    assert!(log.metadata().map_or(true, |log| log.len() == 0), "the write-ahead log is merged at the end");
}

#[tokio::test]
async fn what_an_older_version_wrote_verifies_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, signer) = (StateDir::new(dir.path()), signer(dir.path()));
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let mut old = entries(&drafts(30));
    age(&mut old, 40);
    old.truncate(40);
    let store = SqliteStore::open(&state.ledger()).await.expect("a store");
    let mut ledger = Ledger::open(store, "h").await.expect("a ledger");
    ledger.ingest(&old, None, Some(&*signer)).await.expect("ingested");
    drop(ledger);
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let books = [crate::meter::PriceBook::built_in().expect("a book").into()];
    let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &books };
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    assert_eq!((report.leaves, report.findings), (40, Vec::new()));
}

#[tokio::test]
async fn a_bill_above_its_hold_is_remembered_and_a_wrong_charge_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = StateDir::new(dir.path());
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let book = crate::meter::PriceBook::built_in().expect("a book");
    let (mut intent, mut outcome) = (paid(Kind::Intent, call(1)), paid(Kind::Outcome, call(1)));
    intent.data.price_book = Some(book.id());
    outcome.data.price_entry = Some("0123456789abcdef".into());
    outcome.data.price_book = Some(book.id());
    let mut ledger =
        Ledger::open(SqliteStore::open(&state.ledger()).await.expect("a store"), "h").await.expect("a ledger");
    let (entries, signer) = (entries(&[intent, outcome]), signer(dir.path()));
    ledger.ingest(&entries, None, Some(&*signer)).await.expect("ingested");
    let overruns = ledger.store().overruns().await.expect("overruns");
    assert_eq!(
        overruns,
        [Overrun { provider: "openai".into(), model: "gpt-5".into(), entry: "0123456789abcdef".into() }]
    );
    drop(ledger);
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    let against =
        Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &[Arc::new(book)] };
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    assert_eq!(report.repriced, 1);
    assert_eq!(report.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["price"]);
}

#[tokio::test]
async fn a_users_events_are_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, _) = sample(dir.path()).await;
    let state = &state;
    let ask =
        |filter: query::Filter| async move { query::events(state, &filter, 10_000).await.expect("events").0.len() };
    assert_eq!(ask(query::Filter { uid: Some(1000), ..Default::default() }).await, 540);
    assert_eq!(ask(query::Filter { uid: Some(1001), ..Default::default() }).await, 0);
    assert_eq!(ask(query::Filter { agents: Some(vec!["other".into()]), ..Default::default() }).await, 0);
    std::fs::remove_file(state.detail_keys().join("coder.key")).expect("erased");
    assert_eq!(ask(query::Filter { uid: Some(1000), ..Default::default() }).await, 0);
    assert_eq!(ask(query::Filter::default()).await, 540);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_note_key_or_receipt_makes_it_panic(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Verifier::parse_all(&text);
        let _ = Checkpoint::open(&text, &[]);
        let _ = receipt::check(&text, &[]);
        let _ = receipt::check(&format!("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n{text}"), &[]);
        let _ = store::Records(&bytes).count();
        let mut changes = Changes::default();
        changes.post(0, &bytes, &HashMap::new());
        let _ = Data::default();
    }
}
