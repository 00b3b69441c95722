//! The control socket: who may ask for what. An ordinary user may run agents and see their own; root, or a member of
//! the admin group, administers; a governed process may do nothing at all.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::frame;
use super::govern::Governor;
use super::order::{EventsQuery, Order};

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
    /// Govern a cgroup.
    Attach {
        /// Its path.
        cgroup: PathBuf,
        /// The agent's name; the directory's, if none is given.
        agent: Option<String>,
        /// Also where what runs in it could undo the pins; recorded.
        allow_degraded: bool,
    },
    /// Release a cgroup: what is in it connects directly again.
    Detach {
        /// Its path.
        cgroup: PathBuf,
    },
    /// Read the configuration's policy again.
    Reload,
    /// What is governed, and whether the door is open.
    Status,
    /// Records.
    Events(EventsQuery),
    /// Totals.
    Spend,
    /// The CA's certificate, PEM.
    CaCertificate,
}

/// The answer: a value, or a sentence that says why not.
pub type Response = Result<serde_json::Value, String>;

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

/// Serves connections until the process ends, each on its own thread, at most 256 at once.
pub fn serve(listener: &UnixListener, governor: &Arc<Governor>) {
    let places = Arc::new(());
    for stream in listener.incoming().flatten() {
        if Arc::strong_count(&places) > 256 {
            continue;
        }
        let (governor, place) = (Arc::clone(governor), Arc::clone(&places));
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
    let caller = match identify(&stream, governor) {
        Ok(caller) => caller,
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
            Request::Run { agent, learn, pid } if running.is_none() => {
                governor.run(caller, &agent, learn, pid).map(|started| {
                    let value = started.to_json();
                    running = Some(started);
                    let _ = stream.set_read_timeout(None);
                    value
                })
            }
            Request::Run { .. } => Err("one connection runs one agent".to_owned()),
            Request::Ended => match running.take() {
                Some(started) => governor.ended(&started),
                None => Err("nothing was started on this connection".to_owned()),
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
        if caller.admin { Ok(()) } else { Err(format!("only root may {what}: run it with sudo")) }
    };
    match request {
        Request::Attach { cgroup, agent, allow_degraded } => {
            administer("attach a cgroup")?;
            governor.attach(&cgroup, agent.as_deref(), allow_degraded)
        }
        Request::Detach { cgroup } => {
            administer("release a cgroup")?;
            governor.detach(&cgroup)
        }
        Request::Reload => {
            administer("reload the policy")?;
            governor.reload()
        }
        Request::Status => governor.status(own),
        Request::Events(query) => governor.order(&Order::Events(EventsQuery { uid: own, ..query })),
        Request::Spend => governor.order(&Order::Spend { agents: own.map(|uid| governor.agents_of(uid)) }),
        Request::CaCertificate => Ok(serde_json::Value::String(governor.ca_certificate().to_owned())),
        Request::Run { .. } | Request::Ended => Err("out of turn".to_owned()),
    }
}

/// Who is at the other end, by the kernel's word: `SO_PEERCRED`, and the cgroup of that process.
fn identify(stream: &UnixStream, governor: &Governor) -> Result<Caller, String> {
    let peer = getsockopt(&stream.as_fd(), sockopt::PeerCredentials).map_err(|error| error.to_string())?;
    let pid = u32::try_from(peer.pid()).map_err(|_| "the caller has no process id here".to_owned())?;
    if governor.governs(pid).map_err(|error| error.to_string())? {
        return Err("a governed process may not use the control socket".to_owned());
    }
    Ok(Caller { pid, uid: peer.uid(), admin: peer.uid() == 0 || governor.is_admin(pid) })
}
