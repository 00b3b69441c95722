//! What goes wrong between the workers and the services, each while events flow. Afterwards nothing is lost or doubled, no
//! fork was signed, and the view is the ledger's. In each case the mistake that the fault tempts to is then planted, and must
//! be seen.

use crate::SUBJECT;
use crate::cable::{AtCommit, Mode};
use crate::fleet::{Clocks, Fleet, assert_sound};
use crate::host::Host;
use crate::judge::judge;
use crate::plane::{PATIENCE, Plane, Wants, text};
use crate::worker::Worker;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::netns::until;
use support::report::{self, seed};

const CABLES: Wants = Wants {
    partitions: 1,
    cables: true,
    secure: false,
    apart: false,
    disk_mib: None,
    kafka_disk_mib: None,
    alone: false,
};

/// Plays a fleet on a plane with a ledger worker and a spend worker, hurts it, and holds it against the model.
fn hurt(
    wants: Wants,
    events: u64,
    clocks: Clocks,
    hurt: impl FnOnce(&Plane, &Fleet, &mut Vec<Worker>) -> Map<String, Value>,
    planted: impl FnOnce(&Plane, &[Host]),
) -> Map<String, Value> {
    let plane = Plane::with(wants);
    let mut workers = vec![plane.worker("ledger"), plane.worker("spend")];
    let fleet = Fleet::start(&plane, if report::long() { events * 10 } else { events }, clocks);
    let mut more = hurt(&plane, &fleet, &mut workers);
    let hosts = fleet.settled(&plane);
    assert_sound(&plane, &hosts, &[]);
    workers.into_iter().for_each(Worker::stop);
    planted(&plane, &hosts);
    more.insert("seed".into(), json!(seed()));
    more.insert("events".into(), json!(hosts.iter().map(|host| host.leaves.len()).sum::<usize>()));
    more
}

/// As whoever owns the database could, past the triggers.
pub(crate) fn unguarded(plane: &Plane, sql: &str) {
    plane.query(&format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT"));
}

#[test]
fn a_commit_of_which_nobody_knows_whether_it_was() {
    report::case(SUBJECT, "COMMIT with unknown outcome", || {
        let cut = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            let cable = &plane.cables().postgres;
            let (mut cut, mut there) = (0, 0);
            for round in 0..12 {
                fleet.allow(fleet.total * (round + 1) / 13);
                let how = [AtCommit::Before, AtCommit::After, AtCommit::Between][round as usize % 3];
                let before = plane.count("SELECT sum(checkpoints) FROM logs");
                cable.cut_at_commit(how);
                cut += 1;
                let hit = until("a COMMIT is cut", PATIENCE, || cable.commits_cut() == cut);
                assert!(hit.is_ok(), "{how:?}\n{}", plane.log());
                // No worker tries again while the server is looked at, past the cable.
                cable.set(Mode::Cut);
                let signed = || plane.count("SELECT sum(checkpoints) FROM logs");
                if how == AtCommit::After {
                    until("the server does what it was told", PATIENCE, || signed() > before).expect("a commit");
                }
                std::thread::sleep(Duration::from_millis(100));
                let after = signed();
                cable.set(Mode::Whole);
                assert!(how != AtCommit::Before || after == before, "the server never heard of this one");
                there += u64::from(after > before);
            }
            Map::from_iter([("commits_cut".into(), json!(cut)), ("of_which_done".into(), json!(there))])
        };
        hurt(CABLES, 24_000, Clocks::True, cut, |plane, hosts| {
            // The batch again, as by a worker that takes an unknown COMMIT for a failed one.
            unguarded(
                plane,
                "INSERT INTO events SELECT log, first + 256, count, min_ms, max_ms, data FROM events ORDER BY first DESC LIMIT 1",
            );
            assert!(judge(plane, hosts, &[]).doubled > 0, "a batch that is there twice");
        })
    });
}

