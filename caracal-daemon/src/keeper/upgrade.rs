//! An upgrade in place: the keeper becomes the program that lies where it was started from. Takes the listening sockets
//! and the lock over; new connections wait in the sockets meanwhile and none is refused. Programs and pins stand all the
//! while. Never starts a program that cannot say its version, and goes on as it was when that fails.
//!
//! One journal has one writer: the old data path lets go of journal, ledger and budgets before the new one begins. What is
//! open at the old one goes on there, and what it records then is written by the new one (`predecessors.rs`).

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::KeeperError;
use super::listeners::{LISTENERS, Listeners};
use super::predecessors::{self, Predecessors};

/// The variable that names the descriptors, in their order: the lock, then the listeners.
const VARIABLE: &str = "CARACAL_HANDED_OVER";
/// How long the door stays open with nobody behind it, from the moment that the old data path is told to end. Connections
/// wait then, and no byte leaves the host.
pub const AT_MOST: Duration = Duration::from_secs(45);

/// What the keeper before this one left open.
#[derive(Debug)]
pub struct HandedOver {
    /// The lock, held.
    pub lock: OwnedFd,
    /// The listening sockets of our own namespace.
    pub listeners: Listeners,
}

impl HandedOver {
    /// Takes it. `None`: this is a start like any other.
    ///
    /// # Errors
    /// When the variable is there and what it names is not.
    pub fn take() -> Result<Option<HandedOver>, KeeperError> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let wrong = || KeeperError::Refused(format!("{VARIABLE} is not for people: start caracald without it"));
        let numbers: Option<Vec<RawFd>> =
            text.to_str().ok_or_else(wrong)?.split(',').map(|fd| fd.parse().ok()).collect();
        let numbers = numbers.filter(|numbers| numbers.len() == 1 + LISTENERS).ok_or_else(wrong)?;
        let mut descriptors = Vec::with_capacity(numbers.len());
        for fd in numbers {
            // SAFETY: only asks whether the descriptor is open, and closes it on the next exec.
            if fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
                return Err(wrong());
            }
            // SAFETY: open, inherited from the keeper before us, and nobody else's.
            descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let lock = descriptors.remove(0);
        let listeners = Listeners::from_descriptors(descriptors).ok_or_else(wrong)?;
        Ok(Some(HandedOver { lock, listeners }))
    }
}

/// Whether the program at `path` runs at all: it says its version.
///
/// # Errors
/// When it does not.
pub fn try_program(path: &Path) -> Result<String, String> {
    let said = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let said = said.map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if said.status.success() && text.starts_with("caracald ") {
        return Ok(text);
    }
    Err(format!("{} does not say its version: {} {text}", path.display(), said.status))
}

/// Becomes the program at `path`, with this process's arguments, environment and signal mask. Comes back only when it
/// could not.
pub fn become_program(
    path: &Path,
    lock: BorrowedFd<'_>,
    listeners: &Listeners,
    predecessors: &Predecessors,
) -> io::Error {
    let mut handed = vec![lock.as_raw_fd()];
    handed.extend(listeners.descriptors().iter().map(|fd| fd.as_fd().as_raw_fd()));
    let named: Vec<String> = handed.iter().map(ToString::to_string).collect();
    handed.extend(predecessors.roads().iter().map(AsRawFd::as_raw_fd));
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let prepared = (|| -> io::Result<_> {
        let program = CString::new(path.as_os_str().as_bytes())?;
        let arguments: Vec<CString> =
            std::env::args_os().map(OsString::into_vec).map(text).collect::<io::Result<_>>()?;
        let left = format!("{}={}", predecessors::VARIABLE, predecessors.named());
        let mut environment =
            vec![text(format!("{VARIABLE}={}", named.join(",")).into_bytes())?, text(left.into_bytes())?];
        let ours = |name: &OsString| name == VARIABLE || name == predecessors::VARIABLE;
        for (name, value) in std::env::vars_os().filter(|(name, _)| !ours(name)) {
            environment.push(text([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        Ok((program, arguments, environment))
    })();
    let (program, arguments, environment) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let keep = |flags: libc::c_int| {
        for fd in &handed {
            // SAFETY: integers only; the descriptors are open.
            unsafe { libc::fcntl(*fd, libc::F_SETFD, flags) };
        }
    };
    keep(0);
    // Not by way of `Command`, which empties the mask: a signal between the two programs must wait for the second.
    let Err(error) = nix::unistd::execve(&program, &arguments, &environment);
    keep(libc::FD_CLOEXEC);
    io::Error::from(error)
}
