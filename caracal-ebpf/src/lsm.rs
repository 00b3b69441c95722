//! The BPF LSM: what is not keyed on a socket of the agent's own. Every hook decides by the current task: in or below a
//! directory of this instance's, or not. Whoever is not passes first, before anything is read: the hooks run for every
//! task of the host.

mod bpf;
mod capable;
mod file_open;
mod file_permission;
mod file_receive;
mod house;
mod inode_getxattr;
mod inode_link;
mod inode_permission;
mod inode_rename;
mod inode_setattr;
mod inode_unlink;
mod peer;
mod procfs;
mod ptrace_access_check;
mod sb_umount;
mod socket_accept;
mod socket_connect;
mod socket_create;
mod socket_listen;
mod socket_recvmsg;
mod socket_sendmsg;
mod sockets;
mod task_kill;
mod unix_may_send;
mod unix_stream_connect;

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task};
use caracal_common::denial::{Hook, Why};
use caracal_common::settings::{LEARN, MAX_LEVEL};

use crate::maps::{AGENTS, GOVERNED, LEVELS};
use crate::memory::{layout, word32, word64};
use crate::refuse::{by_current, denial, report};

/// `EPERM` and `EACCES`.
pub const NOT_PERMITTED: i32 = -1;
pub const NO_ACCESS: i32 = -13;
/// `struct socket` and its like are read at most so far up the cgroup tree; deeper ones count as somebody else's.
const MAX_DEPTH: u32 = 32;

/// Whose the current task is: its agent, or the governed directory that it is in; `None` when it is not governed.
#[inline(always)]
pub fn governed() -> Option<u64> {
    let levels = match LEVELS.get_ptr(0) {
        // SAFETY: an array's only entry is always there.
        Some(levels) => unsafe { core::ptr::read_volatile(levels) },
        None => 0,
    };
    if levels == 0 {
        return None;
    }
    let task = Task::current();
    let mut found = 0;
    let mut level = 1;
    while level <= MAX_LEVEL {
        if levels & (1 << level) != 0 {
            let id = task.ancestor(level);
            if id == 0 {
                break;
            }
            if is_governed(id) {
                found = id;
            }
        }
        level += 1;
    }
    if found == 0 {
        return None;
    }
    Some(task.agent().unwrap_or(found))
}

/// The cgroup (`struct cgroup`) of a task (`struct task_struct`).
#[inline(always)]
fn cgroup_of(task: u64) -> u64 {
    word64(word64(task, layout!(task_cgroups)), layout!(css_set_cgroup))
}

/// The current task's place in the cgroup tree, read from the top.
struct Task {
    /// `struct cgroup`; 0 where the helper serves.
    cgroup: u64,
}

impl Task {
    #[inline(always)]
    fn current() -> Task {
        if layout!(has_ancestor_helper) == 1 {
            return Task { cgroup: 0 };
        }
        // SAFETY: takes nothing and cannot fail.
        let task = unsafe { bpf_get_current_task() };
        Task { cgroup: cgroup_of(task) }
    }

    /// The id of the ancestor at this depth, 0 below the task's own.
    #[inline(always)]
    fn ancestor(&self, level: u32) -> u64 {
        if layout!(has_ancestor_helper) == 1 {
            // SAFETY: any level is accepted.
            return unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        }
        if word32(self.cgroup, layout!(cgroup_level)) < level {
            return 0;
        }
        word64(self.cgroup, layout!(cgroup_ancestor_ids) + 8 * level)
    }

    /// The deepest agent.
    #[inline(always)]
    fn agent(&self) -> Option<u64> {
        let mut found = None;
        let mut level = 1;
        while level <= MAX_LEVEL {
            let id = self.ancestor(level);
            if id == 0 {
                break;
            }
            if is_agent(id) {
                found = Some(id);
            }
            level += 1;
        }
        found
    }
}

/// Whose a cgroup (`struct cgroup`) is: its agent, or the governed directory, or 0: nobody's that we know.
#[inline(always)]
pub fn owner_of(cgroup: u64) -> u64 {
    let mut cgroup = cgroup;
    let mut found = 0;
    let mut depth = 0;
    while depth < MAX_DEPTH {
        if cgroup == 0 {
            break;
        }
        let id = id_of(cgroup);
        if is_agent(id) {
            return id;
        }
        if found == 0 && is_governed(id) {
            found = id;
        }
        let parent = word64(cgroup, layout!(cgroup_parent));
        if parent == 0 {
            break;
        }
        cgroup = parent - u64::from(layout!(cgroup_self));
        depth += 1;
    }
    found
}

/// The id of a `struct cgroup`.
#[inline(always)]
pub fn id_of(cgroup: u64) -> u64 {
    word64(word64(cgroup, layout!(cgroup_node)), layout!(node_id))
}

#[inline(always)]
fn is_agent(id: u64) -> bool {
    let Some(entry) = AGENTS.get_ptr(id) else { return false };
    // The read also keeps null checks of a loop's rounds apart, which the verifier demands.
    // SAFETY: not null; the map is preallocated, so the entry can be stale but never freed.
    unsafe { core::ptr::read_volatile(&raw const (*entry).level) != 0 }
}

#[inline(always)]
fn is_governed(id: u64) -> bool {
    let Some(entry) = GOVERNED.get_ptr(id) else { return false };
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*entry).level) != 0 }
}

/// Whether this agent only learns what it connects to.
#[inline(always)]
pub fn learns(agent: u64) -> bool {
    let Some(entry) = AGENTS.get_ptr(agent) else { return false };
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*entry).flags) & LEARN != 0 }
}

/// Counts and reports a refusal; gives `errno` back.
#[inline(always)]
pub fn refuse(agent: u64, why: Why, hook: Hook, family: u16, errno: i32) -> i32 {
    let mut denial = by_current(denial(agent, why, hook));
    denial.family = u32::from(family);
    report(&denial, hook);
    errno
}
