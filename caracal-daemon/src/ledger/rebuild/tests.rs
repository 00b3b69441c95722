use super::*;
use crate::clock::UnixNanos;
use crate::event::DetailKeys;
use crate::ledger::StateDir;
use crate::ledger::query::Event;
use crate::ledger::select::{Selection, select};
use crate::ledger::tests::{drafts, entries, sample, signer};

async fn selected(state: &StateDir, selection: &Selection) -> Vec<Event> {
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut found = Vec::new();
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    let mut keep = |event| {
        found.push(event);
        true
    };
    select(&mut store, selection, &keys, &mut keep).await.expect("selected");
    found
}

async fn lines(state: &StateDir) -> Vec<String> {
    let events = selected(state, &Selection::default()).await;
    events.iter().map(|event| crate::cli::events::line(event).expect("a line")).collect()
}

async fn made(dir: &Path, name: &str) -> Ledger<SqliteStore> {
    Ledger::open(SqliteStore::open(&dir.join(name)).await.expect("a store"), "h").await.expect("a ledger")
}

async fn against(ledger: &mut Ledger<SqliteStore>, state: &StateDir) -> Comparison {
    compare(ledger, &mut SqliteStore::read(&state.ledger()).await.expect("a store")).await.expect("compared")
}

#[tokio::test]
async fn the_same_records_give_the_same_root_books_and_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, _) = sample(dir.path()).await;
    let lines = lines(&state).await;
    assert_eq!(lines.len(), 450);
    let mut again = made(dir.path(), "again").await;
    from_lines(&mut again, lines.join("\n").as_bytes(), &mut |_| {}).await.expect("made again");
    let compared = against(&mut again, &state).await;
    assert!(compared.is_identical(), "{compared:?}");
    let mut stored =
        Ledger::open(SqliteStore::read(&state.ledger()).await.expect("a store"), "h").await.expect("opened");
    assert_eq!(again.cursor(), stored.cursor());
    let (one, other) = (again.store(), stored.store());
    assert_eq!(one.totals().await.expect("totals"), other.totals().await.expect("totals"));
    assert_eq!(one.spend().await.expect("spend"), other.spend().await.expect("spend"));
    let (one, other) = (one.load().await.expect("loaded"), other.load().await.expect("loaded"));
    assert_eq!((one.open, one.edges, one.position), (other.open, other.edges, other.position));
    // The bare records do as well, and the journal has more than the ledger yet.
    let bare: Vec<String> = selected(&state, &Selection::default())
        .await
        .iter()
        .map(|event| String::from_utf8(event.bytes.clone()).expect("text"))
        .collect();
    let mut again = made(dir.path(), "bare").await;
    from_lines(&mut again, bare.join("\n").as_bytes(), &mut |_| {}).await.expect("made again");
    assert!(against(&mut again, &state).await.is_identical());
    let mut again = made(dir.path(), "journal").await;
    from_journal(&mut again, &state.journal(), &mut |_| {}).await.expect("made again");
    let compared = against(&mut again, &state).await;
    assert_eq!((compared.rebuilt, compared.stored, compared.differs_at), (540, 450, None));
    assert!(!compared.is_identical());
}

