//! Who judges, what each reads, and how it is asked.

use crate::Said;
use crate::crates;
use crate::forgeries::{Forgery, Part};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::daemon::caracald;
use support::programs;

/// The verifier that is judged with the others.
pub(crate) const OURS: &str = "caracald ledger verify";

/// One judge.
pub(crate) struct Judge {
    /// Its name in the report.
    pub(crate) name: &'static str,
    // What it does not read.
    blind: &'static [Part],
    ask: fn(&[&Path]) -> Said,
}

/// All of them.
pub(crate) fn panel() -> [Judge; 6] {
    use Part::{EcdsaKey, EcdsaLine, Kept, PartialTile, Receipt, Tile0, Tile1};
    [
        Judge { name: OURS, blind: &[], ask: ours },
        Judge { name: "golang.org/x/mod sumdb", blind: &[], ask: |cases| program(go("sumdb"), cases) },
        Judge { name: "tessera fsck", blind: &[Receipt, Kept], ask: |cases| program(go("fsck"), cases) },
        Judge { name: "tlog_tiles", blind: &[EcdsaLine, EcdsaKey], ask: |cases| function(crates::tlog_tiles, cases) },
        Judge {
            name: "ct-merkle",
            blind: &[EcdsaLine, EcdsaKey, Tile0, Tile1, PartialTile],
            ask: |cases| function(crates::ct_merkle, cases),
        },
        Judge { name: "pymerkle", blind: &[Tile0, Tile1, PartialTile], ask: |cases| program(python(), cases) },
    ]
}

impl Judge {
    /// Whether the forgery is of something that it reads.
    pub(crate) fn reads(&self, case: &Forgery) -> bool {
        !self.blind.contains(&case.part)
    }

    /// What it says of each.
    pub(crate) fn ask(&self, cases: &[&Path]) -> Said {
        (self.ask)(cases)
    }
}

fn name(case: &Path) -> String {
    case.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `caracald ledger verify --folder` and `--receipt`, with nothing but the case's files.
fn ours(cases: &[&Path]) -> Said {
    let nowhere = tempfile::tempdir().expect("a scratch directory");
    let config = nowhere.path().join("caracal.toml");
    std::fs::write(&config, format!("state_dir = \"{}\"\n", nowhere.path().join("state").display())).expect("written");
    let judge = |case: &&Path| {
        let mut verify = Command::new(caracald());
        verify.arg("--config").arg(&config).args(["ledger", "verify", "--json", "--public-key"]).arg(case.join("keys"));
        if case.join("receipt").exists() {
            verify.arg("--receipt").arg(case.join("receipt"));
        } else {
            verify.arg("--folder").arg(case.join("log"));
        }
        if case.join("kept").exists() {
            verify.arg("--checkpoint").arg(case.join("kept"));
        }
        let Output { status, stdout, stderr } = verify.output().expect("caracald starts");
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).trim().chars().take(300).collect();
        // 1 is what it could not read, a broken key for instance; 3 is what does not hold. Anything else is no verdict.
        match status.code() {
            Some(0) => Some((name(case), Ok(()))),
            Some(1 | 3) => Some((name(case), Err(said))),
            _ => None,
        }
    };
    cases.iter().filter_map(judge).collect()
}

/// The judges of Go, as `cargo xtask test` built them.
fn go(judge: &str) -> Command {
    let mut go = Command::new(programs::go_judge());
    go.arg(judge);
    go
}

fn python() -> Command {
    let mut python = Command::new(programs::python());
    python.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs/ledger_judge.py"));
    python
}

/// A program that prints a line for each case.
fn program(mut program: Command, cases: &[&Path]) -> Said {
    let output = program.args(cases).output().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {}: {told}", output.status);
    let line = |line: &str| {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let answer = match said["accepts"].as_bool() {
            Some(true) => Ok(()),
            Some(false) => Err(said["why"].as_str().unwrap_or_default().to_owned()),
            None => panic!("no verdict: {line}"),
        };
        (said["case"].as_str().unwrap_or_default().to_owned(), answer)
    };
    String::from_utf8_lossy(&output.stdout).lines().map(line).collect()
}

/// A judge in this process. One that stumbles does not accept.
fn function(judge: fn(&Path) -> Result<(), String>, cases: &[&Path]) -> Said {
    let ask = |case: &&Path| {
        let said = catch_unwind(AssertUnwindSafe(|| judge(case)));
        (name(case), said.unwrap_or_else(|_| Err("it stumbled".into())))
    };
    cases.iter().map(ask).collect()
}
