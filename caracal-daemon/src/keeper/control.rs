//! The control socket: who may ask for what. An ordinary user may run agents and see their own; root, or a member of
//! the admin group, administers; a governed process may do nothing at all.

mod callers;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::frame;
use super::govern::Governor;
use super::order::{CorrectionAsked, EventsQuery, Order};
use crate::agent::CgroupId;
use callers::Entrance;

/// What the command line asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Govern a process that waits to be released, as an agent of the caller's. The connection stays open for as long
    /// as the caller waits for it; [`Request::Ended`] follows on the same one.
    Run {
        /// The agent's name.
        agent: String,
        /// Lift the host allow list, record, and suggest.
        learn: bool,
        /// The waiting process: a child of the caller's.
        pid: u32,
    },
    /// The process of [`Request::Run`] has ended.
    Ended,
    /// What an agent of [`Request::Run`] did, whose process has ended on a connection that an upgrade has cut.
    Summary {
        /// Its id, as `Run` was answered with.
        id: CgroupId,
    },
    /// Govern a cgroup.
    Attach {
        /// Its path.
        cgroup: PathBuf,
        /// The agent's name; the directory's, if none is given.
        agent: Option<String>,
        /// How.
        options: AttachOptions,
    },
    /// Release a cgroup: what is in it connects directly again.
    Detach {
        /// Its path.
        cgroup: PathBuf,
    },
    /// Read the configuration's policy again.
    Reload,
    /// Become the program that lies in the daemon's place.
    Upgrade,
    /// What is governed, and whether the door is open.
    Status,
    /// Records.
    Events(EventsQuery),
    /// Totals.
    Spend,
    /// Every budget's window.
    Budgets,
    /// Put a charge right.
    Correct(CorrectionAsked),
    /// Delete the key that seals an agent's details.
    Erase {
        /// The agent's name.
        agent: String,
    },
    /// The CA's certificate, PEM.
    CaCertificate,
}

/// How a cgroup is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Also where what runs in it could undo the pins, or holds a socket that cannot be fenced; recorded.
    pub allow_degraded: bool,
    /// Add the local CA to the host's store, for processes without a mount namespace of their own; undone by a detach.
    pub trust_system: bool,
    /// Lift the host allow list, record what is reached, and say at the detach which policy would have sufficed.
    #[serde(default)]
    pub learn: bool,
}

/// The answer: a value, or why not.
pub type Response = Result<serde_json::Value, Refused>;

/// A sentence that says why not. An ordinary no is a text on the wire, as it was before there was another kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Refused {
    /// What is asked for cannot be done.
    No(String),
    /// Whoever asks may not have it: not root, or governed.
    NotPermitted {
        /// The sentence.
        not_permitted: String,
    },
}

impl Refused {
    fn only_root(may: &str) -> Refused {
        Refused::NotPermitted { not_permitted: format!("only root may {may}: run it with sudo") }
    }

    /// The sentence.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Refused::No(why) | Refused::NotPermitted { not_permitted: why } => why,
        }
    }
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused::No(why)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Whether it may administer.
    pub admin: bool,
}

/// Opens the socket at `path`; everybody may connect, and is judged by who they are.
///
/// # Errors
/// When it cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves connections until the process ends, each on its own thread, at most 256 at once and 64 of one user.
pub fn serve(listener: &UnixListener, governor: &Arc<Governor>) {
    let mut entrance = Entrance::default();
    for stream in listener.incoming().flatten() {
        let admitted = entrance.admit(stream, |pid, uid| uid == 0 || governor.is_admin(pid));
        let Some((stream, place)) = admitted else { continue };
        let governor = Arc::clone(governor);
        let started = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _place = place;
            converse(stream, &governor);
        });
        if let Err(error) = started {
            tracing::warn!(%error, "Cannot serve a control connection.");
        }
    }
}

