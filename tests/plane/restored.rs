//! A dump of PostgreSQL that is restored while events flow. The keys remember what they signed, so that the log catches up
//! before anything is signed again, and another history is signed never.

use crate::SUBJECT;
use crate::cable::Mode;
use crate::fleet::{Clocks, Fleet, assert_sound, seed};
use crate::judge::{Signed, checkpoints, judge};
use crate::plane::{PATIENCE, Plane, Wants, run, text};
use crate::worker::Worker;
use serde_json::{Map, json};
use support::netns::until;
use support::report;

#[test]
fn a_dump_that_is_restored_under_load() {
    report::case(SUBJECT, "a dump restored under load", || {
        let plane = Plane::with(Wants { partitions: 2, cables: true, ..Wants::default() });
        let mut workers = vec![plane.worker("ledger"), plane.worker("ledger"), plane.worker("spend")];
        let fleet = Fleet::start(&plane, if report::long() { 200_000 } else { 20_000 }, Clocks::True);
        let dump = plane.file("dump", "");
        let leaves = |plane: &Plane| plane.count("SELECT sum(size) FROM logs");
        fleet.allow(fleet.total / 5);
        until("leaves", PATIENCE, || leaves(&plane) > fleet.total / 10).expect("leaves");
        run("pg_dump", &["-Fc", "-f", text(&dump), &plane.postgres]);
        let dumped = all_checkpoints(&plane).len();
        fleet.allow(fleet.total / 2);
        fleet.reach(40);
        let on = || leaves(&plane) > fleet.total / 3 && all_checkpoints(&plane).len() > dumped;
        until("more leaves, and a checkpoint that the dump has not", PATIENCE, on).expect("leaves");
        let mut signed = restore(&plane, text(&dump));
        let restored: Vec<Signed> = all_checkpoints(&plane);
        let (before, after) = (signed.len(), restored.len());
        assert!(after < before, "the dump is older: {after} of {before} checkpoints");
        let hosts = fleet.settled(&plane);
        assert_sound(&plane, &hosts, &signed);
        // Between what the dump had and what was signed before, nothing was signed again.
        for log in 0..plane.partitions {
            let largest = |all: &[Signed]| all.iter().filter(|one| one.0 == log).map(|one| one.1).max().unwrap_or(0);
            let (low, high) = (largest(&restored), largest(&signed));
            let between: Vec<u64> = checkpoints(&plane, log)
                .iter()
                .map(|one| one.1)
                .filter(|size| (low + 1..high).contains(size))
                .collect();
            assert_eq!(between, Vec::<u64>::new(), "log {log} was to catch up from {low} to {high} first");
        }
        workers.drain(..).for_each(Worker::stop);

        // Another history: the dump again, and a host less. The keys refuse; keys that forgot would sign.
        let place = |column: &str, log: i32| plane.count(&format!("SELECT {column} FROM logs WHERE log = {log}"));
        let log = i32::try_from(plane.count("SELECT log FROM chains WHERE host = 'host-0'")).expect("a log");
        let end = place("next_offset", log);
        signed.extend(restore(&plane, text(&dump)));
        let kept = checkpoints(&plane, log).len();
        plane.caracald(&["hosts", "retire", "host-0"]);
        let worker = plane.worker("ledger");
        let there = until("the other history is there", PATIENCE, || place("next_offset", log) >= end);
        assert!(there.is_ok(), "{}", plane.log());
        worker.stop();
        assert_eq!(checkpoints(&plane, log).len(), kept, "the keys remember, and sign nothing of it");
        std::fs::remove_file(plane.keys().join(format!("test-{log}/ledger-signed"))).expect("the keys' memory");
        let worker = plane.worker("ledger");
        let forged = until("keys without a memory sign", PATIENCE, || checkpoints(&plane, log).len() > kept);
        assert!(forged.is_ok(), "{}", plane.log());
        worker.stop();
        assert!(judge(&plane, &hosts, &signed).forks > 0, "a fork is seen");

        let mut more = Map::new();
        more.insert("seed".into(), json!(seed()));
        more.insert("checkpoints_before".into(), json!(before));
        more.insert("checkpoints_in_the_dump".into(), json!(after));
        more
    });
}

fn all_checkpoints(plane: &Plane) -> Vec<Signed> {
    (0..plane.partitions).flat_map(|log| checkpoints(plane, log)).collect()
}

/// Puts the dump in the database's place, while the workers are kept off; gives what was signed until then.
fn restore(plane: &Plane, dump: &str) -> Vec<Signed> {
    plane.cables().postgres.set(Mode::Cut);
    let admin = plane.postgres.replace("/caracal", "/postgres");
    let drop = ["-XAtq", "-v", "ON_ERROR_STOP=1", &admin, "-c"];
    // Whatever was committed until the last connection ended was signed.
    until("the workers are off", PATIENCE, || {
        plane.count("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'caracald'") == 0
    })
    .expect("no connection");
    let signed = all_checkpoints(plane);
    run("psql", &[&drop[..], &["DROP DATABASE caracal WITH (FORCE)"]].concat());
    run("psql", &[&drop[..], &["CREATE DATABASE caracal"]].concat());
    run("pg_restore", &["-d", &plane.postgres, dump]);
    plane.cables().postgres.set(Mode::Whole);
    signed
}
