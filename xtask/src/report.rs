//! The files in `target/report`: one per subject, the only source of every table and figure that is printed.

use std::{
    collections::BTreeMap,
    env, fs,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// Cases that a given kind of machine cannot run. A skip that is not listed here makes the run red.
///
/// Each entry: subject, the case's name, why that is acceptable.
const EXPECTED_SKIPS: &[(&str, &str, &str)] = &[
    ("kernels", "other kernels", "the machines are x86-64"),
    ("escape", "30000 connections open at once", "root without CAP_SYS_RESOURCE, and a low limit of descriptors"),
    ("escape", "tier B: families, descriptors, unix peers, cgroups, processes", NO_LSM),
    ("escape", "tier B: the rest of the host is untouched", NO_LSM),
    ("escape", "tier B: unix sockets by rule", NO_LSM),
    ("escape", "tier B: keys, pins, configuration and the daemon itself, by root", NO_LSM),
    ("escape", "tier B: the level is proven and recorded", NO_LSM),
];

/// The cases themselves ask `doctor`, which tries each program: they skip on no other ground.
const NO_LSM: &str = "kernels that take no BPF LSM program";

/// Figures that are counts of what must not happen: over several programs and kernels they add up.
pub(crate) const COUNTS: &[&str] = &["leaks", "inconclusive", "skipped", "omitted", "wrong_destinations"];

/// How the cases of a measurement begin, and its figures.
const BAR: &str = "bar: ";
const MEASURED: &[&str] =
    &["appends_", "audit_", "bytes_", "checkpoint_ms", "commits_", "proof_", "record_bytes", "sha256_", "speed_"];

/// What a case stands for that a short run leaves out on purpose: how many attempts or tests.
pub(crate) const OMITTED: &str = "omitted";

/// One subject of one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// The subject; also the file's name.
    pub(crate) name: String,
    pub(crate) commit: String,
    pub(crate) kernel: String,
    /// RFC 3339, UTC.
    pub(crate) started: String,
    pub(crate) seconds: f64,
    pub(crate) cases: Vec<Case>,
    #[serde(default)]
    pub(crate) figures: BTreeMap<String, Number>,
}

/// One thing that was tried.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Whatever else the subject measured.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, verdict: Verdict) -> Self {
        Self { name: name.into(), verdict, why: None, more: Map::new() }
    }

    /// Left out of a run that has to be short: printed and counted, and not red.
    pub(crate) fn omitted(name: impl Into<String>, count: usize, why: impl Into<String>) -> Self {
        let mut case = Self::new(name, Verdict::Skipped).because(why);
        case.more.insert(OMITTED.to_owned(), count.into());
        case
    }

    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
}

impl Report {
    /// A report of what starts now.
    pub(crate) fn start(name: &str, root: &Path) -> Self {
        Self {
            name: name.to_owned(),
            commit: commit(root),
            kernel: kernel(),
            started: now(),
            seconds: 0.0,
            cases: Vec::new(),
            figures: BTreeMap::new(),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not a report", path.display()))
    }

    /// Writes `DIRECTORY/NAME.json`.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let path = directory.join(format!("{}.json", self.name));
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|case| case.verdict == verdict).count()
    }

    /// Sets the duration, from the moment at which the report was started.
    pub(crate) fn finish(&mut self, started: Instant) {
        self.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    }

    /// Adds what another program, or the same one on another kernel, found out about the same subject.
    pub(crate) fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.cases.extend(other.cases);
        for (name, value) in other.figures {
            let sum = if COUNTS.contains(&name.as_str()) { self.count_of(&name) } else { None };
            let value = sum.zip(value.as_u64()).map_or(value, |(sum, more)| (sum + more).into());
            self.figures.insert(name, value);
        }
    }

    /// The report of the same subject and commit that is there already, if one is.
    fn before(&self, directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(format!("{}.json", self.name));
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Self::read(&path)?).filter(|before| before.commit == self.commit))
    }

    /// Takes into a measurement what a test of the same commit left: its cases and figures, but for those measured now.
    ///
    /// # Errors
    /// When the report that is there cannot be read.
    pub(crate) fn put_beside(&mut self, directory: &Path) -> Result<()> {
        let Some(before) = self.before(directory)? else { return Ok(()) };
        let ours: Vec<String> = self.cases.iter().map(|case| case.name.clone()).collect();
        self.cases.extend(before.cases.into_iter().filter(|case| !ours.contains(&case.name)));
        for (name, value) in before.figures {
            self.figures.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// Keeps, in a test's report, what a measurement of the same commit left: it measured longer than a test does.
    ///
    /// # Errors
    /// When the report that is there cannot be read.
    pub(crate) fn keep_measured(&mut self, directory: &Path) -> Result<()> {
        let Some(before) = self.before(directory)? else { return Ok(()) };
        if !before.cases.iter().any(|case| case.name.starts_with(BAR)) {
            return Ok(());
        }
        self.cases.extend(before.cases.into_iter().filter(|case| case.name.starts_with(BAR)));
        let measured =
            before.figures.into_iter().filter(|(name, _)| MEASURED.iter().any(|part| name.starts_with(part)));
        self.figures.extend(measured);
        Ok(())
    }

    fn count_of(&self, figure: &str) -> Option<u64> {
        self.figures.get(figure).and_then(Number::as_u64)
    }

    /// Cases that make a run red: failed, or skipped without being expected to.
    pub(crate) fn red(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| match case.verdict {
            Verdict::Passed => false,
            Verdict::Failed => true,
            Verdict::Skipped => {
                !case.more.contains_key(OMITTED)
                    && !EXPECTED_SKIPS.iter().any(|(subject, name, _)| *subject == self.name && *name == case.name)
            }
        })
    }
}

