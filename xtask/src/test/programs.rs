//! Test programs: compiled by cargo as the caller, started by us as whoever they need to be.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    build,
    checkout::{Checkout, cargo},
    report::{Case, Verdict},
};

/// A compiled test program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The target's name: `wire`, `caracal_daemon`.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The directory of its package, in which cargo would start it.
    pub(crate) directory: PathBuf,
    /// Whether it is a contract: a file of tests/, and not the tests beside the code of a library or program.
    pub(crate) contract: bool,
}

/// The lines of `cargo --message-format=json` that we read.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Compiles the tests that `selection` (a verb of cargo and its arguments) names; cargo shows its own progress.
///
/// # Errors
/// When cargo fails.
pub(crate) fn compile(checkout: &Checkout, what: &str, selection: &[&str]) -> Result<Vec<Program>> {
    eprintln!("==> {what}");
    let mut command = cargo();
    command
        .args(selection)
        .args(build::PACKAGES)
        .args(["--locked", "--release", "--message-format", "json-render-diagnostics"])
        .current_dir(&checkout.root)
        .env("CARACAL_BPF_OBJECT", checkout.bpf_object())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("{what}: cargo ended with {}", output.status);
    }
    let mut programs = read(&output.stdout)?;
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn read(messages: &[u8]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: Message = serde_json::from_slice(line).context("cargo printed a message that is not JSON")?;
        if message.reason != "compiler-artifact" || !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        if let (Some(target), Some(executable), Some(manifest)) =
            (message.target, message.executable, message.manifest_path)
        {
            let directory = manifest.parent().map(Path::to_path_buf).unwrap_or_default();
            let contract = target.kind.iter().any(|kind| kind == "test");
            programs.push(Program { name: target.name, executable, directory, contract });
        }
    }
    Ok(programs)
}

/// One case per line of a test program's output: `test a::b ... ok`.
pub(crate) fn cases(program: &str, output: &str) -> Vec<Case> {
    output
        .lines()
        .filter_map(|line| {
            let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
            let name = format!("{program}::{name}");
            match verdict.split(',').next()? {
                "ok" => Some(Case::new(name, Verdict::Passed)),
                "FAILED" => Some(Case::new(name, Verdict::Failed).because("see target/log")),
                "ignored" => Some(Case::new(name, Verdict::Skipped).because("marked #[ignore]")),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_verdicts_and_nothing_else() {
        let output = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, slow\ntest result: FAILED. \
                      1 passed\n";
        let cases = cases("x", output);
        let seen: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.verdict)).collect();
        assert_eq!(seen, [("x::a::b", Verdict::Passed), ("x::c", Verdict::Failed), ("x::d", Verdict::Skipped)]);
    }

    #[test]
    fn finds_test_programs_among_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"wire","kind":["test"]},"profile":{"test":true},"executable":"/w/target/wire-1"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"stand-in","kind":["bin"]},"profile":{"test":false},"executable":"/w/target/stand-in"}
{"reason":"build-finished","success":true}
"#;
        let programs = read(messages).unwrap();
        assert_eq!(programs.len(), 1);
        assert_eq!(programs[0].name, "wire");
        assert_eq!(programs[0].directory, Path::new("/w/tests"));
        assert!(programs[0].contract);
    }
}
