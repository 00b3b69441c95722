//! Claude Code.

use crate::{AMPLE, Denial, NOTHING, case, denied, measured, side_traffic};
use std::time::Duration;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::Run;
use support::programs;
use support::report;
use support::stand_in::script;

pub(crate) fn claude(daemon: &Daemon<'_>, prompt: &str) -> Run {
    let run = daemon.run(programs::claude()).args(["-p", prompt, "--dangerously-skip-permissions"]);
    run.env("ANTHROPIC_API_KEY", "sk-ant-stand-in").limit(Duration::from_secs(240))
}

#[test]
fn one_prompt() {
    case("Claude Code, one prompt", AMPLE, |scene, daemon| {
        let ran = claude(daemon, "Say hello. [[say=hello_from_the_stand-in]]").ran().ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        assert!(!scene.bill().is_empty());
    });
}

#[test]
fn a_session() {
    measured("Claude Code, a session of twelve model turns", AMPLE, |scene, daemon| {
        let prompt = format!("Do the next step until you are done. [[session dir={}]]", scene.home.path().display());
        let ran = claude(daemon, &prompt).ran().ok();
        assert!(ran.stdout.contains(script::DONE), "{}", ran.screen());
        // The session's own model, whichever is the version's default: a smaller one is asked for titles.
        let bill = scene.bill();
        let turns = |model: &str| bill.iter().filter(|line| line.model == model).count();
        assert_eq!(bill.iter().map(|line| turns(&line.model)).max(), Some(script::TURNS), "{bill:?}");
        crate::codex::left_behind(scene);
        side_traffic(daemon)
    });
}

#[test]
fn a_denied_call_is_one_request_and_the_sentence_is_on_screen() {
    denied("Claude Code, out of budget: one request, the sentence", NOTHING, |scene, daemon| {
        let ran = claude(daemon, "Say hello.").ran();
        assert!(ran.screen().contains("Caracal") && ran.screen().contains("nothing"), "{}", ran.screen());
        // The prompt's own call, and at most the title that a smaller model is asked for at the same time. Refusals are
        // counted for a second before they are recorded.
        let asked = |records: &[Record], model: &str| -> u64 {
            let of_model = |line: &&Record| {
                line.is_denial("budget_exceeded") && line.text("gen_ai.request.model").starts_with(model)
            };
            records.iter().filter(of_model).map(Record::count).sum()
        };
        let records = daemon.records_when(|records| asked(records, "claude-opus") > 0);
        assert_eq!(asked(&records, "claude-opus"), 1, "{records:#?}");
        assert!(asked(&records, "claude-haiku") <= 1, "{records:#?}");
        assert_eq!(
            asked(&records, ""),
            asked(&records, "claude-opus") + asked(&records, "claude-haiku"),
            "{records:#?}"
        );
        assert!(scene.bill().is_empty());
        Denial::of(&ran.screen(), asked(&records, "claude-opus"))
    });
}

/// Claude Code asks again when the provider breaks a stream off: each is charged, a broken one for no less than its bill. How
/// often it asks is its own business (2.1.197 twice, 2.1.332 twelve times), and a figure.
#[test]
fn a_stream_that_breaks_upstream_is_charged_and_asked_again() {
    report::plain("agents", "Claude Code, a stream that breaks", || {
        let scene = support::scene::Scene::new(crate::STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, AMPLE);
        let _ran = claude(&daemon, "Say hello. [[cut=6]]").ran();
        let bill = scene.bill();
        assert!(bill.iter().any(|line| line.cut), "{bill:?}");
        // Of each model: a title is asked of a smaller one.
        let of = |model: &str| bill.iter().filter(|line| line.model == model).count();
        let most = bill.iter().map(|line| of(&line.model)).max().unwrap_or(0);
        report::largest("agents", "requests_on_a_broken_stream", most as u64);
        println!("requests on a broken stream: {most} of {}", bill.len());
        let records = daemon.records_when(|records| crate::closed(records) >= bill.len());
        let calls = support::ledger::calls(&records);
        let charged: u64 = calls.values().filter_map(|call| call.cost).sum();
        let held: u64 = calls.values().map(|call| call.hold).sum();
        let billed: u64 = bill.iter().map(|line| line.nano).sum();
        assert!(billed <= charged && charged <= held, "billed {billed}, charged {charged}, held {held}");
        daemon.stop();
    });
}
