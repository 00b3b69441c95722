//! A workload that runs already: what it holds when it is attached is listed, and destroyed or fenced within a second;
//! its new connections trust the local CA without a restart where its files can be reached, and are never passed
//! through where they cannot.

mod asked;
mod trust;
mod workload;

use crate::{RULES, STAND_IN, attempt};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::daemon::{Cgroup, Daemon};
use support::netns::{AGENT_UID, Ran, until};
use support::report;
use support::scene::Scene;
use support::wire::CANARY_PORT;
use workload::Workload;

const PATIENCE: Duration = Duration::from_secs(30);
/// The promise of live attach.
const FENCED_WITHIN: Duration = Duration::from_secs(1);
const CANARY: &str = "203.0.113.10";
const CANARY6: &str = "2001:db8:ca::10";
/// Kinds that a kernel may be without: their protocol, and what the report calls them.
const OTHERS: [(&str, u8, &str); 6] = [
    ("udplite", 136, "udplite"),
    ("udplite6", 136, "udplite"),
    ("ping", 1, "icmp"),
    ("ping6", 58, "icmp"),
    ("raw", 1, "icmp"),
    ("raw6", 58, "icmp"),
];

/// `caracald attach` beside a daemon that runs; its report.
#[track_caller]
fn attach(daemon: &Daemon<'_>, cgroup: &Cgroup, more: &[&str]) -> Value {
    let ran = daemon.command(&["attach", "--json", "--cgroup"]).arg(cgroup.path()).args(more).ran().ok();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.screen()))
}

#[track_caller]
fn detach(daemon: &Daemon<'_>, cgroup: &Cgroup) -> Ran {
    daemon.command(&["detach", "--cgroup"]).arg(cgroup.path()).ran().ok()
}

/// The report's lines by the name that the workload gives its descriptors.
fn lines(report: &Value, workload: &Workload) -> BTreeMap<String, Value> {
    let inside = &workload.pids["inside"];
    let mut all = BTreeMap::new();
    for socket in report["live"]["sockets"].as_array().into_iter().flatten() {
        assert_eq!(&socket["pid"], inside, "{socket}");
        assert_eq!(socket["process"], "python3", "{socket}");
        let fds = workload.ready["fds"].as_object().into_iter().flatten();
        let name = fds.filter(|(_, fd)| **fd == socket["fd"]).map(|(name, _)| name.clone()).next();
        let name = if socket["fd"] == workload.ready["unix"] { Some("unix".to_owned()) } else { name };
        all.insert(name.unwrap_or_else(|| panic!("nobody's: {socket}")), socket.clone());
    }
    all
}

