//! What money costs in CPU time: a hold and its end, and a refused retry beside an allowed request.

use crate::{LOAD, STAND_IN};
use serde_json::{Map, Value, json};
use std::process::Command;
use std::time::Duration;
use support::cpu;
use support::daemon::{Daemon, caracald};
use support::ledger::Record;
use support::report;
use support::scene::Scene;

/// Requests of each kind: a tick of the kernel's clock is 10 ms, and a request takes a part of one.
const REQUESTS: u64 = 2_000;

#[test]
fn a_hold_and_its_end_are_measured() {
    report::case("money", "CPU of a hold and its end", || {
        let mut more = Map::new();
        for (kind, flags) in [("calendar", &[][..]), ("rolling", &["--rolling"][..])] {
            let measured = Command::new(caracald()).arg("measure").args(flags).output().expect("caracald runs");
            assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
            let said: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
            let each = said["hold_settle_us_p50"].as_f64().expect("a time");
            // How fast is for `bench`, where the goal stands; here it has to be a time at all.
            assert!(each > 0.0 && said["calls"] == json!(64_000), "{said}");
            let key = if kind == "calendar" { "hold_settle_us_p50" } else { "hold_settle_rolling_us_p50" };
            report::measure("money", key, each);
            more.insert(kind.into(), said);
        }
        more
    });
}

/// Two budgets: one that pays for everything, and for another model one that pays for nothing.
const RULES: &str = r#"
[[allow]]
hosts = ["api.openai.com"]

[[budget]]
name = "purse"
limit = "100 USD"
window = "total"
models = ["gpt-4o-mini"]

[[budget]]
name = "nothing"
limit = "0.000001 USD"
window = "total"
models = ["gpt-4o"]
"#;

#[test]
fn a_refused_retry_costs_less_than_an_allowed_request() {
    report::case("money", "a storm of refused retries beside allowed requests", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, RULES);
        let requests = REQUESTS.to_string();
        let load = |more: &[&str]| {
            let run = daemon.run(LOAD).args(["--clients", "8", "--requests", &requests, "--count"]).args(more);
            let ran = run.limit(Duration::from_secs(600)).ran().ok();
            serde_json::from_str::<Value>(ran.stdout.trim()).expect("the load's counts")
        };
        let pids = [daemon.keeper(), daemon.data_path()].map(|pid| pid.expect("a process of the daemon's"));
        let mut each = [0.0; 2];
        let kinds: [(&str, &[&str], &str); 2] = [
            ("allowed", &["--words", "say=yes output=8"], "answered"),
            ("refused", &["--model", "gpt-4o", "--same"], "refused"),
        ];
        for (cost, (_, flags, counted)) in each.iter_mut().zip(kinds) {
            let before = cpu::used(&pids);
            let told = load(flags);
            assert_eq!(told[counted].as_u64(), Some(REQUESTS), "{told}");
            *cost = (cpu::used(&pids) - before).as_secs_f64() * 1e6 / REQUESTS as f64;
        }
        let denials = |records: &[Record]| -> u64 {
            records.iter().filter(|record| record.is_denial("budget_exceeded")).map(Record::count).sum()
        };
        // Each was counted, in a few records: that is what makes them cheap.
        let records = daemon.records_when(|records| denials(records) >= REQUESTS);
        assert_eq!(denials(&records), REQUESTS);
        let written = records.iter().filter(|record| record.is_denial("budget_exceeded")).count() as u64;
        assert!(written < REQUESTS / 10, "{written} records for {REQUESTS} equal refusals");
        assert_eq!(scene.bill().len() as u64, REQUESTS);
        let [allowed, refused] = each;
        report::measure("money", "cpu_us_per_allowed_request", allowed);
        report::measure("money", "cpu_us_per_refused_retry", refused);
        assert!(refused < allowed, "{refused} us of CPU for a refused retry, {allowed} for an allowed request");
        daemon.stop();
        Map::from_iter([("records_of_refusals".to_owned(), json!(written))])
    });
}
