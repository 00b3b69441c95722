//! Starts the data path: this same binary, with its sockets and maps at fixed descriptors, as a user without rights.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::KeeperError;
use super::listeners::Listeners;
use crate::config::Config;

/// The first inherited descriptor.
const FIRST: RawFd = 3;
/// How many there are.
const COUNT: usize = 14;
/// The user and group that is taken where the configured user does not exist: outside every range that is given out.
const FALLBACK: u32 = 64_817;

/// How glibc's allocator is set for many small, short-lived pieces on few threads (its manual, "Memory Allocation
/// Tunables"): more of them kept per thread, no merging of all small ones at each large one, few arenas. With two of them
/// threads waited for each other: a sixth of a paid request's CPU.
const ALLOCATOR: &str = "glibc.malloc.tcache_count=16:glibc.malloc.mxfast=0:glibc.malloc.arena_max=4";

/// Whom the data path runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The configured user, a name or a number; for a name that nobody has, a number that nobody has. A number needs no entry
/// in the user table; its group is then the same.
///
/// # Errors
/// When it is root, or its group is root's.
pub fn user(name: &str) -> Result<User, KeeperError> {
    use nix::unistd::{Uid, User as Known};
    let (known, number) = match name.parse() {
        Ok(number) => (Known::from_uid(Uid::from_raw(number)), number),
        Err(_) => (Known::from_name(name), FALLBACK),
    };
    let user = known
        .ok()
        .flatten()
        .map_or(User { uid: number, gid: number }, |user| User { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
    if user.uid == 0 || user.gid == 0 {
        return Err(KeeperError::Refused(format!(
            "user = {name:?}: the data path never runs as root; name another user"
        )));
    }
    Ok(user)
}

/// Descriptors beside those of connections: files, and for each network namespace that is served its listeners and, in
/// the keeper, a door.
const OTHERS: u64 = 16_384;
const _: () = assert!(OTHERS >= 1_024 + caracal_common::settings::MAX_NAMESPACES as u64 * 7);

/// How many descriptors so many connections need: two for each, one to either side, and the others.
#[must_use]
pub fn descriptors_for(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(OTHERS)
}

/// How many connections there may be with so many descriptors, where fewer are to be had than were wanted: fewer namespaces are
/// served then, and three descriptors are for two connections, since idle ones need none upstream. Where all want one, some
/// are told that there is none ([`is_reserved`]).
#[must_use]
pub fn connections_within(descriptors: u64) -> usize {
    let left = descriptors - others_of(descriptors);
    usize::try_from(left / 3 * 2).unwrap_or(usize::MAX)
}

/// Descriptors that are not connections', of so many.
fn others_of(descriptors: u64) -> u64 {
    (descriptors / 16).clamp(1_024, OTHERS).min(descriptors / 2)
}

/// Whether an upstream's connection has one of the last descriptors, half of those that are not connections'.
#[must_use]
pub fn is_reserved(descriptor: RawFd) -> bool {
    static FIRST: LazyLock<u64> =
        LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft - others_of(soft) / 2));
    u64::try_from(descriptor).is_ok_and(|descriptor| descriptor >= *FIRST)
}

/// How many connections this process has descriptors for.
#[must_use]
pub fn connections_allowed() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| connections_within(soft))
}

/// The most descriptors that the kernel gives any process (`fs.nr_open`).
#[must_use]
pub fn kernel_descriptors() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

/// Lets this process and the data path open as many descriptors as the limits on connections need. The limits that are
/// configured must bind before the system's does, or one agent's connections stop all: where so many are not to be had, the
/// data path takes fewer connections.
pub fn allow_descriptors(connections: usize) {
    let wanted = descriptors_for(connections);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let set = |limit: u64| setrlimit(Resource::RLIMIT_NOFILE, limit.max(soft), limit.max(hard));
    if soft >= wanted || set(wanted).is_ok() {
        return;
    }
    // More than the kernel gives; or, in a container, the hard limit is somebody else's.
    let most = kernel_descriptors().filter(|most| *most < wanted && set(*most).is_ok());
    let allowed = most.unwrap_or_else(|| {
        let _ = set(hard);
        hard
    });
    tracing::warn!(
        wanted,
        allowed,
        connections = connections_within(allowed).min(connections),
        "Not enough descriptors for the limits on connections, so fewer are taken; raise LimitNOFILE, or lower [limits]."
    );
}

