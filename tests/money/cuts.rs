//! Every place at which a stream can break off, in five formats: each event x (client reset, client close, upstream reset,
//! the daemon killed). What is charged is never below the bill, and is the bill where its usage was seen; it is on record within
//! a second, of a kill within a second of the next start.

use crate::STAND_IN;
use crate::providers::{HOSTS, budget};
use serde::Deserialize;
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::ledger::{Call, Record, calls};
use support::netns::until;
use support::programs;
use support::report;
use support::scene::Scene;

const SCRIPT: &str = include_str!("../programs/cuts.py");
/// The caps of streams that a kill breaks off begin here.
const KILLED: u64 = 5_000;
/// Formats, and so streams of one kill.
const FORMATS: u64 = 5;
/// Events of the longest answer.
const LONGEST: u64 = 11;

/// One stream, as its client saw it.
#[derive(Debug, Deserialize)]
struct Point {
    cap: u64,
    call: String,
    after: u64,
    way: String,
    /// Whole events that arrived.
    events: u64,
    /// The usage was among them.
    seen: bool,
    /// A second after it broke off.
    due: String,
}

/// One stream that a kill breaks off, as its client saw it.
#[derive(Debug, Deserialize)]
struct Standing {
    cap: u64,
    call: String,
    /// The usage was among what arrived.
    seen: bool,
}

impl Standing {
    /// Its client has seen that the usage is final. Gemini's has no such word before the end: each piece may say that it
    /// stopped.
    fn is_final(&self) -> bool {
        self.seen && self.call != "gemini"
    }
}

/// A second from now, as records tell the time.
fn in_a_second() -> String {
    let said = Command::new("date").args(["-u", "-d", "1 second", "+%Y-%m-%dT%H:%M:%S.%6N"]).output().expect("date");
    String::from_utf8(said.stdout).expect("text").trim().to_owned()
}

/// Charges that are not the bill, of calls whose usage was seen.
fn inexact(charged: &BTreeMap<u64, Call>, bill: &BTreeMap<u64, u64>, seen: impl Iterator<Item = u64>) -> Vec<u64> {
    let is_exact = |cap: &u64| charged[cap].cost == bill.get(cap).copied() && charged[cap].settle == "settled";
    seen.filter(|cap| !is_exact(cap)).collect()
}

/// The ledger's call of each cap.
fn by_cap(records: &[Record]) -> BTreeMap<u64, Call> {
    calls(records).into_values().filter_map(|call| Some((call.cap?, call))).collect()
}

/// The calls of the bill that no single charge covers, from the bill to the hold.
fn undercharged(charged: &BTreeMap<u64, Call>, bill: &BTreeMap<u64, u64>) -> Vec<u64> {
    let covers = |cap: &u64, billed: u64| {
        let call = charged.get(cap).filter(|call| call.outcomes == 1);
        call.is_some_and(|call| call.cost.is_some_and(|cost| (billed..=call.hold).contains(&cost)))
    };
    bill.iter().filter(|(cap, billed)| !covers(cap, **billed)).map(|(cap, _)| *cap).collect()
}

/// Faults planted into the charges of a real run: each must be found.
fn planted(charged: &BTreeMap<u64, Call>, bill: &BTreeMap<u64, u64>) {
    let (cap, billed) = bill.last_key_value().map(|(cap, billed)| (*cap, *billed)).expect("a bill");
    let changes: [fn(&mut Call, u64); 4] = [
        |call, billed| call.cost = Some(billed - 1),
        |call, _| call.cost = Some(call.hold + 1),
        |call, _| call.cost = None,
        |call, _| call.outcomes = 2,
    ];
    for change in changes {
        let mut faulty = charged.clone();
        change(faulty.get_mut(&cap).expect("a charge"), billed);
        assert_eq!(undercharged(&faulty, bill), [cap]);
    }
    let mut lost = charged.clone();
    lost.remove(&cap);
    assert_eq!(undercharged(&lost, bill), [cap]);
}

