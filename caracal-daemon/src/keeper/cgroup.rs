//! Finds the cgroup v2 hierarchy, its directories and their ids; makes leaves for what `run` starts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::KeeperError;
use crate::agent::CgroupId;

/// The keeper's canary, 0 while there is none. It visits governed cgroups, and belongs to none.
static CANARY: AtomicU32 = AtomicU32::new(0);

/// Says which process the canary is.
pub fn set_canary(pid: u32) {
    CANARY.store(pid, Ordering::Relaxed);
}

/// Whether it is the canary.
#[must_use]
pub fn is_canary(pid: u32) -> bool {
    pid != 0 && pid == CANARY.load(Ordering::Relaxed)
}

/// The cgroup v2 hierarchy of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    root: PathBuf,
}

/// A directory of the hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    /// The directory, open.
    pub directory: File,
    /// Its absolute path.
    pub absolute: PathBuf,
    /// Its path below the hierarchy's root, with a leading slash, as `/proc/PID/cgroup` shows it.
    pub path: String,
    /// Its id.
    pub id: CgroupId,
    /// Its depth below the root; the root is 0.
    pub level: u32,
}

impl Hierarchy {
    /// Finds the mount in `/proc/self/mounts`: at `/sys/fs/cgroup`, or on a hybrid host at `/sys/fs/cgroup/unified`.
    ///
    /// # Errors
    /// When no cgroup v2 is mounted.
    pub fn find() -> Result<Hierarchy, KeeperError> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| cgroup(error.to_string()))?;
        parse_mounts(&mounts).map(|root| Hierarchy { root }).ok_or_else(|| {
            cgroup("no cgroup v2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`".to_owned())
        })
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a cgroup by its absolute path, or by its path relative to the hierarchy.
    ///
    /// # Errors
    /// When it is not a directory of the hierarchy, or is its root.
    pub fn open(&self, path: &Path) -> Result<Cgroup, KeeperError> {
        let absolute = if path.starts_with(&self.root) {
            path.to_owned()
        } else {
            self.root.join(path.strip_prefix("/").unwrap_or(path))
        };
        let absolute =
            fs::canonicalize(&absolute).map_err(|error| cgroup(format!("{}: {error}", absolute.display())))?;
        let Ok(below) = absolute.strip_prefix(&self.root) else {
            return Err(cgroup(format!("{} is not below {}", absolute.display(), self.root.display())));
        };
        let level = u32::try_from(below.components().count()).unwrap_or(u32::MAX);
        if level == 0 {
            return Err(cgroup(format!(
                "{} is the root of the hierarchy: name a cgroup below it",
                self.root.display()
            )));
        }
        if level > caracal_common::settings::MAX_LEVEL {
            return Err(cgroup(format!(
                "{} lies more than {} levels deep",
                absolute.display(),
                caracal_common::settings::MAX_LEVEL
            )));
        }
        if !absolute.join("cgroup.procs").is_file() {
            return Err(cgroup(format!("{} is not a cgroup v2 directory: it has no cgroup.procs", absolute.display())));
        }
        let directory = File::open(&absolute).map_err(|error| cgroup(format!("{}: {error}", absolute.display())))?;
        let id = CgroupId(directory.metadata().map_err(|error| cgroup(error.to_string()))?.ino());
        let path = format!("/{}", below.display());
        Ok(Cgroup { directory, absolute, path, id, level })
    }

    /// Makes a cgroup below the root, or opens it where it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self, path: &str) -> Result<Cgroup, KeeperError> {
        let absolute = self.root.join(path.trim_start_matches('/'));
        match fs::create_dir(&absolute) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cgroup(format!("cannot make {}: {error}", absolute.display())));
            }
            _ => {}
        }
        self.open(&absolute)
    }

    /// The cgroup v2 path of a process, such as `/caracal.slice/claude-1`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_process(&self, pid: u32) -> io::Result<String> {
        Hierarchy::path_in(&format!("/proc/{pid}/cgroup"))
    }

    /// The same of one of its threads.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn of_thread(&self, pid: u32, thread: u32) -> io::Result<String> {
        Hierarchy::path_in(&format!("/proc/{pid}/task/{thread}/cgroup"))
    }

    fn path_in(file: &str) -> io::Result<String> {
        let text = fs::read_to_string(file)?;
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(ToOwned::to_owned)
            .ok_or_else(|| io::Error::other("the process is in no cgroup v2"))
    }
}

impl Cgroup {
    /// Moves a process in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn admit(&self, pid: u32) -> Result<(), KeeperError> {
        fs::write(self.absolute.join("cgroup.procs"), pid.to_string())
            .map_err(|error| cgroup(format!("cannot move process {pid} into {}: {error}", self.path)))
    }

    /// Whether any process is in it or below it.
    #[must_use]
    pub fn populated(&self) -> bool {
        fs::read_to_string(self.absolute.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// The processes in it and below it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        processes_below(&self.absolute)
    }

    /// A process in it or below it that is root in this process's own mount namespace: it could unlink pins.
    #[must_use]
    pub fn root_process(&self) -> Option<u32> {
        let own = fs::read_link("/proc/self/ns/mnt").ok();
        self.processes().into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
            let effective = uids.split_whitespace().nth(1);
            effective == Some("0") && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == own
        })
    }

    /// Removes it with its empty children; one that still holds a process stays.
    pub fn remove(&self) -> bool {
        remove_tree(&self.absolute).is_ok()
    }
}

/// Whether the cgroup path `inner` is `outer` or below it.
#[must_use]
pub fn within(inner: &str, outer: &str) -> bool {
    inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

/// The processes in a cgroup and below it.
#[must_use]
pub fn processes_below(directory: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    processes(directory, &mut found);
    found
}

fn processes(directory: &Path, found: &mut Vec<u32>) {
    let here = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(here.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| !is_canary(*pid)));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

fn parse_mounts(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, target, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target.replace("\\040", " ")))
    })
}

fn cgroup(why: String) -> KeeperError {
    KeeperError::Cgroup(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchy_on_pure_and_hybrid_hosts() {
        let pure = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(parse_mounts(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(parse_mounts(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(parse_mounts("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn within_compares_whole_names() {
        assert!(within("/a/b", "/a"));
        assert!(within("/a", "/a"));
        assert!(!within("/ab", "/a"));
    }
}
