//! Whoever asks for the status while the keeper looks at what a workload holds, and at the programs of its cgroup, is
//! answered.

use super::attach;
use crate::{RULES, STAND_IN};
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};
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
/// How long they ask. The programs are looked at five times a second, the sockets once.
const ASKED_FOR: Duration = Duration::from_secs(15);
/// Who is not answered by then is not answered at all.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn a_status_is_answered_whatever_the_keeper_looks_at() {
    report::case("escape", "status during looks", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let daemon = Daemon::start(&scene, RULES);
        let script = scene.file("churn.py", CHURN);
        let workload = scene.agent("/usr/bin/python3").cgroup(&cgroup.path()).arg(script).limit(2 * PATIENCE);
        let mut workload = workload.spawn(Stdio::null(), Stdio::null()).expect("python3 starts");
        let _report = attach(&daemon, &cgroup, &[]);
        let end = Instant::now() + ASKED_FOR;
        let ask = || {
            let mut answers = 0_u64;
            while Instant::now() < end {
                let ran = daemon.command(&["status", "--json"]).limit(PATIENCE).ran();
                assert_eq!(ran.code, Some(0), "after {answers} answers: {}\n{}", ran.screen(), daemon.logs());
                answers += 1;
            }
            answers
        };
        let answers: u64 = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().expect("answers")).sum()
        });
        assert!(workload.try_wait().is_ok_and(|ended| ended.is_none()), "the workload lives");
        let _gone = workload.kill();
        let _gone = workload.wait();
        assert!(answers > 0);
        json!({ "answers": answers }).as_object().cloned().unwrap_or_default()
    });
}
