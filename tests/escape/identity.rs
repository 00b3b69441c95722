//! Whose a connection is. The kernel files each under its source address, and a source address can be somebody else's a
//! moment later: what one agent left behind must not be served in the name of another.

use crate::STAND_IN;
use crate::hang;
use serde_json::{Map, json};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::netns::until;
use support::report;
use support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: u16 = 10;

/// One connection of an agent, which begins when it is told.
struct Caller<'a> {
    scene: &'a Scene,
    child: Child,
    name: String,
}

impl<'a> Caller<'a> {
    fn ready(scene: &'a Scene, cgroup: &Cgroup, port: u16, path: &str, then: &str) -> Caller<'a> {
        let script = scene.file("stale_port.py", include_str!("../programs/stale_port.py"));
        let name = format!("{then}.{port}.{}", path.len());
        let out = scene.file(&format!("{name}.out"), "");
        let file = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let run = scene.agent("/usr/bin/python3").cgroup(&cgroup.path()).arg(script).arg(port.to_string());
        let run = run.args(["203.0.113.10", path, then]).arg(scene.net.files().join(format!("{name}.go")));
        let child = run.spawn(Stdio::from(file), Stdio::null()).expect("python3 starts");
        let caller = Caller { scene, child, name };
        until("it is ready", PATIENCE, || caller.said().contains("ready")).expect("it starts");
        caller
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.scene.net.files().join(format!("{}.out", self.name))).unwrap_or_default()
    }

    /// Tells it to begin, and waits until it has said this or has ended.
    fn go(&mut self, until_said: &str) {
        let _go = self.scene.file(&format!("{}.go", self.name), "");
        until("it goes on", PATIENCE, || self.said().contains(until_said) || self.ended()).expect("it goes on");
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// An agent that may do nothing, and one that may reach example.com and all below it.
struct Two<'a> {
    scene: &'a Scene,
    daemon: Daemon<'a>,
    thief: Cgroup,
    owner: Cgroup,
}

fn two(name: &str, work: impl FnOnce(&Two<'_>) -> u64) {
    report::case("escape", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let (thief, owner) = (Cgroup::new(), Cgroup::new());
        let rules = format!(
            "[[agent]]\nname = \"owner\"\ncgroup = \"{}\"\n\n[[allow]]\nagents = [\"owner\"]\nhosts = [\"example.com\", \
             \"*.example.com\"]\n",
            owner.path().display()
        );
        let mut daemon = Daemon::configured(&scene, &rules);
        daemon.attach(&thief.path());
        daemon.restart();
        scene.wire.clear();
        let two = Two { scene: &scene, daemon, thief, owner };
        let served = work(&two);
        // A round whose lease ran out on a busy machine tries nothing.
        assert!(served >= u64::from(ROUNDS) / 2, "the owner came through {served} times\n{}", two.daemon.logs());
        scene.wire.silent();
        let _ran = two.daemon.verify();
        Map::from_iter([("rounds".to_owned(), json!(ROUNDS)), ("served".to_owned(), json!(served))])
    });
}

impl Two<'_> {
    /// In each round the one takes a port, says `stolen` by it and leaves it, before the daemon has looked; then the other has
    /// it. Gives how often the other was served.
    fn rounds(&self, stolen: &str, own: &str, first_port: u16, got: impl Fn() -> usize) -> u64 {
        let path = self.daemon.data_path().expect("a data path");
        let mut served = 0;
        for round in 0..ROUNDS {
            let port = first_port + round;
            let mut first = Caller::ready(self.scene, &self.thief, port, stolen, "break");
            let mut second = Caller::ready(self.scene, &self.owner, port, own, "wait");
            // The daemon is slow for a moment, as one on a busy machine is; the lease is still good.
            let stopped = hang::processes(vec![path]);
            first.go("over");
            second.go("\n");
            until("it has the port", Duration::from_millis(300), || second.said().lines().count() > 1)
                .unwrap_or_default();
            let _at = stopped.release();
            until("the owner is answered", PATIENCE, || second.ended()).expect("an end");
            let said = (first.said(), second.said());
            assert_eq!(got(), 0, "round {round}: {said:?}");
            served += u64::from(said.0.contains("over") && said.1.contains("status "));
        }
        served
    }
}

#[test]
fn a_connection_that_is_gone_is_not_served_for_whoever_has_its_port() {
    two("a source port that changes hands, TCP", |two| {
        // Each by itself: one is refused, one is served.
        let each = [(&two.thief, 21_000, "/stolen", "403"), (&two.owner, 21_001, "/hello", "200")];
        for (cgroup, port, path, status) in each {
            let mut caller = Caller::ready(two.scene, cgroup, port, path, "wait");
            caller.go("over");
            assert!(caller.said().contains(&format!("status {status}")), "{}", caller.said());
        }
        two.rounds("/stolen", "/hello", 21_100, || two.scene.requests("example.com", "/stolen"))
    });
}

#[test]
fn a_query_is_not_answered_for_whoever_has_its_port() {
    two("a source port that changes hands, DNS", |two| {
        let asked = |name: &str| two.scene.log("query").iter().filter(|line| line["name"] == name).count();
        let mut caller = Caller::ready(two.scene, &two.owner, 21_002, "own.example.com", "wait");
        caller.go("over");
        assert!(asked("own.example.com") > 0, "the owner's names are asked for: {}", caller.said());
        two.rounds("stolen.example.com", "own.example.com", 21_200, || asked("stolen.example.com"))
    });
}
