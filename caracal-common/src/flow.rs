//! What the kernel remembers of a redirected connection.

/// `AF_INET` as the kernel numbers it.
pub const AF_INET: u16 = 2;
/// `AF_INET6` as the kernel numbers it.
pub const AF_INET6: u16 = 10;
/// The port of name servers (RFC 1035 4.2): what is sent there goes to the daemon's resolver.
pub const DNS_PORT: u16 = 53;

/// Length of a task's name, with its terminating NUL (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// The original destination of a connect and the identity of the task that made it. Keyed by the socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Cgroup id of the agent: the governed directory that the caller is in or below.
    pub agent: u64,
    /// Cgroup id of the caller itself.
    pub cgroup: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// `CLOCK_MONOTONIC` at the connect, nanoseconds.
    pub at_ns: u64,
    /// The address that the caller asked for; an IPv4 address stands in the last four bytes behind `::ffff:`.
    pub addr: [u8; 16],
    /// The port that the caller asked for, host byte order.
    pub port: u16,
    /// [`AF_INET`] or [`AF_INET6`]: the family of the socket, not of the address (a v4-mapped address has the latter).
    pub family: u16,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Zero.
    pub pad: u32,
    /// Task name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

/// Where a redirected connection comes from, as the daemon's listener sees it. Keys the map from tuple to cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Source address; an IPv4 address stands in the last four bytes behind `::ffff:`.
    pub addr: [u8; 16],
    /// Source port, host byte order.
    pub port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<Flow>() == 88 && align_of::<Flow>() == 8);
const _: () = assert!(size_of::<Source>() == 32);
