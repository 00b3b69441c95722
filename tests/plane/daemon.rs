//! A real daemon that publishes, confined as it ships. What an agent was charged stands in PostgreSQL and in Redis to the
//! nano-USD, whatever happens to the broker and to the daemon; and a broker that is away costs no agent a call.

use crate::faults::{fill_up, unguarded};
use crate::judge::{charges, stored};
use crate::plane::{PATIENCE, Plane, Wants, free_port, run, text};
use crate::usage::metric;
use crate::worker::Worker;
use crate::{LOAD, STAND_IN, SUBJECT};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use support::daemon::Daemon;
use support::netns::until;
use support::report;
use support::scene::Scene;

/// Calls of one burst.
const CALLS: usize = 64;

#[test]
fn what_a_daemon_publishes_is_what_agents_were_charged() {
    report::case(SUBJECT, "a daemon publishes, without its broker and over a kill", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        // Loopback of the daemon's own host: whoever starts services from in here starts them there.
        scene.net.a.inside(|| Ok(published(&scene))).expect("the host's namespace")
    });
}

/// A plane, a daemon that is enrolled with it and publishes, and the workers. To be called in the daemon's namespace.
pub(crate) fn publishing(scene: &Scene) -> (Plane, Daemon<'_>, [Worker; 2]) {
    publishing_on(scene, Wants { partitions: 1, apart: true, ..Wants::default() }, "")
}

/// The same on a plane like this, with more in the daemon's configuration.
fn publishing_on<'a>(scene: &'a Scene, wants: Wants, more: &str) -> (Plane, Daemon<'a>, [Worker; 2]) {
    let plane = Plane::with(wants);
    let rules = format!(
        "{}{more}\n[[allow]]\nhosts = [\"api.openai.com\"]\n\n[[budget]]\nname = \"purse\"\nlimit = \"100 USD\"\nwindow = \"total\"\n",
        plane.kafka_section()
    );
    let daemon = Daemon::start(scene, &rules);
    let keys = daemon.command(&["ledger", "keys"]).ran().ok().stdout;
    plane.caracald(&["hosts", "enrol", text(&plane.file("host.pub", &keys))]);
    let workers = [plane.worker("ledger"), plane.worker("spend")];
    (plane, daemon, workers)
}

/// Calls of agents, each of which is answered. `from` tells the bursts apart.
fn burst(daemon: &Daemon<'_>, from: usize) {
    let cap = (1_000 + from).to_string();
    let args = ["--clients", "8", "--requests", &CALLS.to_string(), "--cap-base", &cap, "--words", "output=40"];
    let ran = daemon.run(LOAD).args(args).limit(PATIENCE).ran().ok();
    let answered = ran.stdout.lines().filter(|line| line.contains("\"status\":200")).count();
    assert_eq!(answered, CALLS, "every call is answered\n{}\n{}", ran.screen(), daemon.logs());
}

fn published(scene: &Scene) -> Map<String, Value> {
    let (plane, mut daemon, workers) = publishing(scene);
    burst(&daemon, 0);
    acknowledged(&daemon);
    // No call of an agent's waits for Kafka; what it does not have is counted.
    plane.services(&["kill", "kafka"]);
    burst(&daemon, CALLS);
    // What is on its way to the disk is no backlog yet.
    let counted = until("an intent and an outcome a call", PATIENCE, || backlog(&daemon) >= 2 * CALLS as u64);
    assert!(counted.is_ok(), "an intent and an outcome a call wait for Kafka, and {} are said to", backlog(&daemon));
    let waiting = backlog(&daemon);
    // Killed with all of that unpublished, and started again while Kafka is still away.
    daemon.kill();
    daemon.restart();
    until("what waited before the kill waits after it", PATIENCE, || backlog(&daemon) >= waiting).expect("the backlog");
    plane.services(&["start", "kafka"]);
    burst(&daemon, 2 * CALLS);
    acknowledged(&daemon);

    let bill = arrived(scene, &plane, &daemon);
    let _ran = daemon.verify();
    daemon.stop();
    workers.into_iter().for_each(Worker::stop);

    let mut more = Map::new();
    more.insert("calls".into(), json!(3 * CALLS));
    more.insert("bill_nano".into(), json!(bill));
    more.insert("unpublished_at_the_kill".into(), json!(waiting));
    more
}

#[test]
fn a_broker_whose_disk_is_full_costs_no_call_and_no_record() {
    report::case(SUBJECT, "Kafka's disk is full", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        scene.net.a.inside(|| Ok(filled(&scene))).expect("the host's namespace")
    });
}

