use super::super::memory::{Fault, MemoryStore};
use super::super::tree::tests::naive_root;
use super::*;
use crate::bus::signed_run::tests::Host;
use proptest::prelude::*;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

async fn open() -> Fleet<MemoryStore> {
    Fleet::open(MemoryStore::default(), "fleet-0").await.expect("a log")
}

/// Brings in messages that begin at the log's next offset.
async fn take(fleet: &mut Fleet<MemoryStore>, runs: Vec<(SignedRun, u32)>) -> Ingested {
    let from = fleet.next_offset();
    let arrivals: Vec<Arrival> = (from..).zip(runs).map(|(offset, run)| Arrival { offset, run: Ok(run) }).collect();
    let plan = fleet.plan(&arrivals).await.expect("a plan");
    fleet.commit(plan, None).await.expect("a commit")
}

fn kinds(fleet: &mut Fleet<MemoryStore>) -> Vec<String> {
    let store = fleet.ledger().store();
    let records = store.chunks.iter().flat_map(|chunk| chunk.records().map(<[u8]>::to_vec).collect::<Vec<_>>());
    records
        .map(|record| {
            let value: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
            let kind = value["type"].as_str().expect("a type").split('.').nth(1).expect("a word").to_owned();
            if kind == "decision" {
                value["sequence"].as_str().expect("a place").trim_start_matches('0').to_owned()
            } else {
                kind
            }
        })
        .collect()
}

fn leaves(fleet: &mut Fleet<MemoryStore>) -> Vec<Hash> {
    let store = fleet.ledger().store();
    store.chunks.iter().flat_map(|chunk| chunk.records().map(leaf_hash).collect::<Vec<_>>()).collect()
}

#[test]
fn hosts_are_kept_apart_in_one_tree() {
    block_on(async {
        let (mut a, mut b) = (Host::new("a"), Host::new("b"));
        let runs = [a.run(3), b.run(2), a.run(1), b.run(300)];
        let wanted: Vec<Hash> = runs.iter().flat_map(|run| run.records.iter().map(|record| record.leaf)).collect();
        let mut fleet = open().await;
        take(&mut fleet, runs.into_iter().map(|run| (run, 1)).collect()).await;
        assert_eq!(leaves(&mut fleet), wanted);
        let root = fleet.ledger().store().state.position.as_ref().expect("a position").root;
        assert_eq!(root, naive_root(&wanted));
        assert_eq!((fleet.hosts()["a"].chain.next, fleet.hosts()["b"].chain.next), (4, 302));
    });
}

#[test]
fn what_comes_again_is_dropped_however_it_is_cut() {
    block_on(async {
        let mut host = Host::new("a");
        let (one, two) = (host.run(5), host.run(5));
        let all = [one.records.clone(), two.records.clone()].concat();
        let overlap = host.sign(all[3..8].to_vec());
        let more = [&all[6..], &host.run(2).records].concat();
        let more = host.sign(more);
        let mut fleet = open().await;
        // In one batch, and in one after the other.
        take(&mut fleet, vec![(one.clone(), 1), (one.clone(), 1), (overlap.clone(), 1)]).await;
        let ingested = take(&mut fleet, vec![(one, 1), (overlap, 1), (two, 1), (more, 1)]).await;
        assert_eq!(ingested.duplicates, 5 + 5 + 3 + 4);
        assert_eq!(fleet.ledger().size(), 12);
        assert_eq!(fleet.ledger().store().incidents, []);
        assert_eq!(fleet.next_offset(), 7);
    });
}

#[test]
fn missing_records_are_a_leaf_and_are_taken_when_they_come() {
    block_on(async {
        let mut host = Host::new("a");
        let (one, lost, three) = (host.run(2), host.run(3), host.run(2));
        let mut fleet = open().await;
        take(&mut fleet, vec![(one, 1), (three.clone(), 1)]).await;
        assert_eq!(kinds(&mut fleet), ["", "1", "gap", "5", "6"]);
        assert_eq!(fleet.hosts()["a"].chain.gaps.len(), 1);
        take(&mut fleet, vec![(lost.clone(), 1), (lost, 1), (three, 1)]).await;
        assert_eq!(kinds(&mut fleet), ["", "1", "gap", "5", "6", "2", "3", "4"]);
        assert_eq!(fleet.hosts()["a"].chain.gaps, []);
        assert_eq!(fleet.ledger().store().incidents, []);
    });
}

