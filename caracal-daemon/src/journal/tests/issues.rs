//! How other gateways lost records or counted in two places at once, tried here: each test carries the number of the report.
//! The trackers, at github.com: `litellm` BerriAI/litellm, `bifrost` maximhq/bifrost.

use super::*;

#[test]
fn bifrost_3547_a_second_daemon_cannot_spend_the_same_budgets() {
    // Each replica had a counter of its own: N replicas, N times the cap. Here one state has one daemon.
    let dir = tempfile::tempdir().expect("a directory");
    let (first, _) = open(dir.path());
    for _ in 0..3 {
        let second = open_with(dir.path(), options()).expect_err("one at a time");
        assert!(second.to_string().contains("another caracald"), "{second}");
    }
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn litellm_40385_a_backlog_refuses_and_drops_nothing_that_it_took() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) =
        open_with(dir.path(), Options { max_bytes: 2 * SEGMENT, queue: 64, ..options() }).expect("a journal");
    let mut taken = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    // Nobody reads: at some point there is no more room, and each is told.
    for number in 0..400u128 {
        let journal = journal.clone();
        tasks.spawn(async move { (number, journal.durable(intent(number)).await.is_ok()) });
    }
    let mut refused = 0;
    while let Some(done) = tasks.join_next().await {
        match done.expect("no panic") {
            (number, true) => taken.push(number),
            (_, false) => refused += 1,
        }
    }
    assert!(refused > 0 && !taken.is_empty());
    let mut there: Vec<u128> =
        journal.reader(0).batch(usize::MAX, usize::MAX).expect("readable").iter().filter_map(call).collect();
    there.sort_unstable();
    taken.sort_unstable();
    assert_eq!(there, taken);
}
