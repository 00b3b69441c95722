//! Upgrades under load: not one allowed connection fails, and not one byte leaves the host by another road. And what the keeper
//! remembers of what it signed outlives them.

use crate::{PROBE, RULES, STAND_IN, World, case_with};
use serde_json::json;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::installed::Installed;
use support::netns::until;
use support::report;
use support::scene::Scene;
use support::wire::CANARY_PORT;

const PATIENCE: Duration = Duration::from_secs(120);

/// What an upgrade must not leave more of: the keeper's descriptors (maps, programs, links and roads are such), its memory,
/// pins, and data paths that have nothing to end.
#[derive(Clone, Copy, Debug)]
struct Left {
    descriptors: usize,
    pins: usize,
    keeper_kib: u64,
    processes: usize,
}

fn left(world: &World<'_>) -> Left {
    let keeper = world.daemon.keeper().expect("a keeper");
    let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    // The fence comes and goes with sockets from outside.
    let pins = format!("find /sys/fs/bpf/caracal/{}-v1 -not -path '*/fence*' | wc -l", world.daemon.instance());
    Left {
        descriptors: std::fs::read_dir(format!("/proc/{keeper}/fd")).map_or(0, |all| all.flatten().count()),
        pins: world.scene.net.a.shell(&pins).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        keeper_kib: resident.unwrap_or(0),
        processes: world.daemon.processes().len(),
    }
}

/// The same once everything that was open has ended.
fn settled(world: &World<'_>) -> Left {
    let ended = || world.daemon.json(&["status"])["data_path"]["predecessors"] == 0;
    until("the data paths from before have ended", PATIENCE, ended).expect("they end");
    let mut least = left(world);
    // A canary's visit and a look at processes have a few for a moment.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let now = left(world);
        least.descriptors = least.descriptors.min(now.descriptors);
        least.processes = least.processes.min(now.processes);
    }
    least
}

/// Tells, at its end, that it is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn control(scene: &Scene, cgroup: &Cgroup) {
    scene.wire.clear();
    let _ran = crate::attempt(scene, cgroup, &["tcp", &format!("203.0.113.10:{CANARY_PORT}")]);
    assert!(!scene.wire.packets().is_empty(), "the control does not leak");
}

#[test]
fn upgrades_under_load_lose_no_connection_and_leak_nothing() {
    let rounds = if report::long() { 100 } else { 5 };
    let installed = Installed::new();
    let prepare = |daemon: &mut Daemon<'_>| daemon.install(installed.binary());
    case_with("upgrades under load", RULES, control, prepare, |world: &mut World<'_>| {
        assert_eq!(world.allowed(), "200");
        world.scene.wire.clear();
        let (stop, out) = (world.scene.net.files().join("stop"), world.scene.file("steady.out", ""));
        let script = world.scene.file("steady.py", include_str!("../programs/steady.py"));
        let file = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let run = world.scene.agent("/usr/bin/python3").cgroup(&world.cgroup.path()).arg(script);
        let run = run.arg(world.daemon.ca()).args(["example.com", "203.0.113.10"]).arg(&stop);
        let mut load = run.spawn(Stdio::from(file), Stdio::null()).expect("python3 starts");
        let before = settled(world);
        // Beside it, something that must never get out, tried all the while.
        let over = AtomicBool::new(false);
        let leaks = std::thread::scope(|scope| {
            // Also when a round fails: the other thread is waited for.
            let over = Over(&over);
            let seen = over.0;
            let scene = world.scene;
            let path = world.cgroup.path();
            let tries = scope.spawn(move || {
                let mut tried = 0_u64;
                while !seen.load(Ordering::Relaxed) {
                    for kind in ["udp", "udp-connected"] {
                        let run = scene.agent(PROBE).user(0).cgroup(&path);
                        let _ran = run.args(["burst", "20", kind, &format!("203.0.113.10:{CANARY_PORT}")]).ran();
                        tried += 20;
                    }
                }
                tried
            });
            for round in 0..rounds {
                let keeper = world.daemon.keeper();
                let path = world.daemon.data_path();
                installed.replace();
                let ran = world.daemon.command(&["upgrade"]).ran();
                assert_eq!(ran.code, Some(0), "round {round}: {}\n{}", ran.screen(), world.daemon.logs());
                assert_eq!(world.daemon.keeper(), keeper, "the keeper keeps its number");
                until("another data path serves", PATIENCE, || {
                    world.daemon.data_path().is_some_and(|other| Some(other) != path)
                })
                .expect("another data path");
            }
            drop(over);
            tries.join().expect("the other attempts")
        });
        std::fs::write(&stop, "").expect("the load stops");
        until("the load ends", PATIENCE, || load.try_wait().is_ok_and(|status| status.is_some())).expect("it ends");
        let after = settled(world);
        let grown = after.keeper_kib.saturating_sub(before.keeper_kib);
        // A canary may be between two of its processes.
        assert!(before.pins == after.pins && after.processes <= before.processes, "{before:?} {after:?}");
        // The first upgrade moves a few; none may be left of each.
        assert!(after.descriptors < before.descriptors + 8, "{before:?} {after:?}");
        assert!(grown < 16 << 10, "the keeper has grown by {grown} KiB: {before:?} {after:?}");
        // What ends the connections of a data path that is no more has no owner, and so goes by the default route; it is
        // known by the data path's address, and carries nothing.
        let own = [IpAddr::from([203, 0, 113, 1]), IpAddr::from([0x2001, 0xdb8, 0xca, 0, 0, 0, 0, 1])];
        let leaked = world.scene.wire.packets().into_iter();
        let leaked: Vec<_> = leaked.filter(|packet| packet.carries() || !own.contains(&packet.source)).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
        world.scene.wire.clear();
        let said = std::fs::read_to_string(&out).expect("what it said");
        let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("failed")).collect();
        assert!(failed.is_empty(), "{} failed: {:?}\n{}", failed.len(), failed.first(), world.daemon.logs());
        let requests: u64 =
            said.lines().find_map(|line| line.strip_prefix("requests ")?.parse().ok()).expect("how many there were");
        assert!(requests > rounds, "no load: {said}");
        let records = world.daemon.records();
        let upgraded = records.iter().filter(|record| record.text("caracal.message").starts_with("upgraded in place"));
        assert_eq!(upgraded.count() as u64, rounds, "each upgrade is a record");
        let _ran = world.daemon.verify();
        report::figure("escape", "upgrades", rounds);
        let counts = |left: Left| {
            json!({
                "descriptors": left.descriptors, "pins": left.pins, "keeper_kib": left.keeper_kib,
                "processes": left.processes,
            })
        };
        json!({
            "rounds": rounds, "requests": requests, "failed": failed.len(), "other_attempts": leaks,
            "before": counts(before), "after": counts(after),
        })
    });
}

