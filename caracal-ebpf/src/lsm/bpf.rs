//! `bpf(command, attributes, size)`: no governed task loads, reads, attaches or detaches anything of BPF.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::{NOT_PERMITTED, governed, refuse};

#[lsm(hook = "bpf")]
pub fn lsm_bpf(ctx: LsmContext) -> i32 {
    let _ = ctx;
    let Some(agent) = governed() else { return 0 };
    refuse(agent, Why::BpfCall, Hook::Bpf, 0, NOT_PERMITTED)
}
