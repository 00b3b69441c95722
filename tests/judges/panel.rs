//! Who judges, what each reads, and how it is asked.

use crate::Said;
use crate::crates;
use crate::forgeries::{Forgery, Part};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::daemon::caracald;
use support::programs;

/// The verifier that is judged with the others.
pub(crate) const OURS: &str = "caracald ledger verify";

/// The same over HTTP.
const OURS_BY_URL: &str = "caracald ledger verify --url";

/// One judge.
pub(crate) struct Judge {
    /// Its name in the report.
    pub(crate) name: &'static str,
    // What it does not read.
    blind: &'static [Part],
    ask: Ask,
}

/// How a judge is asked.
pub(crate) type Ask = fn(&[&Path]) -> Said;

/// All of them.
pub(crate) fn panel() -> [Judge; 7] {
    use Part::{EcdsaKey, EcdsaLine, Kept, PartialTile, Receipt, ReceiptEcdsaLine, Tile0, Tile1};
    [
        Judge { name: OURS, blind: &[], ask: |cases| ours(cases, None) },
        Judge { name: OURS_BY_URL, blind: &[Receipt, ReceiptEcdsaLine], ask: by_url },
        Judge { name: "golang.org/x/mod sumdb", blind: &[], ask: |cases| program(go("sumdb"), cases) },
        Judge {
            name: "tessera fsck",
            blind: &[Receipt, ReceiptEcdsaLine, Kept],
            ask: |cases| program(go("fsck"), cases),
        },
        Judge {
            name: "tlog_tiles",
            blind: &[EcdsaLine, ReceiptEcdsaLine, EcdsaKey],
            ask: |cases| function(crates::tlog_tiles, cases),
        },
        Judge {
            name: "ct-merkle",
            blind: &[EcdsaLine, ReceiptEcdsaLine, EcdsaKey, Tile0, Tile1, PartialTile],
            ask: |cases| function(crates::ct_merkle, cases),
        },
        Judge { name: "pymerkle", blind: &[Tile0, Tile1, PartialTile], ask: |cases| program(python(), cases) },
    ]
}

/// The judges of others that read a log where it is served: a case has a `url` in place of its `log`.
pub(crate) fn over_http() -> [(&'static str, Ask); 3] {
    [
        ("golang.org/x/mod sumdb", |cases| program(go("sumdb"), cases)),
        ("tessera fsck", |cases| program(go("fsck"), cases)),
        ("pymerkle", |cases| program(python(), cases)),
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

/// `caracald ledger verify --folder` and `--receipt`, with nothing but the case's files; or `--url` below `base`.
fn ours(cases: &[&Path], base: Option<&str>) -> Said {
    let nowhere = tempfile::tempdir().expect("a scratch directory");
    let config = nowhere.path().join("caracal.toml");
    std::fs::write(&config, format!("state_dir = \"{}\"\n", nowhere.path().join("state").display())).expect("written");
    let judge = |case: &&Path| {
        let mut verify = Command::new(caracald());
        verify.arg("--config").arg(&config).args(["ledger", "verify", "--json", "--public-key"]).arg(case.join("keys"));
        if case.join("receipt").exists() {
            verify.arg("--receipt").arg(case.join("receipt"));
        } else if let Some(base) = base {
            verify.arg("--url").arg(format!("{base}/{}/log", name(case).replace(' ', "%20")));
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
    // Most of the time over HTTP is waiting.
    std::thread::scope(|scope| {
        let parts = cases.chunks(cases.len().div_ceil(4).max(1));
        let asked: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().filter_map(judge).collect::<Said>())).collect();
        asked.into_iter().flat_map(|part| part.join().expect("it was asked")).collect()
    })
}

/// Each case from a web server that knows nothing of logs.
fn by_url(cases: &[&Path]) -> Said {
    let dir = cases.first().and_then(|case| case.parent()).expect("a directory of cases");
    let mut server = Command::new("/usr/bin/python3")
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0", "--directory"])
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 serves");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1).expect("a port").to_owned();
    let said = ours(cases, Some(&format!("http://127.0.0.1:{port}")));
    let _gone = server.kill();
    let _gone = server.wait();
    said
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
