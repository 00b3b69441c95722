//! Live attach: what happens to the sockets that a workload holds when it is attached, and to those that come into it
//! later. Takes a governed cgroup; gives a line for each socket: who holds it and what was done. Refuses nothing by itself:
//! a socket that nothing can fence is [`Done::Open`], and `attach` decides. Never touches a socket that no process of the
//! cgroup holds.
//!
//! | made | what it is | what is done |
//! |---|---|---|
//! | in the cgroup | connected to somewhere else | destroyed: its owner connects anew, through the daemon; the cgroup's programs let no packet pass meanwhile |
//! | in the cgroup | listening, or between two sockets of the agent | left: nobody but the agent reaches it |
//! | elsewhere, or nobody knows | IP | marked, so that the fence at the root drops its packets; what it is connected to is destroyed |
//! | anywhere | a family that sends beside IP (`AF_PACKET`, `AF_VSOCK` ...) | open |
//! | anywhere | unix, to a process outside | left open: what level `network` does not cover |
//!
//! Destroying alone would not do: a socket can be connected again, and one that was made elsewhere then passes no hook of
//! the agent's.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::KeeperError;
use super::cgroup::Cgroup;
use super::held::{self, Held, Nature};
use super::kernel::Kernel;
use super::sock_diag::{Diag, Inet, Unix};

/// How often an attach looks for more before it says that the workload does not settle.
const MOST_PASSES: usize = 16;
const TCP: u16 = 6;
const UDP: u16 = 17;
const MPTCP: u16 = 262;
/// `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// What was done about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Ended. Where it was made elsewhere it is fenced in as well.
    Destroyed,
    /// Nothing that it sends or receives passes, but to the agent itself.
    Fenced,
    /// Left as it is: what it may do is decided when it does it.
    Left,
    /// A unix socket to a process outside: the level `network` does not cover those.
    Uncovered,
    /// A way out that this kernel cannot close.
    Open,
}

/// Where a socket was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// In the cgroup or below.
    Here,
    /// In another one: inherited, passed, or brought along.
    Elsewhere,
    /// The kernel does not say (it is not bound to an address yet).
    Unknown,
}

/// A socket that the workload held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// A process that holds it.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// As this descriptor.
    pub fd: i32,
    /// How many processes hold it.
    pub processes: usize,
    /// `tcp`, `udp`, `unix`, `packet` ...
    pub kind: String,
    /// `established`, `listening`, `connected`, `unconnected` ...
    pub state: String,
    /// Its own address.
    pub local: Option<SocketAddr>,
    /// The other end's.
    pub peer: Option<SocketAddr>,
    /// Where it was made.
    pub made: Made,
    /// What was done.
    pub done: Done,
    /// More, for people.
    pub why: String,
}

/// What is remembered of an attached cgroup between two looks.
#[derive(Debug, Default)]
pub struct Seen {
    known: HashSet<u64>,
    /// Sockets made elsewhere were marked: the fence is needed.
    pub marked: bool,
    /// An earlier keeper attached it, and this one has not looked yet.
    pub adopted: bool,
    /// What the looks found, in the order of time; the latest [`Seen::MOST`].
    pub sockets: Vec<Socket>,
}

impl Seen {
    /// So many lines are kept for `status`.
    const MOST: usize = 1_024;

    /// Of a cgroup that an earlier keeper attached.
    #[must_use]
    pub fn of_an_earlier_keeper() -> Seen {
        Seen { adopted: true, ..Seen::default() }
    }

    fn keep(&mut self, sockets: &[Socket]) {
        self.sockets.extend_from_slice(sockets);
        let over = self.sockets.len().saturating_sub(Seen::MOST);
        self.sockets.drain(..over);
    }
}

/// What a look found, before anything is ended.
#[derive(Debug)]
pub struct Found {
    held: Held,
    socket: Socket,
    /// Where it stands in its namespace's list, if what it is connected to is to be ended.
    end: Option<Inet>,
    namespace: u64,
}

/// Looks at one attached cgroup.
#[derive(Debug)]
pub struct Sweep<'a> {
    /// The kernel side.
    pub kernel: &'a Mutex<Kernel>,
    /// The root of the hierarchy, open: where the fence stands.
    pub root: &'a File,
    /// The cgroup.
    pub cgroup: &'a Cgroup,
    namespaces: HashMap<u64, Namespace>,
}

/// The sockets of a network namespace.
#[derive(Debug)]
struct Namespace {
    diag: Diag,
    listed: Vec<Inet>,
    unix: Vec<Unix>,
}

