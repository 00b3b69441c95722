//! A provider that sends more than the cap it was given: the stream ends in its own words, the truth is charged, and the
//! model is refused until its price entry changes.

use crate::STAND_IN;
use crate::providers::{HOSTS, budget, charged, python};
use serde_json::{Map, json};
use support::daemon::Daemon;
use support::ledger::Record;
use support::report;
use support::scene::Scene;

const CALLS: [&str; 6] = ["chat", "responses", "messages", "gemini", "converse", "invoke"];

fn refusals(records: &[Record]) -> u64 {
    records.iter().filter(|record| record.is_denial("price_unknown")).map(Record::count).sum()
}

#[test]
fn a_stream_beyond_its_cap_is_ended_in_words_charged_truly_and_its_model_frozen() {
    report::case("money", "streams beyond their cap, by six SDK calls", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let rules =
            format!("{HOSTS}\n[[allow]]\nhosts = [\"api.openai.com\", \"api.anthropic.com\"]\n{}", budget("50 USD"));
        let mut daemon = Daemon::start(&scene, &rules);
        let script = include_str!("../programs/beyond_all.py");
        let ran = python(&daemon, script).ok();
        for call in CALLS {
            let said = ran.stdout.lines().find(|line| line.starts_with(call)).unwrap_or_default();
            assert!(said.contains(": True ") && said.contains("Caracal ended this answer"), "{}", ran.screen());
        }
        // One bill a call, charged to the nano-USD although it is above its hold; whoever asked again was refused.
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!((bill.len(), &charges), (CALLS.len(), &bill), "left: the ledger, right: the bill\n{records:#?}");
        assert_eq!(scene.log("started").len(), CALLS.len());
        let again = refusals(&records);
        assert!(again <= CALLS.len() as u64, "{again} further requests of {} calls", CALLS.len());
        for outcome in records.iter().filter(|record| record.is_outcome()) {
            assert_eq!(outcome.text("caracal.reason"), "hold_passed", "{outcome:?}");
            assert!(outcome.cost() > outcome.hold() && !outcome.text("caracal.price_entry").is_empty(), "{outcome:?}");
        }
        // Refused from then on, over a restart too.
        for restart in [false, true] {
            if restart {
                daemon.stop();
                daemon.restart();
            }
            let ran = python(&daemon, script).ok();
            for call in CALLS {
                let said = ran.stdout.lines().find(|line| line.starts_with(call)).unwrap_or_default();
                assert!(said.contains(": False ") && said.contains("Caracal refuses model"), "{}", ran.screen());
            }
            assert_eq!((scene.bill().len(), scene.log("started").len()), (CALLS.len(), CALLS.len()));
        }
        let _ran = daemon.verify();
        daemon.stop();
        Map::from_iter([("calls".to_owned(), json!(CALLS.len())), ("asked_again".to_owned(), json!(again))])
    });
}
