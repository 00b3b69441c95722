//! Many namespaces: none is left behind, and none is taken for another.

use crate::{Namespace, RULES, World, case};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;
use support::ledger::Record;
use support::netns::until;
use support::report;

/// Descriptors of keeper and data path, and their threads.
fn held(world: &World<'_>) -> [usize; 4] {
    let count = |pid: Option<i32>, what: &str| {
        pid.and_then(|pid| Some(std::fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count())).unwrap_or(usize::MAX)
    };
    let (keeper, data_path) = (world.daemon.keeper(), world.daemon.data_path());
    [count(keeper, "fd"), count(data_path, "fd"), count(keeper, "task"), count(data_path, "task")]
}

#[test]
fn two_hundred_namespaces_leave_nothing_behind() {
    case("200 namespaces made and destroyed", RULES, |world| {
        // Plain HTTP, and no pooled connection that outlives the case by much.
        let fetch = world.fetch("http://example.com/hello");
        let wave = format!(
            "for n in $(seq 20); do unshare -n sh -c 'ip link set lo up; {}' & done; wait",
            fetch.replace('\'', "'\\''")
        );
        let run = || world.scene.agent("sh").user(0).cgroup(&world.cgroup.path()).limit(Duration::from_secs(300));
        let nobody =
            |limit: u64| until("every namespace is let go", Duration::from_secs(limit), || world.served() == (0, 0, 1));
        // Once before, so that what is kept for good is there.
        let ran = run().args(["-c", &wave]).ran().ok();
        assert_eq!(ran.stdout.matches(" 200").count(), 20, "{}", ran.screen());
        nobody(20).expect("nothing is served");
        let before = held(world);
        let mut reached = 0;
        for _ in 0..10 {
            reached += run().args(["-c", &wave]).ran().ok().stdout.matches(" 200").count();
        }
        assert_eq!(reached, 200);
        nobody(30).expect("nothing is served");
        assert_eq!(world.entries("SOURCES", 32), 0, "flows of connections that are gone");
        // Idle connections to the upstream are kept for a minute; the runtime's spare threads may be a few more or fewer.
        let close = |now: [usize; 4]| now.iter().zip(before).all(|(now, before)| *now <= before + 4);
        until("what was held is given back", Duration::from_secs(120), || close(held(world))).unwrap_or_else(|error| {
            panic!("{error}: before {before:?}, after {:?}", held(world));
        });
        report::figure("namespaces", "namespaces_made", 220);
    });
}

#[test]
fn one_agent_gets_no_more_than_its_share() {
    case("260 namespaces of one agent at once", RULES, |world| {
        let swarm = "for n in $(seq 260); do unshare -n sleep 300 & done; wait";
        let run = world.scene.agent("sh").user(0).cgroup(&world.cgroup.path()).args(["-c", swarm]);
        let mut swarm = run.spawn(Stdio::null(), Stdio::null()).expect("sh");
        let status = || world.daemon.json(&["status"])["namespaces"].clone();
        until("as many as one agent may have", Duration::from_secs(60), || {
            let status = status();
            status["served"] == 256 && status["refused"].as_u64().is_some_and(|refused| refused >= 4)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", status()));
        assert!(status()["why"].as_str().is_some_and(|why| why.contains("256 network namespaces")), "{}", status());
        // The last one is shut, and the world outside it works.
        assert_eq!(world.entries("NAMESPACES", 8), 257);
        let fetch = world.fetch("https://example.com/hello");
        let ran = world.scene.agent("sh").cgroup(&world.cgroup.path()).args(["-c", &fetch]).ran().ok();
        assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
        std::fs::write(world.cgroup.path().join("cgroup.kill"), "1").expect("cgroup.kill");
        let _ended = swarm.wait();
        until("every namespace is let go", Duration::from_secs(60), || world.served() == (0, 0, 1)).expect("none left");
    });
}

/// Connects from the same source port as everybody else, tells its process id, and speaks when all are connected.
const SPEAKER: &str = "
import os, socket, sys, time
host, port, go = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for attempt in range(600):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', 40000))
    try:
        s.connect((host, port))
        break
    except OSError:
        s.close()
        time.sleep(0.05)
# SO_NETNS_COOKIE, socket(7).
cookie = int.from_bytes(s.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder)
print(os.getpid(), cookie, s.getsockname()[1], s.getpeername()[0], flush=True)
while not os.path.exists(go):
    time.sleep(0.02)
s.sendall(bytes(64))
s.settimeout(20)
s.recv(8)
";

#[test]
fn the_same_source_in_eight_namespaces_is_eight_flows() {
    case("one source address and port in eight namespaces", RULES, |world| {
        let go = world.scene.net.files().join("go");
        let namespaces: Vec<Namespace> = (0..8).map(|_| Namespace::new(world.scene, world.cgroup)).collect();
        let mut speakers = Vec::new();
        for (number, namespace) in namespaces.iter().enumerate() {
            let out = world.scene.file(&format!("speaker-{number}"), "");
            let to = std::fs::OpenOptions::new().write(true).open(&out).expect("a file");
            let (host, port) = (format!("203.0.113.{}", 20 + number), 2_000 + number);
            let run = namespace.run(world.scene, "python3").cgroup(&world.cgroup.path());
            let run = run.args(["-c", SPEAKER, &host, &port.to_string()]).arg(&go);
            let child = run.spawn(Stdio::from(to), Stdio::null()).expect("python3");
            speakers.push((child, out, host, port as u64));
        }
        let told = |out: &std::path::Path| std::fs::read_to_string(out).unwrap_or_default();
        until("all are connected at once", Duration::from_secs(120), || {
            speakers.iter().all(|(_, out, ..)| told(out).ends_with('\n'))
        })
        .expect("eight connections");
        std::fs::write(&go, "").expect("a file");
        let mut wanted = BTreeMap::new();
        for (mut child, out, host, port) in speakers {
            let _ended = child.wait();
            let line = told(&out);
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words.get(2..), Some(&["40000", host.as_str()][..]), "{line}");
            let number = |word: usize| words.get(word).and_then(|word| word.parse().ok()).expect("a number");
            wanted.insert((host, port), (number(0), number(1)));
        }
        let ours = |record: &&Record| record.is_denial("protocol_unknown");
        let records = world.daemon.records_when(|records| records.iter().filter(ours).count() >= 8);
        let seen: BTreeMap<(String, u64), (u64, u64)> = records
            .iter()
            .filter(ours)
            .map(|record| {
                let host = record.detail["host"].as_str().unwrap_or_default().to_owned();
                let number = |key: &str| record.number(key).unwrap_or(0);
                (
                    (host, record.detail["port"].as_u64().unwrap_or(0)),
                    (number("process.pid"), number("caracal.netns_cookie")),
                )
            })
            .collect();
        assert_eq!(seen, wanted);
        let cookies: BTreeSet<u64> = wanted.values().map(|(_, cookie)| *cookie).collect();
        assert_eq!(cookies.len(), 8, "each namespace has a cookie of its own: {wanted:?}");
    });
}
