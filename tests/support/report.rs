//! What a run leaves behind: `target/report/<subject>.json`, one file per subject, written again after each case.

use crate::programs::target;
use serde_json::{Map, Value, json};
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Runs one case and writes its verdict. What `work` gives is written beside the verdict.
///
/// # Panics
/// When `work` does: the verdict is written first.
pub fn case(subject: &str, name: &str, work: impl FnOnce() -> Map<String, Value>) {
    // The report begins before its first case ends.
    update(subject, |_| {});
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(work));
    let mut line = Map::new();
    line.insert("name".into(), json!(name));
    match &result {
        Ok(more) => {
            line.insert("verdict".into(), json!("passed"));
            line.extend(more.clone());
        }
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            line.insert("verdict".into(), json!("failed"));
            line.insert(
                "why".into(),
                json!(why.unwrap_or_else(|| "panicked".into()).chars().take(2_000).collect::<String>()),
            );
        }
    }
    line.insert("ms".into(), json!(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)));
    update(subject, |report| put_case(report, line));
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Writes a case whose verdict is known already: many cases that one world has tried together.
pub fn verdict(subject: &str, name: &str, fault: Option<String>, more: Map<String, Value>) {
    let mut line = Map::new();
    line.insert("name".into(), json!(name));
    line.insert("verdict".into(), json!(if fault.is_none() { "passed" } else { "failed" }));
    if let Some(why) = fault {
        line.insert("why".into(), json!(why));
    }
    line.extend(more);
    update(subject, |report| put_case(report, line));
}

/// Writes a case that was left out, and why. `count` is how many attempts it stands for.
pub fn omitted(subject: &str, name: &str, why: &str, count: u64) {
    println!("left out: {name} ({count}): {why}");
    skip(subject, json!({"name": name, "verdict": "skipped", "why": why, "omitted": count}));
}

/// Writes a case that cannot run on this system, and why.
pub fn skipped(subject: &str, name: &str, why: &str) {
    skip(subject, json!({"name": name, "verdict": "skipped", "why": why}));
}

fn skip(subject: &str, line: Value) {
    if let Value::Object(line) = line {
        update(subject, |report| put_case(report, line));
    }
}

/// [`case`] for one that measures nothing else.
///
/// # Panics
/// When `work` does.
pub fn plain(subject: &str, name: &str, work: impl FnOnce()) {
    case(subject, name, || {
        work();
        Map::new()
    });
}

/// Writes a figure of the subject.
pub fn figure(subject: &str, key: &str, value: u64) {
    update(subject, |report| {
        report["figures"][key] = json!(value);
    });
}

/// Writes a figure that is no whole number: a share, a ratio, microseconds.
pub fn measure(subject: &str, key: &str, value: f64) {
    update(subject, |report| report["figures"][key] = json!(value));
}

/// Writes such a figure where several cases have it: the smallest one of this run stays.
pub fn smallest(subject: &str, key: &str, value: f64) {
    update(subject, |report| {
        let before = report["figures"][key].as_f64().unwrap_or(value);
        report["figures"][key] = json!(before.min(value));
    });
}

/// Writes a figure that several cases have: the largest one stays.
pub fn largest(subject: &str, key: &str, value: u64) {
    update(subject, |report| {
        let before = report["figures"][key].as_u64().unwrap_or(0);
        report["figures"][key] = json!(before.max(value));
    });
}

/// Runs at the size that the contract names, not at the size that fits into CI's time.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("CARACAL_LONG").is_some_and(|value| value != "0")
}

/// The seed that `CARACAL_SEED` sets, so that a run can be had again.
#[must_use]
pub fn chosen_seed() -> Option<u64> {
    std::env::var("CARACAL_SEED").ok()?.parse().ok()
}

/// The same; without it always this one.
#[must_use]
pub fn seed() -> u64 {
    chosen_seed().unwrap_or(20_261_124)
}

fn directory() -> PathBuf {
    std::env::var_os("CARACAL_REPORT_DIR").map_or_else(|| target().join("report"), PathBuf::from)
}

fn put_case(report: &mut Value, line: Map<String, Value>) {
    let Some(cases) = report["cases"].as_array_mut() else { return };
    cases.retain(|case| case["name"] != line["name"]);
    cases.push(Value::Object(line));
}

/// Reads, changes and writes a report under a lock: cases come from several threads and programs.
fn update(subject: &str, change: impl FnOnce(&mut Value)) {
    let dir = directory();
    std::fs::create_dir_all(&dir).expect("the report directory");
    let lock = std::fs::File::create(dir.join(".lock")).expect("the report's lock");
    // SAFETY: flock takes an open descriptor, which `lock` keeps open until the end.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0, "locking the report");
    let path = dir.join(format!("{subject}.json"));
    let old = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let mut report = old.filter(|report| report["commit"] == commit()).unwrap_or_else(|| fresh(subject));
    change(&mut report);
    let now = unix_seconds();
    let began = report["began"].as_u64().unwrap_or(now);
    report["seconds"] = json!(now.saturating_sub(began));
    let text = serde_json::to_string_pretty(&report).expect("a report is JSON");
    std::fs::write(&path, text + "\n").expect("the report");
}

fn fresh(subject: &str) -> Value {
    let now = unix_seconds();
    json!({"name": subject, "commit": commit(), "kernel": kernel(), "started": rfc3339(now), "began": now, "seconds": 0,
        "cases": [], "figures": {"scale": u64::from(long())}})
}

#[expect(clippy::disallowed_methods, reason = "a report has its time of the system")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn commit() -> String {
    std::env::var("CARACAL_COMMIT").unwrap_or_else(|_| {
        let output = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    })
}

/// Civil time of Unix seconds, UTC (Howard Hinnant's days-to-civil).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_is_civil() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::rfc3339(1_795_522_751), "2026-11-24T12:19:11Z");
    }
}
