//! Ledgers that somebody wrote with the log's own keys: every hash, sum and signature is right, and the story is not.

use super::*;
use crate::event::WindowKey;
use crate::ledger::files::Files;
use crate::ledger::files_verify;

/// The audits of a ledger of these records: of its database, and of its files.
async fn audited(drafts: &[Draft]) -> [Report; 2] {
    audited_entries(&entries(drafts)).await
}

async fn audited_entries(entries: &[Entry]) -> [Report; 2] {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, signer) = (dir.path().join("ledger.sqlite"), signer(dir.path()));
    let mut ledger = Ledger::open(SqliteStore::open(&file).await.expect("a store"), "h").await.expect("a ledger");
    ledger.ingest(entries, None, Some(&*signer)).await.expect("ingested");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("public keys");
    let books = [Arc::new(crate::meter::PriceBook::built_in().expect("a book"))];
    let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &books };
    let mut store = SqliteStore::read(&file).await.expect("a store");
    let of_database = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    let out = dir.path().join("export");
    export::export(ledger.store(), &out, &mut |_, _| {}).await.expect("exported");
    let mut files = Files::Folder(out);
    let of_files = files_verify::verify(&mut files, &keys, &[], &books, &mut |_, _| {}).await.expect("read");
    [of_database, of_files]
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

/// An intent and an outcome of call `number`, which `end` finishes.
fn ended(number: u128, end: impl FnOnce(&mut Data)) -> [Draft; 2] {
    let mut outcome = paid(Kind::Outcome, call(number));
    end(&mut outcome.data);
    [paid(Kind::Intent, call(number)), outcome]
}

fn unseen(settle: &'static str, cost: Option<u64>) -> impl FnOnce(&mut Data) {
    move |data| {
        (data.settle, data.cost) = (Some(settle), cost.map(NanoUsd));
        (data.usage, data.served) = (None, None);
    }
}

#[tokio::test]
async fn an_outcome_that_is_not_its_intents_is_found() {
    let crashed = OpenIntent::crash_outcome;
    let mut honest = Vec::new();
    honest.extend(ended(1, |_| {}));
    honest.extend(ended(2, unseen("charged_max", Some(5_000))));
    // A stream that passed its hold.
    honest.extend(ended(3, unseen("charged_max", Some(5_001))));
    honest.extend(ended(4, unseen("released", Some(0))));
    // A wait for the journal that was given up.
    honest.extend(ended(5, unseen("released", None)));
    honest.extend(ended(6, |data| data.windows = Vec::new()));
    honest.extend(ended(7, |data| data.cost = Some(NanoUsd(9_000))));
    let mut ledger = memory().await;
    ledger.ingest(&entries(&[paid(Kind::Intent, call(8))]), None, None).await.expect("ingested");
    let open = ledger.store().state.open.remove(0);
    honest.extend([paid(Kind::Intent, call(8)), crashed(&open, UnixNanos(1_790_000_000_000_000_000))]);
    for report in audited(&honest).await {
        assert_eq!((codes(&report), report.not_repriced), (vec![], 3));
    }
    let elsewhere = WindowKey { budget: "other".into(), scope: "".into(), window: "total".into() };
    let forged: [[Draft; 2]; 11] = [
        ended(1, unseen("charged_max", Some(1))),
        ended(1, unseen("charged_max", Some(4_999))),
        ended(1, unseen("released", Some(1))),
        ended(1, |data| (data.settle, data.cost) = (Some("released"), None)),
        ended(1, unseen("settled", Some(1))),
        ended(1, |data| data.served = None),
        ended(1, |data| data.cost = None),
        ended(1, |data| data.windows = vec![elsewhere]),
        ended(1, |data| data.model = Some("gpt-5-nano".into())),
        ended(1, |data| data.settle = None),
        {
            let [mut intent, mut outcome] = ended(1, |_| {});
            intent.data.price_book = Some("2026-11-24@0000000000000000".into());
            outcome.data.price_book = Some("2026-11-24@1111111111111111".into());
            [intent, outcome]
        },
    ];
    for (number, forged) in forged.iter().enumerate() {
        for report in audited(forged).await {
            assert_eq!(codes(&report), ["outcome"], "forgery {number}");
        }
    }
}

/// The audit of files of a log called `h` with these leaves, whatever they are.
async fn audited_leaves(leaves: &[Vec<u8>]) -> Report {
    let dir = tempfile::tempdir().expect("a directory");
    let signer = signer(dir.path());
    let (mut chunk, mut tree) =
        (store::Chunk { first: 0, count: 0, min_ms: 0, max_ms: 0, data: Vec::new() }, Tree::default());
    for leaf in leaves {
        chunk.count += 1;
        chunk.data.extend_from_slice(&u16::try_from(leaf.len()).expect("short").to_be_bytes());
        chunk.data.extend_from_slice(leaf);
        tree.append(leaf_hash(leaf), &mut Vec::new());
    }
    let (size, root) = (chunk.count, tree.root());
    let mut ledger = memory().await;
    let store = ledger.store();
    store.chunks.push(chunk);
    store.state.edges = tree.edges().to_vec();
    store.state.position = Some(store::Position { origin: String::new(), size, root, cursor: Default::default() });
    store.state.checkpoint = Some((size, signer.0.sign_checkpoint(size, root, &[]).expect("signed")));
    let out = dir.path().join("export");
    export::export(store, &out, &mut |_, _| {}).await.expect("exported");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("public keys");
    let books = [Arc::new(crate::meter::PriceBook::built_in().expect("a book"))];
    files_verify::verify(&mut Files::Folder(out), &keys, &[], &books, &mut |_, _| {}).await.expect("read")
}

