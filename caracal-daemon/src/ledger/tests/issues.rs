//! How other gateways lost what was spent, tried here: each test carries the number of the report that it is about.
//! The trackers, at github.com: `litellm` BerriAI/litellm, `openmeter` openmeterio/openmeter.

use super::*;

/// What `count` calls of [`drafts`] come to: 1,234 for each that ended, and an open hold for each that did not.
fn want(count: u128) -> (u64, usize) {
    let open = count.div_ceil(5);
    (u64::try_from(count - open).unwrap_or(0) * 1_234, usize::try_from(open).unwrap_or(0))
}

fn sums(ledger: &mut Ledger<MemoryStore>) -> (u64, usize) {
    (ledger.store().totals.values().map(|total| total.net().0).sum(), ledger.store().state.open.len())
}

#[tokio::test]
async fn litellm_33872_35531_openmeter_4902_a_commit_that_fails_loses_and_doubles_nothing() {
    let entries = entries(&drafts(60));
    for fault in [Fault::Before, Fault::After] {
        let mut ledger = memory().await;
        for batch in entries.chunks(9) {
            ledger.store().fault = Some(fault);
            assert!(ledger.ingest(batch, None, None).await.is_err());
            // Nothing was taken off a queue before the commit: the same records come again.
            ledger.ingest(batch, None, None).await.expect("the second time");
        }
        assert_eq!(sums(&mut ledger), want(60), "{fault:?}");
    }
}

#[tokio::test]
async fn litellm_29292_40385_a_long_backlog_is_taken_whole() {
    let entries = entries(&drafts(6_000));
    let mut ledger = memory().await;
    assert!(entries.len() > 2 * BATCH_RECORDS);
    for batch in entries.chunks(BATCH_RECORDS) {
        ledger.ingest(batch, None, None).await.expect("ingested");
    }
    assert_eq!(sums(&mut ledger), want(6_000));
    assert_eq!(ledger.size(), entries.len() as u64);
}

#[tokio::test]
async fn litellm_30684_a_store_of_an_old_snapshot_catches_up_before_it_counts() {
    let entries = entries(&drafts(50));
    // The snapshot knows the first ten records; the journal has them all.
    let mut restored = memory().await;
    restored.ingest(&entries[..10], None, None).await.expect("ingested");
    let behind = sums(&mut restored).0;
    restored.ingest(&entries, None, None).await.expect("caught up");
    assert!(behind < want(50).0);
    assert_eq!(sums(&mut restored), want(50));
}

#[tokio::test]
async fn litellm_28247_as_many_restarts_as_there_are_add_nothing() {
    let entries = entries(&drafts(30));
    let mut ledger = memory().await;
    for _ in 0..5 {
        ledger.ingest(&entries, None, None).await.expect("ingested");
        assert_eq!(sums(&mut ledger), want(30));
    }
    // And the open calls of a crash are charged once, however often a start is tried.
    let totals: HashMap<_, _> = ledger.store().totals.iter().map(|(key, total)| (key.clone(), total.net())).collect();
    let open = ledger.store().state.open.clone();
    let mut recovery = Recovery { totals: totals.clone(), credited: HashMap::new(), open };
    let outcomes = recovery.charge_open(UnixNanos(9));
    assert_eq!(outcomes.len(), want(30).1);
    assert!(recovery.charge_open(UnixNanos(9)).is_empty());
    let added: u64 = recovery.totals.values().map(|total| total.0).sum::<u64>() - want(30).0;
    assert_eq!(added, 5_000 * want(30).1 as u64);
}

#[tokio::test]
async fn litellm_1714_13280_a_record_that_is_missing_is_seen() {
    let mut entries = entries(&drafts(20));
    entries.remove(7);
    let count = entries.len() as u64;
    let mut ledger = memory().await;
    ledger.ingest(&entries, None, None).await.expect("ingested");
    assert_eq!(ledger.size(), count + 1, "a leaf says that one is missing");
}

#[tokio::test]
async fn litellm_19163_what_was_spent_counts_without_a_view_and_is_never_let_fall_in_silence() {
    // There, the write of a charge did nothing, and said nothing, where no cache was configured.
    let entries = entries(&drafts(60));
    let mut ledger = memory().await;
    // No view of spend and no signature: the sums that budgets start from are there.
    ledger.ingest(&entries, None, None).await.expect("ingested");
    assert_eq!(sums(&mut ledger), want(60));
    // A store that takes nothing says so, and has counted nothing; once it takes them, all of them count.
    let mut ledger = memory().await;
    ledger.store().fault = Some(Fault::Before);
    assert!(ledger.ingest(&entries, None, None).await.is_err(), "a charge that was not written is an error");
    assert_eq!(sums(&mut ledger), (0, 0));
    ledger.ingest(&entries, None, None).await.expect("the second time");
    assert_eq!(sums(&mut ledger), want(60));
    // And without a store there is no ledger, so no daemon that would serve without one.
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = dir.path().join("file");
    std::fs::write(&nowhere, "not a directory").expect("written");
    assert!(SqliteStore::open(&nowhere.join("ledger")).await.is_err());
}
