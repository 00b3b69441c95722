//! `cgroup_skb/egress` and `ingress` at the root of the hierarchy: the fence around sockets that governed processes hold
//! and that were made elsewhere (inherited, passed, brought along). A socket belongs to the cgroup that it was made in for
//! ever, so no program of the agent's cgroup sees it; the keeper marks it, and these drop what a marked socket sends and
//! receives. A mark on a socket that is the agent's own after all changes nothing: the agent's programs decide about it.
//!
//! They run for every socket of the host while any is marked, and let every other pass.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::settings::Foreign;

use crate::maps::FOREIGN;
use crate::packet::{Packet, read};
use crate::refuse::{denial, report};

#[cgroup_skb]
pub fn foreign_egress(ctx: SkBuffContext) -> i32 {
    let Some(agent) = holder(&ctx) else { return 1 };
    let mut packet = Packet::unread();
    let _ = read(&ctx, &mut packet);
    let mut denial = denial(agent, Why::Foreign, Hook::Egress);
    denial.addr = packet.to;
    denial.port = packet.to_port;
    denial.protocol = u16::from(packet.protocol);
    report(&denial, Hook::Egress);
    0
}

#[cgroup_skb]
pub fn foreign_ingress(ctx: SkBuffContext) -> i32 {
    let Some(agent) = holder(&ctx) else { return 1 };
    let mut packet = Packet::unread();
    let _ = read(&ctx, &mut packet);
    let mut denial = denial(agent, Why::Foreign, Hook::Ingress);
    denial.addr = packet.from;
    denial.port = packet.from_port;
    denial.protocol = u16::from(packet.protocol);
    report(&denial, Hook::Ingress);
    0
}

/// The agent that holds the packet's socket, where that socket is marked and was not made in the agent's cgroup.
#[inline(always)]
fn holder(ctx: &SkBuffContext) -> Option<u64> {
    // SAFETY: the context is the hook's own.
    let sk: *mut bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a full socket that the hook holds; a missing entry reads as null.
    let mark =
        unsafe { bpf_sk_storage_get((&raw const FOREIGN).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0) };
    if mark.is_null() {
        return None;
    }
    // SAFETY: not null, and a Foreign; the storage lives as long as the socket.
    let mark = unsafe { &*mark.cast::<Foreign>() };
    // SAFETY: the context is the hook's own; a level below the socket's cgroup reads 0.
    let made_in = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, mark.level as i32) };
    (made_in != mark.agent).then_some(mark.agent)
}
