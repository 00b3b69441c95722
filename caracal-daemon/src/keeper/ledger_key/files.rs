//! The files of a ledger's keys: whole or not at all, durable before anybody relies on them, and one process at a time.

use crate::event::Hash;
use crate::keeper::KeeperError;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use zeroize::Zeroizing;

pub(super) const SIGNED: &str = "ledger-signed";
const LOCK: &str = "ledger-lock";

/// The largest tree that was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its leaves.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// Held while a process signs with the keys of a directory, or hands them over: one at a time.
pub(super) struct Turn(#[expect(dead_code, reason = "the lock goes with the file")] Flock<File>);

impl Turn {
    /// Waits for it.
    pub(super) fn take(dir: &Path) -> Result<Turn, KeeperError> {
        let path = dir.join(LOCK);
        let fail = |error: std::io::Error| key_error(&path, error.to_string());
        let options = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = options.and_then(|file| own(dir, &file).map(|()| file)).map_err(fail)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive);
        locked.map(Turn).map_err(|(_, error)| fail(error.into()))
    }
}

/// Gives a file that root made to whoever has the directory: a worker's keys stay its own.
fn own(dir: &Path, file: &File) -> std::io::Result<()> {
    let (wanted, found) = (std::fs::metadata(dir)?, file.metadata()?);
    if (wanted.uid(), wanted.gid()) == (found.uid(), found.gid()) || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, Some(wanted.uid()), Some(wanted.gid()))
}

/// Puts a file in the place of the one of that name; it is durable when this returns.
pub(super) fn replace(dir: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), KeeperError> {
    let (path, draft) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        own(dir, &file)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error: std::io::Error| key_error(&path, error.to_string()))
}

/// Writes a new private key; it is durable when this returns, so that nothing is signed with a key that a crash takes.
pub(super) fn write_private(path: &Path, pem: &[u8]) -> Result<(), KeeperError> {
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        own(dir, &file)?;
        file.write_all(pem)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error: std::io::Error| key_error(path, error.to_string()))
}

pub(super) fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeeperError> {
    let fail = |why: String| key_error(path, why);
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let mode = file.metadata().map_err(|error| fail(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(format!(
            "mode {mode:o} lets others read it; run chmod 0600 on it, and replace it if others could"
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    Ok(Some(text))
}

/// The largest tree that the keys in `dir` signed, if any.
///
/// # Errors
/// When the file that says so is unreadable or damaged.
pub fn read_signed(dir: &Path) -> Result<Option<Signed>, KeeperError> {
    let path = dir.join(SIGNED);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(key_error(&path, error.to_string())),
    };
    let parse = || {
        let (size, root) = text.trim_end().split_once(' ')?;
        let mut hash = [0u8; 32];
        hex::decode_to_slice(root, &mut hash).ok()?;
        Some(Signed { size: size.parse().ok()?, root: hash })
    };
    parse()
        .map(Some)
        .ok_or_else(|| key_error(&path, "it does not say what was signed; restore it from a backup".into()))
}

pub(super) fn store_signed(dir: &Path, signed: Signed) -> Result<(), KeeperError> {
    replace(dir, SIGNED, 0o600, format!("{} {}\n", signed.size, hex::encode(signed.root)).as_bytes())
}

pub(super) fn key_error(path: &Path, why: String) -> KeeperError {
    KeeperError::Key { path: path.display().to_string(), why }
}
