//! Calls whose usage was never seen, came late, or was the most that it can be: bill <= charge <= hold.

use crate::{LOAD, STAND_IN, rules, settled};
use support::daemon::Daemon;
use support::ledger::calls;
use support::report;
use support::scene::Scene;

#[test]
fn every_way_to_break_off() {
    let ways = [
        ("cut before the first piece", "cut=1", true),
        ("cut in the middle", "cut=20 output=60", true),
        ("cut before the usage", "cut=66 output=64", true),
        ("no usage", "no-usage", true),
        ("late usage", "late-usage", false),
        ("the most that the cap allows", "max", false),
        ("cached and reasoning tokens", "cached=20 reasoning=10", false),
    ];
    for (name, words, unseen) in ways {
        report::plain("money", &format!("stream: {name}"), || one(words, unseen, true));
        report::plain("money", &format!("whole: {name}"), || one(words, unseen, false));
    }
}

fn one(words: &str, unseen: bool, stream: bool) {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let mut daemon = Daemon::start(&scene, &rules("1 USD"));
    let args = ["--clients", "4", "--requests", "8", "--words", words];
    let stream: &[&str] = if stream { &["--stream"] } else { &[] };
    let _ran = daemon.run(LOAD).args(args).args(stream).ran().ok();
    assert_eq!(scene.bill().len(), 8, "{:?}", scene.bill());
    let (records, audit) = settled(&scene, &daemon);
    assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}\n{records:#?}");
    assert!(audit.bill <= audit.ledger);
    for call in calls(&records).values() {
        assert!(call.cost.unwrap_or(u64::MAX) <= call.hold, "charged above the hold: {call:?}");
        assert_eq!(call.settle == "settled", !unseen, "{call:?}");
    }
    let _ran = daemon.verify();
    daemon.stop();
}

#[test]
fn a_provider_that_refuses_bills_nothing_and_frees_the_hold() {
    for status in ["429", "500"] {
        report::plain("money", &format!("the provider answers {status}"), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &rules("1 USD"));
            let words = format!("status={status}");
            let ran = daemon.run(LOAD).args(["--clients", "2", "--requests", "4", "--words", &words]).ran().ok();
            assert_eq!(ran.stdout.matches(&format!("\"status\":{status}")).count(), 4, "{}", ran.screen());
            assert!(scene.bill().is_empty());
            let (_, audit) = settled(&scene, &daemon);
            assert_eq!(audit.ledger, 0, "{audit:?}");
            daemon.stop();
        });
    }
}

#[test]
fn an_agent_that_hangs_up_pays() {
    report::plain("money", "the agent hangs up in mid-stream", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("1 USD"));
        let body = r#"{"model":"gpt-4o-mini","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"[[slow=20 output=200]]"}]}"#;
        let run =
            daemon.run("curl").args(["-sSN", "--max-time", "2", "-H", "content-type: application/json", "-d", body]);
        let _ran = run.arg("https://api.openai.com/v1/chat/completions").ran();
        support::netns::until("the bill", std::time::Duration::from_secs(30), || !scene.bill().is_empty())
            .expect("a bill");
        let (_, audit) = settled(&scene, &daemon);
        assert!(audit.bill > 0);
        assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}");
        daemon.stop();
    });
}
