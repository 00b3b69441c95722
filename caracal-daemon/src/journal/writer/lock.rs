//! The journal's lock: one writer at a time.

use crate::journal::JournalError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The journal's lock, let go when dropped. Closing alone is not enough: a child that was forked a moment ago and has
/// not become its program yet holds the same lock.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It can fail only for a descriptor that is no file.
        let _ = self.0.unlock();
    }
}

/// Two writers would fork the chain.
pub(super) fn lock(dir: &Path) -> Result<Lock, JournalError> {
    let path = dir.join("lock");
    let fail = |why: String| JournalError::Unavailable(format!("{}: {why}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| fail(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(fail("another caracald writes this journal; stop it first".into())),
    }
}
