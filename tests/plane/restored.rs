//! A dump of PostgreSQL that is restored while events flow. The keys remember what they signed, in a file beside them and in the
//! topic of checkpoints, so that the log catches up before anything is signed again, and another history is signed never: also not
//! on another host with the same keys, where nobody ever signed.

use crate::SUBJECT;
use crate::cable::Mode;
use crate::fleet::{Clocks, Fleet, assert_sound};
use crate::judge::{Signed, checkpoints, judge};
use crate::plane::{PATIENCE, Plane, Wants, run, text};
use crate::worker::Worker;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use support::netns::until;
use support::report::{self, seed};

#[test]
fn a_dump_that_is_restored_under_load() {
    report::case(SUBJECT, "a dump restored under load", || {
        let plane = Plane::with(Wants { partitions: 2, cables: true, ..Wants::default() });
        let mut workers = vec![plane.worker("ledger"), plane.worker("ledger"), plane.worker("spend")];
        let fleet = Fleet::start(&plane, if report::long() { 200_000 } else { 20_000 }, Clocks::True);
        let total = fleet.total;
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
        assert_nothing_between(&plane, &restored, &signed);
        workers.drain(..).for_each(Worker::stop);

        // Another host with the same keys, which knows of nothing that they signed: the topic says it.
        let elsewhere = Elsewhere::with_the_keys_of(&plane);
        signed.extend(restore(&plane, text(&dump)));
        let restored = all_checkpoints(&plane);
        let worker = plane.worker_as("ledger", &elsewhere.config);
        plane.settled(total);
        worker.stop();
        assert_sound(&plane, &hosts, &signed);
        assert_nothing_between(&plane, &restored, &signed);

        // Another history: the dump again, and a host less. Gives how many checkpoints were signed of it.
        let place = |column: &str, log: i32| plane.count(&format!("SELECT {column} FROM logs WHERE log = {log}"));
        let log = i32::try_from(plane.count("SELECT log FROM chains WHERE host = 'host-0'")).expect("a log");
        let end = place("next_offset", log);
        let mut another_history = |config: &Path| {
            signed.extend(restore(&plane, text(&dump)));
            let kept = checkpoints(&plane, log).len();
            plane.caracald(&["hosts", "retire", "host-0"]);
            let worker = plane.worker_as("ledger", config);
            let there = until("the other history is there", PATIENCE, || place("next_offset", log) >= end);
            assert!(there.is_ok(), "{}", plane.log());
            worker.stop();
            checkpoints(&plane, log).len() - kept
        };
        forget(&elsewhere.keys, plane.partitions);
        assert_eq!(another_history(&elsewhere.config), 0, "the topic remembers, where no file does");
        // Somebody made the topic anew and wrote into it: the file remembers, says so, and puts it right.
        let strange = || plane.said().iter().filter(|line| line.contains("not signed by the log's keys")).count();
        forget_topic(&plane);
        plane.scrawl(log);
        assert_eq!(strange(), 0);
        assert_eq!(another_history(&plane.config()), 0, "the file remembers, where no topic does");
        assert!(strange() > 0, "what nobody signed is told\n{}", plane.log());
        forget(&elsewhere.keys, plane.partitions);
        assert_eq!(another_history(&elsewhere.config), 0, "the topic remembers again");
        // Neither does: keys that forgot sign a fork, and the judge sees it.
        forget(&elsewhere.keys, plane.partitions);
        forget_topic(&plane);
        assert!(another_history(&elsewhere.config) > 0, "keys without a memory sign\n{}", plane.log());
        assert!(judge(&plane, &hosts, &signed).forks > 0, "a fork is seen");

        let mut more = Map::new();
        more.insert("seed".into(), json!(seed()));
        more.insert("checkpoints_before".into(), json!(before));
        more.insert("checkpoints_in_the_dump".into(), json!(after));
        more
    });
}

/// Between what the dump had and what was signed before, nothing was signed again.
fn assert_nothing_between(plane: &Plane, restored: &[Signed], signed: &[Signed]) {
    for log in 0..plane.partitions {
        let largest = |all: &[Signed]| all.iter().filter(|one| one.0 == log).map(|one| one.1).max().unwrap_or(0);
        let (low, high) = (largest(restored), largest(signed));
        let sizes = checkpoints(plane, log).into_iter().map(|one| one.1);
        let between: Vec<u64> = sizes.filter(|size| (low + 1..high).contains(size)).collect();
        assert_eq!(between, Vec::<u64>::new(), "log {log} was to catch up from {low} to {high} first");
    }
}

/// A host that has the logs' keys, and never signed.
struct Elsewhere {
    keys: PathBuf,
    config: PathBuf,
}

impl Elsewhere {
    fn with_the_keys_of(plane: &Plane) -> Elsewhere {
        let keys = plane.keys().with_file_name("keys-elsewhere");
        for log in 0..plane.partitions {
            let name = format!("test-{log}");
            let to = keys.join(&name);
            std::fs::create_dir_all(&to).expect("a directory");
            for file in std::fs::read_dir(plane.keys().join(&name)).expect("keys").flatten() {
                std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
            }
        }
        forget(&keys, plane.partitions);
        let config = std::fs::read_to_string(plane.config()).expect("the configuration");
        let (here, there) = (format!("\"{}\"", text(&plane.keys())), format!("\"{}\"", text(&keys)));
        assert!(config.contains(&here), "the configuration names its keys");
        let config = plane.file("elsewhere.toml", &config.replace(&here, &there));
        Elsewhere { keys, config }
    }
}

/// Removes what is beside the keys of what they signed.
fn forget(keys: &Path, logs: i32) {
    for log in 0..logs {
        let file = keys.join(format!("test-{log}/ledger-signed"));
        assert!(std::fs::remove_file(&file).is_ok() || !file.exists(), "{}", file.display());
    }
}

/// Makes the topic of checkpoints anew.
fn forget_topic(plane: &Plane) {
    let mut client = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        client.set("bootstrap.servers", &plane.kafka).create().expect("an administrator");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let topic = plane.checkpoints();
    let removed = runtime.block_on(admin.delete_topics(&[&topic], &AdminOptions::new())).expect("an answer");
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    until("the topic is gone", PATIENCE, || {
        let all = admin.inner().fetch_metadata(None, PATIENCE);
        all.is_ok_and(|all| all.topics().iter().all(|one| one.name() != topic))
    })
    .expect("no topic");
    plane.caracald(&["setup", "kafka"]);
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