/// What every data path inherits.
#[derive(Debug)]
pub struct Inherited {
    /// The listening sockets.
    pub sockets: Listeners,
    /// The lease map.
    pub lease: OwnedFd,
    /// Connections' flows.
    pub sources: OwnedFd,
    /// Queries' flows.
    pub resolving: OwnedFd,
}

/// The same, on the other side.
#[derive(Debug)]
pub struct Received {
    /// The road to the keys.
    pub signing: UnixStream,
    /// Orders.
    pub orders: UnixStream,
    /// The road to sockets in agents' namespaces.
    pub doors: UnixStream,
    /// The road to flows.
    pub flows: UnixStream,
    /// The road to the keeper's word.
    pub vouch: UnixStream,
    /// The listening sockets.
    pub sockets: Listeners,
    /// The lease map.
    pub lease: OwnedFd,
    /// Connections' flows.
    pub sources: OwnedFd,
    /// Queries' flows.
    pub resolving: OwnedFd,
    /// The roads of data paths from before an upgrade, which still end what they had begun.
    pub predecessors: Vec<OwnedFd>,
}

/// The keeper's ends of the roads to a data path.
#[derive(Debug)]
pub struct Roads {
    /// It asks for signatures.
    pub signing: UnixStream,
    /// It obeys.
    pub orders: UnixStream,
    /// It asks for sockets in agents' namespaces.
    pub doors: UnixStream,
    /// It asks for flows where it may not read them itself.
    pub flows: UnixStream,
    /// It asks whether the kernel runs our programs.
    pub vouch: UnixStream,
}

/// Starts a data path; gives it, and the keeper's ends of its roads.
///
/// # Errors
/// When it cannot be started.
pub fn start(
    config: &Config,
    host_id: &str,
    netns: u64,
    user: User,
    inherited: &Inherited,
    predecessors: &[BorrowedFd<'_>],
) -> Result<(Child, Roads), KeeperError> {
    let failed = |error: std::io::Error| KeeperError::Gone(format!("the data path cannot be started: {error}"));
    let (signing, signing_child) = UnixStream::pair().map_err(failed)?;
    let (orders, orders_child) = UnixStream::pair().map_err(failed)?;
    let (doors, doors_child) = UnixStream::pair().map_err(failed)?;
    let (flows, flows_child) = UnixStream::pair().map_err(failed)?;
    let (vouch, vouch_child) = UnixStream::pair().map_err(failed)?;
    let s = &inherited.sockets;
    let always: [RawFd; COUNT] = [
        signing_child.as_raw_fd(),
        orders_child.as_raw_fd(),
        doors_child.as_raw_fd(),
        flows_child.as_raw_fd(),
        vouch_child.as_raw_fd(),
        s.tcp[0].as_raw_fd(),
        s.tcp[1].as_raw_fd(),
        s.dns_udp[0].as_raw_fd(),
        s.dns_udp[1].as_raw_fd(),
        s.dns_tcp[0].as_raw_fd(),
        s.dns_tcp[1].as_raw_fd(),
        inherited.lease.as_raw_fd(),
        inherited.sources.as_raw_fd(),
        inherited.resolving.as_raw_fd(),
    ];
    let sources: Vec<RawFd> = always.into_iter().chain(predecessors.iter().map(AsRawFd::as_raw_fd)).collect();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("caracald: data path")
        .arg("--config")
        .arg(&config.file)
        .arg("data-path")
        .args(["--host-id", host_id])
        .args(["--netns", &netns.to_string()])
        .args(["--uid", &user.uid.to_string()])
        .args(["--gid", &user.gid.to_string()])
        .args(["--predecessors", &predecessors.len().to_string()])
        .arg("--state")
        .arg(&config.state_dir)
        .env_clear()
        .env("GLIBC_TUNABLES", ALLOCATOR)
        .current_dir("/");
    // An empty one would silence it.
    if let Some(filter) = std::env::var_os("RUST_LOG") {
        command.env("RUST_LOG", filter);
    }
    let spared = is_spared();
    let mut aside = vec![0; sources.len()];
    let prepare = move || {
        if spared {
            be_like_others();
        }
        place(&sources, &mut aside)
    };
    // SAFETY: between fork and exec only dup2, fcntl, setrlimit, prctl, open, write and close are called, none of which takes
    // a lock.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().map_err(failed)?;
    Ok((child, Roads { signing, orders, doors, flows, vouch }))
}

/// Whether the kernel spares this process when memory runs out (`oom_score_adj` in proc(5)), as the unit asks for the keeper:
/// while nothing can start a data path, no agent gets anywhere.
fn is_spared() -> bool {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    own.is_ok_and(|own| own.trim().parse::<i32>().is_ok_and(|own| own < 0))
}

/// The data path is not spared: agents fill its memory, and another one is started at once.
fn be_like_others() {
    // SAFETY: C strings and one byte of memory that is there; the descriptor is this call's own. Raising needs no right, and
    // where there is no such file the keeper has none that says otherwise.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
        }
    }
}

