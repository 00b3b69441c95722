//! Bad input and trouble: each is a clear message that says what to do, and an exit code.

mod crowd;
mod evidence;
mod learn;
mod memory;
mod run;
mod shown;
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

/// The answer is no, or what has no code of its own. With those below, what `caracald --help` says of exit codes.
const NO: i32 = 1;
/// A ledger or a receipt does not hold.
const UNSOUND: i32 = 3;
/// The command line or the configuration is wrong.
const USAGE: i32 = 64;
/// The daemon is not running.
const UNAVAILABLE: i32 = 69;
/// A file or the system refused.
const SYSTEM: i32 = 71;
/// Needs root, or is governed.
const NOT_PERMITTED: i32 = 77;

/// A command that must fail with this exit code, and what it must say.
#[track_caller]
fn fails(ran: support::netns::Ran, code: i32, words: &[&str]) {
    let said = ran.screen().to_lowercase();
    assert_eq!(ran.code, Some(code), "its exit code: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "it does not say `{word}`: {said}");
    }
}
