//! Connections that nobody uses: they cost the others nothing, and none is lost.

use crate::{RULES, case};
use std::time::Duration;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::until;
use support::programs;

/// Opens connections and leaves them idle until it may go on.
const CROWD: &str = include_str!("../programs/crowd.py");
/// Processes, and connections of each: as many as the usual limit on descriptors lets a process have.
const PROCESSES: usize = 20;
const EACH: usize = 500;

fn status(daemon: &Daemon<'_>, agent: &str) -> String {
    let run = daemon.run_as(&["--agent", agent], "curl");
    run.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "https://example.com/hello"]).ran().stdout
}

#[test]
fn ten_thousand_idle_connections() {
    let rules = "[limits]\nconnections = 12000\nconnections_per_agent = 11000\n".to_owned() + RULES;
    case("10,000 idle connections", &rules, |scene, daemon| {
        daemon.restart();
        let script = scene.file("crowd.py", CROWD);
        let python = programs::python();
        let line =
            format!("for n in $(seq {PROCESSES}); do {} {} {EACH} $n & done; wait", python.display(), script.display());
        let file = |name: &str| scene.home.path().join(name);
        std::thread::scope(|scope| {
            let crowd = {
                let run =
                    daemon.run_as(&["--agent", "crowd"], "sh").args(["-c", &line]).limit(Duration::from_secs(300));
                scope.spawn(move || run.ran())
            };
            let all_open = || (1..=PROCESSES).all(|n| file(&format!("open.{n}")).exists());
            let there = until("the crowd", Duration::from_secs(200), || all_open() || crowd.is_finished());
            // The kernel completes a connection before the daemon has taken it.
            let mut open = None;
            let _fewer = until("the daemon has them", Duration::from_secs(60), || {
                open = daemon.json(&["status"])["data_path"]["open"].as_u64();
                open >= Some(10_000) || crowd.is_finished()
            });
            let other = status(daemon, "other");
            let resident = daemon.data_path().and_then(resident_kib);
            // In any case, so that the crowd ends.
            std::fs::write(file("go"), "").expect("the sign");
            let ran = crowd.join().expect("the crowd");
            assert!(there.is_ok() && ran.code == Some(0), "{}", ran.screen());
            assert!(open >= Some(10_000), "{open:?} connections are open");
            assert_eq!(other, "200", "another agent is not served");
            // Some say at last what they want, and are served; none of the others has been closed.
            let told = ran.stdout.lines().filter(|line| line.starts_with("crowd:")).collect::<Vec<_>>();
            assert!(told.len() == PROCESSES && told.iter().all(|line| *line == "crowd: 5 served, 0 lost"), "{told:?}");
            support::report::figure("wire", "idle_connections", open.unwrap_or(0));
            support::report::figure("wire", "idle_connections_rss_kib", resident.unwrap_or(0));
        });
        assert_eq!(status(daemon, "crowd"), "200");
        daemon.stop();
    });
}

/// Resident memory of a process, KiB.
fn resident_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

#[test]
fn one_agent_cannot_take_all_connections() {
    let rules = "[limits]\nconnections_per_agent = 20\n".to_owned() + RULES;
    case("connections beyond an agent's limit", &rules, |scene, daemon| {
        daemon.restart();
        let script = scene.file("crowd.py", CROWD);
        let file = |name: &str| scene.home.path().join(name);
        std::thread::scope(|scope| {
            let crowd = {
                let run = daemon.run_as(&["--agent", "crowd"], programs::python()).arg(&script).args(["50", "1"]);
                scope.spawn(move || run.limit(Duration::from_secs(120)).ran())
            };
            let there = until("the crowd", Duration::from_secs(60), || file("open.1").exists() || crowd.is_finished());
            let other = status(daemon, "other");
            std::fs::write(file("go"), "").expect("the sign");
            let ran = crowd.join().expect("the crowd");
            assert!(there.is_ok() && ran.code == Some(0), "{}", ran.screen());
            assert_eq!(other, "200", "another agent is not served");
            assert!(ran.stdout.contains(" 30 lost"), "{}", ran.screen());
        });
        let count = |records: &[Record]| -> u64 {
            records.iter().filter(|record| record.is_denial("too_many_connections")).map(Record::count).sum()
        };
        let records = daemon.records_when(|records| count(records) >= 30);
        assert_eq!(count(&records), 30, "each refused connection is counted once");
        daemon.stop();
    });
}
