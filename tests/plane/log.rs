//! The logs of many hosts as others read them: served over HTTP, asked, made again from Kafka to the identical root, and signed by
//! keys that were handed over while their worker runs.

use crate::SUBJECT;
use crate::host::{Host, Message};
use crate::plane::{Plane, now, text};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use support::daemon::caracald;
use support::report;
use support::served::Served;

#[test]
fn logs_are_served_asked_made_again_and_signed_by_new_keys() {
    report::case(SUBJECT, "logs are served, asked, made again from Kafka and signed by new keys", || {
        let plane = Plane::start(2);
        let mut dice = StdRng::seed_from_u64(11);
        // The CRC-32 of its id chooses a host's partition: two of them are in one log, and one in the other.
        let mut hosts = ["host-0", "host-1", "host-4"].map(Host::new);
        let keys: String = hosts.iter().map(Host::public_key).collect();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let send = |message: &Message| runtime.block_on(message.send(&producer, &plane.topic));
        let mut run = |host: &mut Host, size: usize| {
            let at = now("now").text;
            let records: Vec<_> = (0..size).map(|_| host.record(dice.random(), &at)).collect();
            host.message(&records)
        };
        let worker = plane.worker("ledger");
        let mut wrote = 0;
        for round in 0..12 {
            for host in &mut hosts {
                let message = run(host, 40);
                send(&message);
                // Some come twice.
                for _ in 0..round % 2 {
                    send(&message);
                }
                wrote += 40;
            }
        }
        // A host that nobody knew when its first message came: a leaf of it stands where it was sent again.
        let mut late = Host::new("late");
        let early = run(&mut late, 7);
        send(&early);
        send(&run(&mut hosts[0], 5));
        wrote += 5;
        plane.settled(wrote);
        support::netns::until("the stranger is an incident", crate::plane::PATIENCE, || {
            plane.count("SELECT count(*) FROM incidents") == 1
        })
        .expect("an incident");
        plane.caracald(&["hosts", "enrol", text(&plane.file("late.pub", &late.public_key()))]);
        send(&early);
        wrote += 7;
        plane.settled(wrote);

        let rebuilt = made_again(&plane, wrote);
        asked(&plane, wrote);
        proven(&plane);
        served(&plane);

        // New keys for one log, under its running worker.
        let (name, before) = ("test-0", plane.log_keys(0));
        let size = plane.count("SELECT size FROM logs WHERE log = 0");
        plane.caracald(&["ledger", "rotate-key", "--log", name]);
        for host in &mut hosts {
            send(&run(host, 30));
            wrote += 30;
        }
        plane.settled(wrote);
        let history = plane.caracald(&["ledger", "keys", "--log", name, "--history"]);
        assert!(plane.log_keys(0) != before && history.contains(before.lines().next().expect("a key")));
        assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "with the history beside the keys");
        let old = plane.file("old.pub", &before);
        let grew = plane.count("SELECT size FROM logs WHERE log = 0") > size;
        assert!(grew, "no record came to {name} after its keys were handed over");
        let served = Served::start(&plane.config(), &["--fleet"]);
        let at = format!("{}/{name}", served.url);
        let with = |words: &[&str]| {
            let fixed = ["ledger", "verify", "--url", &at, "--public-key", text(&old)];
            plane.agrees(&[&fixed[..], words].concat())
        };
        assert!(!with(&[]), "the old keys alone do not know the new ones");
        assert!(with(&["--history", text(&plane.file("history", &history))]), "the history leads to them");
        // Without the word of who was not enrolled yet, the stranger's first message is taken where it stands: another tree.
        plane.query("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM incidents; COMMIT");
        let again = ["ledger", "rebuild", "--from", "kafka", "--log"];
        assert!(!plane.agrees(&[&again[..], &["test-1"]].concat()), "another tree is no difference");
        assert!(plane.agrees(&[&again[..], &[name]].concat()), "the other log is as it was");
        worker.stop();
        let mut more = Map::new();
        more.insert("records".into(), json!(wrote));
        more.insert("made_again".into(), json!(rebuilt));
        more
    });
}

