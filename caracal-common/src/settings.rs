//! What the daemon tells the kernel programs.

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`crate::ABI_VERSION`]; anything else denies.
    pub abi: u32,
    /// TCP port of the daemon's listeners on 127.0.0.1 and `[::1]`, host byte order.
    pub tcp_port: u16,
    /// UDP and TCP port of the daemon's resolver on the same addresses, host byte order.
    pub dns_port: u16,
}

/// The one entry of the lease map, which user space maps into its memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// `CLOCK_MONOTONIC` in nanoseconds after which every program denies.
    pub deadline_ns: u64,
}

/// A governed cgroup: the entry's key is its cgroup id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentEntry {
    /// Depth of the cgroup below the root of its hierarchy.
    pub level: u32,
    /// 0, [`LEARN`] or [`CANARY`].
    pub flags: u32,
}

/// The agent's unix connects to the outside are reported and let through.
pub const LEARN: u32 = 1;
/// No agent: the daemon's own process is in there now and then, to be refused.
pub const CANARY: u32 = 2;

/// The mark on a socket that a process of an agent holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// The agent: its cgroup's id.
    pub agent: u64,
    /// Depth of that cgroup below the root of its hierarchy.
    pub level: u32,
    /// Zero.
    pub pad: u32,
}

/// The deepest cgroup that an agent may have.
pub const MAX_LEVEL: u32 = 16;
/// Connections that may be open or opening at once, for all agents.
pub const MAX_FLOWS: u32 = 65_536;
/// Agents that may be governed at once.
pub const MAX_AGENTS: u32 = 4_096;
/// Network namespaces with a listener.
pub const MAX_NAMESPACES: u32 = 1_024;
/// Bytes of the denial ring.
pub const DENIAL_RING_BYTES: u32 = 1 << 20;
/// Distinct counters.
pub const MAX_COUNTERS: u32 = 65_536;