/// Puts the descriptors at their numbers, first out of each other's way: at numbers that are noted in `aside`, which is as
/// long as they are many.
fn place(sources: &[RawFd], aside: &mut [RawFd]) -> std::io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) };
    // Whatever else the keeper was started with stays behind. A kernel without the call (before 5.11) has only what
    // the keeper's own start left open.
    // SAFETY: marks descriptors, closes none yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for (slot, source) in aside.iter_mut().zip(sources) {
        // SAFETY: plain descriptor duplication.
        *slot = check(unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, 100) })?;
    }
    for (target, source) in (FIRST..).zip(&*aside) {
        // SAFETY: dup2 gives a descriptor without CLOEXEC.
        check(unsafe { libc::dup2(*source, target) })?;
    }
    // Everybody waits for the journal's thread, so that one may go ahead of others: 30 stands for nice -10 (setrlimit(2)).
    let nice = libc::rlimit { rlim_cur: 30, rlim_max: 30 };
    // SAFETY: a valid pointer to a limit on the stack. Where it is refused, the journal is slower and nothing else.
    unsafe { libc::setrlimit(libc::RLIMIT_NICE, &raw const nice) };
    // The data path does not outlive its keeper.
    // SAFETY: a number, no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Takes the inherited descriptors, once, at the data path's start, with so many roads of `predecessors`.
///
/// # Errors
/// When they are not there: this verb is not for people.
pub fn receive(predecessors: usize) -> Result<Received, KeeperError> {
    let count = COUNT + predecessors.min(super::predecessors::MOST);
    let mut taken = Vec::with_capacity(count);
    for fd in (FIRST..).take(count) {
        // SAFETY: only asks whether the descriptor is open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(KeeperError::Refused("data-path is started by the keeper: use `caracald attach`".to_owned()));
        }
        // SAFETY: the keeper put it there for us, and nobody else takes it.
        taken.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let mut fds = taken.into_iter();
    let mut next = || fds.next().ok_or_else(|| KeeperError::Gone("a descriptor is missing".to_owned()));
    Ok(Received {
        signing: next()?.into(),
        orders: next()?.into(),
        doors: next()?.into(),
        flows: next()?.into(),
        vouch: next()?.into(),
        sockets: Listeners {
            tcp: [next()?.into(), next()?.into()],
            dns_udp: [next()?.into(), next()?.into()],
            dns_tcp: [next()?.into(), next()?.into()],
        },
        lease: next()?,
        sources: next()?,
        resolving: next()?,
        predecessors: fds.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_descriptors() {
        for connections in [1, 4_096, 16_384, 40_000] {
            assert!(connections_within(descriptors_for(connections)) >= connections);
        }
        for descriptors in [0, 1, 256, 1_024, 4_096, 20_000, 65_536, 1 << 20] {
            let connections = connections_within(descriptors) as u64;
            assert!(connections + connections / 2 <= descriptors - others_of(descriptors), "{descriptors}");
        }
        assert_eq!([1_024, 20_000].map(connections_within), [340, 12_500]);
        assert!(!is_reserved(0) && is_reserved(RawFd::MAX));
    }

    #[test]
    fn users_are_found_and_root_is_none() {
        let ids = |name| user(name).ok().map(|user| (user.uid, user.gid));
        assert_eq!(ids("nobody").map(|ids| ids.0), Some(65_534));
        assert_eq!(ids("4711"), Some((4_711, 4_711)));
        assert_eq!(ids("root"), None);
        assert_eq!(ids("0"), None);
        assert_eq!(ids("no such user"), Some((FALLBACK, FALLBACK)));
    }
}
