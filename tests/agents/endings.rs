//! Streams that end in the middle, by the Node SDKs: the SDK's own exception, our sentence where it was us, one request each.

use crate::sdks::node;
use crate::{AMPLE, STAND_IN, closed, measured};
use serde_json::{Map, Value, json};
use support::daemon::Daemon;
use support::ledger::{Record, calls};
use support::report;
use support::scene::Scene;

const CALLS: [&str; 4] = ["chat", "responses", "messages", "finalMessage"];
const SCRIPT: &str = include_str!("../programs/endings.mjs");

/// What each call made of the end of its stream.
fn told(scene: &Scene, daemon: &Daemon<'_>, directive: &str) -> Vec<Value> {
    let ran = node(scene, daemon, &SCRIPT.replace("DIRECTIVE", directive)).ok();
    let lines: Vec<Value> = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), CALLS.len(), "{}", ran.screen());
    for (line, call) in lines.iter().zip(CALLS) {
        assert!(line["call"] == call && line["thrown"] == true && line["parts"].as_u64() > Some(0), "{line}");
    }
    lines
}

/// How often each call was sent: to the provider, and again to be refused.
fn requests(scene: &Scene, daemon: &Daemon<'_>) -> u64 {
    let refused = |record: &&Record| record.is_denial("price_unknown");
    let again: u64 = daemon.records().iter().filter(refused).map(Record::count).sum();
    scene.log("started").len() as u64 + again
}

fn seen(lines: &[Value], requests: u64) -> Map<String, Value> {
    let exceptions: Map<String, Value> = lines
        .iter()
        .map(|line| (line["call"].as_str().unwrap_or_default().to_owned(), line["exception"].clone()))
        .collect();
    Map::from_iter([
        ("exceptions".to_owned(), exceptions.into()),
        ("requests_in_all".to_owned(), json!(requests)),
        ("requests_on_denial".to_owned(), json!(requests.div_ceil(CALLS.len() as u64))),
    ])
}

#[test]
fn a_stream_beyond_its_hold_ends_in_the_sdks_own_exception() {
    measured("Node SDKs, a stream that passes its hold", AMPLE, |scene, daemon| {
        let lines = told(scene, daemon, "beyond=2500");
        for line in &lines {
            assert!(line["sdk"] == true, "an exception of another kind: {line}");
            assert!(line["said"].as_str().is_some_and(|said| said.contains("Caracal ended this answer")), "{line}");
        }
        let requests = requests(scene, daemon);
        assert_eq!((requests, scene.bill().len()), (CALLS.len() as u64, CALLS.len()), "asked again: {lines:?}");
        seen(&lines, requests)
    });
}

#[test]
fn a_stream_that_the_provider_cuts_is_told_as_it_is_and_charged() {
    report::case("agents", "Node SDKs, a stream that the provider cuts", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, AMPLE);
        let lines = told(&scene, &daemon, "output=40 cut=12");
        let bill = scene.bill();
        let records = daemon.records_when(|records| closed(records) >= bill.len());
        let billed: u64 = bill.iter().map(|line| line.nano).sum();
        let charged: u64 = calls(&records).values().filter_map(|call| call.cost).sum();
        assert!(bill.len() == CALLS.len() && billed <= charged, "{billed} billed, {charged} charged: {bill:?}");
        let requests = requests(&scene, &daemon);
        assert_eq!(requests, CALLS.len() as u64, "asked again: {lines:?}");
        daemon.stop();
        let mut more = seen(&lines, requests);
        more.remove("requests_on_denial");
        more
    });
}
