//! Unix sockets outside of an agent that it may reach all the same.

/// Room for a `sun_path` (108 bytes), rounded up so that a mask bounds its length.
pub const NAME_LEN: usize = 128;

/// The data of a key of the prefix map. A whole key names one socket; a shorter one all whose name begins so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixName {
    /// Cgroup id of the agent.
    pub agent: u64,
    /// The name as bound, zeros behind it; an abstract one begins with a zero.
    pub name: [u8; NAME_LEN],
}

/// The length of a key that names one socket exactly, bits.
pub const WHOLE_BITS: u32 = 8 * (8 + NAME_LEN as u32);

/// Rules of all agents at most.
pub const MAX_RULES: u32 = 16_384;

const _: () = assert!(size_of::<UnixName>() == 136);