#[test]
fn a_script_of_which_nobody_knows_whether_it_was_done() {
    report::case(SUBJECT, "the answer of Redis is lost", || {
        let cut = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            let cable = &plane.cables().redis;
            let mark =
                || plane.redis(&["--raw", "HGET", "{caracal:test}:spend:mark", "0"]).concat().parse().unwrap_or(0);
            // Redis knows the script once a step is done: before, the first answer is only that it does not.
            until("the first step", PATIENCE, || mark() > 0_u64).expect("a watermark");
            let (mut cut, mut there) = (0, 0);
            for round in 0..9 {
                let how = [AtCommit::Before, AtCommit::After, AtCommit::Between][round as usize % 3];
                let written = || plane.count("SELECT max(upto) FROM charges");
                until("the view is the ledger's", PATIENCE, || mark() == written()).expect("a view");
                let before = mark();
                cable.cut_at_commit(how);
                cut += 1;
                fleet.allow(fleet.total * (round + 2) / 11);
                let hit = until("a script is cut", PATIENCE, || cable.commits_cut() == cut);
                assert!(hit.is_ok(), "{how:?}\n{}", plane.log());
                // What was cut is done or not, and then goes on from what Redis has.
                let moved = until("it goes on", PATIENCE, || mark() > before);
                assert!(moved.is_ok(), "{how:?}\n{}", plane.log());
                there += u64::from(how == AtCommit::After);
            }
            Map::from_iter([("scripts_cut".into(), json!(cut)), ("of_which_done".into(), json!(there))])
        };
        hurt(CABLES, 18_000, Clocks::True, cut, |plane, hosts| {
            // A step that is done again, as by a worker that takes a lost answer for a step that was not done.
            let day = plane.redis(&["--raw", "KEYS", "*:spend:day:*"]).pop().expect("a day");
            let fields = plane.redis(&["--raw", "HKEYS", &day]);
            let nano = fields.iter().find(|field| field.ends_with("\"nano\"]")).expect("an amount");
            plane.redis(&["HINCRBY", &day, nano, "1"]);
            assert!(!judge(plane, hosts, &[]).redis_equal, "a step that counts twice");
        })
    });
}

/// Takes all the room that is left where this file is.
pub(crate) fn fill_up(ballast: &Path) {
    let mut dd = Command::new("dd");
    let _full = dd.args(["if=/dev/zero", "bs=64k", &format!("of={}", text(ballast))]).stderr(Stdio::null()).status();
}

#[test]
fn a_disk_that_is_full() {
    report::case(SUBJECT, "PostgreSQL's disk is full", || {
        let wants = Wants { disk_mib: Some(256), partitions: 1, ..Wants::default() };
        let fill = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            let ballast = plane.disk().join("ballast");
            let mut died = 0_u64;
            for round in 0..2 {
                fleet.reach(10 + 20 * round);
                fill_up(&ballast);
                let before = plane.failures();
                fleet.allow(fleet.total * (40 + 30 * round) / 100);
                let felt = until("the worker fails", PATIENCE, || plane.failures() > before);
                assert!(felt.is_ok(), "a full disk is felt\n{}", plane.log());
                died += u64::from(!plane.agrees(&["hosts", "list"]));
                std::thread::sleep(Duration::from_secs(1));
                std::fs::remove_file(&ballast).expect("room again");
                plane.services(&["start", "postgres"]);
            }
            Map::from_iter([("filled".into(), json!(2)), ("server_died".into(), json!(died))])
        };
        hurt(wants, 40_000, Clocks::True, fill, |plane, hosts| {
            // The offset went on, and the leaves have no room.
            unguarded(
                plane,
                "DELETE FROM events WHERE (log, first) IN (SELECT log, first FROM events ORDER BY first DESC LIMIT 1)",
            );
            assert!(judge(plane, hosts, &[]).lost > 0, "leaves that are not there");
        })
    });
}

#[test]
fn a_network_that_is_cut() {
    report::case(SUBJECT, "the network is cut", || {
        let cut = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            let cables = plane.cables();
            let all = [
                ("postgres, silent", vec![&cables.postgres], Mode::Silent),
                ("postgres", vec![&cables.postgres], Mode::Cut),
                ("kafka", vec![&cables.kafka], Mode::Cut),
                ("kafka, silent", vec![&cables.kafka], Mode::Silent),
                ("redis", vec![&cables.redis], Mode::Cut),
                ("redis, silent", vec![&cables.redis], Mode::Silent),
                ("all", vec![&cables.kafka, &cables.postgres, &cables.redis], Mode::Cut),
            ];
            let mut told = Vec::new();
            for (at, (name, cut, mode)) in (1..).zip(all) {
                fleet.allow(fleet.total * (at + 1) / 9);
                let flows = || plane.count("SELECT sum(size) FROM logs") > fleet.total * (at - 1) / 9;
                assert!(until("leaves", PATIENCE, flows).is_ok(), "before {name}\n{}", plane.log());
                let leaves = plane.count("SELECT sum(size) FROM logs");
                cut.iter().for_each(|cable| cable.set(mode));
                std::thread::sleep(Duration::from_secs(2));
                cut.iter().for_each(|cable| cable.set(Mode::Whole));
                told.push(json!({ "cut": name, "sent": fleet.sent(), "leaves": leaves }));
            }
            Map::from_iter([("states".into(), json!(told))])
        };
        hurt(CABLES, 27_000, Clocks::True, cut, |plane, hosts| {
            // A charge that was brought into the view once more, since its answer was lost.
            let day = plane.redis(&["--raw", "KEYS", "*:spend:day:*"]).pop().expect("a day");
            let fields = plane.redis(&["--raw", "HKEYS", &day]);
            let nano = fields.iter().find(|field| field.ends_with("\"nano\"]")).expect("an amount");
            plane.redis(&["HINCRBY", &day, nano, "1"]);
            assert!(!judge(plane, hosts, &[]).redis_equal, "a charge that counts twice");
        })
    });
}

