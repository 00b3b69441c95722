//! `cgroup/recvmsg4` and `cgroup/recvmsg6`: an answer of our resolver seems to come from the one that was asked.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::connect::{asked_port, asked4, asked6, flow_of};
use crate::decide::{is_loopback, settings};
use crate::getpeername::show;

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let addr = asked4(&ctx);
    restore(&ctx, &addr, false)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let addr = asked6(&ctx);
    restore(&ctx, &addr, true)
}

#[inline(always)]
fn restore(ctx: &SockAddrContext, from: &[u8; 16], v6: bool) -> i32 {
    if let (Ok(settings), Some(flow)) = (settings(), flow_of(ctx))
        && is_loopback(from)
        && asked_port(ctx) == settings.dns_port
    {
        show(ctx, flow, v6);
    }
    1
}