#[tokio::test]
async fn whatever_rules_the_first_leaf_chooses_charges_are_made_again() {
    let book = crate::meter::PriceBook::built_in().expect("a book");
    let mut drafts = ended(1, |_| {});
    drafts.iter_mut().for_each(|draft| draft.data.price_book = Some(book.id()));
    let wrong = entries(&drafts);
    let records: Vec<Vec<u8>> = wrong.iter().map(|entry| entry.bytes.clone()).collect();
    let report = audited_leaves(&records).await;
    assert_eq!((codes(&report), report.repriced), (vec!["price"], 1));
    // A gap of another host before it: then the log passes for one of many hosts.
    let open = HashMap::new();
    let mut sequencer = Sequencer::new("/caracal/x", Tree::default(), Start::default(), &open);
    sequencer.anomaly(sequence::GAP, &wrong[1]);
    let (_, batch, _) = sequencer.finish("");
    let gap = batch.chunks[0].records().next().expect("a leaf").to_vec();
    let report = audited_leaves(&[vec![gap], records].concat()).await;
    assert_eq!((codes(&report), report.repriced), (vec!["price"], 1));
}

#[tokio::test]
async fn a_hosts_ledger_has_no_others_records() {
    let (_dir, scribe) = write::tests::scribe();
    let mut bytes = Vec::new();
    scribe.seal(&paid(Kind::Intent, call(1))).expect("sealed").place(0, &[0; 32], &mut bytes);
    let stranger = Entry { sequence: 0, prev: [0; 32], leaf: leaf_hash(&bytes), bytes };
    let [of_database, _] = audited_entries(&[stranger]).await;
    assert_eq!(codes(&of_database), ["source"]);
}

#[tokio::test]
async fn a_charge_of_no_open_call_is_found_where_nothing_is_missing() {
    let first = ended(1, |_| {});
    let again = |settle, cost| ended(1, unseen(settle, cost))[1].clone();
    let with = |more: &[Draft]| [&first[..], more].concat();
    for report in audited(&with(&[again("released", Some(0)), again("released", None)])).await {
        assert_eq!(codes(&report), Vec::<&str>::new(), "nobody paid, and nothing was given back");
    }
    for stray in [again("charged_max", Some(9_000)), again("released", Some(1)), paid(Kind::Outcome, call(77))] {
        for report in audited(&with(&[stray])).await {
            assert_eq!(codes(&report), ["stray"]);
        }
    }
    // A record that is missing may be the intent: a leaf says that one is.
    let mut gap = entries(
        &[&ended(1, |_| {})[..1], &ended(2, |_| {})[..1], &ended(1, |_| {})[1..], &ended(2, |_| {})[1..]].concat(),
    );
    gap.remove(1);
    for report in audited_entries(&gap).await {
        assert_eq!((codes(&report), report.anomalies), (vec![], 1));
    }
}

#[tokio::test]
async fn only_the_first_outcome_of_a_call_is_a_charge() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = StateDir::new(dir.path());
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let mut ledger =
        Ledger::open(SqliteStore::open(&state.ledger()).await.expect("a store"), "h").await.expect("a ledger");
    let [intent, outcome] = ended(1, |_| {});
    let stray = ended(1, unseen("charged_max", Some(9_000)))[1].clone();
    ledger.ingest(&entries(&[intent, outcome, stray]), None, None).await.expect("ingested");
    drop(ledger);
    let mut found = Vec::new();
    let each = charges::each(&state, charges::Span::ALL, |one| {
        found.push((one.leaf, one.charge.cost.0));
        std::ops::ControlFlow::Continue(())
    });
    each.await.expect("read");
    assert_eq!(found, [(1, 1_234)]);
}

#[tokio::test]
async fn a_ledger_whose_every_checkpoint_was_taken_away_is_not_sound() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    // What was signed and the journal stayed with the host: this is a copy.
    let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &[] };
    let audit = async || {
        let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
        verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit")
    };
    let sound = audit().await;
    assert_eq!((codes(&sound), sound.covered), (vec![], 450));
    edit(&state, &["DELETE FROM checkpoints", "DELETE FROM host_heads", "UPDATE log SET checkpoints = 0, heads = 0"])
        .await;
    let stripped = audit().await;
    assert_eq!((codes(&stripped), stripped.covered), (vec!["unsigned_log"], 0));
}
