//! caracald's own counters: about the process, never about money.

pub mod metrics;

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the data path since it started.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections that have not shown yet what they are, and requests without an answer.
    pub beginning: AtomicU64,
    /// Requests decided.
    pub requests: AtomicU64,
    /// Refusals of every stage.
    pub refusals: AtomicU64,
    /// Handshakes that agents broke off.
    pub untrusted: AtomicU64,
}

impl Telemetry {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
