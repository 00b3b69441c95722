//! The lease: the kernel programs allow a redirect only while its deadline lies ahead. Renewed by a probe that went
//! through the data path, so that a hung daemon closes the door by itself.
//!
//! Never renewed by a timer alone: whoever calls [`Lease::renew`] has an answer of every stage in hand.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a renewal lasts. The promise is that a dead or hung daemon closes within one second: the rest is for whatever was
/// on its way when it hung.
pub const TERM: Duration = Duration::from_millis(900);
/// How often the probe runs.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// The kernel's lease map, in our memory.
#[derive(Debug)]
pub struct Lease(&'static AtomicU64);

impl Lease {
    /// Maps the descriptor of the lease map.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map(descriptor: &OwnedFd) -> io::Result<Lease> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let page = std::num::NonZeroUsize::new(4096).ok_or_else(|| io::Error::other("no page"))?;
        // SAFETY: a fresh shared mapping of a map made with BPF_F_MMAPABLE; one page is what an array of one entry has.
        let address = unsafe {
            mmap(None, page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, descriptor.as_fd(), 0)
        }?;
        // SAFETY: page-aligned, never unmapped, and only ever accessed as one atomic word by us.
        Ok(Lease(unsafe { &*address.as_ptr().cast::<AtomicU64>() }))
    }

    /// The door is open until [`TERM`] after `asked_at`, when the probe set out (`CLOCK_MONOTONIC`, nanoseconds).
    pub fn renew(&self, asked_at: u64) {
        self.0.store(asked_at.saturating_add(TERM.as_nanos() as u64), Ordering::Release);
    }

    /// The door is shut from now on.
    pub fn close(&self) {
        self.0.store(0, Ordering::Release);
    }
}