/// A directory outside the checkout, in which programs that run as root leave their reports.
#[derive(Debug)]
pub(crate) struct Inbox(PathBuf);

impl Inbox {
    pub(crate) fn new() -> Result<Self> {
        let directory = env::temp_dir().join(format!("caracal-report-{}", process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("{} cannot be made; remove it if it is a leftover", directory.display()))?;
        Ok(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes out the reports that are in it.
    pub(crate) fn collect(&self) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        for file in files(&self.0)? {
            reports.push(Report::read(&file)?);
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
        Ok(reports)
    }

    /// Removes it. What root left in it goes as well: the directory is ours.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| self.0.display().to_string())
    }
}

/// The report files in a directory, sorted by name. A missing directory has none.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| directory.display().to_string()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Prints the summary of some reports. Returns whether all is well.
pub(crate) fn summary(reports: &[Report]) -> bool {
    let width = reports.iter().map(|report| report.name.len()).max().unwrap_or(0).max("subject".len());
    println!();
    println!("{:width$}  passed  failed  skipped  seconds", "subject");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for report in reports {
        let counts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| report.count(verdict));
        println!("{:width$}  {:6}  {:6}  {:7}  {:7.1}", report.name, counts[0], counts[1], counts[2], report.seconds);
        passed += counts[0];
        failed += counts[1];
        skipped += counts[2];
    }
    for report in reports.iter().filter(|report| !report.figures.is_empty()) {
        let figures: Vec<String> = report.figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{}: {}", report.name, figures.join(", "));
    }
    for report in reports {
        for case in report.cases.iter().filter(|case| case.verdict != Verdict::Passed) {
            let word = if case.verdict == Verdict::Failed { "FAILED " } else { "skipped" };
            let count = case.more.get(OMITTED).map_or_else(String::new, |count| format!(" ({count})"));
            let why = case.why.as_deref().unwrap_or("no reason given");
            println!("{word} {}: {}{count}: {why}", report.name, case.name);
        }
    }
    println!();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    let red = reports.iter().map(|report| report.red().count()).sum::<usize>();
    if red > failed {
        println!("{} case(s) skipped without being expected to: that is red, too.", red - failed);
    }
    red == 0 && passed > 0
}

/// The commit that is being tried, marked when the work tree differs from it.
pub(crate) fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    if clean { head } else { format!("{head}-changed") }
}

/// The time, from the one program that always has a calendar.
fn now() -> String {
    Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The running kernel's release.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cases: Vec<Case>) -> Report {
        Report {
            name: "wire".into(),
            commit: "c".into(),
            kernel: "k".into(),
            started: "2026-01-01T00:00:00Z".into(),
            seconds: 1.0,
            cases,
            figures: BTreeMap::new(),
        }
    }

    #[test]
    fn an_unexpected_skip_is_red() {
        assert!(!summary(&[report(vec![
            Case::new("a", Verdict::Passed),
            Case::new("b", Verdict::Skipped).because("no squid"),
        ])]));
    }

    #[test]
    fn what_is_left_out_on_purpose_is_not_red() {
        assert!(summary(&[report(vec![Case::new("a", Verdict::Passed), Case::omitted("b", 3, "too long")])]));
        assert!(!summary(&[report(vec![Case::omitted("b", 3, "too long")])]), "and proves nothing");
    }

    #[test]
    fn a_measurement_and_a_test_leave_each_other_s_figures() {
        let directory = env::temp_dir().join(format!("caracal-report-test-{}", process::id()));
        let mut tested = report(vec![Case::new("a", Verdict::Passed)]);
        tested.figures = BTreeMap::from([("events".into(), 7.into()), ("appends_per_s_sqlite".into(), 1.into())]);
        tested.write(&directory).unwrap();
        let mut measured = report(vec![Case::new("bar: b", Verdict::Passed)]);
        measured.figures = BTreeMap::from([("appends_per_s_sqlite".into(), 9.into())]);
        measured.put_beside(&directory).unwrap();
        let figures =
            |report: &Report| report.figures.values().map(|value| value.as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((measured.cases.len(), figures(&measured)), (2, vec![9, 7]));
        measured.write(&directory).unwrap();
        // A test again: what it says of speed is what was measured.
        let mut again = tested.clone();
        again.keep_measured(&directory).unwrap();
        assert_eq!((again.cases.len(), figures(&again)), (2, vec![9, 7]));
        // Of another commit nothing is kept.
        let mut other = Report { commit: "d".into(), ..tested };
        other.keep_measured(&directory).unwrap();
        assert_eq!((other.cases.len(), figures(&other)), (1, vec![1, 7]));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nothing_passed_is_red() {
        assert!(!summary(&[]));
        assert!(!summary(&[report(Vec::new())]));
    }

    #[test]
    fn a_failure_is_red_and_a_pass_is_not() {
        assert!(!summary(&[report(vec![Case::new("a", Verdict::Passed), Case::new("b", Verdict::Failed)])]));
        assert!(summary(&[report(vec![Case::new("a", Verdict::Passed)])]));
    }

    #[test]
    fn what_a_case_measured_survives_reading_and_writing() {
        let text = r#"{"name":"a","verdict":"skipped","why":"w","cpu_us":22.5}"#;
        let case: Case = serde_json::from_str(text).unwrap();
        assert_eq!(case.verdict, Verdict::Skipped);
        assert_eq!(serde_json::to_string(&case).unwrap(), text);
    }
}