/// What the keeper remembers of the heads that it signed: whose key, which place, which record.
fn signed_head(daemon: &Daemon<'_>) -> Option<(String, u64, String)> {
    let text = std::fs::read_to_string(daemon.state().join("keeper/host-signed")).ok()?;
    let mut words = text.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.to_owned()))
}

#[test]
fn the_signed_head_is_remembered_over_an_upgrade_and_none_before_it_is_signed() {
    report::case("escape", "chain heads over upgrades", || {
        let installed = Installed::new();
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.install(installed.binary());
        daemon.restart();
        let upgrade = |daemon: &Daemon<'_>| {
            installed.replace();
            let ran = daemon.command(&["upgrade"]).ran();
            assert_eq!(ran.code, Some(0), "{}\n{}", ran.screen(), daemon.logs());
        };
        let mut first = None;
        until("a head is signed", PATIENCE, || {
            first = signed_head(&daemon);
            first.is_some()
        })
        .expect("a head");
        let (key, before, _) = first.expect("a head");
        upgrade(&daemon);
        let mut next = None;
        until("one behind it is signed", PATIENCE, || {
            next = signed_head(&daemon).filter(|(_, sequence, _)| *sequence > before);
            next.is_some()
        })
        .expect("the next head");
        let (same, after, _) = next.expect("a head");
        assert_eq!(same, key);
        assert!(!daemon.logs().contains("chain_head_"), "{}", daemon.logs());
        let _ran = daemon.verify();
        // As if a data path that was taken over had had another history signed, a long one. In another file: the keeper
        // has the first one open.
        let place = daemon.state().join("keeper/host-signed");
        let planted = place.with_extension("planted");
        std::fs::write(&planted, format!("{key} {:020} {}\n", after + 1_000_000, "5".repeat(64))).expect("written");
        std::fs::rename(&planted, &place).expect("in its place");
        upgrade(&daemon);
        until("the head is refused", PATIENCE, || daemon.logs().contains("chain_head_behind"))
            .unwrap_or_else(|error| panic!("{error}: {}", daemon.logs()));
        assert_eq!(
            signed_head(&daemon).map(|(_, sequence, _)| sequence),
            Some(after + 1_000_000),
            "it stays remembered"
        );
        daemon.stop();
        json!({ "signed": after }).as_object().cloned().unwrap_or_default()
    });
}
