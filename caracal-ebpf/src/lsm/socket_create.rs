//! `socket_create(family, type, protocol, kern)`: TCP/IP families, whose sockets the cgroup hooks see; unix sockets; and the
//! netlink family that tells addresses. The call with the canary's protocol number answers the keeper that these programs run.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::sockets::{INET, INET6, NETLINK, ROUTE, UNIX};
use super::{NOT_PERMITTED, governed, refuse};
use crate::memory::layout;

/// `ENOANO`: no socket call gives it.
const CANARY_ANSWER: i32 = -55;

#[lsm(hook = "socket_create")]
pub fn lsm_socket_create(ctx: LsmContext) -> i32 {
    let (family, protocol, kernel): (i32, i32, i32) = (ctx.arg(0), ctx.arg(2), ctx.arg(3));
    if kernel != 0 {
        return 0;
    }
    if protocol as u32 == layout!(canary) {
        return CANARY_ANSWER;
    }
    let Some(agent) = governed() else { return 0 };
    match family as u16 {
        UNIX | INET | INET6 => 0,
        NETLINK if protocol == i32::from(ROUTE) => 0,
        family => refuse(agent, Why::SocketFamily, Hook::SocketCreate, family, NOT_PERMITTED),
    }
}
