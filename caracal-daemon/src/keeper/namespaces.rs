//! The network namespaces that governed processes are in. Takes the list of processes; opens our listeners in each
//! namespace that one of them is in, hands them to the data path, and only then admits the namespace's cookie.
//! Refuses a namespace whose process is not governed, and one too many. Never changes anything in a namespace: a
//! loopback that is down stays down, because who took the network away may have meant it.
//!
//! A listener keeps its namespace alive, so a namespace is let go when no governed process is in it, and not at its own
//! end. One thread ([`follow`]) opens and lets go; whatever it missed it finds at the next look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caracal_common::settings::MAX_NAMESPACES;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::KeeperError;
use super::govern::Governor;
use super::listeners::Listeners;
use super::order::{Order, Orders};
use crate::agent::CgroupId;

/// How often processes that are new are looked at: a container's runtime puts its first process into the cgroup and the
/// namespace some tens of milliseconds before the program starts.
const GLANCE: Duration = Duration::from_millis(50);
/// Where there are very many, a look waits so many times as long as the one before took: half a percent of a core.
const REST: u32 = 200;
/// How often every process is.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a row that find nobody in a namespace before it is let go: a list of processes is never a snapshot.
const MISSES: u32 = 2;
/// How long a namespace that could not be served is left alone.
const SULK: Duration = Duration::from_secs(5);
/// Namespaces of one agent: one that makes them without end leaves room for others.
const MOST_OF_ONE: usize = 256;
/// Namespaces that are remembered as not served.
const MOST_REFUSED: usize = 4_096;
/// Hints that wait; what does not fit is found at the next look.
const MOST_HINTS: usize = 1_024;
/// How long a caller waits for the first look at what it has just governed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A namespace's inode number in nsfs. Not reused while it is served: its door is open.
type Inode = u64;

/// A namespace with our listeners.
#[derive(Debug)]
struct Served {
    cookie: u64,
    listeners: Listeners,
    agent: CgroupId,
    /// The data path has the listeners, and the kernel the cookie.
    open: bool,
    missed: u32,
}

/// Something to look at.
#[derive(Debug)]
pub struct Hint {
    /// This process; `None`: all.
    process: Option<u32>,
    /// Told when it was looked at.
    done: Option<SyncSender<()>>,
}

/// Every namespace that is served, shared by the keeper's threads.
#[derive(Debug)]
pub struct Namespaces {
    own: Inode,
    ports: (u16, u16),
    hints: SyncSender<Hint>,
    /// Held while the data path is told, so that it hears of each change in its turn.
    served: Mutex<BTreeMap<Inode, Served>>,
    /// Their doors by cookie; a lock of its own, for sockets that are asked for while the data path is being told something.
    doors: Mutex<HashMap<u64, Arc<File>>>,
    /// What could not be served, and when it was last tried.
    refused: Mutex<HashMap<Inode, (Instant, String)>>,
}

impl Namespaces {
    /// None yet. Gives also the hints that [`follow`] takes.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn new(tcp_port: u16, dns_port: u16) -> io::Result<(Namespaces, Receiver<Hint>)> {
        let own = inode_of("/proc/self/ns/net").ok_or_else(|| io::Error::other("/proc/self/ns/net is not there"))?;
        let (hints, taken) = sync_channel(MOST_HINTS);
        let ports = (tcp_port, dns_port);
        let (served, doors, refused) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok((Namespaces { own, ports, hints, served, doors, refused }, taken))
    }

    /// The kernel met this process in a namespace that it does not know.
    pub fn suspect(&self, process: u32) {
        let _ = self.hints.try_send(Hint { process: Some(process), done: None });
    }

    /// Looks at a process, or at all, before something in it is started or declared ready. Waits two seconds at most: a
    /// namespace that is not open by then refuses until it is.
    pub fn look(&self, process: Option<u32>) {
        if process.is_some_and(|pid| inode_of(&format!("/proc/{pid}/ns/net")) == Some(self.own)) {
            return;
        }
        let (done, told) = sync_channel(1);
        if self.hints.try_send(Hint { process, done: Some(done) }).is_ok() {
            let _ = told.recv_timeout(PATIENCE);
        }
    }

    /// A new data path takes the listeners over.
    pub fn hand_over(&self, governor: &Governor, orders: &Orders) {
        for one in self.served().values_mut() {
            open(governor, orders, one);
        }
    }

    /// The namespace with this cookie, if it is served.
    #[must_use]
    pub fn door(&self, cookie: u64) -> Option<Arc<File>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).get(&cookie).cloned()
    }

    /// For `status`: how many are served and refused, and why one is refused.
    #[must_use]
    pub fn status(&self) -> Value {
        let refused = self.refused();
        let why = refused.values().max_by_key(|(at, _)| *at).map(|(_, why)| why.clone());
        json!({ "served": self.doors.lock().unwrap_or_else(PoisonError::into_inner).len(), "refused": refused.len(), "why": why })
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<Inode, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<Inode, (Instant, String)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_known(&self, inode: Inode) -> bool {
        inode == self.own
            || self.served().contains_key(&inode)
            || self.refused().get(&inode).is_some_and(|(at, _)| at.elapsed() < SULK)
    }
}

