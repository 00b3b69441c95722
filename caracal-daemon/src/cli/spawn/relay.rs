//! Descriptors 0-2 of a spawned command. Takes the caller's; gives the ones that the command gets. A unix socket (Node
//! gives them to its children for pipes) is replaced by a pipe and copied, because a socket can carry descriptors in.
//! Refuses network sockets and everything that is no file, pipe or terminal.

use super::{SpawnError, duplicate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};
use nix::sys::stat::{SFlag, fstat};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

/// At most this much is still copied when the command has ended: more than a pipe holds by default.
const LAST_BYTES: usize = 1 << 20;

/// One replaced descriptor: the command's end of the pipe, ours, and the caller's socket.
#[derive(Debug)]
struct Relay {
    fd: i32,
    child_end: OwnedFd,
    our_end: OwnedFd,
    socket: OwnedFd,
}

/// Descriptors 0-2: passed on as they are, or replaced.
#[derive(Debug)]
pub(super) struct Stdio(Vec<Relay>);

impl Stdio {
    /// Looks at this process's descriptors 0-2.
    pub(super) fn inspect() -> Result<Stdio, SpawnError> {
        let mut relays = Vec::new();
        for fd in 0..3 {
            if is_unix_socket(fd)? {
                let system = |what| move |e: std::io::Error| SpawnError::System(what, e);
                let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
                    .map_err(|e| SpawnError::System("make a pipe", e.into()))?;
                let (child_end, our_end) = if fd == 0 { (read, write) } else { (write, read) };
                let socket = duplicate(fd).map_err(system("duplicate a descriptor"))?;
                relays.push(Relay { fd, child_end, our_end, socket });
            }
        }
        Ok(Stdio(relays))
    }

    /// What the child puts in the place of 0-2.
    pub(super) fn child_fds(&self) -> [Option<i32>; 3] {
        [0, 1, 2].map(|fd| self.0.iter().find(|relay| relay.fd == fd).map(|relay| relay.child_end.as_raw_fd()))
    }

    /// Starts copying. The command's ends are closed here, so that the end of the command is the end of the pipe.
    pub(super) fn start(self) -> std::io::Result<Copying> {
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let mut outputs = Vec::new();
        for Relay { fd, our_end, socket, .. } in self.0 {
            let (ours, socket) = (File::from(our_end), File::from(socket));
            if fd == 0 {
                // Ends with the caller's input or with this process: nobody waits for it.
                std::thread::spawn(move || copy_in(socket, ours));
            } else {
                let stopped = stopped.try_clone()?;
                outputs.push(std::thread::spawn(move || copy_out(ours, socket, &stopped)));
            }
        }
        Ok(Copying { stop, outputs })
    }
}

/// Threads that copy the command's output.
#[derive(Debug)]
pub(super) struct Copying {
    stop: OwnedFd,
    outputs: Vec<JoinHandle<()>>,
}

impl Copying {
    /// Copies what is left in the pipes and ends, even if a descendant of the command keeps them open.
    pub(super) fn finish(self) {
        drop(self.stop);
        for thread in self.outputs {
            let _ = thread.join();
        }
    }
}

fn copy_in(mut socket: File, mut pipe: File) {
    // Not `io::copy`: its splice holds bytes back until more have come.
    let mut chunk = vec![0; 64 << 10];
    while let Ok(n) = socket.read(&mut chunk) {
        match chunk.get(..n) {
            Some(bytes) if n > 0 && pipe.write_all(bytes).is_ok() => {}
            _ => return,
        }
    }
}

fn copy_out(mut pipe: File, mut socket: File, stopped: &OwnedFd) {
    let mut chunk = vec![0; 64 << 10];
    let mut left = LAST_BYTES;
    loop {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(_) => return,
        }
        let [readable, stop] = fds.map(|fd| fd.any().unwrap_or(true));
        if !readable {
            return; // nothing left, and the command has ended
        }
        let Ok(n) = pipe.read(&mut chunk) else { return };
        let Some(bytes) = chunk.get(..n).filter(|bytes| !bytes.is_empty()) else { return };
        if socket.write_all(bytes).is_err() {
            return;
        }
        if stop {
            left = left.saturating_sub(n);
            if left == 0 {
                return;
            }
        }
    }
}

fn is_unix_socket(fd: i32) -> Result<bool, SpawnError> {
    // SAFETY: 0-2 are open in a Rust program (its start-up opens them if need be) and are not closed here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = fstat(borrowed).map_err(|e| SpawnError::System("look at descriptors 0-2", e.into()))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if [SFlag::S_IFREG, SFlag::S_IFIFO, SFlag::S_IFCHR].contains(&kind) {
        return Ok(false);
    }
    if kind != SFlag::S_IFSOCK {
        return Err(SpawnError::Stdio { fd, what: "neither a file, a pipe nor a terminal" });
    }
    match getsockname::<SockaddrStorage>(fd).ok().and_then(|name| name.family()) {
        Some(AddressFamily::Unix) => Ok(true),
        _ => Err(SpawnError::Stdio { fd, what: "a network socket, which would reach its peer beside the policy" }),
    }
}
