//! `cgroup_skb/ingress`: nothing from outside reaches a governed socket; on loopback, only the daemon's answers and the
//! same agent, and whoever connects to a port that a rule names.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use caracal_common::denial::{Hook, Why};

use crate::decide::{LOOPBACK_DEVICE, inbound, is_listeners, is_loopback, lease, settings};
use crate::packet::{Packet, Peer, TCP, agent_of, asks, peer, read};
use crate::refuse::{count, denial, report};

#[cgroup_skb]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    let mut packet = Packet::unread();
    let mut agent = 0;
    let Err(why) = decide(&ctx, &mut packet, &mut agent) else { return 1 };
    let mut denial = denial(agent, why, Hook::Ingress);
    denial.addr = packet.from;
    denial.port = packet.from_port;
    denial.protocol = u16::from(packet.protocol);
    report(&denial, Hook::Ingress);
    0
}

#[inline(always)]
fn decide(ctx: &SkBuffContext, packet: &mut Packet, whose: &mut u64) -> Result<(), Why> {
    let Some((agent, level)) = agent_of(ctx) else { return Err(Why::UnknownAgent) };
    *whose = agent;
    if !read(ctx, packet) {
        return Err(Why::Inbound);
    }
    // What the loopback device brings was sent in this namespace, whatever address it carries.
    // SAFETY: the context is the hook's own.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    let opened = packet.protocol == TCP && device == LOOPBACK_DEVICE && inbound(agent, packet.to_port);
    if packet.protocol == 0 || !(is_loopback(&packet.from) || opened) {
        return Err(Why::Inbound);
    }
    let settings = settings()?;
    if is_listeners(&packet.from) && (packet.from_port == settings.tcp_port || packet.from_port == settings.dns_port) {
        return Ok(());
    }
    match peer(ctx, packet, false, agent, level) {
        Peer::Same => Ok(()),
        Peer::Nobody if packet.protocol == TCP => Ok(()),
        Peer::Other if opened => admit(ctx, packet, agent),
        Peer::Other | Peer::Nobody => Err(Why::Inbound),
    }
}

/// A connection to a port that a rule names; counted once, when it is asked for.
#[inline(always)]
fn admit(ctx: &SkBuffContext, packet: &Packet, agent: u64) -> Result<(), Why> {
    lease()?;
    if asks(ctx, packet) {
        count(agent, 0, Hook::Ingress);
    }
    Ok(())
}