/// Somebody has the keys of a log: it ends with a final statement, and another log, of another name and with a database of its
/// own, begins with a leaf that says so and has every record of the topic.
#[test]
fn a_log_whose_keys_are_lost_is_frozen_and_another_one_goes_on() {
    report::case(SUBJECT, "a frozen log and the one in its place", || {
        let mut plane = Plane::start(1);
        let (mut host, mut dice) = (Host::new("host"), StdRng::seed_from_u64(12));
        let key = plane.file("host.pub", &host.public_key());
        plane.caracald(&["hosts", "enrol", text(&key)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let mut send = |plane: &Plane, size: usize| {
            let at = now("now").text;
            let records: Vec<_> = (0..size).map(|_| host.record(dice.random(), &at)).collect();
            runtime.block_on(host.message(&records).send(&producer, &plane.topic));
        };
        let worker = plane.worker("ledger");
        send(&plane, 20);
        plane.settled(20);
        // The same keys on a host that is not the one that signs.
        let signed = plane.keys().join("test-0/ledger-signed");
        let old = std::fs::read(&signed).expect("what was signed");
        send(&plane, 30);
        plane.settled(50);
        worker.stop();
        let forget = || std::fs::write(&signed, &old).expect("written");
        forget();
        let said = plane.caracald(&["ledger", "rotate-key", "--log", "test-0"]);
        assert!(said.contains("up to 50 records"), "what other hosts signed is known to the hand-over: {said}");
        assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "with the hand-over");
        forget();
        let said = plane.caracald(&["ledger", "freeze", "--log", "test-0", "--successor", "anew-0", "--yes"]);
        assert!(said.contains("ends with 50 records"), "{said}");
        assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "a log that has ended is sound");
        assert!(!plane.agrees(&["ledger", "rotate-key", "--log", "test-0"]), "its keys sign nothing more");
        assert!(plane.caracald(&["ledger", "keys", "--log", "test-0", "--history"]).contains("caracal/log-frozen/v1"));
        // The worker of the same name takes the log up no more.
        send(&plane, 10);
        let worker = plane.worker("ledger");
        support::netns::until("the worker says why", crate::plane::PATIENCE, || plane.log().contains("frozen"))
            .expect("a reason");
        worker.stop();
        assert_eq!(plane.count("SELECT max(size) FROM checkpoints"), 50);

        plane.query("CREATE DATABASE anew");
        let old = plane.postgres.clone();
        plane.postgres = format!("{}/anew", old.rsplit_once('/').expect("a database").0);
        let config = std::fs::read_to_string(plane.config()).expect("the configuration");
        let config = config.replace(&old, &plane.postgres).replace("name = \"test\"", "name = \"anew\"");
        std::fs::write(plane.config(), config).expect("written");
        plane.caracald(&["setup", "postgres"]);
        plane.caracald(&["hosts", "enrol", text(&key)]);
        let worker = plane.worker("ledger");
        // Its first leaf, and all that the topic has.
        plane.settled(61);
        let said = plane.caracald(&["ledger", "verify", "--fleet"]);
        assert!(said.contains("caracal/test-0/ledger: it was frozen with 50 records"), "{said}");
        assert_eq!(plane.query("SELECT origin FROM logs").len(), 1);
        worker.stop();
        plane.postgres = old;
        plane.query("DROP DATABASE anew WITH (FORCE)");
        Map::from_iter([("records".into(), json!(60))])
    });
}

/// Every log from Kafka; gives how many records were made again.
fn made_again(plane: &Plane, wrote: u64) -> u64 {
    let said = plane.caracald(&["ledger", "rebuild", "--from", "kafka", "--json"]);
    let mut records = 0;
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let compared = &line["compared"];
        assert_eq!(compared["rebuilt_root"], compared["stored_root"], "{line}");
        assert_eq!((&compared["rebuilt"], &compared["differs_at"]), (&compared["stored"], &Value::Null), "{line}");
        records += compared["rebuilt"].as_u64().expect("a number");
    }
    assert_eq!((records, said.lines().count()), (wrote, 2));
    records
}

