//! Cgroups of tests: made, found, and removed with everything in them, also those of a test that was killed.

use crate::netns::until;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where cgroup v2 is mounted.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn cgroup_mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found =
        all.find_map(|words| (words.get(2) == Some(&"cgroup2")).then(|| words.get(1).map(PathBuf::from)).flatten());
    found.expect("cgroup v2 is mounted nowhere")
}

/// A cgroup of a test, removed with everything in it.
#[derive(Debug)]
pub struct Cgroup(String);

impl Cgroup {
    /// A new, empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Cgroup {
        static NEXT: AtomicU32 = AtomicU32::new(1_000);
        sweep();
        let name = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(cgroup_mount().join(format!("{name}.slice"))).expect("a cgroup");
        Cgroup(name)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        cgroup_mount().join(format!("{}.slice", self.0))
    }
}

impl Default for Cgroup {
    fn default() -> Cgroup {
        Cgroup::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_slice(&self.0);
    }
}

pub(super) fn remove_slice(instance: &str) {
    let slice = cgroup_mount().join(format!("{instance}.slice"));
    let _none = std::fs::write(slice.join("cgroup.kill"), "1");
    let _gone = until("the slice empties", Duration::from_secs(5), || remove_tree(&slice));
}

fn remove_tree(dir: &Path) -> bool {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    std::fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// Removes the slices of test programs that were killed.
pub(super) fn sweep() {
    for entry in std::fs::read_dir(cgroup_mount()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(instance) = name.strip_suffix(".slice") else { continue };
        let Some((pid, number)) = instance.strip_prefix('t').and_then(|rest| rest.split_once('x')) else { continue };
        let ours = pid.parse::<u32>().is_ok() && number.parse::<u32>().is_ok();
        if ours && !Path::new("/proc").join(pid).exists() {
            remove_slice(instance);
        }
    }
}
