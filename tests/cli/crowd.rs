//! Connections that nobody uses: they cost the others nothing, and none is lost.

use crate::{RULES, case};
use serde_json::Value;
use std::time::Duration;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::until;
use support::programs;

/// Opens connections and leaves them idle until it may go on.
const CROWD: &str = include_str!("../programs/crowd.py");
/// The same, where the daemon takes fewer than it opens.
const DESCRIPTORS: &str = include_str!("../programs/descriptors.py");
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

/// A keeper that may not raise its limit, as in a container. Of 192 descriptors a half is for other things, and two thirds of
/// the rest is how many connections are taken. One upstream for each of them would reach into what probes and files need.
#[test]
fn connections_beyond_the_descriptors_are_refused_and_the_door_stays_open() {
    const BEYOND: u64 = 60;
    case("connections beyond the daemon's descriptors", RULES, |scene, daemon| {
        daemon.start_by(&["prlimit", "--nofile=192:192", "setpriv", "--bounding-set", "-sys_resource"]);
        daemon.restart();
        let data_path = daemon.data_path();
        let counts = daemon.json(&["status"])["data_path"].clone();
        let most = counts["connections_most"].as_u64().expect("a limit");
        assert!(most == 64 && counts["connections_configured"].as_u64() > Some(most), "{counts}");
        assert!(daemon.logs().contains("Not enough descriptors"), "{}", daemon.logs());

        let script = scene.file("descriptors.py", DESCRIPTORS);
        let file = |name: &str| scene.home.path().join(name);
        let (ran, seen) = std::thread::scope(|scope| {
            let crowd = {
                let run = daemon.run_as(&["--agent", "crowd"], programs::python()).arg(&script);
                let run = run.args([(most + BEYOND).to_string(), most.to_string()]).limit(Duration::from_secs(300));
                scope.spawn(move || run.ran())
            };
            let seen = [("full", "use"), ("used", "end")].map(|(reached, next)| {
                let _late = until(reached, Duration::from_secs(200), || file(reached).exists() || crowd.is_finished());
                let seen = (daemon.command(&["status", "--json"]).ran(), status(daemon, "other"));
                // In any case, so that the crowd ends.
                std::fs::write(file(next), "").expect("the sign");
                seen
            });
            (crowd.join().expect("the crowd"), seen)
        });
        for (said, _) in &seen {
            // Its exit code is 1 while the door is shut.
            assert_eq!(said.code, Some(0), "{}", said.screen());
            let said: Value = serde_json::from_str(&said.stdout).expect("JSON");
            assert_eq!((&said["door"], &said["truth"]["faults"]), (&"open".into(), &serde_json::json!([])), "{said}");
        }
        assert_eq!(seen[0].1, "000", "another agent's connection is taken as well");
        let told: Value = serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|_| panic!("{}", ran.screen()));
        assert_eq!((&told["beyond"], &told["bytes"]), (&BEYOND.into(), &0.into()), "{told}");
        assert_eq!(told["kept"], serde_json::json!([true, true, true]), "{told}");
        // Each that was taken is answered, with the truth where there is no descriptor for its upstream.
        let [held, without] = ["200", "504"].map(|status| told["answers"][status].as_u64().unwrap_or(0));
        assert!(without > 0, "no upstream came as far as the reserve; a lower limit makes it: {told}");
        assert_eq!(held + without, most - 1, "{told}");
        assert_eq!((&told["ended"], &told["new"]), (&held.into(), &true.into()), "{told}");

        assert_eq!(status(daemon, "other"), "200");
        assert_eq!(daemon.data_path(), data_path, "the data path was started anew");
        let count = |records: &[Record], reason: &str| -> u64 {
            records.iter().filter(|record| record.is_denial(reason)).map(Record::count).sum()
        };
        // Those beyond, and one of the other agent's.
        let records = daemon.records_when(|records| {
            count(records, "too_many_connections") > BEYOND && count(records, "upstream_connect") >= without
        });
        assert_eq!(count(&records, "upstream_connect"), without, "{told}");
        assert_eq!(count(&records, "lease_expired"), 0, "the door was shut for a while");
        let _sound = daemon.verify();
        daemon.stop();
    });
}
