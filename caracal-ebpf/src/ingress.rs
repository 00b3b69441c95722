//! `cgroup_skb/ingress`: nothing from outside reaches a governed socket; on loopback, only the daemon's answers and the
//! same agent.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use caracal_common::denial::{Hook, Why};

use crate::decide::{is_listeners, is_loopback, settings};
use crate::packet::{Packet, Peer, TCP, agent_of, peer, read};
use crate::refuse::{denial, report};

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
    if packet.protocol == 0 || !is_loopback(&packet.from) {
        return Err(Why::Inbound);
    }
    let settings = settings()?;
    if is_listeners(&packet.from) && (packet.from_port == settings.tcp_port || packet.from_port == settings.dns_port) {
        return Ok(());
    }
    match peer(ctx, packet, false, agent, level) {
        Peer::Same => Ok(()),
        Peer::Nobody if packet.protocol == TCP => Ok(()),
        Peer::Other | Peer::Nobody => Err(Why::Inbound),
    }
}