#[test]
fn what_a_running_workload_holds_is_listed_and_closed_within_a_second() {
    report::case("escape", "live attach", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let daemon = Daemon::start(&scene, RULES);
        let workload = Workload::start(&scene, &cgroup);
        let seen = workload.seen();
        // The control: without an attach every one of them gets out, and the listener answers.
        for name in ["tcp", "udp", "tcp6", "udp6", "passed", "fresh-udp", "own-tcp", "own-udp", "own-tcp6", "own-udp6"]
        {
            assert_eq!(seen[name], "sent", "{name}: {seen}");
        }
        let absent = workload.ready["absent"].as_object().cloned().unwrap_or_default();
        for (kind, why) in &absent {
            println!("ABSENT: this kernel has no {kind} sockets: {why}");
        }
        assert!(
            absent.keys().all(|kind| kind == "mptcp" || OTHERS.iter().any(|(other, ..)| kind == other)),
            "{absent:?}"
        );
        let packets = scene.wire.packets();
        let inside = |wanted: u8, v6: bool| {
            packets.iter().filter(|packet| packet.protocol == wanted && packet.destination.is_ipv6() == v6).count()
        };
        let others = OTHERS.iter().filter(|(kind, ..)| !absent.contains_key(*kind));
        let others = others.map(|(kind, protocol, _)| (*protocol, kind.ends_with('6')));
        for (protocol, v6) in [(6, false), (17, false), (6, true), (17, true)].into_iter().chain(others) {
            assert!(
                inside(protocol, v6) > 3,
                "the judge does not see the control: protocol {protocol}, IPv6 {v6}: {seen}"
            );
        }
        let port = workload.ready["ports"]["listener"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.expect("a port");
        assert!(knock(&scene, port), "the control's listener is not reached");

        // Planted: with nothing attached, packets go on leaving after the time of the promise, and that is red.
        scene.wire.clear();
        let began = Instant::now();
        let since = || fence(&scene, began);
        until("packets go on", PATIENCE, || since() > FENCED_WITHIN).expect("the control goes on");
        assert!(in_time(since()).is_err(), "planted: a fence that never stands is not seen");

        scene.wire.clear();
        until("packets until the attach", PATIENCE, || !scene.wire.packets().is_empty()).expect("the control goes on");
        let began = Instant::now();
        let report = attach(&daemon, &cgroup, &[]);
        let took = began.elapsed();
        std::thread::sleep(FENCED_WITHIN);
        let fence = fence(&scene, began);
        report::figure("escape", "fence_ms_live_attach", u64::try_from(fence.as_millis()).unwrap_or(u64::MAX));
        in_time(fence).unwrap_or_else(|why| panic!("{why} (the attach took {took:?})"));

        let lines = lines(&report, &workload);
        let wanted = [
            ("tcp", "tcp", "established", "elsewhere", "destroyed"),
            ("udp", "udp", "connected", "elsewhere", "destroyed"),
            ("listener", "tcp", "listening", "elsewhere", "destroyed"),
            ("fresh-tcp", "tcp", "unconnected", "unknown", "fenced"),
            ("passed", "tcp", "established", "elsewhere", "destroyed"),
            ("own-tcp", "tcp", "established", "here", "destroyed"),
            ("own-udp", "udp", "connected", "here", "destroyed"),
            ("own-listener", "tcp", "listening", "here", "fenced"),
            ("client", "tcp", "established", "here", "left"),
            ("server", "tcp", "established", "here", "left"),
            ("unix", "unix", "connected", "unknown", "uncovered"),
            ("tcp6", "tcp", "established", "elsewhere", "destroyed"),
            ("udp6", "udp", "connected", "elsewhere", "destroyed"),
            ("own-tcp6", "tcp", "established", "here", "destroyed"),
            ("own-udp6", "udp", "connected", "here", "destroyed"),
        ];
        for (name, kind, state, made, done) in wanted {
            let line = lines.get(name).unwrap_or_else(|| panic!("{name} is not listed: {report}"));
            let is = ["kind", "state", "made", "done"].map(|field| line[field].as_str().unwrap_or("?"));
            assert_eq!(is, [kind, state, made, done], "{name}: {line}");
        }
        // Where one of these was made not every kernel says. Wherever that was, it is fenced.
        let own_mptcp = (!absent.contains_key("mptcp")).then(|| ("own-mptcp".to_owned(), "mptcp"));
        let others = OTHERS.iter().filter(|(kind, ..)| !absent.contains_key(*kind));
        let others = others.flat_map(|(name, _, kind)| [((*name).to_owned(), *kind), (format!("own-{name}"), *kind)]);
        for (name, kind) in others.chain(own_mptcp) {
            let line = lines.get(&name).unwrap_or_else(|| panic!("{name} is not listed: {report}"));
            assert_eq!((&line["kind"], &line["done"]), (&json!(kind), &json!("fenced")), "{name}: {line}");
        }
        // It has sent already, so it has a port: the kernel says where it was made.
        assert_eq!(lines["fresh-udp"]["done"], "fenced");
        let why = lines["unix"]["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains(&workload.pids["outside"].to_string()), "{why}");
        assert_eq!(lines["own-tcp"]["peer"], format!("{CANARY}:{CANARY_PORT}"));

        // Whatever it tries with them now: nothing leaves, and the agent's own loopback goes on.
        scene.wire.clear();
        workload.ask("hostile");
        for _ in 0..5 {
            let seen = workload.seen();
            assert_eq!((&seen["client"], &seen["server"]), (&json!("sent"), &json!("sent")), "{seen}");
        }
        std::thread::sleep(FENCED_WITHIN);
        scene.wire.silent_but_for_resets();
        // The host itself says that nobody listens: a reset, and no byte of the workload's.
        assert!(!knock(&scene, port), "the listener still answers");

        // A socket that is passed in later is found by the next look.
        workload.ask("late");
        until("the late one is listed", PATIENCE, || {
            let status = daemon.json(&["status"]);
            let all = status["agents"][0]["live"]["sockets"].as_array().cloned().unwrap_or_default();
            all.len() > lines.len()
        })
        .expect("a late socket is found");
        scene.wire.clear();
        let _seen = workload.seen();
        std::thread::sleep(FENCED_WITHIN);
        scene.wire.silent_but_for_resets();

        let destroyed = wanted.iter().filter(|(.., done)| *done == "destroyed").count();
        let destroyed = format!(" {destroyed} destroyed");
        let told = |message: &str| message.starts_with("attached agent") && message.contains(&destroyed);
        let messages = |records: &[support::ledger::Record]| -> Vec<String> {
            records.iter().map(|record| record.data.to_string()).collect()
        };
        let records = daemon
            .records_when(|records| records.iter().any(|record| record.data.to_string().contains("came into agent")));
        let messages = messages(&records);
        assert!(
            records.iter().any(|record| record
                .data
                .as_object()
                .into_iter()
                .flatten()
                .any(|(_, value)| value.as_str().is_some_and(told))),
            "{messages:#?}"
        );
        assert!(records.iter().any(|record| record.is_denial("foreign_socket_refused")), "{messages:#?}");

        // A released workload has them back, as far as they were not ended.
        let _ran = detach(&daemon, &cgroup);
        scene.wire.clear();
        let _seen = workload.seen();
        assert!(sends(&scene), "a released workload still cannot send");
        let mut more = Map::new();
        more.insert("ABSENT".into(), json!(absent));
        more.insert("control".into(), json!("leaked without an attach"));
        more.insert("fence_ms".into(), json!(u64::try_from(fence.as_millis()).unwrap_or(u64::MAX)));
        more.insert("attach_ms".into(), json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        more
    });
}

/// How long after `began` the last packet left.
fn fence(scene: &Scene, began: Instant) -> Duration {
    let packets = scene.wire.packets();
    assert!(packets.len() < 90_000, "the judge keeps no more, and cannot say which was the last");
    let last = packets.iter().filter(|packet| !packet.is_reset()).map(|packet| packet.at).max();
    last.unwrap_or(began).saturating_duration_since(began)
}

/// Whether the promise was kept.
fn in_time(fence: Duration) -> Result<(), String> {
    if fence < FENCED_WITHIN { Ok(()) } else { Err(format!("a packet left {fence:?} after the attach began")) }
}

/// Whether the judge sees more than resets.
fn sends(scene: &Scene) -> bool {
    scene.wire.packets().iter().any(|packet| !packet.is_reset())
}

/// Whether a listener of A answers somebody in B.
#[expect(clippy::disallowed_methods, reason = "the test is the stranger who knocks")]
fn knock(scene: &Scene, port: u16) -> bool {
    let address = std::net::SocketAddr::from(([198, 51, 100, 1], port));
    let knocked = scene.net.b.inside(|| Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?));
    knocked.is_ok()
}

#[test]
fn marks_outlive_the_keeper_and_go_with_a_detach() {
    report::plain("escape", "live attach, kill -9, detach without a daemon", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let mut daemon = Daemon::start(&scene, RULES);
        let workload = Workload::start(&scene, &cgroup);
        let _seen = workload.seen();
        assert!(!scene.wire.packets().is_empty(), "the control does not leak");
        let _report = attach(&daemon, &cgroup, &[]);
        workload.ask("hostile");
        daemon.kill();
        scene.wire.clear();
        let _seen = workload.seen();
        scene.wire.silent_but_for_resets();
        daemon.restart();
        let _seen = workload.seen();
        scene.wire.silent_but_for_resets();
        daemon.kill();
        let _ran = detach(&daemon, &cgroup);
        let _seen = workload.seen();
        assert!(sends(&scene), "a released workload still cannot send");
    });
}

