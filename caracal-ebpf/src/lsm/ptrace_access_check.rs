//! `ptrace_access_check(child, mode)`: ptrace, `/proc/PID/mem`, process_vm_writev, pidfd_getfd, the namespaces and open files of
//! others: nothing of a process outside of the agent. A look that asks not to be audited is refused without a word: `ps` takes
//! one at every process.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::{NOT_PERMITTED, cgroup_of, governed, owner_of, refuse};

/// `PTRACE_MODE_NOAUDIT`.
const NO_AUDIT: u32 = 4;

#[lsm(hook = "ptrace_access_check")]
pub fn lsm_ptrace_access_check(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let (child, mode): (u64, u32) = (ctx.arg(0), ctx.arg(1));
    if owner_of(cgroup_of(child)) == agent {
        return 0;
    }
    if mode & NO_AUDIT != 0 {
        return NOT_PERMITTED;
    }
    refuse(agent, Why::Trace, Hook::PtraceAccessCheck, 0, NOT_PERMITTED)
}
