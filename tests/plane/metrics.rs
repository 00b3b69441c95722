//! Health, readiness and metrics of each role. Each metric is seen to move when what it tells of happens, and none is there
//! that this test has not seen move.

use crate::cable::Mode;
use crate::host::{Host, Message};
use crate::plane::{PATIENCE, Plane, Wants, free_port, now, text};
use crate::usage::{get, metric};
use crate::worker::Worker;
use crate::{LOAD, STAND_IN, SUBJECT};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use support::daemon::Daemon;
use support::netns::until;
use support::report;
use support::scene::Scene;
use support::served;

/// What a role serves, and what of it was seen to move.
struct Served {
    port: u16,
    moved: BTreeSet<&'static str>,
}

impl Served {
    fn at(port: u16) -> Served {
        until("/healthz answers", PATIENCE, || get(port, "/healthz").is_some_and(|(status, _)| status == 200))
            .expect("a role that lives");
        Served { port, moved: BTreeSet::new() }
    }

    /// Each of these metrics has another value after `work`, sooner or later.
    #[track_caller]
    fn moves(&mut self, names: &[&'static str], work: impl FnOnce()) {
        let value = |name: &str| metric(self.port, name).unwrap_or_else(|| panic!("there is no {name}"));
        let before: Vec<u64> = names.iter().map(|name| value(name)).collect();
        work();
        for (name, before) in names.iter().zip(before) {
            let moved = until(name, PATIENCE, || value(name) != before);
            assert!(moved.is_ok(), "{name} stays at {before}");
            self.moved.insert(name);
        }
    }

    fn ready(&self, wanted: bool) {
        let status = || get(self.port, "/readyz").map(|(status, _)| status);
        let told = until("/readyz", PATIENCE, || status() == Some(if wanted { 200 } else { 503 }));
        assert!(told.is_ok(), "/readyz says {:?}", status());
    }

    /// There is no other metric than those that were seen to move and those of `constant`; each says what it is.
    #[track_caller]
    fn all_were_seen(self, constant: &[&'static str]) {
        let (_, body) = get(self.port, "/metrics").expect("metrics");
        let values = body.lines().filter(|line| !line.starts_with('#'));
        let there: BTreeSet<&str> = values.filter_map(|line| line.split(' ').next()).collect();
        let seen: BTreeSet<&str> = self.moved.iter().chain(constant).copied().collect();
        assert_eq!(there, seen, "metrics that are there, and metrics that were seen to move");
        for name in there {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            assert!(body.contains(&format!("# HELP {name} ")) && body.contains(&format!("# TYPE {name} {kind}\n")));
        }
        assert_eq!(get(self.port, "/else").map(|(status, _)| status), Some(404));
    }
}

#[test]
fn each_metric_of_the_workers_moves() {
    report::plain(SUBJECT, "health, readiness and each metric of the workers and of what serves logs", || {
        let plane = Plane::with(Wants { partitions: 1, cables: true, ..Wants::default() });
        let mut host = Host::new("h");
        plane.caracald(&["hosts", "enrol", text(&plane.file("h.pub", &host.public_key()))]);
        let (runtime, producer) =
            (tokio::runtime::Builder::new_current_thread().enable_all().build(), plane.producer());
        let runtime = runtime.expect("a runtime");
        let send = |message: &Message| {
            runtime.block_on(message.send(&producer, &plane.topic));
        };
        let mut dice = StdRng::seed_from_u64(9);
        let mut some = || {
            let at = now("now");
            host.ms = at.ms;
            let records: Vec<Vec<u8>> = (0..20).map(|_| host.record(dice.random(), &at.text)).collect();
            host.message(&records)
        };

        let (worker, port) = plane.listening("ledger");
        let mut ledger = Served::at(port);
        ledger.ready(true);
        let first = some();
        ledger.moves(&["caracal_ledger_records_total", "caracal_ledger_commits_total"], || send(&first));
        ledger.moves(&["caracal_ledger_duplicates_total"], || send(&first));
        let junk = Message { payload: b"no records".to_vec(), ..first.clone() };
        ledger.moves(&["caracal_ledger_incidents_total"], || send(&junk));
        // A database that is away: no log is written, and it says so.
        ledger.moves(&["caracal_ledger_failures_total", "caracal_ledger_logs"], || {
            plane.cables().postgres.set(Mode::Cut);
            send(&some());
        });
        ledger.ready(false);
        // Somebody's writing in the topic of checkpoints is seen when the log is taken up again.
        plane.scrawl(0);
        ledger.moves(&["caracal_ledger_strange_checkpoints_total"], || plane.cables().postgres.set(Mode::Whole));
        ledger.ready(true);
        // Keys that cannot write down what they sign: leaves without a checkpoint, until they can.
        let blocked = plane.keys().join("test-0/ledger-signed.new");
        std::fs::create_dir(&blocked).expect("a directory in the file's place");
        ledger.moves(&["caracal_ledger_unsigned_leaves"], || send(&some()));
        ledger.moves(&["caracal_ledger_unsigned_leaves"], || std::fs::remove_dir(&blocked).expect("removed"));
        // The host says nothing for a while, and then something.
        let silent = || metric(port, "caracal_ledger_silent_hosts") == Some(1);
        until("the host is silent", PATIENCE, silent).expect("silence");
        ledger.moves(&["caracal_ledger_silent_hosts"], || send(&some()));
        ledger.all_were_seen(&[]);

        plane.cables().postgres.set(Mode::Cut);
        let (spender, port) = plane.listening("spend");
        let mut spend = Served::at(port);
        spend.ready(false);
        spend.moves(&["caracal_spend_charges_total"], || plane.cables().postgres.set(Mode::Whole));
        spend.ready(true);
        spend.moves(&["caracal_spend_failures_total"], || drop(plane.services(&["kill", "redis"])));
        spend.ready(false);
        plane.services(&["start", "redis"]);
        spend.ready(true);
        spend.all_were_seen(&[]);
        of_the_server(&plane);
        [worker, spender].into_iter().for_each(Worker::stop);
    });
}

/// `ledger serve`. Its metrics are not where the log is read.
#[expect(clippy::disallowed_methods, reason = "a reader of the log, on loopback")]
fn of_the_server(plane: &Plane) {
    let port = free_port();
    let log = served::Served::start(&plane.config(), &["--fleet", "--metrics", &format!("127.0.0.1:{port}")]);
    let at: u16 = log.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let status = |path: &str| get(at, path).map(|(status, _)| status);
    let mut served = Served::at(port);
    served.ready(true);
    served.moves(&["caracal_serve_files_total", "caracal_serve_bytes_total"], || {
        assert_eq!(status("/test-0/checkpoint"), Some(200));
    });
    served.moves(&["caracal_serve_unknown_total"], || assert_eq!(status("/metrics"), Some(404)));
    let mut held = None;
    served.moves(&["caracal_serve_connections_open"], || {
        held = TcpStream::connect((Ipv4Addr::LOCALHOST, at)).ok();
    });
    assert!(held.is_some(), "nobody listens");
    served.moves(&["caracal_serve_failures_total"], || {
        plane.cables().postgres.set(Mode::Cut);
        assert_eq!(status("/test-0/checkpoint"), Some(503));
    });
    served.ready(false);
    plane.cables().postgres.set(Mode::Whole);
    served.ready(true);
    served.all_were_seen(&[]);
}

#[test]
fn each_metric_of_the_daemon_moves() {
    report::plain(SUBJECT, "health, readiness and each metric of the daemon", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let inside = scene.net.a.inside(|| {
            of_the_daemon(&scene);
            Ok(())
        });
        inside.expect("the host's namespace");
    });
}

fn of_the_daemon(scene: &Scene) {
    let plane = Plane::start(1);
    let port = free_port();
    let rules = format!(
        "{}[postgres]\nurl = \"{}\"\n[listen]\nmetrics = \"127.0.0.1:{port}\"\n[journal]\nsegment_bytes = 1048576\n\
         [[allow]]\nhosts = [\"api.openai.com\"]\n\n\
         [[budget]]\nname = \"purse\"\nlimit = \"100 USD\"\nwindow = \"total\"\nshared = true\n",
        plane.kafka_section(),
        plane.postgres,
    );
    let mut daemon = Daemon::configured(scene, &rules);
    let _made = daemon.command(&["setup", "postgres"]).ran().ok();
    daemon.restart();
    let mut served = Served::at(port);
    served.ready(true);
    not_ready_without_its_ledger(&daemon, &served);
    let load = |requests: &str, words: &str| {
        let args = ["--clients", "4", "--requests", requests, "--words", words];
        let _answered = daemon.run(LOAD).args(args).limit(PATIENCE).ran().ok();
    };
    let counted = [
        "caracal_connections_total",
        "caracal_requests_total",
        "caracal_journal_records_total",
        "caracal_ledger_leaves_total",
        "caracal_ledger_signed_leaves_total",
        "caracal_published_records_total",
        "caracal_escrow_answers_total",
    ];
    served.moves(&counted, || load("8", "output=40"));
    served.moves(&["caracal_refusals_total"], || {
        let _refused = daemon.run("curl").args(["-sS", "https://denied.example/"]).ran();
    });
    served.moves(&["caracal_untrusted_total"], || {
        let distrust = ["-sS", "--cacert", "/dev/null", "https://api.openai.com/"];
        let _broken_off = daemon.run("curl").args(distrust).ran();
    });
    served.moves(&["caracal_escrow_lease_ms"], || {});
    // A book of another day: the same prices, a thousand days ago and some.
    served.moves(&["caracal_price_book_age_days"], || {
        let book = daemon.command(&["prices", "show", "--toml"]).ran().ok().stdout;
        let old = book.replacen("version = \"20", "version = \"2020-01-01-", 1);
        let file = scene.file("prices.toml", &old);
        daemon.configure(&format!("[prices]\nfile = \"{}\"\n{rules}", file.display()));
        let _ran = daemon.command(&["policy", "reload"]).ran().ok();
    });
    // Seen while it lasts.
    std::thread::scope(|scope| {
        let args = ["--clients", "4", "--requests", "4", "--stream", "--words", "output=400 slow=10"];
        let slow = daemon.run(LOAD).args(args).limit(PATIENCE);
        let slow = scope.spawn(move || drop(slow.ran().ok()));
        let open = until("a connection is open", PATIENCE, || metric(port, "caracal_connections_open") > Some(0));
        assert!(open.is_ok(), "no connection was seen open");
        slow.join().expect("answered");
    });
    until("all are closed", PATIENCE, || metric(port, "caracal_connections_open") == Some(0)).expect("an end");
    served.moved.insert("caracal_connections_open");
    served.moves(&["caracal_publish_backlog", "caracal_publish_lag_ms"], || {
        plane.services(&["kill", "kafka"]);
        load("8", "output=40");
    });
    // A second segment.
    served.moves(&["caracal_journal_bytes"], || load("1000", "output=1"));
    served.all_were_seen(&["caracal_journal_limit_bytes"]);
    assert_eq!(metric(port, "caracal_journal_limit_bytes"), Some(4 << 30), "what the configuration says");
    let agent = daemon.run("curl").args(["-sS", "--max-time", "5", &format!("http://127.0.0.1:{port}/metrics")]).ran();
    assert!(!agent.stdout.contains("caracal_connections_total"), "an agent reads no metrics\n{}", agent.screen());
    daemon.stop();
}

/// Somebody holds the ledger's file for longer than its writer waits: the ledger does not go on until they let go.
fn not_ready_without_its_ledger(daemon: &Daemon<'_>, served: &Served) {
    const HOLD: &str = "import sqlite3, sys\nheld = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        held.execute('BEGIN IMMEDIATE')\nsys.stdin.read()\n";
    let mut holder = Command::new("/usr/bin/python3")
        .args(["-c", HOLD])
        .arg(daemon.state().join("data/ledger.sqlite"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    // Heartbeats are records, so there is something to write.
    served.ready(false);
    assert_eq!(get(served.port, "/healthz").map(|(status, _)| status), Some(200), "it lives");
    drop(holder.stdin.take());
    assert!(holder.wait().expect("its end").success());
    served.ready(true);
}
