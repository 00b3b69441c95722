//! Whoever asks for the status while the keeper looks at what a workload holds, and at the programs of its cgroup, is
//! answered.

use super::attach;
use crate::{RULES, STAND_IN};
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::report;
use support::scene::Scene;

/// Sockets that no look has seen yet, all the time: each costs a look at least one question to the kernel.
const CHURN: &str = "\
import socket, time
while True:
    held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(800)]
    time.sleep(0.1)
    del held
";
/// Processes that do so: a look at all their sockets takes some ten milliseconds, and there is one each second.
const PROCESSES: usize = 2;
/// Asks for the status over and over on one connection, as `caracald status` does on its own; says how often it was answered.
const ASK: &str = r#"
import socket, struct, sys, time
road = socket.socket(socket.AF_UNIX)
road.settimeout(30)
road.connect(sys.argv[1])
question = b'"Status"'
def exactly(length):
    data = b""
    while len(data) < length:
        more = road.recv(length - len(data))
        assert more, "the daemon went away"
        data += more
    return data
answers, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    road.sendall(struct.pack("<I", len(question)) + question)
    answer = exactly(*struct.unpack("<I", exactly(4)))
    assert b'"door"' in answer, answer
    answers += 1
    time.sleep(0.002)
print(answers)
"#;
/// So many ask at once: without a pause they would take the processors from the tests beside this one.
const ASKING: usize = 2;
/// Cgroups with nobody in them: the longer the watch is on its way from one to the next, the more often somebody asks meanwhile.
const OTHERS: usize = 24;
/// How long they ask.
const ASKED_FOR: Duration = Duration::from_secs(20);

#[test]
fn a_status_is_answered_whatever_the_keeper_looks_at() {
    report::case("escape", "status during looks", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let daemon = Daemon::start(&scene, RULES);
        let script = scene.file("churn.py", CHURN);
        let mut workload: Vec<_> = std::iter::repeat_with(|| {
            let run = scene.agent("/usr/bin/python3").cgroup(&cgroup.path()).arg(&script);
            run.spawn(Stdio::null(), Stdio::null()).expect("python3 starts")
        })
        .take(PROCESSES)
        .collect();
        let others: Vec<Cgroup> = std::iter::repeat_with(Cgroup::new).take(OTHERS).collect();
        for cgroup in others.iter().chain([&cgroup]) {
            let _report = attach(&daemon, cgroup, &[]);
        }
        let asks = scene.file("ask.py", ASK);
        let control = daemon.config().with_file_name("run").join("control.sock");
        let ask = || {
            let run = scene.net.a.run("/usr/bin/python3").arg(&asks).arg(&control);
            let ran = run.arg(ASKED_FOR.as_secs().to_string()).ran();
            assert_eq!(ran.code, Some(0), "not answered: {}\n{}", ran.screen(), daemon.logs());
            ran.stdout.trim().parse::<u64>().expect("a number")
        };
        let answers: u64 = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..ASKING).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().expect("answers")).sum()
        });
        for process in &mut workload {
            assert!(process.try_wait().is_ok_and(|ended| ended.is_none()), "the workload lives");
            let _gone = process.kill();
            let _gone = process.wait();
        }
        assert!(answers > 0);
        json!({ "answers": answers }).as_object().cloned().unwrap_or_default()
    });
}
