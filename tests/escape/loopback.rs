//! A loopback packet goes to the socket that was asked about, and to no other one's beside it.

use crate::{RULES, case};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use support::daemon::Cgroup;
use support::netns::Ran;
use support::programs;
use support::scene::Scene;

const PORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/loopback_port.py");
const BROADCAST: &str = "127.255.255.255";
/// A kernel before 5.14 takes the network's own address for another one.
const FORMER: &str = "127.0.0.0";

/// Somebody's service on the port, in no governed cgroup.
struct Service {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Service {
    fn start(scene: &Scene, seconds: &str) -> Service {
        let run = scene.agent(programs::python()).args([PORT, "receive", seconds]);
        let mut child = run.spawn(Stdio::piped(), Stdio::inherit()).expect("the service");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut service = Service { child, lines };
        assert_eq!(service.line(), "ready");
        service
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("text")
    }

    /// What it got; `nothing` when its time is over.
    fn got(mut self) -> String {
        let line = self.line();
        assert!(self.child.wait().expect("its end").success());
        line
    }
}

fn send(scene: &Scene, cgroup: &Cgroup, words: &[&str]) -> Ran {
    scene.agent(programs::python()).cgroup(&cgroup.path()).arg(PORT).args(words).ran().ok()
}

#[test]
fn a_broadcast_on_loopback_reaches_nobody() {
    case(
        "broadcasts on loopback",
        RULES,
        |scene, cgroup| {
            let service = Service::start(scene, "20");
            let sent = send(scene, cgroup, &["broadcast", BROADCAST]);
            assert_eq!((sent.stdout.trim(), &*service.got()), ("sent", "caracal-canary"));
        },
        |world| {
            for address in [BROADCAST, FORMER] {
                let service = Service::start(world.scene, "1");
                let sent = send(world.scene, world.cgroup, &["broadcast", address]);
                assert_eq!((sent.stdout.trim(), &*service.got()), ("refused", "nothing"), "{address}");
            }
        },
    );
}

#[test]
fn no_program_of_an_agents_chooses_among_sockets_of_one_port() {
    case(
        "programs that choose among sockets of one port",
        RULES,
        |scene, cgroup| assert_eq!(send(scene, cgroup, &["filter"]).stdout.trim(), "attached"),
        |world| assert_eq!(send(world.scene, world.cgroup, &["filter"]).stdout.trim(), "refused"),
    );
}