/// One connection: requests and answers, until the caller is gone.
fn converse(mut stream: UnixStream, governor: &Governor) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(10)));
    let known = Peer::of(&stream).map_err(Refused::No);
    let known = known.and_then(|peer| identify(&stream, &peer, governor).map(|caller| (peer, caller)));
    let (peer, caller) = match known {
        Ok(known) => known,
        Err(why) => {
            let _ = frame::write(&mut stream, &Response::Err(why));
            return;
        }
    };
    // A silent caller keeps its place for a minute; one whose agent runs, for as long as it runs.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut running = None;
    while let Ok(request) = frame::read::<Request>(&mut stream) {
        let response = match request {
            _ if !peer.is_alive() => Err(GONE.to_owned().into()),
            Request::Run { agent, learn, pid } if running.is_none() => {
                let started = governor.run(caller, &agent, learn, pid).map_err(Refused::No);
                started.map(|started| {
                    let value = started.to_json();
                    running = Some(started);
                    let _ = stream.set_read_timeout(None);
                    value
                })
            }
            Request::Run { .. } => Err("one connection runs one agent".to_owned().into()),
            Request::Ended => match running.take() {
                Some(started) => governor.ended(&started).map_err(Refused::No),
                None => Err("nothing was started on this connection".to_owned().into()),
            },
            other => answer(other, caller, governor),
        };
        if frame::write(&mut stream, &response).is_err() {
            break;
        }
    }
    if let Some(started) = running {
        let _ = governor.ended(&started);
    }
}

fn answer(request: Request, caller: Caller, governor: &Governor) -> Response {
    let own = (!caller.admin).then_some(caller.uid);
    let administer = |what: &str| {
        if caller.admin { Ok(()) } else { Err(Refused::only_root(what)) }
    };
    let answer = match request {
        Request::Attach { cgroup, agent, options } => {
            administer("attach a cgroup")?;
            governor.attach(&cgroup, agent.as_deref(), options)
        }
        Request::Detach { cgroup } => {
            administer("release a cgroup")?;
            governor.detach(&cgroup)
        }
        Request::Reload => {
            administer("reload the policy")?;
            governor.reload()
        }
        Request::Upgrade => {
            administer("upgrade the daemon")?;
            governor.upgrade()
        }
        Request::Summary { id } => governor.summary(id, own),
        Request::Status => governor.status(own),
        Request::Events(query) => governor.order(&Order::Events(EventsQuery { uid: own, ..query })),
        Request::Spend => governor.order(&Order::Spend { agents: own.map(|uid| governor.agents_of(uid)) }),
        Request::Budgets => governor.order(&Order::Budgets { agents: own.map(|uid| governor.agents_of(uid)) }),
        Request::Correct(asked) => {
            if caller.uid != 0 {
                return Err(Refused::only_root("correct a charge"));
            }
            governor.order(&Order::Correct { asked, uid: caller.uid })
        }
        Request::Erase { agent } => {
            if caller.uid != 0 {
                return Err(Refused::only_root("erase details"));
            }
            governor.order(&Order::Erase { agent })
        }
        Request::CaCertificate => Ok(serde_json::Value::String(governor.ca_certificate().to_owned())),
        Request::Run { .. } | Request::Ended => Err("out of turn".to_owned()),
    };
    answer.map_err(Refused::No)
}

/// Who is at the other end, by the kernel's word: the process that connected, and the cgroup it is in.
fn identify(stream: &UnixStream, peer: &Peer, governor: &Governor) -> Result<Caller, Refused> {
    let credentials =
        getsockopt(&stream.as_fd(), sockopt::PeerCredentials).map_err(|error| Refused::No(error.to_string()))?;
    let (pid, uid) = (peer.pid, credentials.uid());
    let governed = governor.governs(pid);
    let admin = uid == 0 || governor.is_admin(pid);
    // Only now: what was read of this number was read of the process that connected.
    if !peer.is_alive() {
        return Err(GONE.to_owned().into());
    }
    if governed.map_err(|error| error.to_string())? {
        return Err(Refused::NotPermitted {
            not_permitted: "a governed process may not use the control socket".to_owned(),
        });
    }
    Ok(Caller { pid, uid, admin })
}