/// Follows the namespaces of governed processes for as long as hints can come.
pub fn follow(governor: &Governor, hints: &Receiver<Hint>) {
    let (mut seen, mut looked, mut pause) = (HashSet::new(), Instant::now(), GLANCE);
    loop {
        let hint = match hints.recv_timeout(pause) {
            Ok(hint) => Some(hint),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match hint.as_ref().map(|hint| hint.process) {
            Some(Some(process)) => look_at(governor, process),
            // Everybody, or whoever is new since the last look at everybody.
            Some(None) => drop(glance(governor, &mut HashSet::new())),
            None => {
                let began = Instant::now();
                drop(glance(governor, &mut seen));
                pause = (began.elapsed() * REST).clamp(GLANCE, LOOK);
            }
        }
        if let Some(done) = hint.and_then(|hint| hint.done) {
            let _ = done.try_send(());
        }
        if looked.elapsed() >= LOOK {
            seen.clear();
            let present = glance(governor, &mut seen);
            let_go(governor, &present);
            looked = Instant::now();
        }
    }
}

/// The namespaces of the processes that are not in `seen`, each by its first thread; unknown ones are opened.
fn glance(governor: &Governor, seen: &mut HashSet<u32>) -> HashSet<Inode> {
    let namespaces = governor.namespaces();
    let mut present = HashSet::new();
    for process in governor.processes() {
        if !seen.insert(process) {
            continue;
        }
        let Some(inode) = inode_of(&format!("/proc/{process}/ns/net")) else { continue };
        if present.insert(inode) && !namespaces.is_known(inode) {
            serve(governor, process, process);
        }
    }
    present
}

/// The namespaces of one process: its threads may be in different ones.
fn look_at(governor: &Governor, process: u32) {
    let namespaces = governor.namespaces();
    for thread in threads(process) {
        let inode = inode_of(&format!("/proc/{process}/task/{thread}/ns/net"));
        if inode.is_some_and(|inode| !namespaces.is_known(inode)) {
            serve(governor, process, thread);
        }
    }
}

/// Lets go of the namespaces that nobody is in: not the first thread of a process, and then no other thread either.
fn let_go(governor: &Governor, present: &HashSet<Inode>) {
    let namespaces = governor.namespaces();
    let mut missing = Vec::new();
    for (inode, one) in namespaces.served().iter_mut() {
        one.missed = if present.contains(inode) { 0 } else { one.missed + 1 };
        if one.missed >= MISSES {
            missing.push(*inode);
        } else if !one.open
            && let Some(orders) = governor.orders()
        {
            open(governor, &orders, one);
        }
    }
    namespaces.refused().retain(|inode, (at, _)| present.contains(inode) || at.elapsed() < SULK);
    if missing.is_empty() {
        return;
    }
    let of_threads: HashSet<Inode> = governor
        .processes()
        .into_iter()
        .flat_map(|process| {
            threads(process).into_iter().map(move |thread| format!("/proc/{process}/task/{thread}/ns/net"))
        })
        .filter_map(|path| inode_of(&path))
        .collect();
    for inode in missing {
        let mut served = namespaces.served();
        if of_threads.contains(&inode) {
            if let Some(one) = served.get_mut(&inode) {
                one.missed = 0;
            }
        } else if let Some(one) = served.remove(&inode) {
            // The kernel first: nothing is sent to a listener that is about to go.
            if let Err(error) = governor.kernel().withdraw_namespace(one.cookie) {
                tracing::error!(%error, "Cannot withdraw a network namespace.");
            }
            namespaces.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&one.cookie);
            let _ = governor.order(&Order::Unlisten { netns: one.cookie });
        }
    }
}

