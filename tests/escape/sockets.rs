//! What a process can send with a socket of its own.

use crate::{RULES, attempt, case};
use support::daemon::{Cgroup, Daemon};
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// The attempts, and the IP protocol of what a successful one sends.
const ATTEMPTS: &[(&str, &str, u8)] = &[
    ("tcp", "203.0.113.10", 6),
    ("tcp", "[2001:db8:ca::10]", 6),
    ("tcp", "[::ffff:203.0.113.10]", 6),
    ("tcp", "10.9.8.7", 6),
    ("tcp", "169.254.169.254", 6),
    ("udp", "203.0.113.10", 17),
    ("udp", "[2001:db8:ca::10]", 17),
    ("udp", "[::ffff:203.0.113.10]", 17),
    ("udp-connected", "203.0.113.10", 17),
    ("udp-connected", "[2001:db8:ca::10]", 17),
    ("udplite", "203.0.113.10", 136),
    ("raw", "203.0.113.10", 1),
    ("raw", "[2001:db8:ca::10]", 58),
    ("ping", "203.0.113.10", 1),
    ("join", "198.51.100.1", 2),
];

fn target(kind: &str, address: &str) -> String {
    if matches!(kind, "raw" | "ping" | "join") {
        address.trim_matches(['[', ']']).to_owned()
    } else {
        format!("{address}:{CANARY_PORT}")
    }
}

/// Without a daemon the packet is on the wire.
fn leaks(scene: &Scene, cgroup: &Cgroup, kind: &str, address: &str, protocol: u8) {
    scene.wire.clear();
    let ran = attempt(scene, cgroup, &[kind, &target(kind, address)]);
    let seen = scene.wire.packets();
    assert!(
        seen.iter().any(|packet| packet.protocol == protocol),
        "the control does not leak: {}{seen:?}",
        ran.screen()
    );
}

#[test]
fn nothing_but_the_data_path_puts_a_packet_on_the_wire() {
    for (kind, address, protocol) in ATTEMPTS {
        case(
            &format!("{kind} to {address}"),
            RULES,
            |scene, cgroup| leaks(scene, cgroup, kind, address, *protocol),
            |world| {
                let ran = world.attempt(&[kind, &target(kind, address)]);
                // 3: refused by the kernel; 4: taken, and nobody answered; 0 would be an echo from outside.
                assert!(matches!(ran.code, Some(3 | 4)), "{}", ran.screen());
                // The same attempt under `run`, with the clean spawn on top.
                let ran = world.daemon.run(crate::PROBE).args([*kind, &target(kind, address)]).ran();
                assert_ne!(ran.code, Some(0), "{}", ran.screen());
                assert_eq!(world.allowed(), "200", "the cage is so tight that nothing works");
            },
        );
    }
}

#[test]
fn a_socket_bound_to_a_network_card_sends_nothing_by_it() {
    let (tcp, dns) = (format!("203.0.113.10:{CANARY_PORT}"), format!("127.0.0.1:{}", Daemon::DNS_PORT));
    let attempts = [["tcp-bound", "leak", &tcp], ["udp-bound", "leak", &dns]];
    case(
        "sockets bound to a network card",
        RULES,
        |scene, cgroup| {
            for attempt in attempts {
                scene.wire.clear();
                let ran = crate::attempt(scene, cgroup, &attempt);
                assert!(!scene.wire.packets().is_empty(), "the control does not leak: {attempt:?} {}", ran.screen());
            }
        },
        |world| {
            for attempt in attempts {
                let ran = world.attempt(&attempt);
                assert_ne!(ran.code, Some(0), "{attempt:?}: {}", ran.screen());
                world.scene.wire.silent();
                let ran = world.daemon.run(crate::PROBE).args(attempt).ran();
                assert_ne!(ran.code, Some(0), "{attempt:?} under run: {}", ran.screen());
            }
        },
    );
}

#[test]
fn udp_is_refused_when_it_is_sent_and_tcp_where_it_is_decided() {
    case(
        "UDP is refused at send, raw sockets at creation",
        RULES,
        |scene, cgroup| leaks(scene, cgroup, "udp", "203.0.113.10", 17),
        |world| {
            for (kind, place) in [("udp", "refused send"), ("raw", "refused socket"), ("udplite", "refused socket")] {
                let ran = world.attempt(&[kind, &target(kind, "203.0.113.10")]);
                assert!(ran.stdout.starts_with(place), "{kind}: {}", ran.screen());
            }
        },
    );
}

#[test]
fn the_peer_that_was_asked_for_is_the_peer_that_is_shown() {
    case(
        "getpeername",
        RULES,
        |scene, cgroup| leaks(scene, cgroup, "tcp", "203.0.113.10", 6),
        |world| {
            for peer in ["203.0.113.17:443", "[2001:db8:ca::17]:443", "[::ffff:203.0.113.17]:443"] {
                let ran = world.attempt(&["peer", peer]).ok();
                assert_eq!(ran.stdout.trim(), peer);
            }
        },
    );
}
