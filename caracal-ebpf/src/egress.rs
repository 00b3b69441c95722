//! `cgroup_skb/egress`: the backstop. A governed socket's packet goes to the daemon, to the same agent, or nowhere.
//!
//! It catches what no connect hook saw: sockets connected before the cgroup was attached, and datagrams of connected
//! sockets.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_fullsock};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::flow::{Flow, Source};

use crate::decide::{
    LOOPBACK_DEVICE, inbound, is_listeners, is_loopback, is_v4, lease, listened, settings, socket_flow,
};
use crate::maps::RESOLVING;
use crate::packet::{Packet, Peer, TCP, UDP, agent_of, asks, peer, read};
use crate::refuse::{denial, report};

#[cgroup_skb]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let mut packet = Packet::unread();
    let mut agent = 0;
    let Err(why) = decide(&ctx, &mut packet, &mut agent) else { return 1 };
    let mut denial = denial(agent, why, Hook::Egress);
    denial.addr = packet.to;
    denial.port = packet.to_port;
    denial.protocol = u16::from(packet.protocol);
    report(&denial, Hook::Egress);
    0
}

#[inline(always)]
fn decide(ctx: &SkBuffContext, packet: &mut Packet, whose: &mut u64) -> Result<(), Why> {
    let Some((agent, level)) = agent_of(ctx) else { return Err(Why::UnknownAgent) };
    *whose = agent;
    if !read(ctx, packet) {
        return Err(Why::Packet);
    }
    let why = if packet.protocol == UDP { Why::Datagram } else { Why::Packet };
    // A loopback address is not enough: a socket bound to a network card sends there what it addresses to 127.0.0.1.
    // SAFETY: the context is the hook's own.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    if packet.protocol == 0 || device != LOOPBACK_DEVICE {
        return Err(why);
    }
    let settings = settings()?;
    // From an address that is a card's, or nobody's here, the answer would be routed to wherever that address is.
    let from_here = is_loopback(&packet.from);
    if from_here && is_listeners(&packet.to) {
        if packet.to_port == settings.dns_port && packet.protocol == UDP {
            lease()?;
            return resolving(ctx, packet);
        }
        if packet.protocol == TCP && (packet.to_port == settings.tcp_port || packet.to_port == settings.dns_port) {
            let _ = redirected(ctx, why)?;
            return lease();
        }
    }
    // The answers of a port that others may connect to. A rule opens it for being asked, never for asking.
    let opened = packet.protocol == TCP && inbound(agent, packet.from_port) && !asks(ctx, packet);
    if !(from_here && is_loopback(&packet.to) || opened) {
        return Err(why);
    }
    // A broadcast reaches every socket of the port that has no address, whoever is found for this one.
    if packet.protocol == UDP && is_v4(&packet.to) && matches!(packet.to[15], 0 | 255) {
        return Err(why);
    }
    match peer(ctx, packet, true, agent, level) {
        Peer::Same => Ok(()),
        Peer::Other if opened => lease(),
        // A reset from nobody is the honest answer to a connect, and carries nothing.
        Peer::Nobody if packet.protocol == TCP => Ok(()),
        Peer::Other | Peer::Nobody => Err(if packet.protocol == UDP { Why::Datagram } else { Why::Loopback }),
    }
}

/// How long a source port that has sent a query is its agent's, nanoseconds. A query that the daemon has not read yet is known
/// by its port alone; it is read long before, or the lease has shut the door.
const KEEPS_PORT_NS: u64 = 2_000_000_000;

/// Writes down whose query this is: a datagram's source port is known only now.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would not fit the stack")]
fn resolving(ctx: &SkBuffContext, packet: &Packet) -> Result<(), Why> {
    let flow = redirected(ctx, Why::Datagram)?;
    // SAFETY: as `redirected` says.
    let (netns, agent) = unsafe { ((*flow).netns, (*flow).agent) };
    let source = Source { netns, addr: packet.from, port: packet.from_port, pad: [0; 6] };
    // SAFETY: takes nothing and cannot fail.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(before) = RESOLVING.get_ptr(&source) {
        // SAFETY: not null; an entry that makes room for another meanwhile reads as that one's, which is refused.
        let (other, at) = unsafe { ((*before).agent, (*before).at_ns) };
        if other != agent && now < at + KEEPS_PORT_NS {
            return Err(Why::Datagram);
        }
    }
    // The hook that redirected it may have run long ago: from now on the port is this agent's.
    // SAFETY: as `redirected` says; whoever writes it writes the time.
    let flow = unsafe {
        (*flow).at_ns = now;
        &*flow
    };
    RESOLVING.insert(&source, flow, 0).map_err(|_| Why::MapFull)
}

/// What the sending socket asked for, if a hook sent it to the daemon from a namespace that has the daemon's listener
/// still: in another one, the same address and port are somebody else's. It lives as long as the socket, which the packet
/// holds. A pointer: a copy would not fit the 512 bytes of stack.
#[inline(always)]
fn redirected(ctx: &SkBuffContext, otherwise: Why) -> Result<*mut Flow, Why> {
    // SAFETY: the context is the hook's own.
    let sk: *mut bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return Err(otherwise);
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    let Some(flow) = socket_flow(sk.cast()) else { return Err(otherwise) };
    // SAFETY: the storage lives as long as the socket.
    let (port, netns) = unsafe { ((*flow).port, (*flow).netns) };
    if port == 0 {
        return Err(otherwise);
    }
    if listened(netns) { Ok(flow) } else { Err(Why::UnknownNamespace) }
}
