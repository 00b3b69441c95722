//! A process of the daemon's own that tries to get out of each governed tree, again and again, and must be refused.
//! Takes a cgroup; gives what got through, on the word of errno and of its own listeners. Never sends outside of a network
//! namespace that it makes for itself: nobody serves that one, so every attempt is refused whether the door is open or not.
//!
//! The keeper moves it into a leaf below the governed directory and out again: an agent's cgroup holds it for the moment
//! of the attempts only. What it is refused is counted under the leaf, and is no agent's.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, socket};

use super::cgroup::{Cgroup, set_canary};

/// The leaf's name below each governed directory.
pub const LEAF: &str = "caracal-canary";
/// How long a round may take. A frozen or killed one is started anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process, and the road to it.
#[derive(Debug)]
pub struct Canary {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Where it is at home: the keeper's own cgroup.
    home: std::path::PathBuf,
}

impl Drop for Canary {
    fn drop(&mut self) {
        set_canary(0);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Canary {
    /// Starts it; `home` is the directory of the keeper's own cgroup.
    ///
    /// # Errors
    /// When it cannot be started, or is refused what everybody else may do.
    pub fn start(home: std::path::PathBuf) -> io::Result<Canary> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("caracald: canary").arg("canary").env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        set_canary(child.id());
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no road"));
        };
        let mut canary = Canary { child, to, from: BufReader::new(from), home };
        match canary.line()?.as_str() {
            "free" => Ok(canary),
            why => Err(io::Error::other(format!("it cannot try: {why}"))),
        }
    }

    /// Tries every way from within `leaf`. Gives those that were not refused; empty is as it should be.
    ///
    /// # Errors
    /// When it could not be moved in, or did not answer: nothing is proven then. It has to be started anew.
    pub fn try_in(&mut self, leaf: &Cgroup) -> io::Result<Vec<String>> {
        leaf.admit(self.child.id()).map_err(|error| io::Error::other(error.to_string()))?;
        let tried = self.ask(b"try\n");
        // The keeper's own cgroup may have got controllers since, and takes no process then; the one above does.
        let homes = [self.home.join("cgroup.procs"), self.home.join("../cgroup.procs")];
        let back = homes.iter().any(|procs| std::fs::write(procs, self.child.id().to_string()).is_ok());
        let tried = tried?;
        if !back {
            return Err(io::Error::other("it cannot be moved back"));
        }
        let heard = self.ask(b"heard\n")?;
        let ways = tried.split_whitespace().chain(heard.split_whitespace());
        Ok(ways.filter(|way| *way != "none").map(ToOwned::to_owned).collect())
    }

    fn ask(&mut self, question: &[u8]) -> io::Result<String> {
        self.to.write_all(question)?;
        self.line()
    }

    fn line(&mut self) -> io::Result<String> {
        let wait = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(self.from.get_ref().as_fd(), PollFlags::POLLIN)], wait)?;
        if ready == 0 && self.from.buffer().is_empty() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(line.trim().to_owned())
    }
}

/// What it listens on, in its own namespace.
struct Nest {
    tcp: Vec<TcpListener>,
    udp: UdpSocket,
    /// Whether the kernel gives it a raw socket when nobody refuses.
    raw: bool,
}

/// Runs the process: answers the keeper until it closes the road.
///
/// # Errors
/// When the keeper cannot be told.
pub fn run() -> io::Result<()> {
    // SAFETY: a number, no pointer. It does not outlive its keeper.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut out = io::stdout().lock();
    let nest = match settle() {
        Ok(nest) => nest,
        Err(error) => return writeln!(out, "{error}"),
    };
    // Without a control its silence would prove nothing.
    let ways = attempts(&nest);
    let heard = heard(&nest);
    if !["tcp4", "udp", "udp-connected"].iter().all(|way| ways.contains(way)) || heard.len() < 2 {
        return writeln!(out, "only {ways:?} succeed where nobody refuses, and {heard:?} is heard");
    }
    writeln!(out, "free")?;
    out.flush()?;
    for line in io::stdin().lock().lines() {
        let found = match line?.as_str() {
            "try" => attempts(&nest),
            _ => self::heard(&nest),
        };
        let text = if found.is_empty() { "none".to_owned() } else { found.join(" ") };
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(())
}

/// A network namespace of its own, with its loopback up, and listeners there.
fn settle() -> io::Result<Nest> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    let any = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    // SAFETY: zeroes are an ifreq; the name and the flags are written within it, and the kernel reads both.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        if libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut tcp = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    // A host without IPv6 has no way out over it.
    tcp.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for listener in &tcp {
        listener.set_nonblocking(true)?;
    }
    udp.set_nonblocking(true)?;
    let raw = raw().is_ok();
    Ok(Nest { tcp, udp, raw })
}

/// Tries each way once; gives those that the kernel did not refuse.
fn attempts(nest: &Nest) -> Vec<&'static str> {
    let mut through = Vec::new();
    for (listener, way) in nest.tcp.iter().zip(["tcp4", "tcp6"]) {
        if listener.local_addr().is_ok_and(|to| !refused(&connect(to))) {
            through.push(way);
        }
    }
    if let Ok(to) = nest.udp.local_addr() {
        let send = |connected: bool| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            if connected {
                socket.connect(to)?;
                return socket.send(b"canary").map(drop);
            }
            socket.send_to(b"canary", to).map(drop)
        };
        for (connected, way) in [(false, "udp"), (true, "udp-connected")] {
            if !refused(&send(connected)) {
                through.push(way);
            }
        }
    }
    if nest.raw && !refused(&raw()) {
        through.push("raw");
    }
    through
}

/// What reached the listeners.
fn heard(nest: &Nest) -> Vec<&'static str> {
    let mut heard = Vec::new();
    for (listener, way) in nest.tcp.iter().zip(["heard-tcp4", "heard-tcp6"]) {
        while listener.accept().is_ok() {
            if !heard.contains(&way) {
                heard.push(way);
            }
        }
    }
    while nest.udp.recv(&mut [0; 16]).is_ok() {
        if !heard.contains(&"heard-udp") {
            heard.push("heard-udp");
        }
    }
    heard
}

/// The kernel's no, in its two forms: before Linux 5.18 a refused connect reads `EPERM`.
fn refused<T>(result: &io::Result<T>) -> bool {
    let code = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(code, Some(libc::EPERM | libc::EACCES | libc::ECONNREFUSED))
}

/// Straight from the system call: `clippy.toml` keeps connects in one place, and this one must not arrive.
fn connect(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?)
}

fn raw() -> io::Result<OwnedFd> {
    // SAFETY: takes integers; gives a descriptor that is ours.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
