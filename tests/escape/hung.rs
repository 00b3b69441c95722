//! A daemon that hangs, anywhere: new and open flows are shut within the second that is promised, and are open again at
//! once when it goes on. The judge of a flow is the kernel: whether a connect is refused, whether bytes are acknowledged.

use crate::hang::{self, Hang, monotonic_ns};
use crate::{RULES, STAND_IN, World};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::netns::until;
use support::report;
use support::scene::Scene;

/// The promises, milliseconds.
const CLOSES_WITHIN: u64 = 1_000;
const REOPENS_WITHIN: u64 = 50;
/// A beat may be this late, milliseconds, before the machine is said to have kept everybody waiting.
const BEAT: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// One attempt of `tests/programs/pulse.py`; times in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Beat {
    at: u64,
    took: u64,
    made: bool,
    moved: bool,
}

/// The flows of a governed process.
struct Pulse {
    child: Child,
    out: PathBuf,
}

impl Pulse {
    fn start(world: &World<'_>) -> Pulse {
        let script = world.scene.file("pulse.py", include_str!("../programs/pulse.py"));
        let ca = world.daemon.ca();
        let out = world.scene.file("pulse.out", "");
        let errors = std::fs::File::create(world.scene.net.files().join("pulse.err")).expect("a log");
        let file = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let run = world.scene.agent("/usr/bin/python3").cgroup(&world.cgroup.path()).arg(script).arg(ca);
        let run = run.args(["example.com", "203.0.113.10"]);
        let child = run.spawn(Stdio::from(file), Stdio::from(errors)).expect("python3 starts");
        Pulse { child, out }
    }

