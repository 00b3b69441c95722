//! What the kernel says about a process is what the ledger says: every refusal is counted, also while the daemon is
//! dead, and every connection has the identity and the destination that it had.

use crate::{RULES, World, case};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use support::daemon::{Cgroup, Daemon};
use support::ledger::Record;
use support::netns::AGENT_UID;
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// Attempts of one kind: how many, to where, and how the record calls what stops them.
const KINDS: &[(&str, u64, &str, &str, &str)] = &[
    ("udp", 137, "203.0.113.10", "datagram_refused", "sendmsg"),
    ("udp-connected", 61, "203.0.113.10", "datagram_refused", "egress"),
    ("raw", 43, "203.0.113.10", "socket_kind_refused", "sock_create"),
    ("bind", 29, "127.0.0.1", "daemon_port_refused", "bind"),
];

fn target(kind: &str, address: &str) -> String {
    match kind {
        "raw" => address.to_owned(),
        "bind" => format!("{address}:{}", Daemon::TCP_PORT),
        _ => format!("{address}:{CANARY_PORT}"),
    }
}

#[track_caller]
fn burst(world: &World<'_>, kind: &str, times: u64, address: &str) {
    let ran = world.attempt(&["burst", &times.to_string(), kind, &target(kind, address)]).ok();
    assert_eq!(ran.stdout.trim(), format!("refused {times} of {times}"), "{kind}");
}

/// Connections that the kernel refused: by itself, or within the lease because no daemon was there to take them.
fn dead(records: &[Record], cgroup: u64) -> u64 {
    ["lease_expired", "daemon_absent"].iter().map(|reason| counted(records, cgroup, reason, "connect")).sum()
}

fn counted(records: &[Record], cgroup: u64, reason: &str, place: &str) -> u64 {
    let ours = |record: &&Record| {
        record.is_denial(reason)
            && record.text("caracal.stage") == place
            && record.number("caracal.cgroup") == Some(cgroup)
    };
    records.iter().filter(ours).map(Record::count).sum()
}

/// An attempt that is refused without a daemon would prove nothing.
fn all_pass(scene: &Scene, cgroup: &Cgroup) {
    for (kind, times, address, ..) in KINDS {
        let ran = crate::attempt(scene, cgroup, &["burst", &times.to_string(), kind, &target(kind, address)]);
        assert_eq!(ran.stdout.trim(), format!("refused 0 of {times}"), "{kind}: {}", ran.screen());
    }
}

#[test]
fn kernel_side_refusals_are_counted_exactly_also_while_the_daemon_is_dead() {
    case("exact counts of the kernel's refusals", RULES, all_pass, |world| {
        use std::os::unix::fs::MetadataExt as _;
        let cgroup = std::fs::metadata(world.cgroup.path()).expect("the cgroup").ino();
        for (kind, times, address, ..) in KINDS {
            burst(world, kind, *times, address);
        }
        // Killed between a record and the note of what was told, the daemon tells it again.
        let _told = world.daemon.records_when(|records| {
            KINDS.iter().all(|(_, times, _, reason, place)| counted(records, cgroup, reason, place) >= *times)
        });
        world.daemon.kill();
        for (kind, times, address, ..) in KINDS {
            burst(world, kind, *times, address);
        }
        burst(world, "tcp", 83, "203.0.113.10");
        world.daemon.restart();
        let whole = |records: &[Record]| {
            KINDS.iter().all(|(_, times, _, reason, place)| counted(records, cgroup, reason, place) >= 2 * times)
                && dead(records, cgroup) >= 83
        };
        let _records = world.daemon.records_when(whole);
        // Once more over a restart: what was told is not told again.
        world.daemon.kill();
        world.daemon.restart();
        burst(world, "udp", 1, "203.0.113.10");
        let records =
            world.daemon.records_when(|records| counted(records, cgroup, "datagram_refused", "sendmsg") > 2 * 137);
        for (kind, times, _, reason, place) in KINDS {
            let more = u64::from(*kind == "udp");
            assert_eq!(counted(&records, cgroup, reason, place), 2 * times + more, "{kind}");
        }
        assert_eq!(dead(&records, cgroup), 83, "tcp while it was dead");
        let _ran = world.daemon.verify();
    });
}

/// One connection as the prober made it: address, port, process, user, task name.
type Made = (String, u64, u64, u64, String);

fn made(line: &str) -> Made {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| value[key].as_u64().unwrap_or_default();
    (text("address"), number("port"), number("pid"), number("uid"), text("comm"))
}

#[test]
fn two_thousand_connections_have_their_own_identity_and_destination() {
    case(
        "identity and destination of 2,000 connections",
        RULES,
        |_, _| (),
        |world| {
            use std::os::unix::fs::MetadataExt as _;
            let inner = world.cgroup.path().join("inner");
            std::fs::create_dir(&inner).expect("a cgroup below");
            let mut wanted: BTreeMap<Made, u64> = BTreeMap::new();
            let runs = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..4_u32)
                    .map(|number| {
                        let path = if number % 2 == 0 { world.cgroup.path() } else { inner.clone() };
                        let run =
                            world.scene.agent(crate::PROBE).cgroup(&path).user(if number < 2 { 0 } else { AGENT_UID });
                        let id = std::fs::metadata(&path).expect("the cgroup").ino();
                        scope.spawn(move || {
                            (id, run.args(["swarm", "500", &format!("198.51.{}.0", 104 + number)]).ran().ok())
                        })
                    })
                    .collect();
                runs.into_iter().map(|run| run.join().expect("a prober")).collect::<Vec<_>>()
            });
            for (cgroup, ran) in runs {
                wanted.extend(ran.stdout.lines().map(|line| (made(line), cgroup)));
            }
            assert_eq!(wanted.len(), 2_000, "each connection is another one");
            let ours = |record: &&Record| record.is_denial("protocol_unknown");
            let records = world
                .daemon
                .records_when(|records| records.iter().filter(ours).map(Record::count).sum::<u64>() >= 2_000);
            let mut seen = BTreeSet::new();
            for record in records.iter().filter(ours) {
                let number = |key: &str| record.number(key).unwrap_or_default();
                let detail = |key: &str| record.detail[key].as_u64().unwrap_or_default();
                let host = record.detail["host"].as_str().unwrap_or_default().to_owned();
                let one: Made = (
                    host,
                    detail("port"),
                    number("process.pid"),
                    detail("uid"),
                    record.text("caracal.comm").to_owned(),
                );
                assert_eq!(wanted.get(&one), Some(&number("caracal.cgroup")), "nobody made {one:?}: {record:?}");
                assert_eq!(record.count(), 1, "{record:?}");
                assert!(seen.insert(one), "twice: {record:?}");
            }
            assert_eq!(seen.len(), 2_000);
        },
    );
}
