//! Which loopback ports of an agent others on the host may connect to.

/// Key of the map of inbound rules: whose port, and which.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inbound {
    /// Cgroup id of the agent.
    pub agent: u64,
    /// The local TCP port, host byte order.
    pub port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

/// Rules at once, for all agents.
pub const MAX_INBOUND: u32 = 16_384;

const _: () = assert!(size_of::<Inbound>() == 16);
