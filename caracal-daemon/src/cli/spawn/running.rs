//! A command that runs. Takes its process id; gives its exit status. Passes signals on. Never leaves a zombie.

use super::relay::{Copying, Stdio};
use super::{FORWARDED, Uncovered};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// The command, or the child that waits to become it. Dropping it kills the command.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    limits: Vec<Uncovered>,
    stdio: Option<Stdio>,
    copying: Option<Copying>,
    reaped: bool,
}

/// The signals that [`Running::wait`] reads.
pub(super) fn signals() -> SigSet {
    FORWARDED.into_iter().collect()
}

/// What a shell would give: the code, or 128 and the signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(125)
}

impl Running {
    pub(super) fn new(pid: Pid, stdio: Stdio, limits: Vec<Uncovered>) -> io::Result<Running> {
        // SAFETY: pidfd_open takes integers and gives a new descriptor or -1. The child is not reaped yet, so that the
        // number is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            return Err(error);
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Running { pid, pidfd, limits, stdio: Some(stdio), copying: None, reaped: false })
    }

    /// The command's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor for the command.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// What this spawn leaves open.
    #[must_use]
    pub fn limits(&self) -> &[Uncovered] {
        &self.limits
    }

    pub(super) fn start_relays(&mut self) -> io::Result<()> {
        if let Some(stdio) = self.stdio.take() {
            self.copying = Some(stdio.start()?);
        }
        Ok(())
    }

    /// Waits for the end of the command and passes signals on meanwhile. The signals stay blocked, so that the caller
    /// can still print a summary after an interrupt.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        loop {
            let mut fds =
                [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [ended, _] = fds.map(|fd| fd.any().unwrap_or(true));
            while let Ok(Some(info)) = signals.read_signal() {
                // The terminal's own signals (SI_KERNEL) have reached the command: it is in our process group.
                if info.ssi_code != libc::SI_KERNEL {
                    self.send(info.ssi_signo as i32);
                }
            }
            if ended {
                break;
            }
        }
        let status = self.reap()?;
        if let Some(copying) = self.copying.take() {
            copying.finish();
        }
        Ok(status)
    }

    /// Sends a signal to the command and to no other process, ended or not.
    fn send(&self, signal: i32) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a descriptor of ours, a number, and no siginfo.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, none, 0) };
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let mut status = 0;
        loop {
            // SAFETY: writes the status into a local.
            let pid = unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, 0) };
            if pid == self.pid.as_raw() {
                self.reaped = true;
                return Ok(ExitStatus::from_raw(status));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.send(libc::SIGKILL);
            let _ = self.reap();
        }
    }
}
