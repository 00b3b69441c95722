//! What everybody may know of the writer: how far the journal is durable, how full it is, whether its disk fails.

use super::Start;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The durable end of the journal. Shared by the writer, its readers and `status`.
#[derive(Debug)]
pub struct Tail {
    next: Mutex<Start>,
    /// The sequence number in `next`, without the lock.
    durable: AtomicU64,
    moved: Condvar,
    failure: Mutex<Option<String>>,
    failing: AtomicBool,
    bytes: AtomicU64,
    max_bytes: u64,
    /// Syncs that somebody waited for.
    #[cfg(test)]
    pub(crate) waited_syncs: AtomicU64,
}

impl Tail {
    pub(crate) fn new(max_bytes: u64) -> Tail {
        Tail {
            next: Mutex::default(),
            durable: AtomicU64::new(0),
            moved: Condvar::new(),
            failure: Mutex::default(),
            failing: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            max_bytes,
            #[cfg(test)]
            waited_syncs: AtomicU64::new(0),
        }
    }

    /// The place behind the last durable record.
    #[must_use]
    pub fn next(&self) -> Start {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every record below this is durable. Cheaper than [`Tail::next`].
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until a record at or above `sequence` is durable; gives up after `within`.
    pub fn wait(&self, sequence: u64, within: Duration) -> bool {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.moved.wait_timeout_while(next, within, |next| next.sequence <= sequence);
        waited.unwrap_or_else(PoisonError::into_inner).0.sequence > sequence
    }

    /// Why the disk fails, if it does.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if !self.failing.load(Ordering::Acquire) {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of all segments, and the most that they may be.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.max_bytes)
    }

    pub(crate) fn advance(&self, next: Start) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.durable.store(next.sequence, Ordering::Release);
        self.moved.notify_all();
    }

    pub(crate) fn set_failure(&self, why: Option<String>) {
        let failing = why.is_some();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.failing.store(failing, Ordering::Release);
    }

    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}
