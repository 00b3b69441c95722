//! The one place that reads the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub u64);

/// Tells the wall-clock time: the system's, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands at `at` until [`Clock::set`] moves it.
    #[must_use]
    pub fn fixed(at: UnixNanos) -> Clock {
        Clock(Some(Arc::new(AtomicU64::new(at.0))))
    }

    /// Moves a fixed clock; the system's clock stays as it is.
    pub fn set(&self, at: UnixNanos) {
        if let Some(fixed) = &self.0 {
            fixed.store(at.0, Ordering::Relaxed);
        }
    }

    /// The time now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
    pub fn now(&self) -> UnixNanos {
        match &self.0 {
            Some(fixed) => UnixNanos(fixed.load(Ordering::Relaxed)),
            None => UnixNanos(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            ),
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that the kernel programs compare the lease with.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}

/// `CLOCK_BOOTTIME` in milliseconds: it goes on while the host sleeps, so that what was lent for a time is not kept longer.
#[must_use]
pub fn boottime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}
