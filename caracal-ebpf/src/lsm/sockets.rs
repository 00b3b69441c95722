//! Which sockets a governed task may use: its agent's own, of the families that policy can see.

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use caracal_common::denial::{Hook, Why};

use super::{NOT_PERMITTED, governed, id_of, owner_of, refuse};
use crate::memory::{layout, word16, word64};

pub const UNIX: u16 = 1;
pub const INET: u16 = 2;
pub const INET6: u16 = 10;
pub const NETLINK: u16 = 16;
/// `NETLINK_ROUTE`: every getaddrinfo asks it which addresses there are.
pub const ROUTE: u16 = 0;

/// For hooks of a socket call: refuses a governed task that uses a socket which is not its own.
#[inline(always)]
pub fn use_of(socket: u64, hook: Hook) -> i32 {
    let Some(agent) = governed() else { return 0 };
    answer(agent, socket, hook)
}

/// The same when it is known whose the task is. A unix socket is decided by its peer, in hooks of its own.
#[inline(always)]
pub fn answer(agent: u64, socket: u64, hook: Hook) -> i32 {
    let sock = word64(socket, layout!(socket_sock));
    let family = word16(sock, layout!(sock_family));
    let why = match family {
        UNIX => return 0,
        NETLINK if word16(sock, layout!(sock_protocol)) == ROUTE => return 0,
        INET | INET6 if is_own(agent, sock) => return 0,
        INET | INET6 => Why::Foreign,
        _ => Why::SocketFamily,
    };
    refuse(agent, why, hook, family, NOT_PERMITTED)
}

/// Whether the socket was made in the agent's cgroup or below. A socket's cgroup is the one of the task that made it,
/// for ever.
#[inline(always)]
pub fn is_own(agent: u64, sock: u64) -> bool {
    let cgroup = cgroup_of(sock);
    if cgroup == 0 {
        return false;
    }
    // Most often the very cgroup of the task.
    // SAFETY: takes nothing and cannot fail.
    id_of(cgroup) == unsafe { bpf_get_current_cgroup_id() } || owner_of(cgroup) == agent
}

/// The `struct cgroup` of a `struct sock`; 0 where it has none. Before 5.15 the low bits say what the word is.
#[inline(always)]
fn cgroup_of(sock: u64) -> u64 {
    if sock == 0 {
        return 0;
    }
    let word = word64(sock, layout!(sock_cgroup));
    if word & 1 != 0 { 0 } else { word & !7 }
}
