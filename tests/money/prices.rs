//! Prices and bounds against a second implementation: `programs/price_judge.py` with a price list of its own. The real binary
//! reads each exchange; no daemon runs and nothing is sent.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use support::programs;
use support::report;

/// The price list that the judge goes by.
const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/money/prices.csv");
const JUDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/price_judge.py");
/// Random requests. The same in CI and in a long run.
const REQUESTS: &str = "100000";

/// One exchange, as both sides have it.
struct Case {
    exchange: String,
    /// The provider's bill, nano-USD.
    bill: u64,
    /// Its answer is an everyday one and its request had a cap.
    usual: bool,
    /// Of a random one: the kind of request.
    shape: String,
    /// Less than all that it may cost was granted, so that caracald lowered its caps.
    clamped: bool,
    /// What caracald says of it.
    said: Value,
}

impl Case {
    fn hold(&self) -> Option<u64> {
        self.said["hold_nano_usd"].as_u64()
    }

    /// The bill is above the hold, or nothing is held.
    fn is_over(&self) -> bool {
        self.hold().is_none_or(|hold| self.bill > hold)
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).expect("the judge's lines").lines().map(str::to_owned).collect()
}

/// Runs the judge on the files of `dir`.
fn judge(verb: &str, dir: &Path, arguments: &[&str]) {
    let made = Command::new(programs::python())
        .args([JUDGE, verb, LIST])
        .arg(dir)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// What caracald says of the lines of a file.
fn bill(file: &Path) -> String {
    let said = Command::new(support::daemon::caracald())
        .args(["prices", "bill"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .expect("caracald");
    assert!(said.status.success(), "caracald prices bill: {}", said.status);
    String::from_utf8(said.stdout).expect("text")
}

/// The exchanges that the judge left in `dir`, beside what caracald says of them.
fn judged(dir: &Path) -> Vec<Case> {
    let exchanges = dir.join("exchanges.jsonl");
    let said = bill(&exchanges);
    let (exchanges, expected) = (lines(&exchanges), lines(&dir.join("expected.jsonl")));
    assert_eq!((said.lines().count(), expected.len()), (exchanges.len(), exchanges.len()), "a line for each");
    let value = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let case = |((exchange, expected), said): ((String, String), &str)| {
        let expected = value(&expected);
        let bill = expected["nano"].as_u64().expect("a bill");
        let shape = expected["make"].as_str().unwrap_or_default().to_owned();
        let clamped = expected["granted"] == json!(true);
        Case { exchange, bill, usual: expected["capped"] == json!(true), shape, clamped, said: value(said) }
    };
    exchanges.into_iter().zip(expected).zip(said.lines()).map(case).collect()
}

/// The first few that are wrong, for whoever reads the failure.
fn shown(wrong: &[&Case]) -> String {
    let one = |case: &&Case| {
        let exchange: String = case.exchange.chars().take(700).collect();
        format!("the provider bills {}, caracald says {}\n  of {exchange}\n", case.bill, case.said)
    };
    wrong.iter().take(5).map(one).collect()
}

#[test]
fn every_shape_and_billed_dimension_costs_what_a_second_implementation_says() {
    report::case("money", "prices: a second implementation", || {
        let dir = tempfile::tempdir().expect("a directory");
        judge("cases", dir.path(), &[]);
        let cases = judged(dir.path());
        let wrong: Vec<&Case> = cases.iter().filter(|case| case.said["bill_nano_usd"] != json!(case.bill)).collect();
        report::figure("money", "price_cases", cases.len() as u64);
        report::figure("money", "price_mismatches", wrong.len() as u64);
        assert!(cases.len() >= 1_000, "only {} cases", cases.len());
        assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), shown(&wrong));
        let over: Vec<&Case> = cases.iter().filter(|case| case.is_over()).collect();
        assert!(over.is_empty(), "{} bills above their holds\n{}", over.len(), shown(&over));
        // A judge that agrees with everything judges nothing: one nano-USD more is seen.
        assert!(cases.iter().all(|case| case.said["bill_nano_usd"] != json!(case.bill + 1)));
        Map::new()
    });
}

#[test]
fn no_bill_of_a_provider_that_honours_its_caps_is_above_its_hold() {
    report::case("money", "holds: 100,000 requests", || {
        let seed = report::seed().to_string();
        let dir = tempfile::tempdir().expect("a directory");
        judge("random", dir.path(), &[REQUESTS, &seed]);
        // The answers are to what caracald sends.
        std::fs::write(dir.path().join("said.jsonl"), bill(&dir.path().join("requests.jsonl"))).expect("a file");
        judge("answers", dir.path(), &[&seed]);
        let cases = judged(dir.path());
        let over: Vec<&Case> = cases.iter().filter(|case| case.is_over()).collect();
        let wrong: Vec<&Case> = cases.iter().filter(|case| case.said["bill_nano_usd"] != json!(case.bill)).collect();
        // Hundredths, so that a figure stays an integer.
        let ratio = |case: &Case| case.hold().map(|hold| u128::from(hold) * 100 / u128::from(case.bill.max(1)));
        let mut ratios: Vec<u128> = cases.iter().filter(|case| case.usual).filter_map(ratio).collect();
        ratios.sort_unstable();
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or(0);
        report::figure("money", "bill_over_hold", over.len() as u64);
        report::measure("money", "hold_over_actual_median", median as f64 / 100.0);
        report::figure("money", "hold_cases", cases.len() as u64);
        assert_eq!(cases.len().to_string(), REQUESTS);
        assert!(over.is_empty(), "seed {seed}: {} bills above their holds\n{}", over.len(), shown(&over));
        assert!(wrong.is_empty(), "seed {seed}: {} charges that are not the bill\n{}", wrong.len(), shown(&wrong));
        // A bound that is sound and far too wide refuses what a budget could pay.
        assert!(ratios.len() > 10_000 && median <= 400, "the median hold is {median} % of its bill");
        let mut shapes = BTreeMap::<&str, u64>::new();
        cases.iter().for_each(|case| *shapes.entry(&case.shape).or_default() += 1);
        let clamped = cases.iter().filter(|case| case.clamped).count();
        assert!(shapes.len() == 7 && shapes.values().all(|count| *count > 1_000), "{shapes:?}");
        let mut more = Map::new();
        more.insert("seed".into(), json!(seed));
        more.insert("usual".into(), json!(ratios.len()));
        more.insert("clamped".into(), json!(clamped));
        more.insert("shapes".into(), json!(shapes));
        more
    });
}
