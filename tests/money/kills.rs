//! `kill -9` at random moments, with streams in flight.

use crate::{LOAD, STAND_IN, rules, settled};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, json};
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::netns::{AGENT_UID, until};
use support::report::{self, seed};
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// Streams that must be open when the blow falls.
const IN_FLIGHT: usize = 8;

#[test]
fn no_charge_is_lost_or_doubled_and_nothing_goes_direct() {
    report::case("money", "kill -9 with streams in flight", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let mut daemon = Daemon::configured(&scene, &rules("100 USD"));
        daemon.attach(&cgroup.path());
        daemon.restart();
        scene.wire.clear();
        let (ca, stop) = (daemon.ca(), scene.net.files().join("stop"));
        let load = scene.agent(LOAD).cgroup(&cgroup.path()).env("SSL_CERT_FILE", &ca);
        let load = load.args(["--clients", "16", "--stream", "--words", "output=40 slow=15", "--until"]).arg(&stop);
        let mut load = load.spawn(Stdio::null(), Stdio::null()).expect("the load starts");

        let kills = if report::long() { 50 } else { 5 };
        let mut dice = rand::rngs::StdRng::seed_from_u64(seed());
        let mut states = Vec::new();
        for _ in 0..kills {
            until("enough streams are in flight", Duration::from_secs(60), || scene.in_flight() >= IN_FLIGHT)
                .expect("streams");
            std::thread::sleep(Duration::from_millis(dice.random_range(0..400)));
            states.push(json!({"in_flight": scene.in_flight(), "billed": scene.bill().len()}));
            daemon.kill();
            door_is_shut(&scene, &cgroup);
            // Sound as the blow left it, and sound once the next one has charged what was open.
            let _ran = daemon.verify();
            daemon.restart();
            let _ran = daemon.verify();
        }
        until("the load goes on after the last kill", Duration::from_secs(60), || scene.in_flight() >= IN_FLIGHT)
            .expect("streams");
        std::fs::write(&stop, "").expect("the stop file");
        until("the load ends", Duration::from_secs(60), || load.try_wait().is_ok_and(|status| status.is_some()))
            .expect("an end");

        let (records, audit) = settled(&scene, &daemon);
        let direct = scene.wire.packets().len() as u64;
        for (key, value) in
            [("kills", kills), ("lost", audit.lost), ("doubled", audit.doubled), ("direct_connections", direct)]
        {
            report::figure("money", key, value);
        }
        assert_eq!((audit.lost, audit.doubled), (0, 0), "seed {}: {audit:?}\n{records:#?}", seed());
        scene.wire.silent();
        let _ran = daemon.verify();
        daemon.stop();
        let mut more = Map::new();
        more.insert("seed".into(), json!(seed()));
        more.insert("states".into(), json!(states));
        more.insert("requests".into(), json!(audit.requests));
        more
    });
}

/// With the daemon dead, a new connection is refused, whatever it is and wherever it goes.
#[track_caller]
fn door_is_shut(scene: &Scene, cgroup: &Cgroup) {
    for (kind, to) in [("tcp", "203.0.113.10"), ("tcp", "[2001:db8:ca::10]"), ("udp", "203.0.113.10")] {
        let probe = scene.agent(env!("CARGO_BIN_EXE_probe")).cgroup(&cgroup.path()).user(AGENT_UID);
        let ran = probe.args([kind, &format!("{to}:{CANARY_PORT}")]).ran();
        assert_eq!(ran.code, Some(3), "{kind} to {to} with the daemon dead: {}", ran.screen());
    }
}