impl<'a> Sweep<'a> {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(kernel: &'a Mutex<Kernel>, root: &'a File, cgroup: &'a Cgroup) -> Sweep<'a> {
        Sweep { kernel, root, cgroup, namespaces: HashMap::new() }
    }

    /// Looks until a pass finds nothing new. What can be fenced is fenced when this returns; nothing is ended yet.
    /// The flag says whether the workload settled.
    ///
    /// # Errors
    /// When the fence cannot be put up.
    pub fn find(&mut self, seen: &mut Seen) -> Result<(Vec<Found>, bool), KeeperError> {
        let mut all = Vec::new();
        for _ in 0..MOST_PASSES {
            let fresh = self.pass(seen)?;
            if fresh.is_empty() {
                return Ok((all, true));
            }
            all.extend(fresh);
        }
        Ok((all, false))
    }

    /// Ends what [`Sweep::find`] said is to be ended, and gives the lines.
    pub fn end(&mut self, found: Vec<Found>, seen: &mut Seen) -> Vec<Socket> {
        let mut sockets = Vec::with_capacity(found.len());
        for Found { held, mut socket, end, namespace } in found {
            if let Some(inet) = end {
                let destroyed = match self.namespaces.get_mut(&namespace) {
                    Some(namespace) => namespace.diag.destroy(&inet),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                match destroyed.or_else(|error| break_off(&held, &inet, error)) {
                    Ok(()) => socket.done = Done::Destroyed,
                    Err(error) => socket.why = format!("{}; it could not be ended: {error}", socket.why),
                }
            }
            sockets.push(socket);
        }
        seen.keep(&sockets);
        sockets
    }

    fn kernel(&self) -> std::sync::MutexGuard<'a, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at what is not known yet. Every IP socket that no hook saw is marked at once; whose it is comes later.
    fn pass(&mut self, seen: &mut Seen) -> Result<Vec<Found>, KeeperError> {
        let holders = held::holders(self.cgroup);
        let all = held::sockets(&holders);
        let now: HashSet<u64> = all.iter().map(|held| held.inode).collect();
        seen.known.retain(|inode| now.contains(inode));
        let mut fresh = Vec::new();
        for held in all {
            let inode = held.inode;
            if seen.known.contains(&inode) {
                continue;
            }
            match held.copy() {
                Ok(None) => continue,
                Ok(Some(socket)) => fresh.extend(self.ask(held, &socket)),
                Err(error) => fresh.push(Asked { held, what: Err(error) }),
            }
            seen.known.insert(inode);
        }
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        self.list_again(&fresh);
        let ours = held::cgroups(self.cgroup);
        let pids: HashSet<u32> = holders.iter().map(|holder| holder.pid).collect();
        let found: Vec<Found> = fresh.into_iter().map(|asked| self.judge(asked, &ours, &pids, &now)).collect();
        if found.iter().any(|found| found.socket.made != Made::Here && found.socket.done == Done::Fenced) {
            seen.marked = true;
            self.kernel().raise_fence(self.root)?;
        }
        Ok(found)
    }

    /// What one socket is. `None`: it was made by a governed process, and every hook saw it.
    fn ask(&mut self, held: Held, socket: &OwnedFd) -> Option<Asked> {
        let nature = match Nature::of(socket.as_fd()) {
            Ok(nature) => nature,
            Err(error) => return Some(Asked { held, what: Err(error) }),
        };
        let mut marked = Ok(());
        if matches!(nature.family, libc::AF_INET | libc::AF_INET6) {
            let mut kernel = self.kernel();
            if kernel.has_owner(socket.as_fd()) {
                return None;
            }
            marked = kernel.mark_foreign(socket.as_fd(), self.cgroup.id, self.cgroup.level);
        }
        if !self.namespaces.contains_key(&nature.namespace)
            && let Ok(diag) = held::namespace_of(socket.as_fd()).and_then(|file| Diag::inside(file.as_fd()))
        {
            self.namespaces.insert(nature.namespace, Namespace { diag, listed: Vec::new(), unix: Vec::new() });
        }
        let unix_peer = (nature.family == libc::AF_UNIX).then(|| held::unix_peer(socket.as_fd())).flatten();
        let marked = marked.map_err(|error| error.to_string());
        Some(Asked { held, what: Ok(Facts { nature, marked, unix_peer }) })
    }

    /// Lists the namespaces of `fresh` anew: one list a family and protocol.
    fn list_again(&mut self, fresh: &[Asked]) {
        let wanted: HashSet<(u64, bool)> = fresh
            .iter()
            .filter_map(|asked| asked.what.as_ref().ok())
            .map(|facts| (facts.nature.namespace, facts.nature.family == libc::AF_UNIX))
            .collect();
        for (id, unix) in wanted {
            let Some(namespace) = self.namespaces.get_mut(&id) else { continue };
            if unix {
                namespace.unix = namespace.diag.unix().unwrap_or_default();
                continue;
            }
            namespace.listed.clear();
            for family in [libc::AF_INET, libc::AF_INET6] {
                for protocol in [TCP, UDP, MPTCP, 136, 255] {
                    // A protocol that the kernel cannot list is made nobody knows where: the fence decides.
                    let family = u8::try_from(family).unwrap_or(0);
                    namespace.listed.extend(namespace.diag.inet(family, protocol).unwrap_or_default());
                }
            }
        }
    }

    fn judge(&self, asked: Asked, ours: &HashSet<u64>, pids: &HashSet<u32>, now: &HashSet<u64>) -> Found {
        let Asked { held, what } = asked;
        let mut socket = Socket {
            pid: held.holder.pid,
            process: held.holder.comm.clone(),
            fd: held.fd,
            processes: held.processes,
            kind: "socket".to_owned(),
            state: String::new(),
            local: None,
            peer: None,
            made: Made::Unknown,
            done: Done::Open,
            why: String::new(),
        };
        let facts = match what {
            Ok(facts) => facts,
            Err(error) => {
                socket.why = format!("the kernel gives no descriptor of it: {error}");
                return Found { held, socket, end: None, namespace: 0 };
            }
        };
        let Facts { nature, marked, unix_peer } = facts;
        let namespace = self.namespaces.get(&nature.namespace);
        let mut end = None;
        match nature.family {
            libc::AF_INET | libc::AF_INET6 => {
                let listed = namespace.map(|one| one.listed.as_slice()).unwrap_or_default();
                let inet = listed.iter().find(|one| one.cookie == nature.cookie);
                let same = inet.is_some_and(|inet| between_ours(inet, listed, ours));
                end = ip(&mut socket, nature, inet, same, ours, &marked).then(|| inet.cloned()).flatten();
            }
            libc::AF_UNIX => {
                let listed = namespace.map(|one| one.unix.as_slice()).unwrap_or_default();
                let inode = held.inode;
                let peer = listed.iter().find(|one| one.inode == inode).and_then(|one| one.peer);
                unix(&mut socket, peer.map(|peer| now.contains(&peer)), unix_peer, pids);
            }
            family => {
                socket.kind = family_name(family);
                if harmless(family) {
                    socket.done = Done::Left;
                } else {
                    "what it sends passes no hook of a cgroup".clone_into(&mut socket.why);
                }
            }
        }
        Found { held, socket, end, namespace: nature.namespace }
    }
}

impl Found {
    /// The line, as far as it is known.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Shows `unmark` every socket that the processes of a cgroup hold.
///
/// # Errors
/// What it says.
pub fn unmark(
    cgroup: &Cgroup,
    mut unmark: impl FnMut(BorrowedFd<'_>) -> Result<(), KeeperError>,
) -> Result<(), KeeperError> {
    for held in held::sockets(&held::holders(cgroup)) {
        if let Ok(Some(socket)) = held.copy() {
            unmark(socket.as_fd())?;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Asked {
    held: Held,
    what: io::Result<Facts>,
}

#[derive(Debug)]
struct Facts {
    nature: Nature,
    marked: Result<(), String>,
    unix_peer: Option<u32>,
}

/// An IP socket. True: what it is connected to is to be ended.
fn ip(
    socket: &mut Socket,
    nature: Nature,
    inet: Option<&Inet>,
    same: bool,
    ours: &HashSet<u64>,
    marked: &Result<(), String>,
) -> bool {
    let protocol = u16::try_from(nature.protocol).unwrap_or(0);
    socket.kind = protocol_name(protocol);
    let state = inet.map_or(CLOSE, |inet| inet.state);
    state_name(protocol, state).clone_into(&mut socket.state);
    socket.local = inet.map(|inet| inet.local);
    socket.peer = inet.map(|inet| inet.peer).filter(|peer| peer.port() != 0);
    socket.made = match inet.and_then(|inet| inet.cgroup) {
        Some(cgroup) if ours.contains(&cgroup) => Made::Here,
        Some(_) => Made::Elsewhere,
        None => Made::Unknown,
    };
    let connected = inet.is_some() && !(matches!(state, CLOSE | LISTEN));
    if socket.made == Made::Here {
        (socket.done, socket.why) = match (protocol, state) {
            _ if same => (Done::Left, "between two sockets of the agent".to_owned()),
            (TCP, LISTEN) => (Done::Fenced, "only the agent itself reaches it".to_owned()),
            (TCP | UDP, CLOSE) => (Done::Left, "governed from here on".to_owned()),
            _ => (Done::Fenced, "made before the attach".to_owned()),
        };
        return !same && connected && matches!(protocol, TCP | UDP);
    }
    let fenced = matches!(protocol, TCP | UDP | 1 | 58 | 136 | 255) || nature.kind == libc::SOCK_RAW;
    (socket.done, socket.why) = match (fenced, marked) {
        (true, Ok(())) if socket.made == Made::Elsewhere => (Done::Fenced, "made outside the cgroup".to_owned()),
        (true, Ok(())) => (Done::Fenced, "unused yet; of no use to it if it was made outside the cgroup".to_owned()),
        (true, Err(why)) => (Done::Open, format!("made outside the cgroup, and it cannot be marked: {why}")),
        (false, _) => (Done::Open, "made outside the cgroup, and its packets cannot be told from others".to_owned()),
    };
    matches!(protocol, TCP | UDP) && (connected || state == LISTEN)
}

/// A unix socket. `inside`: whether its other end is held in the cgroup, if it has one; `peer`: who connected or made that.
fn unix(socket: &mut Socket, inside: Option<bool>, peer: Option<u32>, pids: &HashSet<u32>) {
    "unix".clone_into(&mut socket.kind);
    socket.done = Done::Left;
    let stranger = peer.filter(|pid| !pids.contains(pid));
    if inside == Some(true) || (inside.is_none() && stranger.is_none()) {
        return;
    }
    "connected".clone_into(&mut socket.state);
    socket.done = Done::Uncovered;
    let comm = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    socket.why = match stranger.map(|pid| (pid, comm(pid))) {
        Some((pid, comm)) if !comm.is_empty() => format!("to {}, process {pid}, outside the cgroup", comm.trim_end()),
        Some((pid, _)) => format!("to what process {pid} made, which is gone"),
        None => "to a socket that nobody in the cgroup holds".to_owned(),
    };
}

/// Whether the other end is a socket of the agent's, in the same list.
fn between_ours(inet: &Inet, listed: &[Inet], ours: &HashSet<u64>) -> bool {
    inet.peer.port() != 0
        && listed.iter().any(|other| {
            other.protocol == inet.protocol
                && other.local.port() == inet.peer.port()
                && (other.local.ip() == inet.peer.ip() || other.local.ip().is_unspecified())
                && (other.peer == inet.local || other.peer.port() == 0 && other.state != LISTEN)
                && other.cgroup.is_some_and(|cgroup| ours.contains(&cgroup))
        })
}

/// For a kernel that destroys no sockets.
fn break_off(held: &Held, inet: &Inet, error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        // Gone by itself.
        Some(libc::ENOENT) => Ok(()),
        Some(libc::EOPNOTSUPP) if matches!(inet.protocol, TCP | UDP) => match held.copy()? {
            Some(socket) => held::disconnect(&socket),
            None => Ok(()),
        },
        _ => Err(error),
    }
}

/// Families that carry nothing out of the host.
fn harmless(family: i32) -> bool {
    matches!(family, libc::AF_NETLINK | libc::AF_ALG | libc::AF_KEY)
}

fn family_name(family: i32) -> String {
    match family {
        libc::AF_NETLINK => "netlink".to_owned(),
        libc::AF_ALG => "alg".to_owned(),
        libc::AF_KEY => "key".to_owned(),
        libc::AF_PACKET => "packet".to_owned(),
        libc::AF_VSOCK => "vsock".to_owned(),
        libc::AF_BLUETOOTH => "bluetooth".to_owned(),
        libc::AF_CAN => "can".to_owned(),
        libc::AF_TIPC => "tipc".to_owned(),
        libc::AF_XDP => "xdp".to_owned(),
        other => format!("family {other}"),
    }
}

fn protocol_name(protocol: u16) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        MPTCP => "mptcp".to_owned(),
        1 | 58 => "icmp".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        255 => "raw".to_owned(),
        other => format!("protocol {other}"),
    }
}

fn state_name(protocol: u16, state: u8) -> &'static str {
    match (protocol, state) {
        (UDP | 136, ESTABLISHED) => "connected",
        (_, ESTABLISHED) => "established",
        (_, 2 | 3 | 12) => "opening",
        (_, 4..=6 | 8 | 9 | 11) => "closing",
        (_, LISTEN) => "listening",
        _ => "unconnected",
    }
}

/// How many of each, in words: for the ledger and for the last line of a table.
#[must_use]
pub fn summary(sockets: &[Socket]) -> String {
    let count = |done: Done| sockets.iter().filter(|socket| socket.done == done).count();
    let foreign = sockets.iter().filter(|socket| socket.made == Made::Elsewhere).count();
    let (ended, fenced, left) = (count(Done::Destroyed), count(Done::Fenced), count(Done::Left));
    let (unix, open) = (count(Done::Uncovered), count(Done::Open));
    format!(
        "{} sockets ({foreign} made elsewhere): {ended} destroyed, {fenced} fenced, {left} left, {unix} unix sockets to \
         outside uncovered, {open} open",
        sockets.len(),
    )
}

#[cfg(test)]
mod tests;
