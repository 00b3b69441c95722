//! Who is governed: an agent is a cgroup, and what the kernel said of the process that connected.

use std::sync::Arc;

/// A cgroup v2 id: the inode number of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// A governed cgroup and the name that policies, budgets and records use for it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Agent {
    /// The name: `[a-z0-9][a-z0-9._-]{0,63}`.
    pub name: Arc<str>,
    /// The cgroup's id.
    pub cgroup: CgroupId,
    /// The cgroup's path below the cgroup v2 mount, for people.
    pub path: String,
    /// The user on whose behalf it runs: who called `run`, or 0 for an attached cgroup.
    pub uid: u32,
    /// Started with `run --learn`: the host allow list is lifted for it, budgets are not.
    pub learn: bool,
}

/// Facts that the kernel recorded at the connect. Never taken from anything that the process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The cgroup of the caller itself; the agent's, or one below it.
    pub cgroup: CgroupId,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Task name, at most 15 bytes.
    pub comm: String,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
}
