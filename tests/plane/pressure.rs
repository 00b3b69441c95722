//! A full topic before a slow database: the worker takes no more than it can get rid of, and loses nothing.

use crate::SUBJECT;
use crate::cable::Mode;
use crate::host::{Host, leaf};
use crate::judge::{Hash, each_leaf};
use crate::plane::{PATIENCE, Plane, Wants, now, text};
use serde_json::{Map, json};
use support::netns::until;
use support::report;

/// Messages that wait in the topic, and what each holds.
const MESSAGES: usize = 400;
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 30 << 10;
/// The most memory that the worker may ever have had, KiB: less than what waits would take, once.
const MOST_KIB: u64 = 144 << 10;
const _: () = assert!((MESSAGES * RECORDS * RECORD_BYTES) as u64 >> 10 > MOST_KIB * 5 / 4);

#[test]
fn a_slow_database_holds_the_worker_back() {
    report::case(SUBJECT, "a full topic before a slow database", || {
        let plane = Plane::with(Wants { partitions: 1, cables: true, ..Wants::default() });
        let mut host = Host::new("h");
        plane.caracald(&["hosts", "enrol", text(&plane.file("h.pub", &host.public_key()))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (producer, at) = (plane.producer(), now("now").text);
        for _ in 0..MESSAGES {
            let records: Vec<_> = (0..RECORDS).map(|_| host.long(RECORD_BYTES, &at)).collect();
            runtime.block_on(host.message(&records).send(&producer, &plane.topic));
        }
        let cable = &plane.cables().postgres;
        cable.set(Mode::Slow);
        let worker = plane.worker("ledger");
        // It goes on all the while, in steps that the database can take, and the client's queue is full by then.
        let commits = || plane.count("SELECT sum(checkpoints) FROM logs");
        let goes_on = until("commits", PATIENCE, || commits() >= 3);
        assert!(goes_on.is_ok(), "{} commits\n{}", commits(), plane.log());
        let (slow, taken) = (most_memory(worker.pid()), plane.count("SELECT sum(size) FROM logs"));
        assert!(taken < host.leaves.len() as u64 / 2, "the topic is still full: {taken} are taken");
        cable.set(Mode::Whole);
        plane.settled(host.leaves.len() as u64);
        let most = most_memory(worker.pid());
        assert!(most < MOST_KIB, "{slow} KiB while the database was slow, {most} KiB at the end");
        let mut leaves: Vec<Hash> = Vec::new();
        each_leaf(&plane, |_, record| leaves.push(leaf(record)));
        assert!(leaves == host.leaves, "{} leaves of {}", leaves.len(), host.leaves.len());
        worker.stop();
        Map::from_iter([
            ("most_kib".into(), json!(most)),
            ("waited_kib".into(), json!((MESSAGES * RECORDS * RECORD_BYTES) >> 10)),
        ])
    });
}

/// The most memory that a process has had, KiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}