const GONE: &str = "the process that opened this connection has ended; ask on a connection of your own";

/// The process that connected, held so that nobody who is given its number can be taken for it.
#[derive(Debug)]
struct Peer {
    pid: u32,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// A descriptor of the process itself.
    Process(OwnedFd),
    /// When the process of this number began, in clock ticks since boot: before Linux 6.5. A number that is given to
    /// another process before the connection is accepted goes unnoticed there.
    Began(u64),
}

impl Peer {
    fn of(stream: &UnixStream) -> Result<Peer, String> {
        match peer_pidfd(stream) {
            Ok(process) => {
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()));
                let pid = info.ok().and_then(|text| {
                    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
                    line.parse().ok().filter(|pid| *pid != 0)
                });
                Ok(Peer { pid: pid.ok_or(GONE)?, held: Held::Process(process) })
            }
            Err(Errno::ENOPROTOOPT) => {
                let peer = getsockopt(&stream.as_fd(), sockopt::PeerCredentials).map_err(|error| error.to_string())?;
                let pid = u32::try_from(peer.pid()).map_err(|_| "the caller has no process id here".to_owned())?;
                Ok(Peer { pid, held: Held::Began(began(pid).ok_or(GONE)?) })
            }
            Err(Errno::ESRCH) => Err(GONE.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_alive(&self) -> bool {
        match &self.held {
            // Readable once the process has ended (pidfd_open(2)).
            Held::Process(process) => {
                let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::ZERO) == Ok(0)
            }
            Held::Began(at) => began(self.pid) == Some(*at),
        }
    }
}

/// `SO_PEERPIDFD` (Linux 6.5): a descriptor of the process that connected, whatever became of its number.
fn peer_pidfd(stream: &UnixStream) -> nix::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let (mut fd, mut length): (RawFd, libc::socklen_t) = (-1, 4);
    // SAFETY: the kernel writes one descriptor of four bytes, for which there is room, and its length.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut length)
    };
    Errno::result(result)?;
    // SAFETY: a descriptor that was made for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// When the process with this number began (field 22 of proc_pid_stat(5)).
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_caller_is_known_for_as_long_as_it_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = listen(&dir.path().join("s")).expect("a socket");
        let _near = UnixStream::connect(dir.path().join("s")).expect("connected");
        let (stream, _) = listener.accept().expect("accepted");
        let peer = Peer::of(&stream).expect("a peer");
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.is_alive());
        let now = Held::Began(began(peer.pid).expect("a time"));
        assert!(Peer { pid: peer.pid, held: now }.is_alive());
        // Another process of the same number.
        let before = Held::Began(began(peer.pid).expect("a time") - 1);
        assert!(!Peer { pid: peer.pid, held: before }.is_alive());
    }

    #[test]
    fn a_caller_that_left_its_connection_to_another_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let listener = listen(&path).expect("a socket");
        let address = nix::sys::socket::UnixAddr::new(&path).expect("an address");
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("a socket");
        // SAFETY: the child makes two system calls and no allocation.
        match unsafe { fork() }.expect("a child") {
            ForkResult::Child => {
                let connected = nix::sys::socket::connect(socket.as_raw_fd(), &address);
                // SAFETY: ends the child at once; nothing of the parent's is run.
                unsafe { libc::_exit(i32::from(connected.is_err())) }
            }
            ForkResult::Parent { child } => {
                // The connection is the child's, and stays open here when it is gone.
                waitpid(child, None).expect("reaped");
                let (stream, _) = listener.accept().expect("accepted");
                let peer = Peer::of(&stream);
                assert!(peer.as_ref().map_or(true, |peer| !peer.is_alive()), "{peer:?}");
            }
        }
    }
}
