//! Random sequences of system calls in a governed cgroup, judged by the wire: not one packet. The same sequences, made
//! where nobody governs, must be seen. A leak names its seed and its sequence: `probe sequences SEED NUMBER 1` makes it
//! again. `CARACAL_SEED` chooses the seed.

use crate::{PROBE, RULES, STAND_IN};
use rand::Rng as _;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::report;
use support::scene::Scene;
use support::wire::Packet;

/// Processes that make sequences at once.
const WORKERS: u32 = 4;

/// The sequence that sent a packet: by its address, or by its token.
fn sequence(packet: &Packet) -> Option<u32> {
    const TOKEN: &[u8] = b"caracal-sequence-";
    let by_token = packet.bytes.windows(TOKEN.len() + 10).find(|window| window.starts_with(TOKEN));
    let number = by_token.and_then(|window| std::str::from_utf8(window.get(TOKEN.len()..)?).ok()?.parse().ok());
    number.or_else(|| match packet.destination {
        IpAddr::V4(four) if four.octets().first() == Some(&11) => Some(u32::from(four) & 0x00ff_ffff),
        IpAddr::V6(six) if six.segments().get(..3) == Some(&[0x2001, 0xdb8, 11]) => {
            let [.., high, low] = six.segments();
            Some(u32::from(high) << 16 | u32::from(low))
        }
        _ => None,
    })
}

fn make(scene: &Scene, cgroup: &Cgroup, seed: u64, count: u32) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let each = count / WORKERS;
            let run = scene.agent(PROBE).cgroup(&cgroup.path()).limit(Duration::from_secs(if report::long() {
                7_200
            } else {
                300
            }));
            let run = run.args(["sequences", &seed.to_string(), &(worker * each).to_string(), &each.to_string()]);
            scope.spawn(move || {
                let ran = run.ran().ok();
                assert_eq!(ran.stdout.trim(), format!("made {each}"), "{}", ran.screen());
            });
        }
    });
}

#[test]
fn no_random_sequence_of_system_calls_gets_a_packet_out() {
    let chosen = std::env::var("CARACAL_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = chosen.unwrap_or_else(|| rand::rng().random_range(0..u64::from(u32::MAX)));
    let count: u32 = if report::long() { 10_000_000 } else { 20_000 };
    println!("seed {seed}");
    report::case("escape", "random sequences of system calls", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let controls = 400;
        make(&scene, &cgroup, seed, controls);
        let leaked: BTreeSet<u32> = scene.wire.packets().iter().filter_map(sequence).collect();
        assert!(leaked.len() > 100, "seed {seed}: only {} of {controls} ungoverned sequences were seen", leaked.len());
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        daemon.restart();
        scene.wire.clear();
        make(&scene, &cgroup, seed, count);
        std::thread::sleep(Duration::from_millis(300));
        let packets = scene.wire.packets();
        let leaks: BTreeSet<Option<u32>> = packets.iter().map(sequence).collect();
        let shown: Vec<String> = packets.iter().take(5).map(|packet| format!("{packet:?}")).collect();
        assert!(packets.is_empty(), "seed {seed}: sequences {leaks:?} put {} packets out: {shown:?}", packets.len());
        assert!(daemon.exited().is_none(), "the daemon ended: {}", daemon.logs());
        report::figure("escape", "sequences", count.into());
        report::figure("escape", "sequence_seed", seed);
        let mut more = Map::new();
        more.insert("seed".into(), json!(seed));
        more.insert("sequences".into(), json!(count));
        more.insert(
            "control".into(),
            json!(format!("{} of {controls} sequences leaked without a daemon", leaked.len())),
        );
        more
    });
}
