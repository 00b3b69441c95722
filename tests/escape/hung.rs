//! A daemon that hangs, anywhere: new and open flows are shut within the second that is promised, and are open again at
//! once when it goes on. The judge of a flow is the kernel: whether a connect is refused, whether bytes are acknowledged.

use crate::hang::{self, Hang, monotonic_ns};
use crate::{RULES, STAND_IN, World};
use serde_json::{Map, json};
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
const PATIENCE: Duration = Duration::from_secs(30);

/// One attempt of `tests/programs/pulse.py`.
#[derive(Clone, Copy, Debug)]
struct Beat {
    at: u64,
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
            let at = words.next()?.parse().ok()?;
            Some(Beat { at, made: words.next()? == "1", moved: words.next()? == "1" })
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
}

/// Hangs, waits until everything is shut, lets go, waits until everything is open.
#[track_caller]
fn once(pulse: &Pulse, hangs: impl FnOnce() -> Hang) -> Took {
    let ready = monotonic_ns();
    pulse.wait(ready, "both flows live", |beat| beat.made);
    pulse.wait(ready, "the open flow moves", |beat| beat.moved);
    let hang = hangs();
    let hung = hang.since();
    let first = pulse.wait(hung, "new flows are refused", |beat| !beat.made);
    // It stays shut for as long as it hangs: another quarter of a second of refusals, and not one that was made.
    pulse.wait(first.at + 250_000_000, "still refused", |beat| !beat.made);
    let released = hang.release();
    let beats = pulse.beats();
    let during = || beats.iter().filter(|beat| beat.at > hung && beat.at < released);
    let last = |what: fn(&Beat) -> bool| during().filter(|beat| what(beat)).map(|beat| beat.at).max().unwrap_or(hung);
    let shut = last(|beat| beat.made).max(last(|beat| beat.moved));
    let open = pulse.wait(released, "new flows are made again", |beat| beat.made).at;
    Took { close: (shut - hung) / 1_000_000, reopen: (open - released) / 1_000_000 }
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
        let ways: [(&str, &dyn Fn() -> Hang); 8] = [
            ("keeper", &|| hang::processes(vec![keeper])),
            ("data path", &|| hang::processes(vec![path])),
            ("both", &|| hang::processes(vec![keeper, path])),
            ("capture and policy: every worker", &|| hang::only(workers())),
            ("journal: its thread", &|| hang::only(hang::threads(path, "journal"))),
            ("journal: its file system", &|| hang::file_system(keeper, &state)),
            ("the keeper's word", &|| hang::only(hang::threads(keeper, "vouch"))),
            ("the keeper's watch", &|| hang::only(hang::threads(keeper, "truth"))),
        ];
        let mut more = Map::new();
        let (mut closes, mut reopens) = (Vec::new(), Vec::new());
        for (way, hangs) in ways {
            let all: Vec<Took> = (0..rounds).map(|_| once(&pulse, hangs)).collect();
            let worst = |of: fn(&Took) -> u64| all.iter().map(of).max().unwrap_or(0);
            let (close, reopen) = (worst(|took| took.close), worst(|took| took.reopen));
            eprintln!("{way}: shut after {close} ms, open again after {reopen} ms");
            more.insert(way.into(), json!({ "rounds": rounds, "close_ms_max": close, "reopen_ms_max": reopen }));
            assert!(close <= CLOSES_WITHIN, "{way}: shut after {close} ms; {all:?}");
            closes.extend(all.iter().map(|took| took.close));
            reopens.extend(all.iter().map(|took| took.reopen));
        }
        scene.wire.silent();
        let (close, reopen) = (p99(closes), p99(reopens));
        report::figure("escape", "close_ms_hung_p99", close);
        report::figure("escape", "reopen_ms_p99", reopen);
        assert!(reopen <= REOPENS_WITHIN, "open again after {reopen} ms: {more:?}");
        let _ran = world.daemon.verify();
        more
    });
}
