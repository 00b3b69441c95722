//! A host that is enrolled and says nothing: whoever looks sees it, and so does whoever watches the workers.

use crate::daemon::{acknowledged, publishing};
use crate::plane::{PATIENCE, Plane, text};
use crate::usage::metric;
use crate::{STAND_IN, SUBJECT};
use serde_json::Value;
use std::process::Command;
use support::daemon::caracald;
use support::netns::until;
use support::report;
use support::scene::Scene;

#[test]
fn a_host_that_falls_silent_is_seen() {
    report::plain(SUBJECT, "a killed daemon is a silent host", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let tried = || {
            silent(&scene);
            Ok(())
        };
        scene.net.a.inside(tried).expect("the host's namespace");
    });
}

fn silent(scene: &Scene) {
    let (plane, mut daemon, workers) = publishing(scene);
    drop(workers);
    let (ledger, port) = plane.listening("ledger");
    let silent = |wanted: bool| {
        let seen = until("hosts list says it", PATIENCE, || look(&plane) == (wanted, Some(i32::from(wanted))));
        assert!(seen.is_ok(), "silent should be {wanted}: {:?}\n{}", look(&plane), plane.log());
        let seen = until("the gauge says it", PATIENCE, || {
            metric(port, "caracal_ledger_silent_hosts") == Some(u64::from(wanted))
        });
        assert!(seen.is_ok(), "the gauge does not say {wanted}\n{}", plane.log());
    };
    // Heartbeats alone: no agent calls anybody.
    acknowledged(&daemon);
    silent(false);
    until("the ledger has a record since the enrolment", PATIENCE, || {
        let one = host(&plane);
        one["last_ms"].is_u64() && one["last_ms"] == one["heard_ms"]
    })
    .expect("a heartbeat");
    let table = plane.caracald(&["hosts", "list"]);
    assert!(!table.contains("SILENT"), "{table}");
    daemon.kill();
    silent(true);
    let (table, heard) = (plane.caracald(&["hosts", "list"]), host(&plane)["heard_ms"].as_u64().expect("a time"));
    assert!(table.contains("SILENT since 20"), "{table}");
    assert_eq!(Some(heard), host(&plane)["last_ms"].as_u64(), "since its latest record");
    until("the worker says who", PATIENCE, || plane.log().contains("nothing is heard of this host")).expect("a line");
    daemon.restart();
    silent(false);
    // A host that never said a word counts from its enrolment, and one that is retired does not count.
    let mute = plane.file("mute.pub", &crate::host::Host::new("mute").public_key());
    plane.caracald(&["hosts", "enrol", text(&mute)]);
    silent(true);
    plane.caracald(&["hosts", "retire", "mute"]);
    silent(false);
    daemon.stop();
    ledger.stop();
}

/// Whether any host is silent, in JSON and by the exit code of `--check`, which must agree.
fn look(plane: &Plane) -> (bool, Option<i32>) {
    let mut command = Command::new(caracald());
    command.arg("--config").arg(plane.config()).args(["hosts", "list", "--json", "--check"]);
    let output = command.output().expect("it runs");
    let hosts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let silent = hosts.as_array().expect("hosts").iter().any(|one| one["silent"] == true);
    (silent, output.status.code())
}

/// The only host, as `hosts list --json` has it.
fn host(plane: &Plane) -> Value {
    let hosts: Value = serde_json::from_str(&plane.caracald(&["hosts", "list", "--json"])).expect("JSON");
    hosts[0].clone()
}
