//! Bad input and trouble: each is a clear message that says what to do, and an exit code.

mod crowd;
mod evidence;
mod learn;
mod run;
mod storm;
mod trouble;
mod update;

use support::daemon::Daemon;
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// One attempt to get out.
const PROBE: &str = env!("CARGO_BIN_EXE_probe");

/// One allowed host.
const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";

/// A world with a configured daemon that is not running, as one case of `wire.json`.
fn case(name: &str, rules: &str, work: impl FnOnce(&Scene, &mut Daemon<'_>)) {
    support::report::plain("wire", &format!("command line: {name}"), || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, rules);
        work(&scene, &mut daemon);
    });
}

/// A command that must fail, and what it must say.
#[track_caller]
fn fails(ran: support::netns::Ran, words: &[&str]) -> i32 {
    let said = ran.screen().to_lowercase();
    let code = ran.code.unwrap_or_else(|| panic!("it did not end: {said}"));
    assert_ne!(code, 0, "it must fail: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "it does not say `{word}`: {said}");
    }
    code
}
