//! What a server of logs counts of itself since it started: telemetry, never evidence. What is asked of its health is not counted.

use crate::telemetry::metrics::Row;
use std::sync::atomic::{AtomicU64, Ordering};

/// A server's own counters since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are open.
    pub(super) open: AtomicU64,
    /// Files that were given, or that the asker was told to have already.
    pub(super) files: AtomicU64,
    /// Bytes of those that were given.
    pub(super) bytes: AtomicU64,
    /// Requests for what is not there, or is no request for a file.
    pub(super) unknown: AtomicU64,
    /// Requests that were put off: the ledger does not answer, or too much is on its way.
    pub(super) failures: AtomicU64,
}

impl Counters {
    /// For `/metrics`.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            Row::gauge("caracal_serve_connections_open", "Connections open now.", value(&self.open)),
            Row::counter(
                "caracal_serve_files_total",
                "Files of logs given, or known to the asker.",
                value(&self.files),
            ),
            Row::counter("caracal_serve_bytes_total", "Bytes of these files given.", value(&self.bytes)),
            Row::counter(
                "caracal_serve_unknown_total",
                "Requests for what is not there or no checkpoint covers.",
                value(&self.unknown),
            ),
            Row::counter(
                "caracal_serve_failures_total",
                "Requests put off: the ledger does not answer, or too much is on its way.",
                value(&self.failures),
            ),
        ]
    }
}

/// A connection that is counted while it is open.
pub(super) struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    pub(super) fn count(counters: &'a Counters) -> Open<'a> {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Open(&counters.open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