fn filled(scene: &Scene) -> Map<String, Value> {
    let port = free_port();
    let wants = Wants { partitions: 1, apart: true, kafka_disk_mib: Some(48), ..Wants::default() };
    let listen = format!("[listen]\nmetrics = \"127.0.0.1:{port}\"\n");
    let (plane, mut daemon, workers) = publishing_on(scene, wants, &listen);
    burst(&daemon, 0);
    acknowledged(&daemon);
    assert_eq!(metric(port, "caracal_publish_backlog"), Some(0));
    fill_up(&plane.kafka_disk().join("ballast"));
    let said = || std::fs::read_to_string(plane.kafka_disk().with_file_name("log")).unwrap_or_default();
    // It takes what goes into blocks that it has, and then no more.
    let mut bursts = 1;
    let felt = until("the broker says that its disk is full", PATIENCE, || {
        burst(&daemon, bursts * CALLS);
        bursts += 1;
        said().contains("No space left on device")
    });
    assert!(felt.is_ok(), "{}", said());
    burst(&daemon, bursts * CALLS);
    let counted = until("an intent and an outcome a call", PATIENCE, || backlog(&daemon) >= 2 * CALLS as u64);
    assert!(counted.is_ok(), "an intent and an outcome a call wait for Kafka, and {} are said to", backlog(&daemon));
    let lag = |name: &str| metric(port, name).unwrap_or(0);
    let seen = until("whoever watches sees it", PATIENCE, || {
        lag("caracal_publish_backlog") >= 2 * CALLS as u64 && lag("caracal_publish_lag_ms") > 0
    });
    assert!(seen.is_ok(), "{} ms", lag("caracal_publish_lag_ms"));
    let waiting = backlog(&daemon);
    // Room again: a larger disk.
    run("mount", &["-o", "remount,size=512m", text(&plane.kafka_disk())]);
    plane.services(&["kill", "kafka"]);
    plane.services(&["start", "kafka"]);
    burst(&daemon, (bursts + 1) * CALLS);
    acknowledged(&daemon);
    let bill = arrived(scene, &plane, &daemon);
    let _ran = daemon.verify();
    daemon.stop();
    workers.into_iter().for_each(Worker::stop);
    // Records that the broker acknowledged and did not keep.
    let wrote = there(&plane).len();
    unguarded(
        &plane,
        "DELETE FROM events WHERE (log, first) IN (SELECT log, first FROM events ORDER BY first DESC LIMIT 1)",
    );
    assert!(
        there(&plane).len() < wrote && !plane.agrees(&["ledger", "verify", "--fleet"]),
        "records that are not there"
    );
    let mut more = Map::new();
    more.insert("calls".into(), json!((bursts + 2) * CALLS));
    more.insert("bill_nano".into(), json!(bill));
    more.insert("unpublished_before_there_was_room".into(), json!(waiting));
    more
}

/// Holds what the plane has against the daemon's own ledger and the provider's bill: all of it, and once. Gives the bill, nano-USD.
fn arrived(scene: &Scene, plane: &Plane, daemon: &Daemon<'_>) -> u64 {
    let embedded = ids(daemon);
    let bill: u64 = scene.bill().iter().map(|line| line.nano).sum();
    let arrived = until("every record of the host", PATIENCE, || embedded.is_subset(&there(plane)));
    let missing: Vec<_> = embedded.difference(&there(plane)).cloned().collect();
    assert!(arrived.is_ok(), "missing: {missing:?}\n{}", plane.log());
    assert_eq!(plane.query("SELECT code, host, what FROM incidents"), Vec::<String>::new(), "{}", plane.log());
    assert_eq!(plane.count("SELECT sum(nano) FROM charges"), bill, "PostgreSQL has the provider's bill");
    let mut fleet = 0;
    let told = until("Redis has the provider's bill", PATIENCE, || {
        fleet = charges(plane).values().sum();
        fleet == bill
    });
    assert!(told.is_ok(), "{fleet} nano-USD in Redis, billed {bill}\n{}", plane.log());
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "the audit of the shared ledger");
    bill
}

/// The ids of the records that the plane has. None is there twice.
fn there(plane: &Plane) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for record in stored(plane).values().flatten() {
        let id = id(record);
        assert!(ids.insert(id.clone()), "{id} is there twice");
    }
    ids
}

/// Records that Kafka has not acknowledged.
fn backlog(daemon: &Daemon<'_>) -> u64 {
    let status = daemon.json(&["status"]);
    let backlog = status["data_path"]["kafka"]["backlog"].as_u64();
    backlog.unwrap_or_else(|| panic!("`status` says nothing of Kafka: {status}"))
}

/// Waits until Kafka has what was taken so far.
#[track_caller]
pub(crate) fn acknowledged(daemon: &Daemon<'_>) {
    let done = until("Kafka acknowledges", PATIENCE, || {
        // What is on its way to the disk is none yet.
        std::thread::sleep(Duration::from_millis(200));
        backlog(daemon) == 0
    });
    assert!(done.is_ok(), "{} records wait\n{}", backlog(daemon), daemon.logs());
}

/// The ids of the records that the host's own ledger has.
fn ids(daemon: &Daemon<'_>) -> BTreeSet<String> {
    let ran = daemon.command(&["events", "--json", "--limit", "1000000"]).ran().ok();
    ran.stdout.lines().map(|line| id(line.as_bytes())).collect()
}

fn id(record: &[u8]) -> String {
    let value: Value = serde_json::from_slice(record).expect("a record");
    let leaf = if value["record"].is_object() { &value["record"] } else { &value };
    format!("{}", leaf["id"])
}
