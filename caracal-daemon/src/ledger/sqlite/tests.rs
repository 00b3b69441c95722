//! A ledger that an earlier version wrote is read as it is, and goes on in the tables of this one: for each version, the tables
//! that it had, with the rows that it wrote into them.

use super::*;
use crate::clock::UnixNanos;
use crate::event::write::tests::paid;
use crate::event::{Draft, Kind, Record};
use crate::journal::SignedHead;
use crate::ledger::corrections::{Asker, Charge};
use crate::ledger::note::Verifier;
use crate::ledger::tests::{age, drafts, entries, signer};
use crate::ledger::verify::{Against, verify};
use crate::ledger::{Ledger, StateDir};
use sqlx::AssertSqlSafe;
use sqlx::migrate::Migrator;

/// The version of the tables that came with records of schema 3; before it they had schema 1.
const SCHEMA_3: usize = 3;

/// The tables of the first `version` migrations, filled with the rows of `donor`: each table that there was then, and each of its
/// columns. A migration that renames something needs a word here on what stood there before.
pub(crate) async fn as_of(migrations: &Migrator, version: usize, path: &Path, donor: &Path) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).page_size(PAGE_BYTES);
    let mut connection = options.journal_mode(SqliteJournalMode::Wal).connect().await.expect("a file");
    let first = migrations.iter().take(version).cloned().collect();
    Migrator::with_migrations(first).run(&mut connection).await.expect("its tables");
    sqlx::query("ATTACH ? AS donor").bind(donor.to_str()).execute(&mut connection).await.expect("the donor");
    let tables = sqlx::query_scalar::<_, String>(
        r"SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE '\_sqlx%' ESCAPE '\'",
    );
    for table in tables.fetch_all(&mut connection).await.expect("tables") {
        let columns = sqlx::query_scalar::<_, String>(
            r#"SELECT group_concat('"' || name || '"', ', ') FROM pragma_table_info(?, 'main')"#,
        );
        let columns = columns.bind(&table).fetch_one(&mut connection).await.expect("columns");
        let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM donor.{table}");
        sqlx::query(AssertSqlSafe(copy)).execute(&mut connection).await.expect("its rows");
    }
    connection.close().await.expect("closed");
}

/// What was written before, and what comes after: an outcome of a call that was open, a correction of a charge from before, and
/// a call of its own.
fn history() -> (Vec<Draft>, Vec<Draft>) {
    let before = drafts(300);
    let call = |number| uuid::Uuid::from_u128(number);
    let (sequence, charged) = before.iter().enumerate().find(|(_, draft)| draft.kind == Kind::Outcome).expect("one");
    let mut bytes = Vec::new();
    let (_dir, scribe) = crate::event::write::tests::scribe();
    scribe.seal(charged).expect("sealed").place(sequence as u64, &[0; 32], &mut bytes);
    let charge = Charge::of(Record::parse(&bytes).expect("a record")).expect("a charge");
    let asker = Asker { uid: 0, reason: "the invoice says so".into() };
    let correction = charge.correct(&[], -34, &asker, None, UnixNanos(charged.at.0 + 1)).expect("allowed");
    // Each fifth call was left open.
    let after =
        vec![paid(Kind::Outcome, call(5)), correction, paid(Kind::Intent, call(900)), paid(Kind::Outcome, call(900))];
    (before, after)
}

#[tokio::test]
async fn a_ledger_of_each_version_is_read_and_goes_on() {
    let newest = MIGRATIONS.iter().count();
    assert!(newest >= SCHEMA_3);
    for version in 1..=newest {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, signer) = (StateDir::new(dir.path()), signer(dir.path()));
        std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
        let (before, after) = history();
        let mut all = entries(&[before.clone(), after].concat());
        age(&mut all, if version < SCHEMA_3 { before.len() } else { 0 });
        let (old, new) = all.split_at(before.len());
        let last = old.last().expect("a record");
        let signature = signer.0.sign_chain_head(last.sequence, &last.leaf).expect("signed");
        let head = SignedHead { sequence: last.sequence, leaf: last.leaf, signature };

        // A ledger that never was an older one gives the rows, and says in the end what there should be.
        let donor = dir.path().join("donor.sqlite");
        let mut wanted = Ledger::open(SqliteStore::open(&donor).await.expect("a store"), "h").await.expect("a ledger");
        wanted.ingest(old, Some(head), Some(&*signer)).await.expect("ingested");
        as_of(&MIGRATIONS, version, &state.ledger(), &donor).await;

        let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
        let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &[] };
        let audit = async || {
            let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
            let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
            store.close().await.expect("closed");
            (report.leaves, report.findings)
        };
        assert_eq!(audit().await, (old.len() as u64, Vec::new()), "version {version} as it is");

        let store = SqliteStore::open(&state.ledger()).await.expect("the tables of this version");
        let mut ledger = Ledger::open(store, "h").await.expect("a ledger");
        assert_eq!(ledger.cursor(), wanted.cursor(), "version {version}");
        ledger.ingest(new, None, Some(&*signer)).await.expect("ingested");
        wanted.ingest(new, None, None).await.expect("ingested");
        assert_eq!(audit().await, (all.len() as u64, Vec::new()), "version {version} went on");
        let (store, wanted) = (ledger.store(), wanted.store());
        assert_eq!(store.totals().await.expect("totals"), wanted.totals().await.expect("totals"));
        assert_eq!(store.spend().await.expect("spend"), wanted.spend().await.expect("spend"));
        let corrections = store.corrections(None).await.expect("corrections");
        assert_eq!((corrections.len(), corrections), (1, wanted.corrections(None).await.expect("corrections")));
        let (state, wanted) = (store.load().await.expect("a state"), wanted.load().await.expect("a state"));
        assert_eq!((state.open, state.edges, state.position), (wanted.open, wanted.edges, wanted.position));
        assert_eq!(state.head, wanted.head);
    }
}
