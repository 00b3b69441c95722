//! What a machine found, as cases of `kernels.json` and `escape.json`.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{Boot, Work, coverage, machine::Accelerator, suite::Suite, systemd};
use crate::report::{COUNTS, Case, OMITTED, Report, Verdict};

/// What came back from one boot.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What `caracald doctor --json` printed.
    pub(crate) doctor: Option<Value>,
    /// What it complained about.
    complaint: String,
    /// The contract's report.
    escape: Option<Report>,
    /// What the command printed.
    pub(crate) log: String,
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Seconds from the kernel's start until PID 1 had mounted everything.
    up: f64,
    took: Duration,
}

impl Outcome {
    /// Reads the directory that the guest filled.
    ///
    /// # Errors
    /// When the guest did not get as far as to run anything.
    pub(crate) fn read(out: &Path, took: Duration) -> Result<Self> {
        let text = |name: &str| fs::read(out.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let up = text("up").context("the machine did not come up")?;
        let report = out.join("report/escape.json");
        Ok(Self {
            doctor: text("doctor.json").and_then(|text| serde_json::from_str(&text).ok()),
            complaint: text("doctor.log").unwrap_or_default(),
            escape: report.exists().then(|| Report::read(&report)).transpose()?,
            log: text("log").unwrap_or_default(),
            code: text("code").and_then(|text| text.trim().parse().ok()),
            up: up.trim().parse().unwrap_or(0.0),
            took,
        })
    }

    fn enforceable(&self) -> &str {
        self.doctor.as_ref().and_then(|doctor| doctor.get("enforceable")?.as_str()).unwrap_or("nothing")
    }
}

/// The line that a person reads when a machine has gone off.
pub(crate) fn line(boot: &Boot, outcome: &Result<Outcome>) -> String {
    match outcome {
        Ok(outcome) => {
            let tried = outcome.escape.as_ref().map_or_else(String::new, |report| {
                let count = |verdict| report.count(verdict);
                format!(", {} passed, {} failed", count(Verdict::Passed), count(Verdict::Failed))
            });
            let level = match (&boot.work, outcome.code) {
                (Work::Systemd, Some(0)) => "agents start behind the door".to_owned(),
                (Work::Systemd, _) => "failed".to_owned(),
                _ => format!("level {}", outcome.enforceable()),
            };
            format!("ok  {}: {level}{tried} ({:.0} s)", boot.describe(), outcome.took.as_secs_f64())
        }
        Err(error) => format!("--  {}: {error:#}", boot.describe()),
    }
}

/// A kernel that could not be had.
pub(crate) fn unavailable(suite: &Suite, error: &anyhow::Error) -> Case {
    Case::new(format!("Linux {} of Debian {}", suite.series, suite.name), Verdict::Failed)
        .because(format!("it could not be fetched, and no earlier one is kept: {error:#}"))
}

/// Adds one boot to the reports.
pub(crate) fn judge(
    boot: &Boot,
    accelerator: Accelerator,
    outcome: Result<Outcome>,
    kernels: &mut Report,
    escape: &mut Report,
) {
    let mut case = Case::new(boot.describe(), Verdict::Passed);
    case.more = facts(boot, accelerator);
    match outcome {
        Err(error) => {
            case.verdict = Verdict::Failed;
            case.why = Some(format!("{error:#}"));
        }
        Ok(outcome) => {
            case.more.insert("up_seconds".into(), json!(outcome.up));
            case.more.insert("seconds".into(), json!(outcome.took.as_secs_f64().round()));
            let why = if matches!(boot.work, Work::Systemd) {
                systemd::judge(&outcome, &mut case.more)
            } else {
                proofs(boot, &outcome, escape);
                doctor(&outcome, &mut case.more)
            };
            if why.is_some() {
                case.verdict = Verdict::Failed;
                case.why = why;
            }
        }
    }
    kernels.cases.push(case);
}

/// Which kernel this was, exactly.
fn facts(boot: &Boot, accelerator: Accelerator) -> Map<String, Value> {
    let kernel = &boot.kernel;
    let value = json!({
        "series": kernel.series,
        "suite": kernel.suite,
        "release": kernel.release,
        "packages": kernel.packages,
        "kept": kernel.kept,
        "cgroup": boot.cgroups.word(),
        "bpf_lsm": boot.bpf_lsm,
        "words": boot.words(),
        "accelerator": accelerator.name(),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What `doctor` said, into the case; why that is not good enough, if it is not.
fn doctor(outcome: &Outcome, more: &mut Map<String, Value>) -> Option<String> {
    let Some(doctor) = outcome.doctor.as_ref().and_then(Value::as_object) else {
        return Some(format!("doctor prints no JSON: {}", outcome.complaint.trim()));
    };
    more.extend(doctor.clone());
    if outcome.enforceable() != "none" {
        return None;
    }
    let missing: Vec<String> = coverage::checks(more)
        .filter(|check| check.need == "required" && check.state != "yes")
        .map(|check| format!("{}: {}", check.name, check.found))
        .collect();
    Some(format!("nothing can be enforced on it: {}", missing.join("; ")))
}

/// The contract's cases, with the kernel in their names.
fn proofs(boot: &Boot, outcome: &Outcome, escape: &mut Report) {
    let told = outcome.escape.as_ref().is_some_and(|report| report.count(Verdict::Failed) > 0);
    for case in outcome.escape.iter().flat_map(|report| &report.cases) {
        let mut case = case.clone();
        case.name = format!("{}, on {}", case.name, boot.describe());
        case.more.insert("kernel".into(), json!(boot.kernel.release));
        case.more.insert("cgroup".into(), json!(boot.cgroups.word()));
        if case.verdict == Verdict::Skipped && !boot.bpf_lsm {
            // What needs the BPF LSM; where that was asked for, a skip is red.
            case.more.entry(OMITTED).or_insert(json!(1));
        }
        escape.cases.push(case);
    }
    for (name, value) in outcome.escape.iter().flat_map(|report| &report.figures) {
        // What is no count belongs to one machine: the host's own run says it.
        let sum = escape.figures.get(name).and_then(serde_json::Number::as_u64).unwrap_or(0);
        if let Some(more) = value.as_u64().filter(|_| COUNTS.contains(&name.as_str())) {
            escape.figures.insert(name.clone(), (sum + more).into());
        }
    }
    if outcome.code.is_some_and(|code| code != 0) && !told {
        let lines: Vec<&str> = outcome.log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join(" | ");
        escape.cases.push(
            Case::new(format!("the program itself, on {}", boot.describe()), Verdict::Failed)
                .because(format!("it ended with {:?}: {tail}", outcome.code)),
        );
    }
}
