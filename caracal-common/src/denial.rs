//! A refusal made in the kernel, as it travels through the ring buffer.

use crate::flow::COMM_LEN;

/// Why the kernel refused. The numbers are part of the ABI; the codes are what people read.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The lease ran out: the daemon is dead, hung, or was never there.
    LeaseExpired = 1,
    /// The caller is in no cgroup that the daemon knows.
    UnknownAgent = 2,
    /// The network namespace has no listener of the daemon's.
    UnknownNamespace = 3,
    /// A map was full.
    MapFull = 4,
    /// A datagram to anything but the resolver.
    Datagram = 5,
    /// A socket family, type or protocol that is not TCP or UDP over IP.
    SocketKind = 6,
    /// A packet that no redirect accounts for.
    Packet = 7,
    /// A loopback peer that is not this agent's.
    Loopback = 8,
    /// A packet from outside.
    Inbound = 9,
    /// The settings map is empty or of another version.
    NotConfigured = 10,
    /// A port that is the daemon's.
    DaemonPort = 11,
    /// A connection that was redirected and that no daemon took.
    DaemonAbsent = 12,
    /// A membership in a multicast group.
    Multicast = 13,
    /// A socket that was made outside the cgroup and that a governed process holds.
    Foreign = 14,
}

impl Why {
    /// Every reason, in the order of its number.
    pub const ALL: [Why; 14] = [
        Why::LeaseExpired,
        Why::UnknownAgent,
        Why::UnknownNamespace,
        Why::MapFull,
        Why::Datagram,
        Why::SocketKind,
        Why::Packet,
        Why::Loopback,
        Why::Inbound,
        Why::NotConfigured,
        Why::DaemonPort,
        Why::DaemonAbsent,
        Why::Multicast,
        Why::Foreign,
    ];

    /// The reason with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Why> {
        Why::ALL.into_iter().find(|why| *why as u32 == number)
    }

    /// The stable code that records, counters and messages carry.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Why::LeaseExpired => "lease_expired",
            Why::UnknownAgent => "unknown_agent",
            Why::UnknownNamespace => "unknown_namespace",
            Why::MapFull => "map_full",
            Why::Datagram => "datagram_refused",
            Why::SocketKind => "socket_kind_refused",
            Why::Packet => "packet_refused",
            Why::Loopback => "loopback_refused",
            Why::Inbound => "inbound_refused",
            Why::NotConfigured => "not_configured",
            Why::DaemonPort => "daemon_port_refused",
            Why::DaemonAbsent => "daemon_absent",
            Why::Multicast => "multicast_refused",
            Why::Foreign => "foreign_socket_refused",
        }
    }
}

/// The hook that refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `cgroup/connect4` and `cgroup/connect6`.
    Connect = 1,
    /// `cgroup/sendmsg4` and `cgroup/sendmsg6`.
    Sendmsg = 2,
    /// `cgroup/sock_create`.
    SockCreate = 3,
    /// `cgroup_skb/egress`.
    Egress = 4,
    /// `cgroup_skb/ingress`.
    Ingress = 5,
    /// `cgroup/bind4` and `cgroup/bind6`.
    Bind = 6,
    /// `cgroup/setsockopt`.
    Setsockopt = 7,
}

impl Hook {
    /// The hook with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Hook> {
        [Hook::Connect, Hook::Sendmsg, Hook::SockCreate, Hook::Egress, Hook::Ingress, Hook::Bind, Hook::Setsockopt]
            .into_iter()
            .find(|hook| *hook as u32 == number)
    }

    /// The name that records and messages carry.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Hook::Connect => "connect",
            Hook::Sendmsg => "sendmsg",
            Hook::SockCreate => "sock_create",
            Hook::Egress => "egress",
            Hook::Ingress => "ingress",
            Hook::Bind => "bind",
            Hook::Setsockopt => "setsockopt",
        }
    }
}

/// One refusal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// Cgroup id of the agent, 0 if unknown.
    pub agent: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// Destination (or, inbound, source); an IPv4 address stands in the last four bytes behind `::ffff:`.
    pub addr: [u8; 16],
    /// Port, host byte order; 0 where there is none.
    pub port: u16,
    /// IP protocol, or 0.
    pub protocol: u16,
    /// [`Why`] as its number.
    pub why: u32,
    /// [`Hook`] as its number.
    pub hook: u32,
    /// Process id, 0 where a packet has no current task.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Socket family, for `sock_create`.
    pub family: u32,
    /// Task name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Denial>() == 72);
