//! What the kernel says about a process is what the ledger says: every refusal is counted, also while the daemon is
//! dead, and every connection has the identity and the destination that it had.

use crate::{RULES, World, case};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::ledger::Record;
use support::netns::{AGENT_UID, until};
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// Attempts of one kind: how many, to where, and how the record calls what stops them.
const KINDS: &[(&str, u64, &str, &str, &str)] = &[
    ("udp", 137, "203.0.113.10", "datagram_refused", "sendmsg"),
    ("udp-connected", 61, "203.0.113.10", "datagram_refused", "egress"),
    ("raw", 43, "203.0.113.10", "socket_kind_refused", "sock_create"),
    ("bind", 29, "127.0.0.1", "daemon_port_refused", "bind"),
    ("join", 31, "198.51.100.1", "multicast_refused", "setsockopt"),
    ("device", 23, "", "device_refused", "device"),
    (KNOCK, 97, "198.51.100.1", "inbound_refused", "ingress"),
];
/// How long a program or the daemon may take for one step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Datagrams from the other host, for a socket of the agent's.
const KNOCK: &str = "knock";

fn target(scene: &Scene, kind: &str, address: &str) -> String {
    match kind {
        "raw" | "join" => address.to_owned(),
        "bind" => format!("{address}:{}", Daemon::TCP_PORT),
        "device" => node(scene).display().to_string(),
        _ => format!("{address}:{CANARY_PORT}"),
    }
}

fn node(scene: &Scene) -> PathBuf {
    scene.net.files().join("node")
}

/// Makes a device by which bytes could leave and that can be opened here: a tunnel, memory, or a disk.
fn make_node(scene: &Scene) {
    let line = format!(
        "set -- 'c 10 200' 'c 1 1'; for i in /sys/class/block/*; do case $i in */loop*|*/ram*) continue;; esac; \
         d=$(cat $i/dev); set -- \"$@\" \"b ${{d%:*}} ${{d#*:}}\"; done; \
         for kind; do rm -f {0}; mknod {0} $kind && (exec 3<{0}) 2>/dev/null && exit 0; done; exit 1",
        node(scene).display()
    );
    scene.net.a.shell(&line).expect("a device that opens");
}

/// Tries one kind; gives how many came to nothing.
#[track_caller]
fn try_out(scene: &Scene, cgroup: &Cgroup, kind: &str, times: u64, address: &str) -> u64 {
    let to = target(scene, kind, address);
    if kind == KNOCK {
        return times - heard(scene, cgroup, times, &to);
    }
    let ran = crate::attempt(scene, cgroup, &["burst", &times.to_string(), kind, &to]).ok();
    let refused = ran.stdout.trim().strip_prefix("refused ").and_then(|said| said.split(' ').next()?.parse().ok());
    refused.unwrap_or_else(|| panic!("{kind}: {}", ran.screen()))
}

/// Has the other host send datagrams to a socket in the cgroup; gives how many that one hears.
#[track_caller]
fn heard(scene: &Scene, cgroup: &Cgroup, times: u64, at: &str) -> u64 {
    let (out, end) = (scene.file("heard.out", ""), scene.net.files().join("heard.end"));
    let file = std::fs::File::options().append(true).open(&out).expect("a file");
    let run = scene.agent(crate::PROBE).user(0).cgroup(&cgroup.path()).args(["hear", &times.to_string(), at]);
    let mut child = run.arg(&end).spawn(Stdio::from(file), Stdio::inherit()).expect("a listener");
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    until("it listens", PATIENCE, || said().contains("ready")).expect("a listener");
    let send = || -> anyhow::Result<()> {
        let socket = UdpSocket::bind("198.51.100.2:0")?;
        for _ in 0..times {
            socket.send_to(b"knock", at)?;
        }
        Ok(())
    };
    scene.net.b.inside(send).expect("datagrams");
    // On a cable within this host they are there once they are sent.
    std::fs::write(&end, "").expect("a file");
    let _status = child.wait();
    std::fs::remove_file(&end).expect("its end");
    let heard = said().lines().find_map(|line| line.strip_prefix("heard ")?.split(' ').next()?.parse().ok());
    heard.unwrap_or_else(|| panic!("it says nothing: {}", said()))
}

