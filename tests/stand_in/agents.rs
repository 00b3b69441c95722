//! The stand-in plays its part: both agents, without a daemon, through whole sessions. What fails here is no fault of
//! `caracald`.

use std::time::Duration;
use support::netns::Run;
use support::programs;
use support::scene::Scene;
use support::stand_in::script;

fn scene() -> Scene {
    Scene::new(crate::STAND_IN).expect("the scene stands")
}

fn session(scene: &Scene) -> String {
    format!("Do the next step until you are done. [[session dir={}]]", scene.home.path().display())
}

fn left_behind(scene: &Scene) {
    let read = |name: &str| std::fs::read_to_string(scene.home.path().join(name)).unwrap_or_default();
    assert!(read("hello.txt").contains("hello from the stand-in"), "curl fetched nothing");
    assert_eq!(read("log.txt").lines().count(), 2, "git cloned nothing");
    assert_eq!(read("both.txt"), "caracal session notes\ncloned and echoed\n");
    assert_eq!(read("finished.txt"), "finished\n");
}

#[test]
fn claude_code_plays_a_session() {
    let scene = scene();
    let run: Run = scene.direct(programs::claude()).args(["-p", &session(&scene), "--dangerously-skip-permissions"]);
    let ran = run.env("ANTHROPIC_API_KEY", "sk-ant-stand-in").limit(Duration::from_secs(180)).ran();
    assert!(ran.stdout.contains(script::DONE), "{}", ran.screen());
    let turns = scene.bill().iter().filter(|line| line.model == "claude-opus-4-8").count();
    assert_eq!(turns, script::TURNS);
    left_behind(&scene);
}

#[test]
fn codex_plays_a_session() {
    let scene = scene();
    let run = scene.direct(programs::codex()).args([
        "exec",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        &session(&scene),
    ]);
    let run = run
        .env("OPENAI_API_KEY", "sk-stand-in")
        .env("CODEX_API_KEY", "sk-stand-in")
        .env("CODEX_HOME", scene.home.path());
    let ran = run.limit(Duration::from_secs(180)).ran();
    assert!(ran.screen().contains(script::DONE), "{}", ran.screen());
    assert_eq!(scene.bill().len(), script::TURNS);
    left_behind(&scene);
}
