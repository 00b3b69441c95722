//! Random sequences of system calls in a governed cgroup, judged by the wire: not one packet. The same sequences, made
//! where nobody governs, must be seen. A leak names its seed and its sequence: `probe sequences SEED NUMBER 1` makes it
//! again. `CARACAL_SEED` chooses the seed, `CARACAL_SEQUENCES` how many; a long run makes 10^6 without it, and goes on where
//! the last one was broken off.
//!
//! Where the level `full` is offered it is in force here, and somebody outside passes sockets in over a pair that was there
//! before: below it, they are fenced once they are found, and what they send until then is no fault.

use crate::{PROBE, RULES, STAND_IN};
use rand::Rng as _;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::daemon::{Cgroup, Daemon};
use support::programs;
use support::report;
use support::scene::Scene;
use support::wire::{CANARY_PORT, Packet};

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

fn make(scene: &Scene, cgroup: &Cgroup, seed: u64, first: u32, count: u32, passed: bool) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let each = count / WORKERS;
            let limit = Duration::from_secs(if report::long() { 3_600 } else { 300 });
            let from = first + worker * each;
            let run = scene.agent(PROBE).limit(limit);
            let run = run.args(["sequences", &seed.to_string(), &from.to_string(), &each.to_string()]);
            let run = if passed { run.user(0).arg(cgroup.path()) } else { run.cgroup(&cgroup.path()) };
            scope.spawn(move || {
                let ran = run.ran().ok();
                assert_eq!(ran.stdout.trim(), format!("made {each}"), "{}", ran.screen());
            });
        }
    });
}

/// The same sequences where nobody governs: those that the wire shows, and how many packets went by sockets that had come
/// connected from outside.
fn control(cgroup: &Cgroup, seed: u64, first: u32, count: u32, passed: bool) -> (BTreeSet<u32>, usize) {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    make(&scene, cgroup, seed, first, count, passed);
    let packets = scene.wire.packets();
    let given = packets.iter().filter(|packet| packet.port == Some(CANARY_PORT + 1)).count();
    (packets.iter().filter_map(sequence).collect(), given)
}

/// Sequences of one world. A next one begins with an empty ledger: 10^7 of them would fill the disk with refusals.
const BATCH: u32 = 100_000;

/// How far a long run has come: the next one goes on from there.
struct Progress(PathBuf);

impl Progress {
    /// Of the run with this seed, or of whichever was broken off; else a new one.
    fn of(chosen: Option<u64>) -> (Progress, u64, u32) {
        let progress = Progress(programs::target().join("escape-sequences.json"));
        let text = std::fs::read_to_string(&progress.0).unwrap_or_default();
        let kept: Option<(u64, u32)> = serde_json::from_str(&text).ok();
        let (seed, done) = match (kept, chosen) {
            (Some((seed, done)), None) => (seed, done),
            (Some((seed, done)), Some(chosen)) if seed == chosen => (seed, done),
            (_, chosen) => (chosen.unwrap_or_else(any_seed), 0),
        };
        (progress, seed, done)
    }

    fn at(&self, seed: u64, done: u32) {
        std::fs::write(&self.0, json!([seed, done]).to_string()).expect("the progress");
    }

    fn end(&self) {
        std::fs::remove_file(&self.0).expect("the progress");
    }
}

fn any_seed() -> u64 {
    rand::rng().random_range(0..u64::from(u32::MAX))
}

#[test]
fn no_random_sequence_of_system_calls_gets_a_packet_out() {
    let chosen = report::chosen_seed();
    let count = std::env::var("CARACAL_SEQUENCES").ok().and_then(|text| text.parse().ok());
    if !report::long() {
        let seed = chosen.unwrap_or_else(any_seed);
        return batch(seed, 0, count.unwrap_or(4_000));
    }
    let (progress, seed, mut done) = Progress::of(chosen);
    let count = count.unwrap_or(1_000_000);
    while done < count {
        let next = BATCH.min(count - done);
        batch(seed, done, next);
        done += next;
        progress.at(seed, done);
    }
    progress.end();
}

/// Makes `count` sequences from the number `first` on.
fn batch(seed: u64, first: u32, count: u32) {
    println!("seed {seed}, sequences {first} to {}", first + count);
    report::case("escape", "random sequences of system calls", || {
        let cgroup = Cgroup::new();
        let controls = 400.min(count);
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, RULES);
        let full = crate::tier_b::offered(&daemon);
        if full.is_ok() {
            crate::tier_b::require_full(&daemon);
        }
        // In a scene of its own: the kernel speaks for some seconds of neighbours that it asks for and groups that it leaves.
        let (leaked, given) = control(&cgroup, seed, first, controls, full.is_ok());
        let least = usize::try_from(controls).unwrap_or(0) / 4;
        assert!(
            leaked.len() > least,
            "seed {seed}: only {} of {controls} ungoverned sequences were seen",
            leaked.len()
        );
        assert!(full.is_err() || given > 0, "seed {seed}: no socket that was passed in sent anything, ungoverned");
        daemon.attach(&cgroup.path());
        daemon.restart();
        if full.is_ok() {
            assert_eq!(daemon.json(&["status"])["level"], "full", "{}", daemon.logs());
        }
        scene.wire.clear();
        let began = Instant::now();
        make(&scene, &cgroup, seed, first, count, full.is_ok());
        let took = began.elapsed();
        std::thread::sleep(Duration::from_millis(300));
        let packets = scene.wire.packets();
        let leaks: BTreeSet<Option<u32>> = packets.iter().map(sequence).collect();
        let shown: Vec<String> = packets.iter().take(5).map(|packet| format!("{packet:?}")).collect();
        assert!(packets.is_empty(), "seed {seed}: sequences {leaks:?} put {} packets out: {shown:?}", packets.len());
        assert!(daemon.exited().is_none(), "the daemon ended: {}", daemon.logs());
        let rate = u64::from(count) * 1_000 / u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        println!("{rate} sequences a second");
        report::figure("escape", "sequences", u64::from(first + count));
        report::figure("escape", "sequences_per_second", rate);
        report::figure("escape", "sequence_seed", seed);
        let mut more = Map::new();
        more.insert("seed".into(), json!(seed));
        more.insert("sequences".into(), json!(first + count));
        let passed_in = full.map(|()| "among its calls".to_owned());
        let passed_in = passed_in.unwrap_or_else(|why| format!("not tried, the level full is not offered: {why}"));
        println!("sockets passed in from outside: {passed_in}");
        more.insert("sockets_from_outside".into(), json!(passed_in));
        more.insert(
            "control".into(),
            json!(format!("{} of {controls} sequences leaked without a daemon", leaked.len())),
        );
        more
    });
}
