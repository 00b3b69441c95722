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
    /// A device by which bytes leave without a socket.
    Device = 15,
    /// A socket family that no policy could see.
    SocketFamily = 32,
    /// A listen on a socket without an address.
    ListenUnbound = 34,
    /// A unix socket of somebody outside of the agent.
    UnixPeer = 35,
    /// The same, let through because the agent is learning.
    UnixPeerLearned = 36,
    /// A write to a cgroup outside of the agent's own.
    CgroupWrite = 37,
    /// A look into, or a hand on, a process outside of the agent.
    Trace = 38,
    /// A use of the `bpf` system call.
    BpfCall = 39,
    /// The daemon's own files, keys, pins or program.
    Property = 40,
    /// A signal to a process outside of the agent.
    Signal = 41,
}

impl Why {
    /// Every reason, in the order of its number.
    pub const ALL: [Why; 24] = [
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
        Why::Device,
        Why::SocketFamily,
        Why::ListenUnbound,
        Why::UnixPeer,
        Why::UnixPeerLearned,
        Why::CgroupWrite,
        Why::Trace,
        Why::BpfCall,
        Why::Property,
        Why::Signal,
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
            Why::Device => "device_refused",
            Why::SocketFamily => "socket_family_refused",
            Why::ListenUnbound => "listen_unbound_refused",
            Why::UnixPeer => "unix_peer_refused",
            Why::UnixPeerLearned => "unix_peer_learned",
            Why::CgroupWrite => "cgroup_write_refused",
            Why::Trace => "trace_refused",
            Why::BpfCall => "bpf_refused",
            Why::Property => "daemon_property_refused",
            Why::Signal => "signal_refused",
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
    /// `cgroup/dev`.
    Device = 8,
    /// The LSM's `socket_create`.
    SocketCreate = 32,
    /// The LSM's `socket_listen`.
    SocketListen = 33,
    /// The LSM's `socket_connect`.
    SocketConnect = 34,
    /// The LSM's `socket_accept`.
    SocketAccept = 35,
    /// The LSM's `socket_sendmsg`.
    SocketSendmsg = 36,
    /// The LSM's `socket_recvmsg`.
    SocketRecvmsg = 37,
    /// The LSM's `file_receive`.
    FileReceive = 38,
    /// The LSM's `file_permission`.
    FilePermission = 39,
    /// The LSM's `unix_stream_connect`.
    UnixStreamConnect = 40,
    /// The LSM's `unix_may_send`.
    UnixMaySend = 41,
    /// The LSM's `inode_permission`.
    InodePermission = 42,
    /// The LSM's `ptrace_access_check`.
    PtraceAccessCheck = 43,
    /// The LSM's `bpf`.
    Bpf = 44,
    /// The LSM's `file_open`.
    FileOpen = 45,
    /// The LSM's `inode_unlink`.
    InodeUnlink = 46,
    /// The LSM's `inode_rename`.
    InodeRename = 47,
    /// The LSM's `inode_link`.
    InodeLink = 48,
    /// The LSM's `inode_setattr`.
    InodeSetattr = 49,
    /// The LSM's `sb_umount`.
    SbUmount = 50,
    /// The LSM's `task_kill`.
    TaskKill = 51,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Hook; 28] = [
        Hook::Connect,
        Hook::Sendmsg,
        Hook::SockCreate,
        Hook::Egress,
        Hook::Ingress,
        Hook::Bind,
        Hook::Setsockopt,
        Hook::Device,
        Hook::SocketCreate,
        Hook::SocketListen,
        Hook::SocketConnect,
        Hook::SocketAccept,
        Hook::SocketSendmsg,
        Hook::SocketRecvmsg,
        Hook::FileReceive,
        Hook::FilePermission,
        Hook::UnixStreamConnect,
        Hook::UnixMaySend,
        Hook::InodePermission,
        Hook::PtraceAccessCheck,
        Hook::Bpf,
        Hook::FileOpen,
        Hook::InodeUnlink,
        Hook::InodeRename,
        Hook::InodeLink,
        Hook::InodeSetattr,
        Hook::SbUmount,
        Hook::TaskKill,
    ];

    /// The hook with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| *hook as u32 == number)
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
            Hook::Device => "device",
            Hook::SocketCreate => "socket_create",
            Hook::SocketListen => "socket_listen",
            Hook::SocketConnect => "socket_connect",
            Hook::SocketAccept => "socket_accept",
            Hook::SocketSendmsg => "socket_sendmsg",
            Hook::SocketRecvmsg => "socket_recvmsg",
            Hook::FileReceive => "file_receive",
            Hook::FilePermission => "file_permission",
            Hook::UnixStreamConnect => "unix_stream_connect",
            Hook::UnixMaySend => "unix_may_send",
            Hook::InodePermission => "inode_permission",
            Hook::PtraceAccessCheck => "ptrace_access_check",
            Hook::Bpf => "bpf",
            Hook::FileOpen => "file_open",
            Hook::InodeUnlink => "inode_unlink",
            Hook::InodeRename => "inode_rename",
            Hook::InodeLink => "inode_link",
            Hook::InodeSetattr => "inode_setattr",
            Hook::SbUmount => "sb_umount",
            Hook::TaskKill => "task_kill",
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
    /// Socket family, for `sock_create` and the LSM's socket hooks.
    pub family: u32,
    /// Task name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

/// A refusal that has a name: a unix socket's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NamedDenial {
    /// Who, why and where.
    pub denial: Denial,
    /// The name as bound, zeros behind it; an abstract one begins with a zero.
    pub name: [u8; crate::unix::NAME_LEN],
}

const _: () = assert!(size_of::<Denial>() == 72);
const _: () = assert!(size_of::<NamedDenial>() == 72 + crate::unix::NAME_LEN);
