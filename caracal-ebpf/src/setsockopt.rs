//! `cgroup/setsockopt`: no multicast group is joined. The kernel itself announces a membership to the network, in packets
//! of a socket that no agent owns, and the group's address would carry bytes out. And no program chooses among the sockets
//! that share a port: the other hooks ask the kernel who gets a loopback packet, which asks no such program then.

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use caracal_common::denial::{Hook, Why};
use core::mem::offset_of;

use crate::context::{set_word, word};
use crate::decide::{current_agent, socket_flow};
use crate::refuse::{by_current, by_owner, denial, has_current_task, report};

/// `SOL_SOCKET`, `SOL_IP` and `SOL_IPV6`.
const SOCKET: u32 = 1;
const IP: u32 = 0;
const IPV6: u32 = 41;
/// What the kernel copies for a program to look at: one page. A longer value must be waved through unread.
const MOST: u32 = 4096;

#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    let option = ctx.sockopt;
    // SAFETY: the context is the hook's own.
    let (level, name, length) = unsafe {
        (
            word::<{ offset_of!(bpf_sockopt, level) }, _>(option),
            word::<{ offset_of!(bpf_sockopt, optname) }, _>(option),
            word::<{ offset_of!(bpf_sockopt, optlen) }, _>(option),
        )
    };
    let why = if joins(level, name) { Why::Multicast } else { Why::Loopback };
    if why == Why::Multicast || chooses(level, name) {
        let mut denial = denial(0, why, Hook::Setsockopt);
        if has_current_task() {
            denial.agent = current_agent().unwrap_or(0);
            denial = by_current(denial);
        } else {
            // SAFETY: the context is the hook's own, and holds the socket.
            let sk = unsafe { (*option).__bindgen_anon_1.sk };
            if let Some(owner) = socket_flow(sk.cast()) {
                // SAFETY: the storage lives as long as the socket.
                denial = by_owner(denial, unsafe { &*owner });
            }
        }
        denial.protocol = name as u16;
        report(&denial, Hook::Setsockopt);
        return 0;
    }
    if length > MOST {
        // SAFETY: the context is the hook's own; 0 says that the value is the caller's, unchanged.
        unsafe { set_word::<{ offset_of!(bpf_sockopt, optlen) }, _>(option, 0) };
    }
    1
}

/// `asm-generic/socket.h`: `SO_ATTACH_REUSEPORT_CBPF`, `SO_ATTACH_REUSEPORT_EBPF`.
#[inline(always)]
fn chooses(level: u32, name: u32) -> bool {
    level == SOCKET && matches!(name, 51 | 52)
}

/// `linux/in.h`, `linux/in6.h`: memberships, filters that imply one, anycast.
#[inline(always)]
fn joins(level: u32, name: u32) -> bool {
    (level == IP && matches!(name, 35 | 39 | 41 | 42 | 46 | 48))
        || (level == IPV6 && matches!(name, 20 | 27 | 42 | 46 | 48))
}
