//! The one road to "no": counts it, and tells the daemon if it listens.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_set_retval};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use caracal_common::counter::CounterKey;
use caracal_common::denial::{Denial, Hook, Why};
use caracal_common::flow::Flow;

use crate::log::debug;
use crate::maps::{COUNTERS, DENIALS};

/// 1 where the kernel has `bpf_set_retval` (5.18). Set by the loader before the programs are verified: the verifier
/// never looks at a branch that a constant closes.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 0;

/// 1 where every cgroup hook may ask who the current task is (6.1); `setsockopt` may not before.
#[unsafe(no_mangle)]
static HAS_CURRENT_TASK: u32 = 0;

/// `ECONNREFUSED`.
const REFUSED: i32 = -111;

/// Counts one event of `why` (0: a redirect) at `hook` for `agent`.
#[inline(always)]
pub fn count(agent: u64, why: u32, hook: Hook) {
    let key = CounterKey { agent, why, hook: hook as u32 };
    if let Some(counter) = COUNTERS.get_ptr_mut(key) {
        // SAFETY: the entry is a u64 of a preallocated map; the atomic add is BPF's own.
        unsafe { add_one(counter) };
        return;
    }
    // Two CPUs may both find it absent: NOEXIST keeps the first, and the loser adds.
    if COUNTERS.insert(key, 1u64, 1).is_err()
        && let Some(counter) = COUNTERS.get_ptr_mut(key)
    {
        // SAFETY: as above.
        unsafe { add_one(counter) };
    }
}

/// A denial as the ring carries it, before the hook fills in what it knows.
#[inline(always)]
pub fn denial(agent: u64, why: Why, hook: Hook) -> Denial {
    Denial {
        agent,
        // SAFETY: takes nothing and cannot fail.
        at_ns: unsafe { bpf_ktime_get_ns() },
        why: why as u32,
        hook: hook as u32,
        ..Denial::default()
    }
}

/// Adds who the current task is. For hooks that run in the caller's context.
#[inline(always)]
pub fn by_current(mut denial: Denial) -> Denial {
    denial.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    denial.uid = bpf_get_current_uid_gid() as u32;
    denial.comm = bpf_get_current_comm().unwrap_or_default();
    denial
}

/// Whether a `setsockopt` hook may ask for the current task.
#[inline(always)]
pub fn has_current_task() -> bool {
    // SAFETY: a read of a global that the loader has set.
    unsafe { core::ptr::read_volatile(&raw const HAS_CURRENT_TASK) == 1 }
}

/// Adds who made the socket, where the kernel does not say who uses it.
#[inline(always)]
pub fn by_owner(mut denial: Denial, owner: &Flow) -> Denial {
    denial.agent = owner.agent;
    denial.tgid = owner.tgid;
    denial.uid = owner.uid;
    denial.comm = owner.comm;
    denial
}

/// Counts the denial exactly; the ring may drop its detail.
#[inline(always)]
pub fn report(denial: &Denial, hook: Hook) {
    count(denial.agent, denial.why, hook);
    let _ = DENIALS.output::<Denial>(denial, 0);
    // Without the LSM's programs: nobody has tried whether a line fits them on each kernel.
    if (hook as u32) < (Hook::SocketCreate as u32) {
        debug!(
            "hook {} refuses, why {}: {:i} port {}, pid {}",
            denial.hook, denial.why, denial.addr, denial.port, denial.tgid
        );
    }
}

/// What a connect or sendmsg hook returns to refuse: the caller reads ECONNREFUSED where the kernel can say so, else EPERM.
#[inline(always)]
pub fn refused<C: EbpfContext>(_ctx: &C) -> i32 {
    // SAFETY: a read of a global that the loader has set.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } == 1 {
        // SAFETY: valid in every cgroup hook of a kernel that has it.
        unsafe { bpf_set_retval(REFUSED) };
    }
    0
}

/// An atomic add: one instruction that Rust's BPF target has no method for.
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    // SAFETY: the caller gives an aligned, live counter.
    unsafe { core::arch::asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64) };
}
