//! `cgroup/sock_create`: TCP and UDP over IPv4 and IPv6, and nothing else that is an IP socket.
//!
//! Every governed socket gets its owner written on it, so that a listener can be told from a stranger's.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use caracal_common::denial::{Denial, Hook, Why};

use crate::decide::{current_agent, identity, listened, remember};
use crate::maps::DENIALS;
use crate::refuse::{by_current, denial, report};

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
const TCP: u32 = 6;
const UDP: u32 = 17;

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is the hook's own.
    let (family, kind, protocol) = unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    let agent = current_agent();
    let why = match agent {
        Some(agent) if (kind == STREAM && protocol == TCP) || (kind == DGRAM && protocol == UDP) => {
            let mut owner = identity(agent);
            if remember(ctx.as_ptr(), &mut owner).is_ok() {
                announce(&ctx, agent);
                return 1;
            }
            Why::MapFull
        }
        Some(_) => Why::SocketKind,
        None => Why::UnknownAgent,
    };
    let mut denial = by_current(denial(agent.unwrap_or(0), why, Hook::SockCreate));
    denial.protocol = protocol as u16;
    denial.family = family;
    report(&denial, Hook::SockCreate);
    0
}

/// Tells the keeper of a namespace without a listener as early as can be: a connect is refused until there is one.
/// Nothing is refused here and nothing counted: `why` stays 0.
#[inline(always)]
fn announce(ctx: &SockContext, agent: u64) {
    // SAFETY: the context is the hook's own.
    if listened(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }) {
        return;
    }
    let mut notice = by_current(denial(agent, Why::UnknownNamespace, Hook::SockCreate));
    notice.why = 0;
    let _ = DENIALS.output::<Denial>(&notice, 0);
}
