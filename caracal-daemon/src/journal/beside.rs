//! Small text files beside the segments: how far something has come. Replaced whole, never written in place.

use super::JournalError;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces the file `name` in `dir`, for its owner alone; durable when this returns.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&draft, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Reads it, if it is there.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn read(path: &Path) -> Result<Option<String>, JournalError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(JournalError::Unavailable(format!("{}: {error}", path.display()))),
    }
}
