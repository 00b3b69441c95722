//! Reads as much of a packet's headers as egress and ingress decide on, and finds the socket at its other end.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::generated::{
    bpf_sk_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_ancestor_cgroup_id,
    bpf_skb_load_bytes,
};
use aya_ebpf::programs::SkBuffContext;
use caracal_common::settings::MAX_LEVEL;

use crate::decide::{admitted, is_v4};

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// The hop-by-hop header's number (RFC 8200).
const HOP_BY_HOP: u8 = 0;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// `BPF_F_CURRENT_NETNS`.
const THIS_NETNS: u64 = u64::MAX;

/// A packet's addresses and ports.
pub struct Packet {
    /// Source address.
    pub from: [u8; 16],
    /// Destination address.
    pub to: [u8; 16],
    /// Source port, host byte order.
    pub from_port: u16,
    /// Destination port, host byte order.
    pub to_port: u16,
    /// IP protocol; 0 for an IPv6 packet with other extension headers than hop-by-hop, and for fragments: nothing that a
    /// governed socket needs.
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport: u32,
}

impl Packet {
    /// Nothing read yet; both addresses as IPv4's are kept.
    #[inline(always)]
    pub fn unread() -> Packet {
        let mut any = [0u8; 16];
        any[10] = 0xff;
        any[11] = 0xff;
        Packet { from: any, to: any, from_port: 0, to_port: 0, protocol: 0, transport: 0 }
    }
}

/// Reads the headers straight into `packet`: copies would not fit the 512 bytes of stack. False: they cannot be read.
#[inline(always)]
pub fn read(ctx: &SkBuffContext, packet: &mut Packet) -> bool {
    let mut first = [0u8; 1];
    let mut ports = [0u16; 2];
    if !load(ctx, 0, &mut first) {
        return false;
    }
    let mut next = [0u8; 1];
    let mut transport;
    if first[0] >> 4 == 4 {
        let mut fragment = [0u8; 2];
        let (Some(from), Some(to)) = (packet.from.last_chunk_mut::<4>(), packet.to.last_chunk_mut::<4>()) else {
            return false;
        };
        if !(load(ctx, 6, &mut fragment) && load(ctx, 9, &mut next) && load(ctx, 12, from) && load(ctx, 16, to)) {
            return false;
        }
        if (fragment[0] & 0x1f) | fragment[1] != 0 {
            next[0] = 0;
        }
        transport = u32::from(first[0] & 0x0f) * 4;
    } else {
        if !(load(ctx, 6, &mut next) && load(ctx, 8, &mut packet.from) && load(ctx, 24, &mut packet.to)) {
            return false;
        }
        transport = 40;
        // A segment beyond 64 KiB, which loopback has (BIG TCP, Linux 5.19), carries a jumbo option in a hop-by-hop
        // header; the transport header stands behind it.
        if next[0] == HOP_BY_HOP {
            let mut extension = [0u8; 2];
            if !load(ctx, 40, &mut extension) {
                return false;
            }
            next[0] = extension[0];
            transport += (u32::from(extension[1]) + 1) * 8;
        }
    }
    if next[0] == TCP || next[0] == UDP {
        if !load(ctx, transport, &mut ports) {
            return false;
        }
        packet.protocol = next[0];
        packet.transport = transport;
    }
    packet.from_port = u16::from_be(ports[0]);
    packet.to_port = u16::from_be(ports[1]);
    true
}

/// Whether a TCP packet asks for a connection: SYN without ACK (RFC 9293, 3.1). One that cannot be read does.
#[inline(always)]
pub fn asks(ctx: &SkBuffContext, packet: &Packet) -> bool {
    let mut flags = [0u8; 1];
    !load(ctx, packet.transport + 13, &mut flags) || flags[0] & 0x12 == 0x02
}

/// Copies packet bytes from `offset` into `into`.
#[inline(always)]
fn load<T>(ctx: &SkBuffContext, offset: u32, into: &mut T) -> bool {
    // SAFETY: the context is the hook's own; `into` is as long as said and takes any bytes.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, core::ptr::from_mut(into).cast(), size_of::<T>() as u32) == 0 }
}

/// The agent whose socket sent or receives the packet, and the depth of its cgroup.
#[inline(always)]
pub fn agent_of(ctx: &SkBuffContext) -> Option<(u64, u32)> {
    let mut found = None;
    let mut level = 1;
    while level <= MAX_LEVEL {
        // SAFETY: the context is the hook's own; a level below the socket's cgroup reads 0.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) };
        if id == 0 {
            break;
        }
        if admitted(id, level) {
            found = Some((id, level));
        }
        level += 1;
    }
    found
}

/// Who is at the other end of a loopback packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A socket of the same agent.
    Same,
    /// Somebody else's socket.
    Other,
    /// No socket: it is closed, or nobody listens.
    Nobody,
}

/// Looks up the socket at `(near, near_port)` that talks with `(far, far_port)` and says whose it is.
#[inline(always)]
pub fn peer(ctx: &SkBuffContext, packet: &Packet, receiver: bool, agent: u64, level: u32) -> Peer {
    let (near, near_port, far, far_port) = if receiver {
        (&packet.to, packet.to_port, &packet.from, packet.from_port)
    } else {
        (&packet.from, packet.from_port, &packet.to, packet.to_port)
    };
    let word = |a: &[u8; 16], i: usize| u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]);
    // SAFETY: all zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(near) {
        tuple.__bindgen_anon_1.ipv4.saddr = word(far, 12);
        tuple.__bindgen_anon_1.ipv4.daddr = word(near, 12);
        tuple.__bindgen_anon_1.ipv4.sport = far_port.to_be();
        tuple.__bindgen_anon_1.ipv4.dport = near_port.to_be();
        12
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = [word(far, 0), word(far, 4), word(far, 8), word(far, 12)];
        tuple.__bindgen_anon_1.ipv6.daddr = [word(near, 0), word(near, 4), word(near, 8), word(near, 12)];
        tuple.__bindgen_anon_1.ipv6.sport = far_port.to_be();
        tuple.__bindgen_anon_1.ipv6.dport = near_port.to_be();
        36
    };
    // SAFETY: the context is the hook's own; the tuple is as long as said.
    let sk = unsafe {
        if packet.protocol == TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size, THIS_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, size, THIS_NETNS, 0)
        }
    };
    if sk.is_null() {
        return Peer::Nobody;
    }
    // SAFETY: the lookup holds the socket until it is released.
    let owner = unsafe { bpf_sk_ancestor_cgroup_id(sk.cast(), level as i32) };
    // SAFETY: gives back what the lookup took.
    unsafe { bpf_sk_release(sk.cast()) };
    if owner == agent { Peer::Same } else { Peer::Other }
}