#[test]
fn two_histories_are_one_incident_and_the_end_until_it_is_enrolled_anew() {
    block_on(async {
        let mut host = Host::new("a");
        let first = host.run(4);
        let mut fleet = open().await;
        take(&mut fleet, vec![(first.clone(), 1)]).await;
        // The host was set back to its second record and goes on from there.
        (host.next, host.prev) = (2, first.records[1].leaf);
        let other: Vec<_> = (0..3).map(|_| host.record("y")).collect();
        let other = host.sign(other);
        let after = host.run(1);
        take(&mut fleet, vec![(other.clone(), 1), (after, 1)]).await;
        let codes: Vec<_> = fleet.ledger().store().incidents.iter().map(|one| (one.offset, one.code)).collect();
        assert_eq!(codes, [(1, "forked"), (2, "forked")]);
        assert_eq!(kinds(&mut fleet), ["", "1", "2", "3", "fork"]);
        // The same, each in a batch of its own, is the same tree.
        let mut again = open().await;
        take(&mut again, vec![(first, 1)]).await;
        take(&mut again, vec![(other, 1)]).await;
        assert_eq!(leaves(&mut again), leaves(&mut fleet));
        // Enrolled anew it begins a new chain, and the old key is worth nothing.
        (host.next, host.prev) = (0, [0; 32]);
        let anew = host.record("new");
        let anew = host.sign(vec![anew]);
        take(&mut fleet, vec![(anew.clone(), 2), (anew, 1)]).await;
        assert_eq!(kinds(&mut fleet), ["", "1", "2", "3", "fork", "restart", ""]);
        assert_eq!(fleet.ledger().store().incidents.last().map(|one| one.code), Some("forked"));
        assert_eq!((fleet.hosts()["a"].chain.next, fleet.hosts()["a"].chain.began), (1, 5));
    });
}

#[test]
fn a_new_key_alone_is_no_new_beginning() {
    block_on(async {
        let mut host = Host::new("a");
        let (one, two) = (host.run(2), host.run(2));
        let mut fleet = open().await;
        take(&mut fleet, vec![(one.clone(), 1), (one, 2), (two, 2)]).await;
        assert_eq!(kinds(&mut fleet), ["", "1", "2", "3"]);
        assert_eq!(fleet.hosts()["a"].chain.enrolment, 2);
        assert_eq!(fleet.ledger().store().incidents, []);
    });
}

#[test]
fn what_is_refused_is_an_incident_and_moves_the_offset() {
    block_on(async {
        let mut fleet = open().await;
        let refused = Refused { why: Unfit::Unsigned, host: "x".into() };
        let plan = fleet.plan(&[Arrival { offset: 0, run: Err(refused) }]).await.expect("a plan");
        assert_eq!((plan.leaves(), plan.incidents().len()), (0, 1));
        fleet.commit(plan, None).await.expect("a commit");
        assert_eq!((fleet.next_offset(), fleet.ledger().size()), (1, 0));
        assert_eq!(fleet.ledger().store().incidents[0].code, "unsigned");
    });
}

#[test]
fn money_of_two_hosts_does_not_mix() {
    use crate::event::{Kind, write};
    block_on(async {
        let call = uuid::Uuid::from_u128(7);
        let run = |host: &Host, kinds: &[Kind]| {
            let (mut prev, mut records) = ([0; 32], Vec::new());
            for (sequence, kind) in (0..).zip(kinds) {
                let (_dir, scribe) = write::tests::scribe();
                let mut bytes = Vec::new();
                scribe.seal(&write::tests::paid(*kind, call)).expect("sealed").place(sequence, &prev, &mut bytes);
                let leaf = leaf_hash(&bytes);
                records.push(Entry { sequence, prev, leaf, bytes });
                prev = leaf;
            }
            host.sign(records)
        };
        let (a, b) = (Host::new("a"), Host::new("b"));
        let mut fleet = open().await;
        // b says how a call of a's ended: that is not its call.
        take(&mut fleet, vec![(run(&a, &[Kind::Intent]), 1), (run(&b, &[Kind::Outcome]), 1)]).await;
        assert_eq!((fleet.hosts()["a"].open.len(), fleet.hosts()["b"].open.len()), (1, 0));
        take(&mut fleet, vec![(run(&a, &[Kind::Intent, Kind::Outcome]), 1)]).await;
        // The intent's bytes differ in their seal: another history of the same host.
        assert_eq!(fleet.ledger().store().incidents.len(), 1);
        assert_eq!(fleet.hosts()["a"].open.len(), 1);
    });
}

