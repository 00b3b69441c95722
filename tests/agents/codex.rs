//! Codex. It begins with a WebSocket, which is answered with 426, and goes on over HTTP.

use crate::{AMPLE, Denial, NOTHING, case, denied, measured, refused, side_traffic};
use std::time::Duration;
use support::daemon::Daemon;
use support::netns::Run;
use support::programs;
use support::scene::Scene;
use support::stand_in::script;

pub(crate) fn codex(scene: &Scene, daemon: &Daemon<'_>, prompt: &str) -> Run {
    let run = daemon.run(programs::codex()).args([
        "exec",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        prompt,
    ]);
    let run = run.env("OPENAI_API_KEY", "sk-stand-in").env("CODEX_API_KEY", "sk-stand-in");
    run.env("CODEX_HOME", scene.home.path()).limit(Duration::from_secs(240))
}

/// What the session's tool calls must have left: the tools really reached the network through the daemon.
#[track_caller]
pub(crate) fn left_behind(scene: &Scene) {
    let read = |name: &str| std::fs::read_to_string(scene.home.path().join(name)).unwrap_or_default();
    assert!(read("hello.txt").contains("hello from the stand-in"), "curl fetched nothing");
    assert_eq!(read("log.txt").lines().count(), 2, "git cloned nothing");
    assert_eq!(read("both.txt"), "caracal session notes\ncloned and echoed\n");
    assert_eq!(read("echoed.txt"), read("notes.txt"));
    assert!(read("denied.txt").contains("Caracal"), "the tool did not see the refusal: {}", read("denied.txt"));
    assert_eq!(read("finished.txt"), "finished\n");
    assert_eq!(scene.requests("denied.example", "/"), 0);
}

#[test]
fn one_prompt() {
    case("Codex, one prompt", AMPLE, |scene, daemon| {
        let ran = codex(scene, daemon, "Say hello. [[say=hello_from_the_stand-in]]").ran().ok();
        assert!(ran.screen().contains("hello from the stand-in"), "{}", ran.screen());
        assert_eq!(scene.bill().len(), 1);
        assert!(scene.log("websocket_to_a_model").is_empty(), "a WebSocket reached the model unmetered");
    });
}

#[test]
fn a_session() {
    measured("Codex, a session of twelve model turns", AMPLE, |scene, daemon| {
        let prompt = format!("Do the next step until you are done. [[session dir={}]]", scene.home.path().display());
        let ran = codex(scene, daemon, &prompt).ran().ok();
        assert!(ran.screen().contains(script::DONE), "{}", ran.screen());
        assert_eq!(scene.bill().len(), script::TURNS);
        assert!(scene.log("websocket_to_a_model").is_empty(), "a WebSocket reached the model unmetered");
        left_behind(scene);
        side_traffic(daemon)
    });
}

#[test]
fn a_denied_call_is_one_request_and_the_sentence_is_on_screen() {
    denied("Codex, out of budget: one request, the sentence", NOTHING, |scene, daemon| {
        let ran = codex(scene, daemon, "Say hello.").ran();
        assert!(ran.screen().contains("Caracal") && ran.screen().contains("nothing"), "{}", ran.screen());
        let requests = refused(daemon, "budget_exceeded");
        assert_eq!(requests, 1, "{:#?}", daemon.records());
        assert!(scene.bill().is_empty());
        Denial::of(&ran.screen(), requests)
    });
}
