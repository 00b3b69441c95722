//! `capable(cred, ns, cap, opts)`: an agent has no CAP_PERFMON. Whoever has it reads the environment and the mappings of any
//! process on newer kernels (seen on 7.2, not on 6.12), which then ask `ptrace_access_check` no more. What was asked for is
//! refused, or not, by whoever asks here, so there is no denial to tell.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::{NOT_PERMITTED, governed};

/// `CAP_PERFMON` of linux/capability.h.
const PERFMON: i32 = 38;

#[lsm(hook = "capable")]
pub fn lsm_capable(ctx: LsmContext) -> i32 {
    let capability: i32 = ctx.arg(2);
    // Asked of every task of the host, all the time: the number first.
    if capability == PERFMON && governed().is_some() { NOT_PERMITTED } else { 0 }
}