#[test]
fn a_correction_counts_in_the_minute_of_its_charge_and_in_its_windows() {
    use crate::event::{Kind, Record, write};
    use crate::ledger::books::Total;
    use crate::ledger::corrections::{Asker, Charge};
    use crate::money::NanoUsd;
    block_on(async {
        let call = uuid::Uuid::from_u128(7);
        let (_dir, scribe) = write::tests::scribe();
        let (mut prev, mut records) = ([0; 32], Vec::new());
        let mut add = |draft: &crate::event::Draft| {
            let (sequence, mut bytes) = (records.len() as u64, Vec::new());
            scribe.seal(draft).expect("sealed").place(sequence, &prev, &mut bytes);
            let leaf = leaf_hash(&bytes);
            records.push(Entry { sequence, prev, leaf, bytes: bytes.clone() });
            prev = leaf;
            Record::parse(&bytes).expect("a record")
        };
        add(&write::tests::paid(Kind::Intent, call));
        let charge = Charge::of(add(&write::tests::paid(Kind::Outcome, call))).expect("a charge");
        let asker = Asker { uid: 0, reason: "the bill".into() };
        let late = crate::clock::UnixNanos(charge.record.at.0 + 90 * 60_000_000_000);
        add(&charge.correct(&[], -234, &asker, None, late).expect("allowed"));
        let a = Host::new("a");
        let mut fleet = open().await;
        let plan = fleet.plan(&[Arrival { offset: 0, run: Ok((a.sign(records), 1)) }]).await.expect("a plan");
        let changes = &plan.part.changes["a"];
        let totals: Vec<Total> = changes.totals.values().copied().collect();
        assert_eq!(totals, [Total { charged: NanoUsd(1_234), credited: NanoUsd(234) }]);
        let minutes = changes.minutes.as_ref().expect("by minute");
        let rows: Vec<_> =
            minutes.iter().map(|(key, row)| (key.day.as_str(), row.calls, row.cost.0, row.credited.0)).collect();
        assert_eq!(rows, [("2026-09-21T14:13", 1, 1_234, 234)]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// However messages are cut into batches, and whatever commits fail with their answer lost or not: the same tree.
    #[test]
    fn batches_and_failures_do_not_matter(
        cuts in proptest::collection::vec(1usize..5, 1..12),
        faults in proptest::collection::vec(prop_oneof![3 => Just(None), 1 => Just(Some(Fault::Before)), 1 => Just(Some(Fault::After))], 12),
        sizes in proptest::collection::vec(1usize..200, 20),
        again in proptest::collection::vec(0usize..20, 6),
    ) {
        block_on(async {
            let mut hosts = [Host::new("a"), Host::new("b"), Host::new("c")];
            let mut runs: Vec<SignedRun> = sizes.iter().enumerate().map(|(at, size)| hosts[at % 3].run(*size)).collect();
            let model: Vec<Hash> = runs.iter().flat_map(|run| run.records.iter().map(|record| record.leaf)).collect();
            // Duplicates anywhere behind the first.
            let copies: Vec<SignedRun> = again.iter().map(|at| runs[*at].clone()).collect();
            runs.extend(copies);
            let arrivals: Vec<Arrival> =
                (0..).zip(runs).map(|(offset, run)| Arrival { offset, run: Ok((run, 1)) }).collect();
            let mut fleet = open().await;
            let (mut cuts, mut faults) = (cuts.iter().cycle(), faults.iter().cycle());
            while fleet.next_offset() < arrivals.len() as u64 {
                let from = fleet.next_offset() as usize;
                let upto = (from + cuts.next().expect("a size")).min(arrivals.len());
                let plan = fleet.plan(&arrivals[from..upto]).await.expect("a plan");
                fleet.ledger().store().fault = *faults.next().expect("a fault");
                let _ = fleet.commit(plan, None).await;
                fleet.ledger().store().fault = None;
                // A fault at each turn would never end.
                if fleet.next_offset() == from as u64 {
                    let plan = fleet.plan(&arrivals[from..upto]).await.expect("a plan");
                    fleet.commit(plan, None).await.expect("a commit");
                }
            }
            let found = leaves(&mut fleet);
            assert_eq!(found, model);
            assert_eq!(fleet.ledger().store().state.position.as_ref().expect("a position").root, naive_root(&model));
        });
    }
}
