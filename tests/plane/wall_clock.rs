//! The wall clock of a worker as somebody with `date -s` sets it, while it runs: `programs/wall_clock.c` stands before the C library,
//! for readings of that clock and for waits until a time of it. (libfaketime leaves `cnd_timedwait` alone, by which librdkafka waits:
//! a second's wait then takes a day and a second after a step forwards, and none after a step back. A kernel does the reverse.)

use crate::SUBJECT;
use crate::fleet::{Clocks, Fleet, assert_sound};
use crate::judge::judge;
use crate::plane::{PATIENCE, Plane, Wants, now, run, text};
use crate::worker::Worker;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::daemon::caracald;
use support::netns::until;
use support::report::{self, seed};

/// What the clock is off by, in seconds and as date(1) takes it. Each is a step from the one before.
const STEPS: [(i64, &str); 7] = [
    (86_400, "+1 day"),
    (-86_400, "-1 day"),
    (600, "+10 minutes"),
    (-600, "-10 minutes"),
    (600, "+10 minutes"),
    (-86_400, "-1 day"),
    (0, "now"),
];

/// A clock that is set by writing a file.
struct WallClock {
    file: File,
    at: PathBuf,
    library: PathBuf,
}

impl WallClock {
    /// One that is right.
    fn new(plane: &Plane) -> WallClock {
        let at = plane.file("wall-clock", "");
        let library = at.with_extension("so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/wall_clock.c");
        run("cc", &["-O2", "-shared", "-fPIC", "-o", text(&library), source]);
        let file = File::options().write(true).open(&at).expect("the clock");
        let clock = WallClock { file, at, library };
        clock.set(0);
        clock
    }

    /// Sets it off by so many seconds from the true time.
    fn set(&self, seconds: i64) {
        self.file.write_all_at(&(seconds * 1_000_000_000).to_ne_bytes(), 0).expect("set");
    }

    /// Has a program that is about to start read this clock.
    fn hold(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("WALL_CLOCK", &self.at);
    }
}

#[test]
fn a_wall_clock_that_steps_under_the_workers() {
    report::case(SUBJECT, "the workers' own wall clock is set, forwards and back", stepped);
}

fn stepped() -> Map<String, Value> {
    let plane = Plane::with(Wants { partitions: 1, ..Wants::default() });
    let clock = WallClock::new(&plane);
    let start = |kind: &str| {
        plane.worker_by(kind, &plane.config(), |command| {
            clock.hold(command);
            // Each step of the work is a line with the time that the worker takes it to be.
            command.env("RUST_LOG", "debug");
        })
    };
    let mut workers = ["ledger", "spend"].map(start);
    let fleet = Fleet::start(&plane, if report::long() { 140_000 } else { 14_000 }, Clocks::True);
    let leaves = || plane.count("SELECT sum(size) FROM logs");
    let signed = || plane.count("SELECT max(size) FROM checkpoints");
    let mark = || plane.redis(&["--raw", "HGET", "{caracal:test}:spend:mark", "0"]).concat().parse().unwrap_or(0_u64);
    until("the first leaves are in the view", PATIENCE, || mark() > 0).expect("it works before the first step");
    let mut told = Vec::new();
    for (at, (seconds, step)) in (1..).zip(STEPS) {
        let before = (leaves(), mark());
        let set = now(step).text;
        clock.set(seconds);
        fleet.allow(fleet.total * at / (STEPS.len() as u64 + 1));
        let goes_on = || signed() > before.0 && mark() > before.1;
        assert!(until("it goes on", PATIENCE, goes_on).is_ok(), "by {step}\n{}", plane.log());
        for worker in &workers {
            // Lines begin with the time, and all times are written alike.
            let there = || {
                let line = worker.last_line();
                set.as_str() <= line.as_str() && line.as_str() <= now(step).text.as_str()
            };
            let said = until("a line with that time", PATIENCE, there);
            assert!(said.is_ok(), "{step}: the worker takes it to be {}", worker.last_line());
        }
        assert!(audited_by(&plane, &clock), "an audit under the same clock, {step}\n{}", plane.log());
        // One that begins under a clock that is wrong, or is set back before it ends.
        if at % 2 == 0 {
            for (worker, kind) in workers.iter_mut().zip(["ledger", "spend"]) {
                std::mem::replace(worker, start(kind)).stop();
            }
        }
        told.push(json!({ "clock": step, "leaves": leaves() }));
    }
    let hosts = fleet.settled(&plane);
    assert_sound(&plane, &hosts, &[]);
    assert!(plane.agrees(&["worker", "spend", "--check"]), "the view is the ledger's, by every bucket");
    workers.into_iter().for_each(Worker::stop);
    // Charges on the day of the worker's clock in place of their own.
    let days = plane.redis(&["--raw", "KEYS", "*:spend:day:*"]);
    plane.redis(&["RENAME", &days[0], &format!("{}9", days[0])]);
    assert!(!judge(&plane, &hosts, &[]).redis_equal, "charges of another day");
    Map::from_iter([
        ("seed".into(), json!(seed())),
        ("events".into(), json!(hosts.iter().map(|host| host.leaves.len()).sum::<usize>())),
        ("steps".into(), json!(told)),
    ])
}

/// What an auditor whose clock is set like that is told.
fn audited_by(plane: &Plane, clock: &WallClock) -> bool {
    let mut command = Command::new(caracald());
    clock.hold(&mut command);
    let audit = command.arg("--config").arg(plane.config()).args(["ledger", "verify", "--fleet"]).stdout(Stdio::null());
    audit.status().expect("it runs").success()
}
