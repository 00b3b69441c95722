//! A process's memory as procfs shows it: the environment, the auxiliary vector, the mappings. Newer kernels (seen on 7.2, not
//! on 6.12) show them to who has CAP_PERFMON or CAP_SYS_ADMIN and do not ask `ptrace_access_check` (`may_access_mm` of
//! kernel/fork.c). What `ps` reads of every process, such as `stat` and `cmdline`, is nobody's secret and is not looked at.

use super::{cgroup_of, owner_of};
use crate::memory::{layout, word64};

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC: u64 = 0x9fa0;

/// Whether the file (`struct file`), which is being opened, shows the memory of a process that is not of this agent.
#[inline(always)]
pub fn shows_memory_of_others(file: u64, agent: u64) -> bool {
    let inode = word64(file, layout!(file_inode));
    if word64(word64(inode, layout!(inode_super)), layout!(super_magic)) != PROC {
        return false;
    }
    if !shows_memory(word64(word64(file, layout!(file_dentry)), layout!(dentry_name))) {
        return false;
    }
    // The inode lies within a `proc_inode`. A file that is of no process has no `pid` there.
    let pid = word64(inode - u64::from(layout!(proc_inode)), layout!(proc_pid));
    let link = word64(pid, layout!(pid_tasks));
    if pid == 0 || link == 0 {
        // Nor has one whose process has ended: the kernel shows nothing.
        return false;
    }
    let task = link - u64::from(layout!(task_pid_links));
    owner_of(cgroup_of(task)) != agent
}

/// Whether a file of this name (an address) does: `tid_base_stuff` of fs/proc/base.c, what opens by `proc_mem_open` or
/// `mm_access` to read. `mem` itself asks in any case.
#[inline(always)]
fn shows_memory(name: u64) -> bool {
    // Names are at most the dentry's own 32 bytes or more, of which what stands behind the zero is anything.
    let name = word64(name, 0);
    begins(name, b"environ\0")
        || begins(name, b"auxv\0")
        || begins(name, b"maps\0")
        || begins(name, b"smaps\0")
        || begins(name, b"smaps_ro")
        || begins(name, b"numa_map")
        || begins(name, b"pagemap\0")
}

/// Whether these bytes of memory, taken as one number, begin so; at most eight.
#[inline(always)]
fn begins<const N: usize>(word: u64, with: &[u8; N]) -> bool {
    let mut bytes = [0; 8];
    let mut at = 0;
    while at < N && at < 8 {
        bytes[at] = with[at];
        at += 1;
    }
    let beyond = 64 - 8 * N as u32;
    (word ^ u64::from_le_bytes(bytes)) << beyond == 0
}
