//! Programs that are run to their good end, and what they print.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program to its good end.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    finish(Command::new(program).args(words), &format!("{program} {words:?}"))
}

/// The same of a command that `what` names in a complaint.
pub(crate) fn finish(command: &mut Command, what: &str) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {out}\n{err}");
    out.into_owned()
}

/// A time, as records have it.
pub(crate) struct Time {
    pub(crate) text: String,
    /// Unix milliseconds.
    pub(crate) ms: u64,
}

/// The time now, or a step away from it.
pub(crate) fn now(step: &str) -> Time {
    let printed = run("date", &["-u", "-d", step, "+%Y-%m-%dT%H:%M:%S.%NZ %s%3N"]);
    let (text, ms) = printed.trim().split_once(' ').expect("two words");
    Time { text: text.to_owned(), ms: ms.parse().expect("a number") }
}

/// A path that a command takes.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