#[track_caller]
fn burst(world: &World<'_>, kind: &str, times: u64, address: &str) {
    let refused = try_out(world.scene, world.cgroup, kind, times, address);
    assert_eq!(refused, times, "{kind}: each must be refused");
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
    make_node(scene);
    // What the kernel announces of a membership goes out at once and once: not when nobody may be heard any more.
    let once = "cd /proc/sys/net/ipv4 && echo 1 > igmp_qrv && echo 1 > conf/leak/igmpv3_unsolicited_report_interval";
    scene.net.a.shell(once).expect("settings of a namespace");
    for (kind, times, address, ..) in KINDS {
        let refused = try_out(scene, cgroup, kind, *times, address);
        assert_eq!(refused, 0, "{kind}: none may be refused without a daemon");
    }
}

/// Whether each kind was refused so often, or oftener.
fn reached(records: &[Record], cgroup: u64, rounds: u64) -> bool {
    KINDS.iter().all(|(_, times, _, reason, place)| counted(records, cgroup, reason, place) >= rounds * times)
}

fn id(cgroup: &Cgroup) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(cgroup.path()).expect("the cgroup").ino()
}

#[test]
fn kernel_side_refusals_are_counted_exactly_also_while_the_daemon_is_dead() {
    case("exact counts of the kernel's refusals", RULES, all_pass, |world| {
        let cgroup = id(world.cgroup);
        for (kind, times, address, ..) in KINDS {
            burst(world, kind, *times, address);
        }
        let _told = world.daemon.records_when(|records| reached(records, cgroup, 1));
        world.daemon.kill();
        for (kind, times, address, ..) in KINDS {
            burst(world, kind, *times, address);
        }
        burst(world, "tcp", 83, "203.0.113.10");
        world.daemon.restart();
        let whole = |records: &[Record]| reached(records, cgroup, 2) && dead(records, cgroup) >= 83;
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

/// The places where a kill could have a refusal told twice, or never: between a record and the note of it, and in an order
/// whose answer nobody hears.
#[test]
fn each_refusal_is_in_one_record_whenever_the_daemon_is_killed() {
    case("a refusal is in one record whenever the daemon is killed", RULES, all_pass, |world| {
        let cgroup = id(world.cgroup);
        let each = |world: &World<'_>| KINDS.iter().for_each(|(kind, times, to, ..)| burst(world, kind, *times, to));
        let keeper = world.daemon.state().join("keeper");
        let (note, fresh) = (keeper.join("counted.json"), keeper.join("counted.new"));
        each(world);
        let _told = world.daemon.records_when(|records| reached(records, cgroup, 1));
        // The note is a file that takes the place of the one before: now it cannot be made.
        until("the note", PATIENCE, || note.exists() && std::fs::create_dir(&fresh).is_ok()).expect("a place");
        let before = std::fs::read(&note).expect("the note");
        each(world);
        let _told = world.daemon.records_when(|records| reached(records, cgroup, 2));
        world.daemon.kill();
        assert_eq!(std::fs::read(&note).expect("the note"), before, "planted: nothing was noted of the second round");
        std::fs::remove_dir(&fresh).expect("its place");
        world.daemon.restart();
        // And at any time: both processes, or the data path alone, which may have made a record and not said so.
        let rounds = if support::report::long() { 60 } else { 6 };
        let seed = support::report::seed();
        let mut dice = StdRng::seed_from_u64(seed);
        for round in 0..rounds {
            let wait = Duration::from_millis(dice.random_range(0..500));
            std::thread::scope(|scope| {
                let burst = scope.spawn(|| each(world));
                std::thread::sleep(wait);
                if let (true, Some(path)) = (round % 2 == 0, world.daemon.data_path()) {
                    // SAFETY: kill takes integers; the pid is the data path's.
                    unsafe { libc::kill(path, libc::SIGKILL) };
                }
                burst.join().expect("each is refused");
            });
            if round % 2 == 1 {
                std::thread::sleep(wait);
                world.daemon.kill();
                world.daemon.restart();
            }
        }
        burst(world, "udp", 1, "203.0.113.10");
        let (_, times, _, reason, place) = KINDS[0];
        let last = |records: &[Record]| counted(records, cgroup, reason, place) > (2 + rounds) * times;
        let records = world.daemon.records_when(|records| reached(records, cgroup, 2 + rounds) && last(records));
        for (kind, times, _, reason, place) in KINDS {
            let wanted = (2 + rounds) * times + u64::from(*kind == "udp");
            assert_eq!(counted(&records, cgroup, reason, place), wanted, "{kind}, seed {seed}");
        }
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
