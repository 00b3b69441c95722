//! Paid streams that last over upgrades: each goes on at the program that it began at, and its charge is written by the
//! program that has the journal then. What the bill says is what the ledger says, to the nano-USD.

use crate::vault::{ADDRESS, Road, Vault};
use crate::{STAND_IN, rules, settled};
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon, alive, caracald};
use support::installed::Installed;
use support::netns::until;
use support::report;
use support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(60);

/// One stream of an agent: curl, and what it got.
struct Stream {
    child: Child,
    out: PathBuf,
}

impl Stream {
    /// Begins one that stands still after two events, until [`go`].
    fn begin(scene: &Scene, cgroup: &Cgroup, ca: &Path, cap: u64) -> Stream {
        let body = json!({
            "model": "gpt-4o-mini", "stream": true, "max_tokens": cap,
            "messages": [{"role": "user", "content": format!("[[id={cap} output=40 stop=2]]")}],
        });
        let out = scene.file(&format!("stream.{cap}"), "");
        let file = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let run = scene.agent("curl").cgroup(&cgroup.path()).args(["-sS", "-N", "--max-time", "300"]);
        let run = run.arg("--cacert").arg(ca).args(["-H", "authorization: Bearer stand-in"]);
        let run = run.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        let run = run.arg("https://api.openai.com/v1/chat/completions");
        let child = run.spawn(Stdio::from(file), Stdio::inherit()).expect("curl starts");
        let stream = Stream { child, out };
        until("the stream stands still", PATIENCE, || stream.said().contains("data:")).expect("a stream");
        stream
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }
}

/// Lets a stream go on.
fn go(scene: &Scene, cgroup: &Cgroup, ca: &Path, cap: u64) {
    let run = scene.agent("curl").cgroup(&cgroup.path()).args(["-sS", "--max-time", "60"]).arg("--cacert").arg(ca);
    let _ran = run.arg(format!("https://example.com/go/{cap}")).ran().ok();
}

struct World<'a> {
    scene: &'a Scene,
    cgroup: &'a Cgroup,
    daemon: Daemon<'a>,
    installed: Installed,
    ca: PathBuf,
}

impl World<'_> {
    /// Upgrades; gives the data path from before it.
    fn upgrade(&self) -> i32 {
        let before = self.daemon.data_path().expect("a data path");
        self.installed.replace();
        let ran = self.daemon.command(&["upgrade"]).ran();
        assert_eq!(ran.code, Some(0), "{}\n{}", ran.screen(), self.daemon.logs());
        let another = || self.daemon.data_path().is_some_and(|other| other != before);
        until("another data path serves", PATIENCE, another).expect("another data path");
        before
    }

    fn finish(&self, cap: u64, mut stream: Stream) {
        go(self.scene, self.cgroup, &self.ca, cap);
        let mut status = None;
        until("the stream ends", PATIENCE, || {
            status = stream.child.try_wait().ok().flatten();
            status.is_some()
        })
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", stream.said(), self.daemon.logs()));
        let whole = status.is_some_and(|status| status.success()) && stream.said().contains("[DONE]");
        assert!(whole, "{cap} broke off: {status:?} {}\n{}", stream.said(), self.daemon.logs());
    }

    fn held(&self) -> u64 {
        let budgets = self.daemon.json(&["budgets"]);
        budgets[0]["held_nano_usd"].as_u64().unwrap_or_else(|| panic!("{budgets}"))
    }
}

type More = Map<String, serde_json::Value>;

