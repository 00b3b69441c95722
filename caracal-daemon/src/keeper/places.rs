//! Where an instance keeps its things: made, locked, read and written. Small state files are written whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use super::{KeeperError, child};
use crate::agent::Agent;
use crate::config::Config;

/// What [`Places::registry`] holds.
pub type Registry = BTreeMap<u64, Agent>;

/// Where an instance keeps its things.
#[derive(Clone, Debug)]
pub struct Places {
    /// Keys: readable by root only.
    pub keeper: PathBuf,
    /// Journal, ledger, detail keys: the data path's own.
    pub data: PathBuf,
    /// Control socket and lock.
    pub runtime: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// What the instances of this host share; the data path's, of each of them.
    pub shared: Option<PathBuf>,
}

impl Places {
    /// Of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Places {
        let state = crate::ledger::StateDir::new(&config.state_dir);
        Places {
            keeper: state.keeper(),
            data: state.data(),
            runtime: config.runtime_dir.clone(),
            control: config.runtime_dir.join("control.sock"),
            shared: config.escrow.folder.clone(),
        }
    }

    /// Every agent by its cgroup's id: what a keeper adopts after another.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.keeper.join("agents.json")
    }

    /// What was released while no keeper ran, and is not recorded yet.
    #[must_use]
    pub fn released(&self) -> PathBuf {
        self.keeper.join("released.json")
    }
}

pub(super) fn make_directories(places: &Places, user: child::User) -> Result<(), KeeperError> {
    let failed = |path: &Path, error: std::io::Error| KeeperError::Key {
        path: path.display().to_string(),
        why: error.to_string(),
    };
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| failed(path, error))
    };
    make(&places.runtime, 0o755)?;
    if let Some(state) = places.keeper.parent() {
        make(state, 0o755)?;
    }
    make(&places.keeper, 0o700)?;
    for theirs in std::iter::once(&places.data).chain(&places.shared) {
        make(theirs, 0o700)?;
        std::os::unix::fs::chown(theirs, Some(user.uid), Some(user.gid)).map_err(|error| failed(theirs, error))?;
    }
    Ok(())
}

/// One keeper an instance.
///
/// # Errors
/// When another one holds the lock.
pub fn lock(places: &Places) -> Result<Flock<File>, KeeperError> {
    take_lock(places, None)
}

/// The same, by way of a file that holds it already.
pub(super) fn take_lock(places: &Places, held: Option<File>) -> Result<Flock<File>, KeeperError> {
    let path = places.runtime.join("keeper.lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(|error| KeeperError::Key { path: path.display().to_string(), why: error.to_string() })?;
    let file = held.unwrap_or(file);
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| KeeperError::Running(path.display().to_string()))
}

/// The host's name in records and in the ledger's origin: random, made once.
pub(super) fn host_id(state: &Path) -> Result<String, KeeperError> {
    let path = state.join("host-id");
    if let Ok(text) = fs::read_to_string(&path) {
        let id = text.trim();
        if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(id.to_owned());
        }
    }
    let id = uuid::Uuid::now_v7().simple().to_string();
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&path)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| KeeperError::Key { path: path.display().to_string(), why: error.to_string() })?;
    Ok(id)
}

/// Mounts bpffs where it is not mounted.
///
/// # Errors
/// When it cannot be.
pub(super) fn mount_bpffs() -> Result<(), KeeperError> {
    const BPFFS: &str = "/sys/fs/bpf";
    // Two at once would mount it twice, and the second hides what is pinned in the first.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // BPF_FS_MAGIC of linux/magic.h.
    let mounted = File::open(BPFFS)
        .ok()
        .and_then(|directory| nix::sys::statfs::fstatfs(directory.as_fd()).ok())
        .is_some_and(|facts| facts.filesystem_type().0 == 0xcafe_4a11);
    if mounted {
        return Ok(());
    }
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>)
        .map_err(|error| KeeperError::Kernel(format!("cannot mount bpffs at {BPFFS}: {error}")))
}

/// Reads a small state file; what cannot be read is empty.
pub fn load<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Writes a small state file whole, if it changed.
pub fn save<T: serde::Serialize>(path: &Path, value: &T) {
    let Ok(bytes) = serde_json::to_vec(value) else { return };
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    let fresh = path.with_extension("new");
    if let Err(error) = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path)) {
        tracing::warn!(%error, path = %path.display(), "Cannot write a state file.");
    }
}
