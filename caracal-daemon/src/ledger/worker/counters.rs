//! What a worker counts of itself since it started: telemetry, never money.

use std::sync::atomic::{AtomicU64, Ordering};

/// A worker's own counters since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records that became leaves.
    pub records: AtomicU64,
    /// Records that were there already.
    pub duplicates: AtomicU64,
    /// Messages that were no records.
    pub incidents: AtomicU64,
    /// Messages of the topic of checkpoints that the logs' keys did not sign.
    pub strange: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Commits and take-overs that failed.
    pub failures: AtomicU64,
    /// Logs that it writes now.
    pub logs: AtomicU64,
    /// Leaves without a checkpoint, in these logs.
    pub unsigned: AtomicU64,
    /// Enrolled hosts of which nothing is heard, in all logs.
    pub silent: AtomicU64,
}

impl Counters {
    /// Names, what they say, and values, for `/metrics`.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
        let row = |name, kind, help, value: &AtomicU64| (name, kind, help, value.load(Ordering::Relaxed));
        vec![
            row("caracal_ledger_records_total", "counter", "Records that became leaves.", &self.records),
            row("caracal_ledger_duplicates_total", "counter", "Records that were there already.", &self.duplicates),
            row("caracal_ledger_incidents_total", "counter", "Messages that were no records.", &self.incidents),
            row(
                "caracal_ledger_strange_checkpoints_total",
                "counter",
                "Messages of the topic of checkpoints that the logs' keys did not sign.",
                &self.strange,
            ),
            row("caracal_ledger_commits_total", "counter", "Commits.", &self.commits),
            row("caracal_ledger_failures_total", "counter", "Commits and take-overs that failed.", &self.failures),
            row("caracal_ledger_logs", "gauge", "Logs that this worker writes.", &self.logs),
            row("caracal_ledger_unsigned_leaves", "gauge", "Leaves without a checkpoint.", &self.unsigned),
            row("caracal_ledger_silent_hosts", "gauge", "Enrolled hosts of which nothing is heard.", &self.silent),
        ]
    }
}
