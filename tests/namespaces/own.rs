//! A namespace that a governed process makes for itself: served, refused, and shut like any other place.

use crate::{Namespace, PROBE, RULES, case, controlled};
use std::time::Duration;
use support::netns::{AGENT_UID, until};
use support::wire::CANARY_PORT;

#[test]
fn an_agent_in_a_namespace_of_its_own_reaches_what_is_allowed() {
    case("unshare: an allowed host and a refused one", RULES, |world| {
        let both =
            format!("({}) && ({})", world.fetch("https://example.com/hello"), world.fetch("https://other.example/"));
        let no_v6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ";
        for (user, how, first) in [(0, "-n", ""), (AGENT_UID, "-Urn", ""), (0, "-n", no_v6)] {
            let run = world.scene.agent("unshare").user(user).cgroup(&world.cgroup.path());
            let ran = run.args([how, "sh", "-c", &format!("{first}ip link set lo up; {both}")]).ran().ok();
            assert!(ran.stdout.contains(" 200"), "{}", ran.screen());
            // Refused in words, with the answer's status.
            assert!(ran.stdout.contains("other.example") && ran.stdout.ends_with(" 403"), "{}", ran.screen());
        }
        let records = world.daemon.records_when(|records| {
            let curls = records.iter().filter(|record| record.text("caracal.comm") == "curl");
            curls.filter(|record| record.detail["host"] == "example.com").count() >= 3
        });
        assert!(records.iter().all(|record| !record.is_denial("unknown_agent")), "{records:#?}");
    });
}

#[test]
fn a_loopback_that_is_down_stays_down() {
    case("unshare: loopback down", RULES, |world| {
        let line = format!(
            "{}; ip -br link show lo",
            world
                .fetch("https://example.com/hello")
                .replace("50", "10")
                .replace("exit 0", "echo reached")
                .replace("; exit 1", "")
        );
        let run = world.scene.agent("unshare").user(0).cgroup(&world.cgroup.path());
        let ran = run.args(["-n", "sh", "-c", &line]).ran();
        assert!(!ran.stdout.contains("reached") && ran.stdout.contains("DOWN"), "{}", ran.screen());
    });
}

/// Attempts over IPv4, which the namespace has a route for.
const ATTEMPTS: &[&str] = &["tcp", "udp", "udp-connected", "raw", "ping"];

fn target(kind: &str) -> String {
    if matches!(kind, "raw" | "ping") { "203.0.113.10".into() } else { format!("203.0.113.10:{CANARY_PORT}") }
}

/// A cable from the namespace to A, which forwards.
pub(crate) fn cable(scene: &support::scene::Scene, namespace: &Namespace) {
    let pid = namespace.pid();
    let lines = format!(
        "echo 1 > /proc/sys/net/ipv4/ip_forward && ip link add out type veth peer name eth0 netns {pid} && \
         ip addr add 10.77.0.1/24 dev out && ip link set out up && echo 0 > /proc/sys/net/ipv4/conf/out/rp_filter && \
         nsenter -t {pid} -n sh -c 'ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up && \
         ip route add default via 10.77.0.1 && echo \"0 2147483647\" > /proc/sys/net/ipv4/ping_group_range'"
    );
    scene.net.a.shell(&lines).expect("a cable");
}

#[test]
fn a_route_of_its_own_leads_nowhere() {
    controlled(
        "a namespace with a cable and a default route",
        RULES,
        |scene, cgroup| {
            let made = Namespace::new(scene, cgroup);
            cable(scene, &made);
            for kind in ATTEMPTS {
                scene.wire.clear();
                let _ran = made.run(scene, PROBE).cgroup(&cgroup.path()).args([kind, target(kind).as_str()]).ran();
                assert!(!scene.wire.packets().is_empty(), "the control does not leak: {kind}");
            }
            made
        },
        |world, namespace| {
            for kind in ATTEMPTS {
                let run = namespace.run(world.scene, PROBE).cgroup(&world.cgroup.path());
                let ran = run.args([*kind, target(kind).as_str()]).ran();
                assert!(matches!(ran.code, Some(3 | 4)), "{kind}: {}", ran.screen());
                world.scene.wire.silent();
            }
            let ran = world.within(&namespace, &world.fetch("https://example.com/hello")).ok();
            assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
            // A dead daemon: the listener's namespace is shut like every other.
            world.daemon.kill();
            for kind in ATTEMPTS {
                let run = namespace.run(world.scene, PROBE).cgroup(&world.cgroup.path());
                assert_eq!(run.args([*kind, target(kind).as_str()]).ran().code, Some(3), "{kind}");
            }
            world.scene.wire.silent();
            // The next one finds the namespace by its process.
            world.daemon.restart();
            let ran = world.within(&namespace, &world.fetch("https://example.com/hello")).ok();
            assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
        },
    );
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes integers; the pid is the daemon's.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn a_namespace_that_nobody_has_registered_is_refused() {
    case("an unregistered namespace while the keeper is stopped", RULES, |world| {
        let keeper = world.daemon.keeper().expect("a keeper");
        signal(keeper, libc::SIGSTOP);
        let namespace = Namespace::new(world.scene, world.cgroup);
        cable(world.scene, &namespace);
        for _ in 0..3 {
            for kind in ["tcp", "udp"] {
                let run = namespace.run(world.scene, PROBE).cgroup(&world.cgroup.path());
                let ran = run.args([kind, target(kind).as_str()]).ran();
                assert_eq!(ran.code, Some(3), "{kind}: {}", ran.screen());
            }
        }
        world.scene.wire.silent();
        signal(keeper, libc::SIGCONT);
        let ran = world.within(&namespace, &world.fetch("https://example.com/hello")).ok();
        assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
        let refused = |records: &[support::ledger::Record]| {
            let unknown = records.iter().filter(|record| record.is_denial("unknown_namespace"));
            unknown.map(support::ledger::Record::count).sum::<u64>() >= 3
        };
        let _records = world.daemon.records_when(refused);
    });
}

#[test]
fn a_namespace_survives_a_killed_data_path() {
    case("kill -9 of the data path, a namespace open", RULES, |world| {
        let namespace = Namespace::new(world.scene, world.cgroup);
        let fetch = world.fetch("https://example.com/hello");
        assert!(world.within(&namespace, &fetch).ok().stdout.ends_with(" 200"));
        for _ in 0..2 {
            let data_path = world.daemon.data_path().expect("a data path");
            signal(data_path, libc::SIGKILL);
            until("another data path", Duration::from_secs(30), || {
                world.daemon.data_path().is_some_and(|now| now != data_path)
            })
            .expect("it is started again");
            let ran = world.within(&namespace, &format!("sleep 1; {fetch}")).ok();
            assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
        }
    });
}
