//! `socket_listen(sock, backlog)`: an agent listens for itself (`cgroup_skb/ingress` lets nobody else in), on a socket of its
//! own that it has bound: a port chosen by `listen` passes no bind hook.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::sockets::{INET, INET6, answer};
use super::{NOT_PERMITTED, governed, refuse};
use crate::memory::{layout, word16, word64};

#[lsm(hook = "socket_listen")]
pub fn lsm_socket_listen(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let socket: u64 = ctx.arg(0);
    let refused = answer(agent, socket, Hook::SocketListen);
    if refused != 0 {
        return refused;
    }
    let sock = word64(socket, layout!(socket_sock));
    let family = word16(sock, layout!(sock_family));
    if (family == INET || family == INET6) && word16(sock, layout!(sock_port)) == 0 {
        return refuse(agent, Why::ListenUnbound, Hook::SocketListen, family, NOT_PERMITTED);
    }
    0
}
