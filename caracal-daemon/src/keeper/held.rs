//! Which sockets the processes of a cgroup hold, whoever made them. Takes a cgroup; gives each socket once, named by a
//! process that holds it, and a descriptor of our own to it, so that it can be asked, marked and ended. Reads
//! `/proc/PID/fd` and copies descriptors with pidfd_getfd(2) (Linux 5.6); stops and changes nothing.
//!
//! Not found: descriptors that nobody has received yet (they wait in a unix socket), and files that only an io_uring
//! holds. The next look finds the first as soon as somebody has them.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::cgroup::{Cgroup, is_canary};

/// At most so many descriptors are looked at in one go.
const MOST_DESCRIPTORS: usize = 1 << 20;
/// `PIDFD_THREAD` (Linux 6.9).
const PIDFD_THREAD: libc::c_long = libc::O_EXCL as libc::c_long;
/// `KCMP_FILES`.
const KCMP_FILES: libc::c_long = 2;
/// `SIOCGSKNS` of linux/sockios.h.
const SIOCGSKNS: libc::c_ulong = 0x894c;

/// A table of descriptors: a process, or a thread with one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The thread whose table it is; the process's own id for the shared one.
    pub tid: u32,
    /// The process's name.
    pub comm: String,
}

/// A socket that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its inode: unique on the host.
    pub inode: u64,
    /// One that holds it.
    pub holder: Holder,
    /// As this descriptor.
    pub fd: i32,
    /// How many processes hold it.
    pub processes: usize,
}

/// Every table of descriptors in the cgroup and below.
#[must_use]
pub fn holders(cgroup: &Cgroup) -> Vec<Holder> {
    let mut pids = HashSet::new();
    members(&cgroup.absolute, &mut pids);
    let mut pids: Vec<u32> = pids.into_iter().collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    for pid in pids {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
        found.push(Holder { pid, tid: pid, comm: comm.clone() });
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for tid in threads.filter(|tid| *tid != pid && !share_files(pid, *tid)) {
            found.push(Holder { pid, tid, comm: comm.clone() });
        }
    }
    found
}

/// The cgroup ids of the cgroup and of everything below it.
#[must_use]
pub fn cgroups(cgroup: &Cgroup) -> HashSet<u64> {
    fn below(directory: &Path, ids: &mut HashSet<u64>) {
        use std::os::unix::fs::MetadataExt;
        ids.extend(fs::metadata(directory).map(|facts| facts.ino()));
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), ids);
            }
        }
    }
    let mut ids = HashSet::new();
    below(&cgroup.absolute, &mut ids);
    ids
}

/// The processes of a directory and below. A threaded cgroup (cgroups(7)) lists threads only.
fn members(directory: &Path, pids: &mut HashSet<u32>) {
    let lines = |text: String| {
        let pids = text.lines().filter_map(|line| line.parse::<u32>().ok());
        pids.filter(|pid| !is_canary(*pid)).collect::<Vec<_>>()
    };
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(lines(text)),
        Err(_) => {
            let threads = fs::read_to_string(directory.join("cgroup.threads")).map(lines).unwrap_or_default();
            pids.extend(threads.into_iter().filter_map(process_of));
        }
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), pids);
        }
    }
}

fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// kcmp(2). Where the kernel cannot say, both tables are read.
fn share_files(one: u32, other: u32) -> bool {
    let (one, other) = (libc::c_long::from(one), libc::c_long::from(other));
    // SAFETY: kcmp takes integers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

/// Every socket that they hold.
#[must_use]
pub fn sockets(holders: &[Holder]) -> Vec<Held> {
    let mut found: BTreeMap<u64, Held> = BTreeMap::new();
    let mut left = MOST_DESCRIPTORS;
    for holder in holders {
        for entry in fs::read_dir(format!("/proc/{}/fd", holder.tid)).into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                tracing::warn!(MOST_DESCRIPTORS, "Too many descriptors to look at all of them.");
                return found.into_values().collect();
            }
            let (Ok(target), Some(Ok(fd))) = (fs::read_link(entry.path()), entry.file_name().to_str().map(str::parse))
            else {
                continue;
            };
            let Some(inode) = target.to_str().and_then(socket_inode) else { continue };
            found
                .entry(inode)
                .and_modify(|held| held.processes += usize::from(held.holder.pid != holder.pid))
                .or_insert_with(|| Held { inode, holder: holder.clone(), fd, processes: 1 });
        }
    }
    found.into_values().collect()
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