#[tokio::test]
async fn what_differs_is_named_and_what_does_not_follow_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, _) = sample(dir.path()).await;
    let lines = lines(&state).await;
    let text = |lines: &[String]| lines.join("\n");
    let refused = async |name: &str, text: String| {
        let mut again = made(dir.path(), name).await;
        from_lines(&mut again, text.as_bytes(), &mut |_| {}).await.expect_err("refused").to_string()
    };
    let mut swapped = lines.clone();
    swapped.swap(7, 8);
    assert!(refused("swapped", text(&swapped)).await.contains("leaf 7 "));
    let missing = [&lines[..300], &lines[301..]].concat();
    assert!(refused("missing", text(&missing)).await.contains("leaf 300 "));
    let changed = |at: usize| {
        let mut lines = lines.clone();
        lines[at] = lines[at].replacen("coder", "codex", 1);
        assert_ne!(lines[at], lines[at].replacen("codex", "coder", 1));
        lines
    };
    assert!(refused("changed", text(&changed(100))).await.contains("leaf 101 "), "the chain breaks behind it");
    assert!(refused("garbage", "{}\n".into()).await.contains("line 1"));
    assert!(refused("long", "x".repeat(1 << 20)).await.contains("line 1"));
    // Nothing stands behind the last record: only the root shows it.
    let mut again = made(dir.path(), "last").await;
    from_lines(&mut again, text(&changed(449)).as_bytes(), &mut |_| {}).await.expect("made again");
    assert_eq!(against(&mut again, &state).await.differs_at, Some(449));
    // A journal that let its beginning go.
    let mut again = made(dir.path(), "gone").await;
    let journal = tempfile::tempdir().expect("a directory");
    std::fs::copy(state.journal().join(format!("{:020}.seg", 0)), journal.path().join(format!("{:020}.seg", 5)))
        .expect("copied");
    let error = from_journal(&mut again, journal.path(), &mut |_| {}).await.expect_err("refused");
    assert!(matches!(error, RebuildError::Begins(5)), "{error}");
}

#[tokio::test]
async fn leaves_that_the_ledger_wrote_itself_are_made_again_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, signer) = (StateDir::new(dir.path()), signer(dir.path()));
    std::fs::create_dir(dir.path().join("data")).expect("the data path's directory");
    let (good, other) = (entries(&drafts(20)), entries(&drafts(24)));
    let store = SqliteStore::open(&state.ledger()).await.expect("a store");
    let mut ledger = Ledger::open(store, "h").await.expect("a ledger");
    // A gap, a record in the place of one that is there, and one that follows another.
    for batch in [&good[..4], &good[6..8], &other[2..3], &other[8..9]] {
        ledger.ingest(batch, None, Some(&*signer)).await.expect("ingested");
    }
    let size = ledger.size();
    drop(ledger);
    let lines = lines(&state).await;
    assert_eq!(lines.len() as u64, size);
    let mut again = made(dir.path(), "again").await;
    from_lines(&mut again, lines.join("\n").as_bytes(), &mut |_| {}).await.expect("made again");
    let compared = against(&mut again, &state).await;
    assert!(compared.is_identical() && compared.rebuilt == 3 + 4 + 2 + 1, "{compared:?}");
}

#[tokio::test]
async fn a_selection_is_by_time_agent_decision_and_model() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, _) = sample(dir.path()).await;
    let count = async |selection: Selection| selected(&state, &selection).await.len();
    let all = selected(&state, &Selection::default()).await;
    assert_eq!(all.len(), 450);
    assert!(all.iter().zip(0..).all(|(event, index)| event.index == Some(index)), "oldest first");
    let only = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let settled = all.iter().filter(|event| event.record.data.settle.as_deref() == Some("settled")).count();
    assert!(settled > 0 && settled < 450);
    assert_eq!(count(Selection { decisions: only(&["settled"]), ..Selection::default() }).await, settled);
    assert_eq!(count(Selection { decisions: only(&["deny"]), ..Selection::default() }).await, 0);
    assert_eq!(count(Selection { agents: only(&["coder"]), ..Selection::default() }).await, 450);
    assert_eq!(count(Selection { agents: only(&["other"]), ..Selection::default() }).await, 0);
    assert_eq!(count(Selection { models: only(&["gpt-5", "another"]), ..Selection::default() }).await, 450);
    assert_eq!(count(Selection { models: only(&["gpt"]), ..Selection::default() }).await, 0);
    let at = all[0].record.at;
    let after = UnixNanos(at.0 + 1);
    let of_first = all.iter().filter(|event| event.record.at == at).count();
    assert_eq!(count(Selection { until: Some(after), ..Selection::default() }).await, of_first);
    assert_eq!(count(Selection { since: Some(after), ..Selection::default() }).await, 450 - of_first);
    assert_eq!(count(Selection { until: Some(at), ..Selection::default() }).await, 0);
}