/// Makes a socket of these numbers and gives up root; what this kernel does not have is said.
const HOLD: &str = "
import errno, os, socket, sys, time
try:
    held = socket.socket(*map(int, sys.argv[2].split(':')))
except OSError as error:
    print('absent' if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT) else error, flush=True)
    sys.exit()
os.setuid(int(sys.argv[1]))
print('holds', flush=True)
time.sleep(600)
";

#[test]
fn a_socket_from_outside_that_nothing_can_fence_refuses_the_attach() {
    for (kind, numbers) in [("packet", "17:3:0"), ("mptcp", "2:1:262")] {
        report::case("escape", &format!("live attach of a {kind} socket from outside"), || refused(kind, numbers));
    }
}

fn refused(kind: &str, numbers: &str) -> Map<String, Value> {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let cgroup = Cgroup::new();
    let daemon = Daemon::start(&scene, RULES);
    let out = scene.file("hold.out", "");
    let file = std::fs::OpenOptions::new().write(true).open(&out).expect("a file");
    // Outside, and moved in with what it holds: an MPTCP socket that is made inside is the cgroup's own.
    let run = scene.agent("/usr/bin/python3").user(0);
    let mut child = run.args(["-c", HOLD, &AGENT_UID.to_string(), numbers]).spawn(Stdio::from(file), Stdio::null());
    let child = child.as_mut().expect("python3 starts");
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    until("it holds", PATIENCE, || said().ends_with('\n')).expect("it gives up root");
    let mut more = Map::new();
    if said() == "absent\n" {
        println!("ABSENT: this kernel has no {kind} sockets");
        more.insert("ABSENT".into(), json!(kind));
        let _status = child.wait();
        return more;
    }
    assert_eq!(said(), "holds\n");
    let pid = child.id();
    std::fs::write(cgroup.path().join("cgroup.procs"), pid.to_string()).expect("it moves");
    let ran = daemon.command(&["attach", "--cgroup"]).arg(cgroup.path()).ran();
    assert_ne!(ran.code, Some(0), "{}", ran.screen());
    for part in [kind, &pid.to_string(), "--allow-degraded"] {
        assert!(ran.screen().contains(part), "{part}: {}", ran.screen());
    }
    // Refused is refused: the cgroup is as free as before.
    scene.wire.clear();
    let _ran = attempt(&scene, &cgroup, &["udp", &format!("{CANARY}:{CANARY_PORT}")]);
    assert!(!scene.wire.packets().is_empty(), "a refused attach left its programs behind");
    let report = attach(&daemon, &cgroup, &["--allow-degraded"]);
    assert_eq!(report["live"]["sockets"][0]["done"], "open", "{report}");
    let _dead = child.kill();
    let _status = child.wait();
    more
}

