//! Pinned counters: what the kernel did while nobody, or somebody, listened.

/// Key of a counter: who, why and where.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CounterKey {
    /// Cgroup id of the agent, 0 if unknown.
    pub agent: u64,
    /// A [`crate::denial::Why`] as its number, or 0 for connections redirected.
    pub why: u32,
    /// A [`crate::denial::Hook`] as its number.
    pub hook: u32,
}

const _: () = assert!(size_of::<CounterKey>() == 16);
