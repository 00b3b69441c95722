//! A real daemon that publishes, confined as it ships. What an agent was charged stands in PostgreSQL and in Redis to the
//! nano-USD, whatever happens to the broker and to the daemon; and a broker that is away costs no agent a call.

use crate::judge::{charges, stored};
use crate::plane::{PATIENCE, Plane, Wants, text};
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
    let plane = Plane::with(Wants { partitions: 1, apart: true, ..Wants::default() });
    let rules = format!(
        "{}\n[[allow]]\nhosts = [\"api.openai.com\"]\n\n[[budget]]\nname = \"purse\"\nlimit = \"100 USD\"\nwindow = \"total\"\n",
        plane.kafka_section()
    );
    let daemon = Daemon::start(scene, &rules);
    let keys = daemon.command(&["ledger", "keys"]).ran().ok().stdout;
    plane.caracald(&["hosts", "enrol", text(&plane.file("host.pub", &keys))]);
    let workers = [plane.worker("ledger"), plane.worker("spend")];
    (plane, daemon, workers)
}

fn published(scene: &Scene) -> Map<String, Value> {
    let (plane, mut daemon, workers) = publishing(scene);
    let burst = |daemon: &Daemon<'_>, from: usize| {
        let cap = (1_000 + from).to_string();
        let args = ["--clients", "8", "--requests", &CALLS.to_string(), "--cap-base", &cap, "--words", "output=40"];
        let ran = daemon.run(LOAD).args(args).limit(PATIENCE).ran().ok();
        let answered = ran.stdout.lines().filter(|line| line.contains("\"status\":200")).count();
        assert_eq!(answered, CALLS, "every call is answered\n{}\n{}", ran.screen(), daemon.logs());
    };

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

    let embedded = ids(&daemon);
    let bill: u64 = scene.bill().iter().map(|line| line.nano).sum();
    let mut there = BTreeSet::new();
    let arrived = until("every record of the host", PATIENCE, || {
        there = stored(&plane).values().flatten().map(|record| id(record)).collect();
        embedded.is_subset(&there)
    });
    assert!(arrived.is_ok(), "missing: {:?}\n{}", embedded.difference(&there).collect::<Vec<_>>(), plane.log());
    let leaves = plane.count("SELECT sum(size) FROM logs");
    assert!(there.len() as u64 <= leaves && leaves - there.len() as u64 <= 64, "{leaves} leaves, {} ids", there.len());
    assert_eq!(plane.query("SELECT code, host, what FROM incidents"), Vec::<String>::new(), "{}", plane.log());
    assert_eq!(plane.count("SELECT sum(nano) FROM charges"), bill, "PostgreSQL has the provider's bill");
    let mut fleet = 0;
    let told = until("Redis has the provider's bill", PATIENCE, || {
        fleet = charges(&plane).values().sum();
        fleet == bill
    });
    assert!(told.is_ok(), "{fleet} nano-USD in Redis, billed {bill}\n{}", plane.log());
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "the audit of the shared ledger");
    let _ran = daemon.verify();
    daemon.stop();
    workers.into_iter().for_each(Worker::stop);

    let mut more = Map::new();
    more.insert("calls".into(), json!(3 * CALLS));
    more.insert("bill_nano".into(), json!(bill));
    more.insert("unpublished_at_the_kill".into(), json!(waiting));
    more
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
