//! `cgroup/bind4` and `cgroup/bind6`: no governed socket takes a port of the daemon's, on any address and not while the
//! daemon is away either: it could not come back, and its listener would be somebody else's.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use caracal_common::denial::{Hook, Why};

use crate::connect::{asked_port, asked4, asked6};
use crate::decide::{current_agent, settings};
use crate::refuse::{by_current, denial, report};

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    let addr = asked4(&ctx);
    answer(&ctx, addr)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    let addr = asked6(&ctx);
    answer(&ctx, addr)
}

#[inline(always)]
fn answer(ctx: &SockAddrContext, addr: [u8; 16]) -> i32 {
    let port = asked_port(ctx);
    let why = match settings() {
        Ok(settings) if port != settings.tcp_port && port != settings.dns_port => return 1,
        Ok(_) => Why::DaemonPort,
        Err(why) => why,
    };
    let mut denial = by_current(denial(current_agent().unwrap_or(0), why, Hook::Bind));
    denial.addr = addr;
    denial.port = port;
    report(&denial, Hook::Bind);
    0
}
