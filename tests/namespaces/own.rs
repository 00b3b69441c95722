//! A namespace that a governed process makes for itself: served, refused, and shut like any other place.

use crate::{Namespace, PROBE, RULES, case, controlled};
use std::time::Duration;
use support::daemon::Daemon;
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

/// Whoever is root in a namespace may translate addresses there, the daemon's listener's too: what leaves is judged as it is then.
#[test]
fn what_a_namespace_s_root_translates_leads_nowhere() {
    let canary = format!("203.0.113.10:{CANARY_PORT}");
    let translate = |protocol: &str, port: u16| {
        let to = format!("-p {protocol} --dport {port}");
        format!(
            "iptables -w -t nat -A PREROUTING -i lo {to} -j DNAT --to-destination {canary} && \
             iptables -w -t nat -A OUTPUT {to} -j DNAT --to-destination {canary}"
        )
    };
    let (tcp, dns) = (Daemon::TCP_PORT, Daemon::DNS_PORT);
    let rules = format!(
        "ip link set lo up && for each in all lo eth0; do echo 1 > /proc/sys/net/ipv4/conf/$each/route_localnet; \
         echo 0 > /proc/sys/net/ipv4/conf/$each/rp_filter; done && echo 1 > /proc/sys/net/ipv4/ip_forward && \
         iptables -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE && {} && {}",
        translate("tcp", tcp),
        translate("udp", dns)
    );
    let tries = [("tcp", tcp), ("udp", dns), ("udp-connected", dns)];
    controlled(
        "a namespace whose root translates what is sent to the daemon",
        RULES,
        |scene, cgroup| {
            let made = Namespace::new(scene, cgroup);
            cable(scene, &made);
            let _ran = made.run(scene, "sh").args(["-c", rules.as_str()]).ran().ok();
            for (kind, port) in tries {
                scene.wire.clear();
                let to = format!("127.0.0.1:{port}");
                let _ran = made.run(scene, PROBE).cgroup(&cgroup.path()).args([kind, &to]).ran();
                assert!(!scene.wire.packets().is_empty(), "the control does not leak: {kind}");
            }
            made
        },
        |world, namespace| {
            let places = ["203.0.113.10:7777", "203.0.113.53:53", "127.0.0.1:15001", "127.0.0.1:15053"];
            for (kind, place) in
                ["tcp", "udp", "udp-connected"].into_iter().flat_map(|kind| places.map(|to| (kind, to)))
            {
                let _ran = namespace.run(world.scene, PROBE).cgroup(&world.cgroup.path()).args([kind, place]).ran();
                world.scene.wire.silent();
            }
        },
    );
}

/// What `status` lists as `namespace_root`, shown to be so: below the address, on the device itself, packets for the daemon's
/// listener can be sent out by another. Only who has CAP_NET_ADMIN over a namespace with a cable can do this.
#[test]
fn a_namespace_s_root_redirects_the_loopback_device_as_the_level_says() {
    let dns = Daemon::DNS_PORT;
    case("a namespace whose root redirects its loopback device", RULES, |world| {
        let namespace = Namespace::new(world.scene, world.cgroup);
        cable(world.scene, &namespace);
        let ran = world.within(&namespace, &world.fetch("https://example.com/hello")).ok();
        assert!(ran.stdout.ends_with(" 200"), "{}", ran.screen());
        let arrived = || -> u64 {
            let read = world.scene.net.a.shell("awk '/out:/ {print $3}' /proc/net/dev").expect("a number");
            read.trim().parse().expect("a number")
        };
        let queries = || {
            let before = arrived();
            for _ in 0..5 {
                let run = namespace.run(world.scene, PROBE).cgroup(&world.cgroup.path());
                let _ran = run.args(["udp", "203.0.113.53:53"]).ran();
            }
            arrived() - before
        };
        // A cable says something by itself now and then.
        assert!(queries() < 5, "queries go to the daemon");
        let lines = format!(
            "tc qdisc add dev lo clsact && tc filter add dev lo egress protocol ip u32 match ip dport {dns} 0xffff \
             action mirred egress redirect dev eth0"
        );
        let _ran = namespace.run(world.scene, "sh").args(["-c", &lines]).ran().ok();
        let out = queries();
        let status = world.daemon.json(&["status"]);
        let listed = status["enforced"]["uncovered"].to_string().contains("namespace_root");
        assert_eq!(out >= 5, listed, "{out} packets");
    });
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