    fn beats(&self) -> Vec<Beat> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        // The last line may not be whole yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let beat = |line: &str| {
            let mut words = line.split(' ');
            let (at, took) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Beat { at, took, made: words.next()? == "1", moved: words.next()? == "1" })
        };
        whole.lines().map(|line| beat(line).unwrap_or_else(|| panic!("no beat: {line}"))).collect()
    }

    /// Waits for a beat after `from` that is as wanted.
    #[track_caller]
    fn wait(&self, from: u64, what: &str, wanted: impl Fn(&Beat) -> bool) -> Beat {
        let mut found = None;
        let done = until(what, PATIENCE, || {
            found = self.beats().into_iter().find(|beat| beat.at > from && wanted(beat));
            found.is_some()
        });
        assert!(done.is_ok(), "{what}: {:?}", self.beats().last());
        found.expect("found")
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What one hang did, milliseconds.
#[derive(Clone, Copy, Debug)]
struct Took {
    close: u64,
    reopen: u64,
    /// The longest that the judge itself was kept from its beat between two attempts: a busy machine keeps the daemon
    /// waiting as well. What an attempt took is no excuse: a door that stays open may be slow to let through.
    starved: u64,
}

/// Waits until both flows live, then hangs; gives since when.
#[track_caller]
fn hung(pulse: &Pulse, hangs: impl FnOnce() -> Hang) -> (Hang, u64) {
    let ready = monotonic_ns();
    pulse.wait(ready, "both flows live", |beat| beat.made);
    pulse.wait(ready, "the open flow moves", |beat| beat.moved);
    let hang = hangs();
    let since = hang.since();
    (hang, since)
}

/// Lets go and waits until everything is open.
#[track_caller]
fn let_go(pulse: &Pulse, hang: Hang, hung: u64) -> Took {
    let released = hang.release();
    pulse.wait(released, "new flows are made again", |beat| beat.made);
    took(&pulse.beats(), hung, released).expect("open again")
}

/// How long flows of either kind still went on, and how long new ones took to be made again; nothing where none was made.
fn took(beats: &[Beat], hung: u64, released: u64) -> Option<Took> {
    let during = || beats.iter().filter(|beat| beat.at > hung && beat.at < released);
    let last = |what: fn(&Beat) -> bool| during().filter(|beat| what(beat)).map(|beat| beat.at).max().unwrap_or(hung);
    let shut = last(|beat| beat.made).max(last(|beat| beat.moved));
    let open = beats.iter().find(|beat| beat.at > released && beat.made)?.at;
    let all = || beats.iter().filter(|beat| beat.at > hung && beat.at <= open);
    let between = |(one, next): (&Beat, &Beat)| (next.at - one.at).saturating_sub(one.took) / 1_000_000;
    let late = all().zip(all().skip(1)).map(between).max().unwrap_or(0);
    let (close, reopen) = ((shut - hung) / 1_000_000, (open - released) / 1_000_000);
    Some(Took { close, reopen, starved: late.saturating_sub(BEAT) })
}

/// Whether every round of a way was shut in time.
fn shut(way: &str, rounds: &[Took]) -> Result<(), String> {
    let close = rounds.iter().map(|took| took.close.saturating_sub(took.starved)).max().unwrap_or(u64::MAX);
    if close > CLOSES_WITHIN { Err(format!("{way}: shut after {close} ms; {rounds:?}")) } else { Ok(()) }
}

/// The two figures, over all rounds of all ways.
fn figures(rounds: &BTreeMap<&str, Vec<Took>>) -> Took {
    let p99_of = |of: fn(&Took) -> u64| p99(rounds.values().flatten().map(of).collect());
    Took { close: p99_of(|took| took.close), reopen: p99_of(|took| took.reopen), starved: p99_of(|took| took.starved) }
}

/// Whether the promises were kept.
fn judge(rounds: &BTreeMap<&str, Vec<Took>>) -> Result<(), String> {
    rounds.iter().try_for_each(|(way, rounds)| shut(way, rounds))?;
    let reopen = p99(rounds.values().flatten().map(|took| took.reopen.saturating_sub(took.starved)).collect());
    if reopen > REOPENS_WITHIN { Err(format!("open again after {reopen} ms: {rounds:?}")) } else { Ok(()) }
}

/// Hangs, waits until everything is shut, lets go, waits until everything is open.
#[track_caller]
fn once(pulse: &Pulse, hangs: impl FnOnce() -> Hang) -> Took {
    let (hang, hung) = hung(pulse, hangs);
    let first = pulse.wait(hung, "new flows are refused", |beat| !beat.made);
    // It stays shut for as long as it hangs: another quarter of a second of refusals, and not one that was made.
    pulse.wait(first.at + 250_000_000, "still refused", |beat| !beat.made);
    let_go(pulse, hang, hung)
}

/// Hangs what need not shut the door, and demands that it does not: flows go on past the time of the promise.
#[track_caller]
fn goes_on(world: &World<'_>, pulse: &Pulse, hangs: impl FnOnce() -> Hang) -> Took {
    let (hang, hung) = hung(pulse, hangs);
    let past = hung + 2 * CLOSES_WITHIN * 1_000_000;
    pulse.wait(past, "new flows are still made", |beat| beat.made);
    pulse.wait(past, "the open flow still moves", |beat| beat.moved);
    assert_eq!(world.allowed(), "200", "{}", world.daemon.logs());
    let_go(pulse, hang, hung)
}

/// Waits until nothing is recorded: what was refused a round before is for up to a second later.
#[track_caller]
fn at_rest(daemon: &Daemon<'_>) {
    let rests = until("nothing is recorded", PATIENCE, || {
        let before = daemon.records().len();
        std::thread::sleep(Duration::from_millis(1_500));
        daemon.records().len() == before
    });
    assert!(rests.is_ok(), "{}", daemon.logs());
}

/// The 99th of a hundred.
fn p99(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * 99).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// A state directory on a file system of its own, which can be frozen.
fn small_disk(scene: &Scene, daemon: &Daemon<'_>) {
    let (directory, state) = (scene.net.files().join("disk"), daemon.state().display().to_string());
    let directory = directory.display();
    // In memory: what is measured is the daemon, not this machine's disk.
    scene
        .net
        .a
        .shell(&format!(
            "mkdir -p {directory} {state} && mount -t tmpfs disk {directory} && truncate -s 128M {directory}/image && \
             mkfs.ext4 -q -O ^has_journal {directory}/image && mount -o loop {directory}/image {state}"
        ))
        .expect("a small disk");
}

#[test]
fn whatever_hangs_shuts_every_flow_within_a_second_and_opens_it_at_once_after() {
    report::case("escape", "hung daemons", || {
        let rounds = if report::long() { 25 } else { 3 };
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let rules = "[journal]\nsegment_bytes = 1048576\nlimit_bytes = 16777216\n".to_owned() + RULES;
        let mut daemon = Daemon::configured(&scene, &rules);
        small_disk(&scene, &daemon);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let _ca = daemon.ca();
        let world = World { scene: &scene, cgroup: &cgroup, daemon };
        assert_eq!(world.allowed(), "200");
        scene.wire.clear();
        let pulse = Pulse::start(&world);
        let keeper = world.daemon.keeper().expect("a keeper");
        let path = world.daemon.data_path().expect("a data path");
        let state = world.daemon.state();
        let workers = || {
            let mut all = hang::threads(path, "tokio-rt-worker");
            all.push(path);
            all
        };
        let ways: [(&str, &dyn Fn() -> Hang); 9] = [
            ("keeper", &|| hang::processes(vec![keeper])),
            ("data path", &|| hang::processes(vec![path])),
            ("both", &|| hang::processes(vec![keeper, path])),
            ("capture and policy: every worker", &|| hang::only(workers())),
            ("journal: its thread", &|| hang::only(hang::threads(path, "journal"))),
            ("journal: its file system", &|| hang::file_system(keeper, &state)),
            ("journal: its file system, with nothing to write", &|| {
                at_rest(&world.daemon);
                hang::file_system(keeper, &state)
            }),
            ("the keeper's word", &|| hang::only(hang::threads(keeper, "vouch"))),
            ("the keeper's watch", &|| hang::only(hang::threads(keeper, "truth"))),
        ];
        let mut more = Map::new();
        let mut rounds_of = BTreeMap::new();
        for (way, hangs) in ways {
            let all: Vec<Took> = (0..rounds).map(|_| once(&pulse, hangs)).collect();
            let worst = |of: fn(&Took) -> u64| all.iter().map(of).max().unwrap_or(0);
            let (close, reopen) = (worst(|took| took.close), worst(|took| took.reopen));
            eprintln!("{way}: shut after {close} ms, open again after {reopen} ms");
            more.insert(way.into(), json!({ "rounds": rounds, "close_ms_max": close, "reopen_ms_max": reopen }));
            shut(way, &all).unwrap_or_else(|why| panic!("{why}"));
            rounds_of.insert(way, all);
        }
        let Took { close, reopen, starved } = figures(&rounds_of);
        eprintln!("kept from its beat: {starved} ms at most");
        report::figure("escape", "close_ms_hung_p99", close);
        report::figure("escape", "reopen_ms_p99", reopen);
        // What only comes after a record is durable, and what is needed for a new name only, may hang: nothing leaves
        // undecided or unrecorded for it. So each is the planted fault, too: a door that stays open is seen to.
        let open: [(&str, &dyn Fn() -> Hang); 2] = [
            ("the ledger's thread", &|| hang::only(hang::threads(path, "ledger"))),
            ("the keeper's signing", &|| hang::only(hang::threads(keeper, "signing"))),
        ];
        for (way, hangs) in open {
            let took = goes_on(&world, &pulse, hangs);
            let fault = judge(&BTreeMap::from([(way, vec![took])]));
            assert!(fault.as_ref().is_err_and(|why| why.contains("shut after")), "planted: {way}: {fault:?}");
            more.insert(way.into(), json!("leaves the door open, which the judge sees"));
        }
        scene.wire.silent();
        let _ran = world.daemon.verify();
        judge(&rounds_of).unwrap_or_else(|why| panic!("{why}"));
        more
    });
}

#[test]
fn planted_a_door_that_shuts_late_or_opens_late_is_seen() {
    const MS: u64 = 1_000_000;
    // Hung at 1,000 ms and released at 4,000: the last new flow, the last byte of the open one, the first new one after;
    // how long each attempt takes, and how long the machine keeps the judge from the next one.
    let timed = |made: u64, moved: u64, again: Option<u64>, took: u64, kept: u64| {
        let beat = |at: u64| Beat {
            at: at * MS,
            took: took * MS,
            made: at <= made || again.is_some_and(|again| at >= again),
            moved: at <= moved,
        };
        let beats: Vec<Beat> = (0..6_000 / (took + kept)).map(|number| beat(number * (took + kept))).collect();
        self::took(&beats, 1_000 * MS, 4_000 * MS)
    };
    let felt = |made, moved, again| timed(made, moved, again, 8, 2);
    let judged = |took: Took| {
        judge(&BTreeMap::from([("right", vec![Took { close: 900, reopen: 10, starved: 0 }; 3]), ("way", vec![took])]))
    };
    let right = felt(1_800, 1_900, Some(4_020)).expect("open again");
    assert_eq!((right.close, right.reopen, right.starved), (900, 20, 0));
    assert_eq!(judged(right), Ok(()));
    for late in [felt(2_100, 1_900, Some(4_020)), felt(1_800, 2_100, Some(4_020)), felt(3_990, 1_900, Some(4_000))] {
        let fault = judged(late.expect("open again"));
        assert!(fault.as_ref().is_err_and(|why| why.starts_with("way: shut after")), "{fault:?}");
    }
    let fault = judged(felt(1_800, 1_900, Some(4_060)).expect("open again"));
    assert!(fault.as_ref().is_err_and(|why| why.starts_with("open again after 60 ms")), "{fault:?}");
    assert!(felt(1_800, 1_900, None).is_none(), "never open again is no time");
    // Attempts that block until they give up are the door's, not the machine's: it was open for too long, or again too late.
    let slow = |made, again| timed(made, 1_900, Some(again), 58, 2).expect("open again");
    assert_eq!(slow(1_980, 4_010).starved, 0);
    assert_eq!(judged(slow(1_980, 4_010)), Ok(()));
    let fault = judged(slow(2_040, 4_010));
    assert!(fault.as_ref().is_err_and(|why| why.starts_with("way: shut after 1040 ms")), "{fault:?}");
    let fault = judged(slow(1_980, 4_070));
    assert!(fault.as_ref().is_err_and(|why| why.starts_with("open again after 80 ms")), "{fault:?}");
    // What the machine took between them is taken off, and no more.
    let busy = |made| timed(made, 1_900, Some(4_050), 2, 68).expect("open again");
    assert_eq!((busy(2_030).close, busy(2_030).starved), (1_030, 48));
    assert_eq!(judged(busy(2_030)), Ok(()));
    let fault = judged(busy(2_100));
    assert!(fault.as_ref().is_err_and(|why| why.starts_with("way: shut after 1052 ms")), "{fault:?}");
    assert!(judge(&BTreeMap::from([("nothing tried", Vec::new())])).is_err());
}
