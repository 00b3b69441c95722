//! The configuration that is written where there is none: both agents work with nothing else configured, and its daily
//! budget is enough for a day's first calls.

use crate::case;
use crate::claude::claude;
use crate::codex::codex;
use support::daemon::Daemon;
use support::ledger::{Record, calls};
use support::netns::Run;
use support::scene::Scene;
use support::stand_in::script;

/// What `caracald` writes where there is no configuration.
const STARTER: &str = include_str!("../../caracal-daemon/src/config/starter.toml");

/// The session's last words after at least ten paid calls; what its tools asked of other hosts was refused in words.
#[track_caller]
fn works(scene: &Scene, daemon: &Daemon<'_>, agent: Run) {
    let ran = agent.ran().ok();
    assert!(ran.screen().contains(script::DONE), "{}", ran.screen());
    assert!(scene.bill().len() >= script::TURNS, "{:?}", scene.bill());
    let records = daemon.records();
    let refused =
        |reason: &str| records.iter().filter(|record| record.is_denial(reason)).map(Record::count).sum::<u64>();
    assert_eq!(
        (refused("budget_exceeded"), refused("path_unknown"), refused("price_unknown")),
        (0, 0, 0),
        "{records:#?}"
    );
    let denied = std::fs::read_to_string(scene.home.path().join("denied.txt")).unwrap_or_default();
    assert!(denied.contains("Caracal"), "the tool did not see the refusal: {denied}");
    assert_eq!(scene.log("request").iter().filter(|line| line["host"] == "github.com").count(), 0);
}

#[test]
fn claude_code_works_with_the_starter_alone() {
    case("Claude Code, twelve turns with the starter configuration", STARTER, |scene, daemon| {
        works(scene, daemon, claude(daemon, &session(scene)));
    });
}

#[test]
fn codex_works_with_the_starter_alone() {
    case("Codex, twelve turns with the starter configuration", STARTER, |scene, daemon| {
        works(scene, daemon, codex(scene, daemon, &session(scene)));
    });
}

fn session(scene: &Scene) -> String {
    format!("Do the next step until you are done. [[session dir={}]]", scene.home.path().display())
}

/// The starter with a tenth of its daily budget: what fits it ten times fits the whole ten times.
fn tenth() -> String {
    let whole = "limit = \"10 USD\"\nwindow = \"day\"\n\n# More hosts";
    let text = STARTER.replace(whole, "limit = \"1 USD\"\nwindow = \"day\"\n\n# More hosts");
    assert_ne!(text, STARTER, "the starter's budget is another one");
    text
}

/// One call of the agent as it is by default fits, clamped, and the provider honours the clamp.
#[track_caller]
fn fits_clamped(scene: &Scene, daemon: &Daemon<'_>, agent: Run, model: &str) {
    let ran = agent.ran();
    assert!(ran.screen().contains("word0"), "{}", ran.screen());
    assert!(scene.bill().iter().any(|line| line.model == model), "{:?}", scene.bill());
    let records = daemon.records_when(|records| crate::closed(records) >= scene.bill().len());
    let clamped = records.iter().filter(|record| record.is_intent() && record.text("gen_ai.request.model") == model);
    let edits: Vec<String> = clamped.map(|record| record.data["caracal.edits"].to_string()).collect();
    assert!(edits.iter().all(|edits| edits.contains("clamp")) && !edits.is_empty(), "{edits:?}");
    assert!(calls(&records).values().all(|call| call.hold <= 1_000_000_000), "{records:#?}");
}

#[test]
fn a_tenth_of_the_starter_budget_is_one_clamped_call_of_claude_code() {
    case("Claude Code, one clamped call in a tenth of the starter's budget", &tenth(), |scene, daemon| {
        fits_clamped(scene, daemon, claude(daemon, "Say something."), "claude-opus-4-8");
    });
}

#[test]
fn a_tenth_of_the_starter_budget_is_one_clamped_call_of_codex() {
    case("Codex, one clamped call in a tenth of the starter's budget", &tenth(), |scene, daemon| {
        fits_clamped(scene, daemon, codex(scene, daemon, "Say something."), "gpt-6.1-sol");
    });
}
