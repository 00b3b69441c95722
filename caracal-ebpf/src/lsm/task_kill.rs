//! `task_kill(task, info, signal, cred)`: signals stay within the agent. Signal 0 only asks whether a process is there.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::{NOT_PERMITTED, cgroup_of, governed, owner_of, refuse};

#[lsm(hook = "task_kill")]
pub fn lsm_task_kill(ctx: LsmContext) -> i32 {
    let signal: i32 = ctx.arg(2);
    if signal == 0 {
        return 0;
    }
    let Some(agent) = governed() else { return 0 };
    let task: u64 = ctx.arg(0);
    if owner_of(cgroup_of(task)) == agent {
        return 0;
    }
    refuse(agent, Why::Signal, Hook::TaskKill, 0, NOT_PERMITTED)
}