/// Opens our listeners in the namespace of a governed thread.
fn serve(governor: &Governor, process: u32, thread: u32) {
    let namespaces = governor.namespaces();
    let mut inode = 0;
    match try_serve(governor, process, thread, &mut inode) {
        Ok(()) => drop(namespaces.refused().remove(&inode)),
        // It ended, or was never ours.
        Err(None) => {}
        Err(Some(why)) => {
            let mut refused = namespaces.refused();
            // An agent can make namespaces faster than anybody reads: each reason is told once while it lasts.
            if !refused.values().any(|(_, before)| *before == why) {
                tracing::error!(%why, process, "A network namespace is not served; everything in it is refused.");
            }
            if refused.len() >= MOST_REFUSED {
                refused.clear();
            }
            refused.insert(inode, (Instant::now(), why));
        }
    }
}

fn try_serve(governor: &Governor, process: u32, thread: u32, inode: &mut Inode) -> Result<(), Option<String>> {
    let namespaces = governor.namespaces();
    // Held until the end: while it lives, `/proc/PID` is this very process.
    let Some(alive) = pidfd(process) else { return Err(None) };
    let door = File::open(format!("/proc/{process}/task/{thread}/ns/net")).map_err(|_| None)?;
    *inode = door.metadata().map_err(|_| None)?.ino();
    if namespaces.is_known(*inode) {
        return Err(None);
    }
    let Some(agent) = governor.agent_of(process, thread) else { return Err(None) };
    if ended(&alive) {
        return Err(None);
    }
    {
        let served = namespaces.served();
        // One entry of the map is our own namespace's.
        if served.len() + 1 >= MAX_NAMESPACES as usize {
            return Err(Some(format!("{MAX_NAMESPACES} network namespaces are served already, and no more can be")));
        }
        if served.values().filter(|one| one.agent == agent).count() >= MOST_OF_ONE {
            return Err(Some(format!(
                "{MOST_OF_ONE} network namespaces of one agent are served already, and no more are"
            )));
        }
    }
    let (tcp_port, dns_port) = namespaces.ports;
    let opened = inside(&door, || Listeners::open_elsewhere(tcp_port, dns_port));
    let listeners = opened.and_then(|opened| opened).map_err(|error| Some(error.to_string()))?;
    let cookie = governor.cookie(&door).map_err(|error| Some(error.to_string()))?;
    namespaces.doors.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie, Arc::new(door));
    let mut served = namespaces.served();
    let one = served.entry(*inode).or_insert(Served { cookie, listeners, agent, open: false, missed: 0 });
    // Without a data path the next one takes it over.
    if let Some(orders) = governor.orders() {
        open(governor, &orders, one);
    }
    Ok(())
}

/// Hands the listeners to the data path, then opens the namespace in the kernel. What fails is tried at the next look.
fn open(governor: &Governor, orders: &Orders, one: &mut Served) {
    let told = orders.give_with(&Order::Listen { netns: one.cookie }, &one.listeners.descriptors());
    let admitted = told.and_then(|_| governor.kernel().admit_namespace(one.cookie).map_err(|error| error.to_string()));
    if let Err(why) = &admitted {
        tracing::warn!(%why, "Cannot hand a network namespace's listeners to the data path.");
    }
    one.open = admitted.is_ok();
}

/// Runs `work` on a thread of its own that is in the namespace; the thread ends there.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn inside<T: Send>(door: &File, work: impl FnOnce() -> T + Send) -> Result<T, KeeperError> {
    let failed = |why: String| KeeperError::Kernel(format!("cannot enter a network namespace: {why}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, || {
            setns(door.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(work())
        });
        let done = thread.map_err(|error| failed(error.to_string()))?.join();
        done.map_err(|_| failed("the thread panicked".to_owned()))?.map_err(|error| failed(error.to_string()))
    })
}

/// The inode number in a namespace's link, such as `net:[4026531840]`.
fn inode_of(link: &str) -> Option<Inode> {
    let name = fs::read_link(link).ok()?;
    name.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn threads(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(PathBuf::from(format!("/proc/{process}/task"))).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `pidfd_open(2)`, Linux 5.3.
fn pidfd(process: u32) -> Option<OwnedFd> {
    // SAFETY: two integers; the descriptor is new and nobody else's.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    // SAFETY: as above.
    i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process of this descriptor has ended.
fn ended(process: &OwnedFd) -> bool {
    let mut one = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    !matches!(nix::poll::poll(&mut one, PollTimeout::ZERO), Ok(0))
}