/// The questions of `ledger query --fleet` against what PostgreSQL has.
fn asked(plane: &Plane, wrote: u64) {
    let ask = |words: &[&str]| -> Vec<Value> {
        let said = plane.caracald(&[&["ledger", "query", "--fleet", "--json"], words].concat());
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let all = ask(&[]);
    assert_eq!(all.len() as u64, wrote);
    let places: BTreeSet<String> = all.iter().map(|line| format!("{} {}", line["log"], line["index"])).collect();
    assert_eq!(places.len() as u64, wrote, "each leaf of each log once");
    let count = |keep: &dyn Fn(&Value) -> bool| all.iter().filter(|line| keep(&line["record"])).count();
    assert_eq!(ask(&["--host", "late"]).len(), 7);
    let of = count(&|record| record["source"] == "/caracal/host-1" && record["data"]["caracal.agent"] == "agent-1");
    assert!(of > 0);
    assert_eq!(ask(&["--host", "host-1", "--agent", "agent-1"]).len(), of);
    let settled = count(&|record| record["data"]["caracal.settle"] == "settled");
    assert!(settled > 0);
    assert_eq!(ask(&["--decision", "settled"]).len(), settled);
    assert_eq!(
        ask(&["--model", "model-1"]).len(),
        count(&|record| record["data"]["gen_ai.request.model"] == "model-1")
    );
    assert_eq!((ask(&["--until", "2020-01-01"]).len(), ask(&["--since", "2025-01-01", "--limit", "9"]).len()), (0, 9));
    let table = plane.caracald(&["ledger", "query", "--fleet", "--limit", "5"]);
    assert!(table.contains("host-") || table.contains("late"), "{table}");
}

/// A record of each log by its id and by its index: the receipt holds with that log's public keys alone, and with no other's.
fn proven(plane: &Plane) {
    let said = plane.caracald(&["ledger", "query", "--fleet", "--json"]);
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let text_of = |value: &Value| value.as_str().expect("text").to_owned();
    for partition in 0..plane.partitions {
        let log = format!("test-{partition}");
        let mut its = lines.iter().rev().filter(|line| line["log"] == log.as_str());
        let line = its.find(|line| line["index"].as_u64() > Some(300));
        let line = line.unwrap_or_else(|| panic!("{log} has more than a bundle"));
        let (id, index) = (text_of(&line["record"]["id"]), line["index"].to_string());
        let receipt = plane.caracald(&["ledger", "prove", "--fleet", &id]);
        assert_eq!(plane.caracald(&["ledger", "prove", "--log", &log, &index]), receipt, "by its index");
        assert_eq!(plane.caracald(&["ledger", "prove", "--log", &log, &id]), receipt, "by its id in its log");
        assert!(!plane.agrees(&["ledger", "prove", "--log", &format!("test-{}", 1 - partition), &id]), "not its log");
        let path = plane.file("receipt", &receipt);
        // The keys and the receipt are all that it takes: no configuration, no database.
        let holds = |receipt: &Path, of: i32| {
            let keys = plane.file("receipt.pub", &plane.log_keys(of));
            let bare = plane.file("bare.toml", "");
            let words = ["ledger", "verify", "--receipt", text(receipt), "--public-key", text(&keys)];
            let said = Command::new(caracald()).arg("--config").arg(bare).args(words).output().expect("it runs");
            said.status.success()
        };
        assert!(holds(&path, partition), "{receipt}");
        assert!(!holds(&path, 1 - partition), "the other log's keys");
        // Another record in its place.
        let other = plane.caracald(&["ledger", "prove", "--log", &log, "0"]);
        let record = |receipt: &str| receipt.lines().nth(1).expect("a record").to_owned();
        let forged = plane.file("forged", &receipt.replace(&record(&receipt), &record(&other)));
        assert!(!holds(&forged, partition), "another record");
    }
    assert!(!plane.agrees(&["ledger", "prove", "--fleet", "3"]), "an index is of one log");
    assert!(!plane.agrees(&["ledger", "prove", "--log", "test-2", "3"]), "there is no such log");
}

/// Both logs over HTTP: our audit, and judges that nobody here wrote.
fn served(plane: &Plane) {
    let served = Served::start(&plane.config(), &["--fleet"]);
    let dir = tempfile::tempdir().expect("a directory");
    for partition in 0..2 {
        let url = format!("{}/test-{partition}", served.url);
        let keys = plane.file("log.pub", &plane.log_keys(partition));
        assert!(plane.agrees(&["ledger", "verify", "--url", &url, "--public-key", text(&keys)]), "{url}");
        let case = dir.path().join(format!("case-{partition}"));
        std::fs::create_dir(&case).expect("a directory");
        std::fs::write(case.join("url"), &url).expect("written");
        // A log's keys, without the key that it has for a host's chain.
        std::fs::write(case.join("keys"), plane.log_keys(partition)).expect("written");
        for judge in ["sumdb", "fsck"] {
            let said = Command::new(support::programs::go_judge()).arg(judge).arg(&case).output().expect("it judges");
            let said: Value = serde_json::from_slice(&said.stdout).expect("a verdict");
            assert_eq!(said["accepts"], true, "{judge}: {said}");
        }
    }
}
