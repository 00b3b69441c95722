//! The judge sees every kind of packet, and tells the data path's road from everybody else's.

use crate::STAND_IN;
use support::scene::Scene;
use support::wire::CANARY_PORT;

#[test]
fn every_attempt_is_seen_when_nobody_governs() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let attempts = [
        (["tcp", "203.0.113.10"], 6),
        (["tcp", "[2001:db8:ca::10]"], 6),
        (["tcp", "[::ffff:203.0.113.10]"], 6),
        (["tcp", "10.9.8.7"], 6),
        (["udp", "203.0.113.10"], 17),
        (["tcp", "169.254.169.254"], 6),
        (["udp-connected", "[2001:db8:ca::10]"], 17),
        (["udp", "[::ffff:203.0.113.10]"], 17),
        (["udplite", "203.0.113.10"], 136),
        (["raw", "203.0.113.10"], 1),
        (["raw", "2001:db8:ca::10"], 58),
        (["ping", "203.0.113.10"], 1),
    ];
    for ([kind, address], protocol) in attempts {
        scene.wire.clear();
        let portless = matches!(kind, "raw" | "ping");
        let to = if portless { address.to_owned() } else { format!("{address}:{CANARY_PORT}") };
        let ran = scene.agent(env!("CARGO_BIN_EXE_probe")).user(0).args([kind, &to]).ran();
        // A connected socket does not take an echo from B's own address: sent is enough.
        assert!(matches!(ran.code, Some(0 | 4)), "{kind} {address}: {}", ran.screen());
        let seen = scene.wire.packets();
        assert!(
            seen.iter().any(|p| p.protocol == protocol && (portless || p.port == Some(CANARY_PORT))),
            "{kind} {address}: {seen:?}"
        );
    }
}

#[test]
fn an_owner_with_a_road_is_not_seen_and_others_still_are() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    scene.net.road_for(4_300).expect("a rule");
    scene.wire.clear();
    let probe = |uid: u32| {
        scene.agent(env!("CARGO_BIN_EXE_probe")).user(uid).args(["tcp", &format!("203.0.113.10:{CANARY_PORT}")]).ran()
    };
    assert_eq!(probe(4_300).code, Some(0));
    scene.wire.silent();
    assert_eq!(probe(4_301).code, Some(0));
    assert!(!scene.wire.packets().is_empty());
}