#[test]
fn no_cut_point_is_charged_below_its_bill() {
    report::case("money", "every cut point of a stream, five formats", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let rules = format!(
            "{HOSTS}\n[[allow]]\nhosts = [\"api.openai.com\", \"api.anthropic.com\", \"example.com\"]\n{}",
            budget("500 USD")
        );
        let mut daemon = Daemon::configured(&scene, &rules);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let ca = daemon.ca();
        let program = |args: &[&str]| {
            let run = scene.agent(programs::python()).cgroup(&cgroup.path()).env("SSL_CERT_FILE", &ca);
            run.args(["-c", SCRIPT]).args(args)
        };
        let ran = program(&["all"]).ran().ok();
        let points: Vec<Point> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a point")).collect();
        let formats: BTreeSet<&str> = points.iter().map(|point| point.call.as_str()).collect();
        assert_eq!(formats.len() as u64, FORMATS);
        for point in points.iter().filter(|point| point.way != "upstream reset") {
            assert_eq!(point.events, point.after, "cut somewhere else: {point:?}");
        }

        let mut killed: Vec<Standing> = Vec::new();
        let mut due: BTreeMap<u64, String> = points.iter().map(|point| (point.cap, point.due.clone())).collect();
        for after in 0..=LONGEST {
            let first = KILLED + after * FORMATS;
            let said = scene.net.files().join(format!("held-{after}"));
            let out = Stdio::from(std::fs::File::create(&said).expect("a file"));
            let mut held =
                program(&["hold", &after.to_string(), &first.to_string()]).spawn(out, Stdio::null()).expect("a client");
            until("every stream stands", Duration::from_secs(60), || {
                std::fs::read_to_string(&said).is_ok_and(|text| text.contains("ready"))
            })
            .expect("streams");
            daemon.kill();
            let _status = held.wait();
            daemon.restart();
            let ready = in_a_second();
            let said = std::fs::read_to_string(&said).expect("what it said");
            let stood = said.lines().filter(|line| line.starts_with('{'));
            killed.extend(stood.map(|line| serde_json::from_str::<Standing>(line).expect("a stream")));
            due.extend((first..first + FORMATS).map(|cap| (cap, ready.clone())));
        }

        assert_eq!(killed.len() as u64, (LONGEST + 1) * FORMATS);
        let all = points.len() + killed.len();
        until("every bill", Duration::from_secs(60), || scene.bill().len() >= all).expect("bills");
        let records = daemon.records_when(|records| {
            let calls = by_cap(records);
            calls.len() >= all && calls.values().all(|call| call.cost.is_some())
        });
        let charged = by_cap(&records);
        let bill: BTreeMap<u64, u64> = scene.bill().iter().map(|line| (line.cap.unwrap_or(0), line.nano)).collect();
        assert_eq!((bill.len(), scene.bill().len(), charged.len()), (all, all, all), "one bill and one charge each");

        let under = undercharged(&charged, &bill);
        // A client that breaks off does not keep the usage from being read; an upstream that does, may.
        let exact = |point: &&Point| point.seen || point.way != "upstream reset";
        let finals = || killed.iter().filter(|stream| stream.is_final()).map(|stream| stream.cap);
        let caps = points.iter().filter(exact).map(|point| point.cap).chain(finals());
        let inexact = inexact(&charged, &bill, caps);
        let late = records.iter().filter(|record| record.is_outcome()).filter(|record| {
            let cap = record.number("gen_ai.request.max_tokens").unwrap_or(0);
            due.get(&cap).is_some_and(|due| record.time.trim_end_matches('Z') > due.as_str())
        });
        let late = late.count() as u64;
        let seen = points.iter().filter(|point| point.seen && point.way == "upstream reset").count();
        report::figure("money", "cut_points", all as u64);
        report::figure("money", "undercharged", under.len() as u64);
        report::figure("money", "killed_after_final_usage", finals().count() as u64);
        report::figure("money", "cut_points_recorded_after_1s", late);
        assert!(under.is_empty(), "charged below the bill or above the hold: {under:?}");
        assert!(inexact.is_empty(), "the usage was seen, and something else charged: {inexact:?}");
        // The promise's own bound.
        assert_eq!(late, 0, "on record later than a second after the cut, or after the next start");
        let formats: BTreeSet<&str> =
            killed.iter().filter(|stream| stream.is_final()).map(|stream| stream.call.as_str()).collect();
        assert_eq!(formats.len() as u64, FORMATS - 1, "no kill came after a final usage of some format");
        assert!(seen > 0, "no reset came after a usage");
        planted(&charged, &bill);
        let _ran = daemon.verify();
        daemon.stop();
        Map::from_iter([
            ("points".to_owned(), json!(points.len())),
            ("killed".to_owned(), json!(killed.len())),
            ("killed_after_final_usage".to_owned(), json!(finals().count())),
            ("usage_seen_before_a_reset".to_owned(), json!(seen)),
        ])
    });
}