/// Sockets in a network namespace of the workload's own.
const NAMESPACE: &str = "
import socket, time
server = socket.socket()
server.bind(('127.0.0.1', 4321))
server.listen()
client = socket.create_connection(('127.0.0.1', 4321))
other, _ = server.accept()
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.connect(('127.0.0.1', 4322))
print('made', flush=True)
time.sleep(600)
";

#[test]
fn sockets_in_a_namespace_of_the_workload_are_listed() {
    report::plain("escape", "live attach with a user and network namespace", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let daemon = Daemon::start(&scene, RULES);
        let out = scene.file("namespace.out", "");
        let file = std::fs::OpenOptions::new().write(true).open(&out).expect("a file");
        let script = format!("ip link set lo up && exec /usr/bin/python3 -c \"{NAMESPACE}\"");
        let run = scene.agent("unshare").cgroup(&cgroup.path()).args(["-Urn", "sh", "-c", &script]);
        let mut child = run.spawn(Stdio::from(file), Stdio::null()).expect("unshare starts");
        until("the sockets", PATIENCE, || std::fs::read_to_string(&out).is_ok_and(|text| text.contains("made")))
            .expect("they are made");
        let report = attach(&daemon, &cgroup, &[]);
        let all = report["live"]["sockets"].as_array().cloned().unwrap_or_default();
        let of = |kind: &str, state: &str| {
            all.iter().filter(|one| one["kind"] == kind && one["state"] == state && one["made"] == "here").count()
        };
        assert_eq!((of("tcp", "listening"), of("tcp", "established"), of("udp", "connected")), (1, 2, 1), "{report}");
        assert!(all.iter().all(|one| one["pid"] == child.id()), "{report}");
        let _dead = child.kill();
        let _status = child.wait();
    });
}