impl Held {
    /// A descriptor of our own. `None`: it is gone meanwhile.
    ///
    /// # Errors
    /// When the kernel does not allow it (Yama's `ptrace_scope` 3), or cannot (a thread's own table before Linux 6.9).
    pub fn copy(&self) -> io::Result<Option<OwnedFd>> {
        let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF));
        let flags = if self.holder.pid == self.holder.tid { 0 } else { PIDFD_THREAD };
        let copied = open(libc::SYS_pidfd_open, [i64::from(self.holder.tid), flags, 0])
            .and_then(|pidfd| open(libc::SYS_pidfd_getfd, [i64::from(pidfd.as_raw_fd()), i64::from(self.fd), 0]));
        match copied {
            Ok(socket) => Ok((nix::sys::stat::fstat(&socket)?.st_ino == self.inode).then_some(socket)),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A system call that gives a descriptor.
fn open(call: libc::c_long, [one, two, three]: [i64; 3]) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open and pidfd_getfd take integers.
    let fd = unsafe { libc::syscall(call, one, two, three) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's; the kernel opens both close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// What a socket says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// `AF_`.
    pub family: i32,
    /// `SOCK_`.
    pub kind: i32,
    /// Of the family.
    pub protocol: i32,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Its network namespace, as its file's inode: cookies can be asked for from Linux 5.14 on only.
    pub namespace: u64,
}

impl Nature {
    /// Asks the socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Nature> {
        Ok(Nature {
            family: option(socket, libc::SO_DOMAIN)?,
            kind: option(socket, libc::SO_TYPE)?,
            protocol: option(socket, libc::SO_PROTOCOL)?,
            cookie: option(socket, libc::SO_COOKIE)?,
            namespace: nix::sys::stat::fstat(namespace_of(socket)?)?.st_ino,
        })
    }
}

/// The process that a unix socket was connected or made by, at its other end.
#[must_use]
pub fn unix_peer(socket: BorrowedFd<'_>) -> Option<u32> {
    let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)
}

/// The network namespace that a socket lives in: not always its holder's.
///
/// # Errors
/// What the kernel says.
pub fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<File> {
    // SAFETY: takes no argument and gives a descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's; nsfs opens it close-on-exec.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Ends whatever a socket is connected to, on kernels that cannot destroy it: connect(2) with `AF_UNSPEC` breaks a
/// connection off and ends a listener.
///
/// # Errors
/// What the kernel says.
pub fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: zero is a valid sockaddr of the family AF_UNSPEC.
    let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).unwrap_or(16);
    // SAFETY: the address lives through the call and its size is given.
    let done = unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const nobody, size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn option<T: Copy + Default>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes, and an integer takes any.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn an_own_socket_is_found_and_copied() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino;
        let (pid, comm) = (std::process::id(), "test".to_owned());
        let all = sockets(&[Holder { pid, tid: pid, comm }]);
        let held = all.iter().find(|held| held.inode == inode).unwrap();
        let copy = held.copy().unwrap().unwrap();
        let nature = Nature::of(copy.as_fd()).unwrap();
        assert_eq!(nature, Nature::of(socket.as_fd()).unwrap());
        assert_eq!((nature.family, nature.protocol), (libc::AF_INET, libc::IPPROTO_UDP));
        let own = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/net").unwrap());
        assert_eq!(nature.namespace, own);
        let gone = Held { fd: 999_999, ..held.clone() };
        assert!(gone.copy().unwrap().is_none());
    }

    #[test]
    fn links_of_proc() {
        assert_eq!(socket_inode("socket:[17]"), Some(17));
        assert_eq!(socket_inode("pipe:[17]"), None);
        assert_eq!(socket_inode("/tmp/socket:[17]"), None);
    }
}
