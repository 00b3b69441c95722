//! Gemini, Bedrock, and tools, through their own SDKs: the ledger is the bill to the nano-USD.

use crate::STAND_IN;
use serde_json::json;
use support::daemon::Daemon;
use support::ledger::{Record, calls};
use support::netns::Ran;
use support::programs;
use support::report;
use support::scene::{Scene, TOOLS};

pub(crate) const HOSTS: &str =
    "[[allow]]\nhosts = [\"generativelanguage.googleapis.com\", \"*.amazonaws.com\", \"mcp.example\"]\n";

pub(crate) fn budget(limit: &str) -> String {
    format!("\n[[budget]]\nname = \"purse\"\nlimit = \"{limit}\"\nwindow = \"total\"\nwait_ms = 2000\n")
}

pub(crate) fn python(daemon: &Daemon<'_>, script: &str) -> Ran {
    daemon.run(programs::python()).args(["-c", script]).ran()
}

/// Waits until each billed call is closed; the charges above nothing, sorted.
pub(crate) fn charged(scene: &Scene, daemon: &Daemon<'_>) -> (Vec<Record>, Vec<u64>, Vec<u64>) {
    let closed =
        |records: &[Record]| calls(records).values().filter(|call| call.cost.is_some_and(|cost| cost > 0)).count();
    let records = daemon.records_when(|records| closed(records) >= scene.bill().len());
    let mut charges: Vec<u64> =
        calls(&records).values().filter_map(|call| call.cost).filter(|cost| *cost > 0).collect();
    let mut bill: Vec<u64> = scene.bill().iter().map(|line| line.nano).collect();
    charges.sort_unstable();
    bill.sort_unstable();
    (records, charges, bill)
}

/// One program under a budget that suffices: what it prints, and ledger and bill side by side.
fn allowed(name: &str, script: &str, rules: &str, paid: usize, says: &[&str]) {
    report::plain("money", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{rules}{}", budget("50 USD")));
        scene.wire.clear();
        let ran = python(&daemon, script).ok();
        for said in says {
            assert!(ran.stdout.contains(said), "{said}: {}", ran.screen());
        }
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!(bill.len(), paid, "{:?}", scene.bill());
        assert_eq!(charges, bill, "left: the ledger, right: the provider's bill\n{records:#?}");
        for call in calls(&records).values() {
            assert!(call.cost.unwrap_or(u64::MAX) <= call.hold && call.settle == "settled", "{call:?}");
        }
        scene.wire.silent();
        daemon.stop();
    });
}

#[test]
fn gemini() {
    let says = ["whole: word0", " 3 2 7", "stream: word0", "count: True"];
    allowed("Gemini, by google-genai", include_str!("../programs/gemini_all.py"), "", 2, &says);
}

#[test]
fn bedrock() {
    let says = ["converse: word0", "converse stream: word0", "invoke: word0", "invoke stream: word0"];
    allowed("Bedrock, by boto3, signed", include_str!("../programs/bedrock_all.py"), "", 4, &says);
}

/// A plain API of the same host.
const GEO: &str = r#"
[[api]]
name = "geo"
host = "mcp.example"
paths = ["/geocode"]
call = "0.005 USD"
"#;

#[test]
fn tools() {
    let says = [
        "tools: ['delete_everything', 'lookup', 'search']",
        "search: search was called",
        "lookup: lookup was called",
        "delete_everything: refused: policy_denied: Caracal",
        "unpriced: refused: price_unknown: Caracal",
        "'latitude': 1",
    ];
    allowed(
        "tools and a plain API, by mcp and requests",
        include_str!("../programs/mcp_all.py"),
        &format!("{TOOLS}{GEO}"),
        2,
        &says,
    );
}

#[test]
fn a_gemini_or_bedrock_stream_that_breaks_off_is_charged_at_least_its_bill() {
    let gemini = "import requests\nbody = {'contents': [{'role': 'user', 'parts': [{'text': '[[output=40 cut=20]]'}]}], 'generationConfig': {'maxOutputTokens': 60}}\n\
                  try:\n    requests.post('https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:streamGenerateContentALT', json=body, timeout=30).content\n\
                  except requests.RequestException as error:\n    print('broke off')\n";
    let bedrock = "import requests\nbody = {'messages': [{'role': 'user', 'content': [{'text': '[[output=40 cut=20]]'}]}], 'inferenceConfig': {'maxTokens': 60}}\n\
                   try:\n    requests.post('https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-pro-v1:0/converse-stream', json=body, headers={'authorization': 'Bearer x'}, timeout=30).content\n\
                   except requests.RequestException as error:\n    print('broke off')\n";
    for (name, script) in [
        ("events", gemini.replace("ALT", "?alt=sse")),
        ("an array", gemini.replace("ALT", "")),
        ("frames", bedrock.to_owned()),
    ] {
        report::plain("money", &format!("a stream as {name} is cut in the middle"), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{}", budget("50 USD")));
            let ran = python(&daemon, &script).ok();
            assert!(ran.stdout.contains("broke off"), "{}", ran.screen());
            let (records, charges, bill) = charged(&scene, &daemon);
            assert_eq!((bill.len(), charges.len()), (1, 1), "{records:#?}");
            assert!(charges[0] >= bill[0], "{charges:?} for {bill:?}");
            let held = calls(&records).into_values().next().expect("a call");
            assert_eq!((held.settle.as_str(), held.cost), ("charged_max", Some(held.hold)));
            daemon.stop();
        });
    }
}

#[test]
fn every_charge_is_made_again_from_its_record() {
    report::plain("money", "charges of Gemini and Bedrock are made again from their records", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{}", budget("50 USD")));
        let _ran = python(&daemon, include_str!("../programs/gemini_all.py")).ok();
        let _ran = python(&daemon, include_str!("../programs/bedrock_all.py")).ok();
        let _charged = charged(&scene, &daemon);
        let verified = daemon.caught_up();
        assert_eq!((verified["repriced"].as_u64(), &verified["findings"]), (Some(6), &json!([])));
        daemon.stop();
    });
}
