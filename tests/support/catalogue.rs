//! The ways out that are tried: one entry a mechanism, whatever address families it has. The `probe` program carries
//! them out, `tests/escape/vectors.rs` judges them, and `caracald doctor` must know each of them by the same name.
//!
//! Classes are those of the catalogue that the contract names: 1 IPv6 and mapped addresses, 2 TCP fast open, 3 MPTCP,
//! 4 UDP, 5 QUIC, 6 DNS by socket, 7 DNS by a deputy, 8 loopback relays, 9 other IP protocols, 10 link-layer sockets,
//! 11 other families, 12 inbound, 13 foreign sockets, 14 io_uring, 15 leaving the cgroup, 16 unix-socket deputies,
//! 17 helpers that start processes, 18 network namespaces, 19 cgroup v1, 20 other BPF programs, 21 detaching,
//! 22 the kernel on behalf, 23 devices, 24 store and forward, 25 exhaustion, 26 routing options, 27 what the daemon
//! reads, 28 posing as the daemon.

mod aim;
mod vectors;

pub use aim::{Aim, TOKEN, TOKEN_LENGTH, aims};
pub use vectors::VECTORS;

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// An ordinary user.
    User,
    /// Root without `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
    Root,
    /// Root of a user namespace.
    Userns,
}

impl Privilege {
    /// All of them.
    pub const ALL: [Privilege; 3] = [Privilege::User, Privilege::Root, Privilege::Userns];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Privilege::User => "user",
            Privilege::Root => "root",
            Privilege::Userns => "userns",
        }
    }

    /// The privilege with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Privilege> {
        Privilege::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Under which circumstances it is tried. The number is in every address, so that a late packet is not another phase's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// In a cgroup that nobody governs: it must leak.
    Control = 1,
    /// In a cgroup that `attach` governs.
    Attach = 2,
    /// Under `caracald run`.
    Run = 3,
    /// Ungoverned again, but judged as if it were governed: the judge must see it.
    Planted = 4,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 4] = [Phase::Control, Phase::Attach, Phase::Run, Phase::Planted];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Control => "control",
            Phase::Attach => "attach",
            Phase::Run => "run",
            Phase::Planted => "planted",
        }
    }

    /// The phase with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Where the attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In the cgroup.
    Inside,
    /// Outside; the process is moved in half-way. Has no counterpart under `run`.
    Outside,
    /// In the cgroup before anybody governs it. Has no counterpart under `run`.
    Before,
    /// In the cgroup, last of all: it tries to break the governing itself.
    Last,
}

/// What counts as getting out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// A packet with its address or its token on a cable.
    Wire,
    /// A descriptor that can carry bytes to other hosts or to the hypervisor: nothing is sent by it.
    Descriptor,
    /// It must work: it leads nowhere outside.
    Allowed,
}

/// One mechanism.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    /// Stable name, shared with `caracald doctor`.
    pub name: &'static str,
    /// Class of the catalogue, 1 to 28.
    pub class: u8,
    /// What it does.
    pub what: &'static str,
    /// Who the kernel itself lets do it.
    pub who: &'static [Privilege],
    /// Where it begins.
    pub start: Start,
    /// What is a leak.
    pub judge: Judge,
    /// The reason codes by which the kernel programs may refuse it; empty where the daemon or something else does.
    pub reasons: &'static [&'static str],
}

/// The vector with this name and its place in the list.
#[must_use]
pub fn named(name: &str) -> Option<(usize, &'static Vector)> {
    VECTORS.iter().enumerate().find(|(_, vector)| vector.name == name)
}

/// The port of everything that is aimed at: an echo listens there.
pub const PORT: u16 = crate::wire::CANARY_PORT;
/// Where a server says at which address it was called.
pub const ECHO_PORTS: std::ops::RangeInclusive<u16> = 5_001..=5_004;
/// Where the accomplice relays TCP and UDP.
pub const RELAY_PORT: u16 = 7_801;