#[test]
fn a_broker_that_is_slow() {
    report::case(SUBJECT, "a slow broker", || {
        let slow = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            let signed = || plane.count("SELECT sum(checkpoints) FROM logs");
            until("the first checkpoint", PATIENCE, || signed() > 0).expect("a checkpoint");
            let before = signed();
            plane.cables().kafka.set(Mode::Slow);
            fleet.reach(60);
            // It goes on all the while, in small steps.
            until("it goes on", PATIENCE, || signed() > before).expect("checkpoints");
            let meanwhile = signed() - before;
            plane.cables().kafka.set(Mode::Whole);
            Map::from_iter([("checkpoints_meanwhile".into(), json!(meanwhile))])
        };
        hurt(CABLES, 9_000, Clocks::True, slow, |plane, hosts| {
            unguarded(plane, "UPDATE logs SET root = sha256(root)");
            assert!(!judge(plane, hosts, &[]).roots_equal, "another root");
        })
    });
}

#[test]
fn workers_that_come_and_go() {
    report::case(SUBJECT, "rebalance storms", || {
        let wants = Wants { partitions: 2, ..Wants::default() };
        let storm = |plane: &Plane, fleet: &Fleet, workers: &mut Vec<Worker>| {
            let mut dice = StdRng::seed_from_u64(seed());
            let fences = || plane.count("SELECT sum(fence) FROM logs");
            let (mut joined, rounds) = (0, 10);
            for round in 0..rounds {
                fleet.allow(fleet.total * (round + 2) / (rounds + 2));
                let before = fences();
                let newcomers = [plane.worker("ledger"), plane.worker("ledger")];
                joined += 2;
                std::thread::sleep(Duration::from_millis(dice.random_range(0..1_000)));
                until("a log changes hands", PATIENCE, || fences() > before).expect("a take-over");
                // One of the old ones goes in order, of the new ones one at once.
                let [stays, goes] = newcomers;
                std::mem::replace(&mut workers[0], stays).stop();
                if dice.random() {
                    goes.stop();
                } else {
                    drop(goes);
                }
            }
            Map::from_iter([("joined".into(), json!(joined)), ("take_overs".into(), json!(fences()))])
        };
        hurt(wants, 24_000, Clocks::True, storm, |plane, _| {
            // Two writers at once: one's batch stands where the other's should.
            unguarded(
                plane,
                "UPDATE events SET data = other.data, count = other.count, min_ms = other.min_ms, max_ms = other.max_ms \
                 FROM (SELECT a.log, a.first, b.data, b.count, b.min_ms, b.max_ms FROM events a JOIN events b ON a.log = b.log \
                 AND b.first = a.first + a.count AND b.count = a.count LIMIT 1) AS other \
                 WHERE events.log = other.log AND events.first = other.first",
            );
            assert!(!plane.agrees(&["ledger", "verify", "--fleet"]), "a batch in another's place");
        })
    });
}

#[test]
fn clocks_that_are_set() {
    report::case(SUBJECT, "clock steps", || {
        let steps = |plane: &Plane, fleet: &Fleet, _: &mut Vec<Worker>| {
            fleet.reach(100);
            // Buckets of a minute that is long ago, or far away, come and go as they do.
            let spread = plane.query("SELECT (max(max_ms) - min(min_ms)) / 86400000 FROM events").concat();
            Map::from_iter([("days".into(), json!(spread))])
        };
        hurt(Wants { partitions: 1, ..Wants::default() }, 12_000, Clocks::Stepping, steps, |plane, hosts| {
            assert!(plane.count("SELECT (max(max_ms) - min(min_ms)) / 86400000 FROM events") > 10_000, "thirty years");
            assert!(plane.agrees(&["worker", "spend", "--check"]), "caracald's own comparison");
            // A day's charges in another day.
            let days = plane.redis(&["--raw", "KEYS", "*:spend:day:*"]);
            assert!(days.len() >= 4, "{days:?}");
            plane.redis(&["RENAME", &days[0], &format!("{}9", days[0])]);
            assert!(!judge(plane, hosts, &[]).redis_equal, "charges of another day");
            assert!(!plane.agrees(&["worker", "spend", "--check"]));
        })
    });
}
