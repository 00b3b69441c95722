//! OpenAI's responses over a WebSocket, opted in: each call of a chain is held, settled and recorded as one over HTTP is.

use crate::providers::{budget, charged};
use crate::{STAND_IN, settled};
use serde_json::{Map, json};
use support::daemon::Daemon;
use support::ledger::{Record, calls};
use support::netns::Ran;
use support::programs;
use support::report;
use support::scene::Scene;

fn rules(limit: &str) -> String {
    format!("[websocket]\nmetered = true\n\n[[allow]]\nhosts = [\"api.openai.com\"]\n{}", budget(limit))
}

fn program(daemon: &Daemon<'_>, mode: &str) -> Ran {
    daemon.run(programs::python()).args(["-c", include_str!("../programs/socket_all.py"), mode]).ran()
}

#[test]
fn a_chain_on_a_socket_is_charged_to_the_nano_usd() {
    report::case("money", "responses over a WebSocket, opted in: a chain of calls", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("5 USD"));
        scene.wire.clear();
        let ran = program(&daemon, "chain").ok();
        for said in [
            "first: response.completed word0",
            "second: response.completed word0",
            "third: response.completed word0",
            "other type: error Caracal does not pass a message of type \"session.update\" on",
            "no price: error Caracal knows no price of model \"gpt-99\"",
            "after it: response.completed word0",
            "two: True",
            "closed: 1000",
        ] {
            assert!(ran.stdout.contains(said), "{said}: {}", ran.screen());
        }
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!((bill.len(), &charges), (5, &bill), "left: the ledger, right: the bill\n{records:#?}");
        // Held for what was seen of the chain, not for the model's whole window.
        let holds: Vec<u64> = calls(&records).values().map(|call| call.hold).collect();
        let (least, most) = (holds.iter().min().copied(), holds.iter().max().copied());
        assert!(most.unwrap_or(u64::MAX) < 6 * least.unwrap_or(0), "{holds:?}");
        assert!(scene.log("socket").iter().all(|line| line["extensions"] == false), "{:?}", scene.log("socket"));
        assert_eq!(scene.log("message").len(), 5, "what is refused is not sent");
        let _ran = daemon.verify();
        scene.wire.silent();
        daemon.stop();
        Map::from_iter([("calls".to_owned(), json!(bill.len()))])
    });
}

#[test]
fn an_upgrade_in_a_header_makes_no_call_free() {
    for metered in [true, false] {
        report::plain(
            "money",
            &format!("a call that asks for an upgrade too is charged, sockets metered: {metered}"),
            || {
                let scene = Scene::new(STAND_IN).expect("the scene stands");
                let rules = rules("5 USD").replace("metered = true", &format!("metered = {metered}"));
                let mut daemon = Daemon::start(&scene, &rules);
                let ran = program(&daemon, "post").ok();
                for upgrade in ["x", "websocket", "h2c"] {
                    assert!(ran.stdout.contains(&format!("{upgrade}: HTTP/1.1 200")), "{}", ran.screen());
                }
                let (records, charges, bill) = charged(&scene, &daemon);
                assert_eq!((bill.len(), &charges), (3, &bill), "left: the ledger, right: the bill\n{records:#?}");
                assert!(scene.log("socket").is_empty());
                daemon.stop();
            },
        );
    }
}

#[test]
fn stray_messages_and_failures_on_a_socket_end_no_call() {
    report::plain("money", "responses over a WebSocket: a cancel before a call, an error in an answer", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("5 USD"));
        let ran = program(&daemon, "stray").ok();
        for said in [
            "cancel, then one: ['error', 'response.completed']",
            "two and three: ['error', 'response.completed', 'response.completed']",
        ] {
            assert!(ran.stdout.contains(said), "{said}: {}", ran.screen());
        }
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!((bill.len(), &charges), (3, &bill), "left: the ledger, right: the bill\n{records:#?}");
        let kinds: Vec<String> = scene.log("message").iter().map(|line| line["type"].to_string()).collect();
        assert_eq!(kinds, ["\"response.create\""; 3], "the cancel is not sent");
        daemon.stop();
    });
}

#[test]
fn a_socket_that_breaks_off_is_charged_at_least_its_bill() {
    for (mode, settle) in [("leave", "settled"), ("cut", "charged_max")] {
        report::plain("money", &format!("a WebSocket breaks off in an answer: {mode}"), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &rules("5 USD"));
            let _ran = program(&daemon, mode).ok();
            support::netns::until("the bill", std::time::Duration::from_secs(30), || !scene.bill().is_empty())
                .expect("a bill");
            let (records, audit) = settled(&scene, &daemon);
            assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}\n{records:#?}");
            assert!(calls(&records).values().all(|call| call.settle == settle), "{records:#?}");
            daemon.stop();
        });
    }
}

#[test]
fn a_socket_out_of_budget_and_one_beyond_its_cap_are_told_in_words() {
    report::plain("money", "responses over a WebSocket: out of budget", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("0.000000001 USD"));
        let ran = program(&daemon, "beyond").ok();
        assert!(ran.stdout.contains("beyond: error Caracal refused this call"), "{}", ran.screen());
        assert!(scene.bill().is_empty() && scene.log("message").is_empty());
        daemon.stop();
    });
    report::plain("money", "responses over a WebSocket: beyond the cap", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("5 USD"));
        let ran = program(&daemon, "beyond").ok();
        assert!(ran.stdout.contains("beyond: response.failed Caracal ended this answer"), "{}", ran.screen());
        assert!(ran.stdout.contains("again: error Caracal refuses model"), "{}", ran.screen());
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!((bill.len(), &charges), (1, &bill), "{records:#?}");
        let frozen = |record: &Record| !record.text("caracal.price_entry").is_empty();
        assert_eq!(records.iter().filter(|record| record.is_outcome()).filter(|record| frozen(record)).count(), 1);
        daemon.stop();
    });
}