fn world(name: &str, limit: &str, more: &str, work: impl FnOnce(&mut World<'_>) -> More) {
    let rules = format!("{}\n[[allow]]\nhosts = [\"example.com\"]\n{more}", rules(limit));
    world_of(name, |_| (rules, ()), |world, ()| work(world));
}

/// The same with rules, and what they need, that are made in the scene.
fn world_of<T>(name: &str, prepare: impl FnOnce(&Scene) -> (String, T), work: impl FnOnce(&mut World<'_>, T) -> More) {
    report::case("money", name, || {
        let installed = Installed::new();
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let (rules, needed) = prepare(&scene);
        let mut daemon = Daemon::configured(&scene, &rules);
        daemon.attach(&cgroup.path());
        daemon.install(installed.binary());
        daemon.restart();
        let ca = daemon.ca();
        scene.wire.clear();
        let mut world = World { scene: &scene, cgroup: &cgroup, daemon, installed, ca };
        let more = work(&mut world, needed);
        scene.wire.silent();
        let _ran = world.daemon.verify();
        world.daemon.stop();
        more
    });
}

#[test]
fn streams_last_over_upgrades_and_are_charged_exactly() {
    world("streams over upgrades", "100 USD", "", |world| {
        let begin = |cap| Stream::begin(world.scene, world.cgroup, &world.ca, cap);
        let one = begin(1_001);
        let first = world.upgrade();
        assert!(alive(first), "it has a stream to end");
        let (two, held) = (begin(1_002), world.held());
        assert!(held > 0);
        let second = world.upgrade();
        assert!(alive(first) && alive(second));
        assert_eq!(world.held(), held, "both calls are held at the third data path");
        let three = begin(1_003);
        // The second one's first, then the first one's, which has seen two successors.
        for (cap, stream, path) in [(1_002, two, Some(second)), (1_001, one, Some(first)), (1_003, three, None)] {
            world.finish(cap, stream);
            if let Some(path) = path {
                until("its data path ends", PATIENCE, || !alive(path)).expect("it ends");
            }
        }
        let (records, audit) = settled(world.scene, &world.daemon);
        assert_eq!((audit.requests, audit.lost, audit.doubled), (3, 0, 0), "{audit:?}\n{records:#?}");
        assert_eq!(audit.ledger, audit.bill, "each is charged what was billed");
        assert_eq!(world.held(), 0);
        Map::from_iter([("upgrades".to_owned(), json!(2)), ("streams".to_owned(), json!(3))])
    });
}

#[test]
fn what_an_upgrade_has_to_cut_is_charged_in_full() {
    // A second for what is open, and the old data path killed: the bill is not known in either case, and no hold is lost.
    world("streams that an upgrade cuts", "100 USD", "\n[upgrade]\ndrain_ms = 1000\n", |world| {
        let cut = Stream::begin(world.scene, world.cgroup, &world.ca, 1_001);
        let first = world.upgrade();
        until("its time is over", PATIENCE, || !alive(first)).expect("it ends");
        let killed = Stream::begin(world.scene, world.cgroup, &world.ca, 1_002);
        let second = world.upgrade();
        // SAFETY: kill takes integers; the pid is the daemon's child.
        unsafe { libc::kill(second, libc::SIGKILL) };
        until("the holds are charged", PATIENCE, || world.held() == 0).expect("charged");
        let records = world.daemon.records_when(|records| {
            let calls = support::ledger::calls(records);
            calls.len() == 2 && calls.values().all(|call| call.cost.is_some())
        });
        let calls = support::ledger::calls(&records);
        for call in calls.values() {
            assert_eq!((call.settle.as_str(), call.cost, call.outcomes), ("charged_max", Some(call.hold), 1));
        }
        for mut stream in [cut, killed] {
            until("the agent is told", PATIENCE, || stream.child.try_wait().is_ok_and(|status| status.is_some()))
                .expect("the connection breaks off");
        }
        Map::from_iter([("cut".to_owned(), json!(2))])
    });
}

/// PostgreSQL, the road to it, and rules with one budget that is shared through it.
fn vault(scene: &Scene) -> (String, (Vault, Road)) {
    let vault = Vault::start();
    let road = Road::open(scene, &vault);
    let rules = |url: &str| {
        format!(
            "[postgres]\nurl = \"{url}\"\n[escrow]\nlease_ms = 30000\n[[allow]]\nhosts = [\"api.openai.com\", \"example.com\"]\n\
             [[budget]]\nname = \"purse\"\nlimit = \"100 USD\"\nwindow = \"total\"\nshared = true\nwait_ms = 60000\n"
        )
    };
    let config = scene.file("administer.toml", &rules(&vault.url()));
    let ran = Command::new(caracald()).arg("--config").arg(config).args(["setup", "postgres"]).output();
    let ran = ran.expect("caracald runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    (rules(&format!("postgres://postgres@{ADDRESS}/postgres?sslmode=disable")), (vault, road))
}

#[test]
fn streams_over_upgrades_are_charged_to_the_budget_that_hosts_share() {
    world_of("streams over upgrades, with a budget shared through PostgreSQL", vault, |world, (mut vault, road)| {
        let begin = |cap| Stream::begin(world.scene, world.cgroup, &world.ca, cap);
        let one = begin(1_001);
        let first = world.upgrade();
        assert!(alive(first), "it has a stream to end");
        let (two, held) = (begin(1_002), world.held());
        // The next one while PostgreSQL is gone: what was lent is known on the host.
        vault.kill();
        let second = world.upgrade();
        assert!(alive(first) && alive(second));
        assert_eq!(world.held(), held, "both calls are held at the third data path");
        world.finish(1_002, two);
        until("its data path ends", PATIENCE, || !alive(second)).expect("it ends");
        vault.go_on();
        let three = begin(1_003);
        // And one while it answers nothing.
        road.cut();
        let third = world.upgrade();
        assert!(alive(first) && alive(third));
        road.mend();
        let four = begin(1_004);
        for (cap, stream) in [(1_001, one), (1_003, three), (1_004, four)] {
            world.finish(cap, stream);
        }
        let (records, audit) = settled(world.scene, &world.daemon);
        assert_eq!((audit.requests, audit.lost, audit.doubled), (4, 0, 0), "{audit:?}\n{records:#?}");
        assert_eq!(audit.ledger, audit.bill, "each is charged what was billed");
        assert_eq!(world.held(), 0);
        let spent = || vault.query("SELECT budget, spent FROM escrow_windows");
        let wanted = [format!("purse|{}", audit.ledger)];
        let told = until("PostgreSQL knows what was spent", PATIENCE, || spent() == wanted);
        assert!(told.is_ok(), "{:?} is not {wanted:?}", spent());
        // One host all the while, which forgot nothing; each data path fences the one before it.
        assert!(vault.query("SELECT what FROM escrow_incidents").is_empty(), "nothing was forgotten");
        assert_eq!(
            vault.query(
                "SELECT count(*), max(epoch) >= 3, sum(lost) FROM escrow_holders JOIN escrow_shares USING (holder)"
            ),
            ["1|t|0"]
        );
        Map::from_iter([("upgrades".to_owned(), json!(3)), ("streams".to_owned(), json!(4))])
    });
}

/// A `run` that makes a paid call, waits while something happens, and makes another; what it said at its end.
fn last_words(world: &mut World<'_>, cap: u64, meanwhile: impl FnOnce(&mut World<'_>)) -> String {
    let [go, out, err] = ["go", "out", "err"].map(|kind| format!("{cap}.{kind}"));
    let call = |cap: u64| {
        let messages = json!([{"role": "user", "content": format!("[[id={cap} output=40]]")}]);
        let body = json!({ "model": "gpt-4o-mini", "max_tokens": cap, "messages": messages });
        format!(
            "curl -sS --fail -o /dev/null --max-time 60 -H 'authorization: Bearer stand-in' \
             -H 'content-type: application/json' -d '{body}' https://api.openai.com/v1/chat/completions"
        )
    };
    let go = world.scene.net.files().join(go);
    let (out, err) = (world.scene.file(&out, ""), world.scene.file(&err, ""));
    let (first, second) = (call(cap), call(cap + 1));
    let wait = format!("until [ -e '{}' ]; do sleep 0.1; done", go.display());
    let script = format!("{first} && echo first && {{ {wait}; }} && {second} && echo second");
    let to = |path: &Path| Stdio::from(std::fs::OpenOptions::new().append(true).open(path).expect("a file"));
    let run = world.daemon.run("sh").args(["-c", &script]);
    let mut child = run.spawn(to(&out), to(&err)).expect("it starts");
    let said = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    until("the first call", PATIENCE, || said(&out).contains("first"))
        .unwrap_or_else(|error| panic!("{error}: {}", said(&err)));
    meanwhile(world);
    std::fs::write(&go, "").expect("it goes on");
    until("its end", PATIENCE, || child.try_wait().is_ok_and(|status| status.is_some())).expect("it ends");
    assert!(said(&out).contains("second"), "{}\n{}", said(&err), world.daemon.logs());
    said(&err)
}

#[test]
fn a_run_over_upgrades_ends_with_its_summary() {
    world("the last words of a run over upgrades", "100 USD", "", |world| {
        let said = last_words(world, 1_001, |world| {
            for _ in 0..2 {
                let _before = world.upgrade();
            }
        });
        assert!(said.contains("caracald: 2 paid calls") && !said.contains("started again"), "{said}");
        let bill: u64 = world.scene.bill().iter().map(|line| line.nano).sum();
        let (_, audit) = settled(world.scene, &world.daemon);
        assert_eq!((audit.requests, audit.ledger), (2, bill));
        // A daemon that was killed took its tally with it. The records have it all, and the summary says so.
        let said = last_words(world, 1_003, |world| {
            world.daemon.kill();
            world.daemon.restart();
        });
        assert!(said.contains("caracald: 1 paid call,") && said.contains("started again"), "{said}");
        Map::from_iter([("upgrades".to_owned(), json!(2))])
    });
}
