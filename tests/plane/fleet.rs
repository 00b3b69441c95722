//! Hosts that publish while something happens to the plane, and what must hold when it is over.

use crate::host::{Host, Message};
use crate::judge::{Signed, Verdict, judge};
use crate::plane::{PATIENCE, Plane, now, text};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::netns::until;
use support::report::seed;
use tokio::task::JoinHandle;

/// How the hosts' clocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    True,
    /// Set forward and back, by an hour, days, or decades, between two messages.
    Stepping,
}

/// The CRC-32 of its id chooses a host's partition. Of two, each gets hosts: one of these, and two.
const HOSTS: [&str; 3] = ["host-0", "host-1", "host-4"];

/// Steps of a clock, as date(1) takes them.
const STEPS: [&str; 8] = ["now", "-400 days", "-49 hours", "-1 hour", "-3 seconds", "+1 hour", "+3 days", "+30 years"];

/// Hosts at work.
pub(crate) struct Fleet {
    runtime: tokio::runtime::Runtime,
    tasks: Vec<JoinHandle<Host>>,
    sent: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
    /// Records that they will have written.
    pub(crate) total: u64,
}

impl Fleet {
    /// Enrols three hosts that will write `events` records or, in equal parts, one or two more; they begin with a twentieth of them.
    pub(crate) fn start(plane: &Plane, events: u64, clocks: Clocks) -> Fleet {
        let hosts = HOSTS.map(Host::new);
        let keys: String = hosts.iter().map(Host::public_key).collect();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let share = events.div_ceil(hosts.len() as u64);
        let total = share * hosts.len() as u64;
        let (sent, allowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(total / 20)));
        let tasks = hosts.into_iter().enumerate().map(|(at, host)| {
            let play = Play {
                dice: StdRng::seed_from_u64(seed() ^ at as u64),
                clocks,
                producer: plane.producer(),
                topic: plane.topic.clone(),
                sent: Arc::clone(&sent),
                allowed: Arc::clone(&allowed),
            };
            runtime.spawn(play.until_the_end(host, share))
        });
        let tasks = tasks.collect();
        Fleet { runtime, tasks, sent, allowed, total }
    }

    /// Records that Kafka has acknowledged.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// They stop, about, at so many records until more are allowed.
    pub(crate) fn allow(&self, records: u64) {
        self.allowed.store(records, Ordering::Relaxed);
    }

    /// Waits until a share of the records is sent, in hundredths.
    pub(crate) fn reach(&self, hundredths: u64) {
        let due = self.total * hundredths / 100;
        self.allowed.fetch_max(due, Ordering::Relaxed);
        until(&format!("{due} records are sent"), PATIENCE, || self.sent() >= due || self.ended()).expect("events");
    }

    /// Whether every host has ended, in whatever way.
    fn ended(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// Lets the hosts end; gives them once the logs and the view have all that they wrote.
    pub(crate) fn settled(self, plane: &Plane) -> Vec<Host> {
        self.allow(u64::MAX);
        let hosts = self.tasks.into_iter().map(|host| self.runtime.block_on(host).expect("a host's end")).collect();
        plane.settled(self.total);
        caught_up(plane);
        hosts
    }
}

/// Everything that must hold afterwards; `signed` are checkpoints that the database has no more.
#[track_caller]
pub(crate) fn assert_sound(plane: &Plane, hosts: &[Host], signed: &[Signed]) {
    let verdict = judge(plane, hosts, signed);
    let incidents = plane.query("SELECT code, host, what FROM incidents");
    assert_eq!((verdict, incidents), (Verdict::SOUND, Vec::new()), "seed {}\n{}", seed(), plane.log());
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "caracald's own audit");
}

struct Play {
    dice: StdRng,
    clocks: Clocks,
    producer: rdkafka::producer::FutureProducer,
    topic: String,
    sent: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
}

impl Play {
    /// Publishes as a host does: runs of many sizes, now and then one again, and never one before the other is there.
    async fn until_the_end(mut self, mut host: Host, records: u64) -> Host {
        let mut left = records;
        let mut before: Option<Message> = None;
        while left > 0 {
            while self.sent.load(Ordering::Relaxed) >= self.allowed.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let size = self.dice.random_range(1..=200).min(left);
            let at = match self.clocks {
                Clocks::True => now("now"),
                Clocks::Stepping => now(STEPS[self.dice.random_range(0..STEPS.len())]),
            };
            host.ms = at.ms;
            let run: Vec<Vec<u8>> = (0..size).map(|_| host.record(self.dice.random(), &at.text)).collect();
            let message = host.message(&run);
            message.send(&self.producer, &self.topic).await;
            // As after a crash between the acknowledgment and the cursor.
            if self.dice.random_range(0..10) == 0 {
                before.as_ref().unwrap_or(&message).send(&self.producer, &self.topic).await;
            }
            before = Some(message);
            left -= size;
            self.sent.fetch_add(size, Ordering::Relaxed);
        }
        host
    }
}

/// Waits until the view has what the ledger has.
fn caught_up(plane: &Plane) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let wanted = plane.query("SELECT log, max(upto) FROM charges GROUP BY log ORDER BY log");
        let lines = plane.redis(&["--raw", "HGETALL", "{caracal:test}:spend:mark"]);
        let mut marks: Vec<String> = lines.chunks_exact(2).map(|pair| pair.join("|")).collect();
        marks.sort();
        if marks == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "the view stands at {marks:?}, the ledger at {wanted:?}\n{}", plane.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}
