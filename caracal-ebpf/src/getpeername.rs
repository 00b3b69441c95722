//! `cgroup/getpeername4` and `cgroup/getpeername6`: the agent sees the peer that it asked for.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use caracal_common::flow::Flow;
use core::mem::offset_of;

use crate::connect::{PORT, flow_of, set_words};
use crate::context::set_word;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(flow) = flow_of(&ctx) {
        show(&ctx, flow, false);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(flow) = flow_of(&ctx) {
        show(&ctx, flow, true);
    }
    1
}

/// Writes the address that `flow` asked for into what the caller reads.
#[inline(always)]
pub fn show(ctx: &SockAddrContext, flow: &Flow, v6: bool) {
    let a = &flow.addr;
    let word = |i: usize| u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]);
    let sa = ctx.sock_addr;
    // SAFETY: the context is the hook's own; these fields are writable here, word by word.
    unsafe {
        if v6 {
            set_words(sa, [word(0), word(4), word(8), word(12)]);
        } else {
            set_word::<{ offset_of!(bpf_sock_addr, user_ip4) }, _>(sa, word(12));
        }
        set_word::<PORT, _>(sa, u32::from(flow.port.to_be()));
    }
}
