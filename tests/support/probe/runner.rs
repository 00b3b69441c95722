//! Carries out attempts of the catalogue, each in a process of its own, several at a time, and prints a line of JSON for
//! each: `{"vector","step","error"}`, `step` and `error` empty when it went through. Lines for the one who judges:
//!
//! ```text
//! meet WHAT PID FILE      waits until FILE exists in DIR: the process is to be moved, its cgroup governed, or wired up
//! dial tcp|udp PORT       is to be called from outside
//! ```

use crate::outside;
use crate::raw::{self, Fail, Step as _, Tried, check};
use crate::vectors;
use crate::vectors::deputies::Kind;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::catalogue::{self, Aim, PORT, Phase, Privilege, Start, VECTORS, Vector};

/// Attempts at a time.
const AT_ONCE: usize = 12;
/// The longest that an attempt may take, seconds. It only ends what would never end: in an emulated machine a second's
/// work takes half a minute.
const LIMIT: u32 = 60;

/// One attempt's surroundings.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) aim: Aim,
    pub(crate) dir: PathBuf,
}

impl Try {
    pub(crate) fn token(&self) -> Vec<u8> {
        self.aim.token().into_bytes()
    }

    /// Tries each address family. It went through when one did.
    pub(crate) fn each(&self, port: u16, mut one: impl FnMut(SocketAddr) -> Tried) -> Tried {
        any(self.aim.all(port), &mut one)
    }

    /// Asks the judge for something and waits until it is done.
    pub(crate) fn meet(&self, what: &str) -> Tried {
        let pid = std::process::id();
        let file = format!("met-{}-{}", self.aim.token(), pid);
        say(&format!("meet {what} {pid} {file}\n"));
        let end = Instant::now() + Duration::from_secs(u64::from(LIMIT) - 2);
        while !self.dir.join(&file).exists() {
            if Instant::now() > end {
                return raw::fail("meet", libc::ETIMEDOUT);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Asks to be called from outside.
    #[expect(clippy::unused_self, reason = "only an attempt may")]
    pub(crate) fn dial(&self, kind: &str, port: u16) {
        say(&format!("dial {kind} {port}\n"));
    }
}

/// Ok when one of them is; else the first failure.
pub(crate) fn any(to: impl IntoIterator<Item = SocketAddr>, one: &mut dyn FnMut(SocketAddr) -> Tried) -> Tried {
    let results: Vec<Tried> = to.into_iter().map(one).collect();
    if results.iter().any(Result::is_ok) {
        return Ok(());
    }
    results.into_iter().next().unwrap_or(Ok(()))
}

/// One write, so that lines of several processes do not mix.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// What `probe catalogue` does.
pub(crate) fn run(privilege: &str, phase: &str, dir: &str, start: &str, names: &[&str]) -> ExitCode {
    let (Some(privilege), Some(phase)) = (Privilege::named(privilege), Phase::named(phase)) else {
        return ExitCode::from(2);
    };
    let begins = match start {
        "inside" => Start::Inside,
        "outside" => Start::Outside,
        "before" => Start::Before,
        _ => Start::Last,
    };
    if let Err(fail) = become_it(privilege) {
        eprintln!("cannot become {}: {} {}", privilege.name(), fail.step, fail.error);
        return ExitCode::from(1);
    }
    let chosen = |vector: &Vector| vector.start == begins && (names.is_empty() || names.contains(&vector.name));
    let mut left: Vec<usize> =
        VECTORS.iter().enumerate().filter(|(_, vector)| chosen(vector)).map(|(place, _)| place).collect();
    left.reverse();
    let mut running: BTreeMap<Pid, usize> = BTreeMap::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(vector) = left.pop()
        {
            let this = Try { aim: Aim { vector, privilege, phase }, dir: PathBuf::from(dir) };
            // SAFETY: this process has one thread.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => one(&this),
                Ok(ForkResult::Parent { child }) => drop(running.insert(child, vector)),
                Err(error) => report(vector, "fork", &error.to_string()),
            }
        }
        if running.is_empty() {
            return ExitCode::SUCCESS;
        }
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, 0)) => drop(running.remove(&pid)),
            Ok(WaitStatus::Exited(pid, code)) => {
                if let Some(vector) = running.remove(&pid) {
                    report(vector, "died", &format!("exit code {code}"));
                }
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                if let Some(vector) = running.remove(&pid) {
                    report(vector, "died", signal.as_str());
                }
            }
            _ => {}
        }
    }
}

fn report(vector: usize, step: &str, error: &str) {
    let name = VECTORS.get(vector).map_or("", |vector| vector.name);
    say(&format!("{{\"vector\":\"{name}\",\"step\":\"{step}\",\"error\":{error:?}}}\n"));
}

/// The child: tries, says how it went, ends.
fn one(this: &Try) -> ! {
    let name = VECTORS.get(this.aim.vector).map_or("", |vector| vector.name);
    let _unnamed = nix::sys::prctl::set_name(&std::ffi::CString::new(name).unwrap_or_default());
    // SAFETY: integers only. What the attempt starts goes with it.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::alarm(LIMIT);
    }
    let tried = std::panic::catch_unwind(|| vectors::attempt(name, this));
    match tried {
        Ok(Ok(())) => report(this.aim.vector, "", ""),
        Ok(Err(Fail { step, error })) => report(this.aim.vector, step, &error.to_string()),
        Err(_) => report(this.aim.vector, "died", "panicked"),
    }
    // SAFETY: ends this process, which shares nothing that a destructor would clean up.
    unsafe { libc::_exit(0) }
}

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN`.
const WITHOUT: [u32; 2] = [12, 21];

/// Takes on what the privilege means. An ordinary user is one already.
fn become_it(privilege: Privilege) -> Tried {
    match privilege {
        Privilege::User => Ok(()),
        Privilege::Root => {
            let mask = !WITHOUT.iter().fold(0_u32, |mask, cap| mask | 1 << cap);
            for cap in WITHOUT {
                // SAFETY: integers only. Fails where it is not in the set, which is what is wanted.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0) };
            }
            let header = [0x2008_0522_u32, 0];
            let mut data = [0_u32; 6]; // effective, permitted, inheritable; twice
            // SAFETY: both are of the documented layout (capset(2), version 3).
            unsafe {
                check(libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr())).at("capget")?;
                data[..3].iter_mut().for_each(|word| *word &= mask);
                check(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())).at("capset")?;
            }
            Ok(())
        }
        Privilege::Userns => user_namespace(CloneFlags::empty()),
    }
}

/// Root of a new user namespace, with other namespaces of its own.
pub(crate) fn user_namespace(more: CloneFlags) -> Tried {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | more).at("unshare")?;
    std::fs::write("/proc/self/setgroups", "deny").at("setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).at("uid_map")?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).at("gid_map")
}

/// The descriptors that `with_sockets` leaves open: connected UDP, connected TCP, another, a listener.
pub(crate) const INHERITED: [i32; 4] = [50, 51, 52, 53];

/// Socket pairs that `with_sockets` leaves open, each with a process at its other end that stays outside: who uses it, what
/// that process does, and the descriptor.
pub(crate) const PAIRS: [(&str, Kind, i32); 4] = [
    ("pair_passed_connected", Kind::Giver, 54),
    ("pair_passed_unconnected", Kind::Giver, 55),
    ("pair_pass_out", Kind::Taker, 56),
    ("pair_deputy", Kind::Stream, 57),
];

/// What `probe with-sockets` does: the sockets are made before anybody governs this process.
pub(crate) fn with_sockets(privilege: &str, phase: &str, dir: &str, how: &str, command: &[&str]) -> ExitCode {
    let (Some(privilege), Some(phase)) = (Privilege::named(privilege), Phase::named(phase)) else {
        return ExitCode::from(2);
    };
    match open_and_join(privilege, phase, dir, how) {
        Ok(()) => {
            let Some((program, rest)) = command.split_first() else { return ExitCode::from(2) };
            let error = std::process::Command::new(program).args(rest).exec();
            eprintln!("{program}: {error}");
        }
        Err(Fail { step, error }) => eprintln!("with-sockets: {step}: {error}"),
    }
    ExitCode::from(1)
}

fn open_and_join(privilege: Privilege, phase: Phase, dir: &str, how: &str) -> Tried {
    let aim = |name: &str| catalogue::named(name).map(|(vector, _)| Aim { vector, privilege, phase });
    let place = |aim: Aim| SocketAddr::from((aim.ip4(), PORT));
    let keep = |socket: &socket2::Socket, number: i32| {
        // SAFETY: a descriptor that is open and a number that is free; the copy is not closed by exec.
        check(unsafe { libc::dup2(socket.as_raw_fd(), number) }.into()).at("dup2").map(drop)
    };
    if let Some(aim) = aim("inherited_udp") {
        let udp = raw::udp(&place(aim))?;
        raw::connect(&udp, &place(aim))?;
        keep(&udp, INHERITED[0])?;
    }
    for (name, number) in [("inherited_tcp", INHERITED[1]), ("inherited_sendfile", INHERITED[2])] {
        // To the control's address: the handshake is no leak, the token will be.
        if let Some(aim) = aim(name) {
            let to = place(Aim { phase: Phase::Control, ..aim });
            let tcp = raw::tcp(&to)?;
            raw::connect(&tcp, &to)?;
            keep(&tcp, number)?;
        }
    }
    for (_, kind, number) in PAIRS {
        let (near, far) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).at("pair")?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.at("fork")? {
            ForkResult::Child => {
                drop(near);
                at_the_other_end(kind, &far)
            }
            ForkResult::Parent { .. } => keep(&near, number)?,
        }
    }
    if let Some(aim) = aim("activated_listener") {
        let at = SocketAddr::from(([0, 0, 0, 0], aim.inbound_port()));
        let listener = raw::tcp(&at)?;
        listener.bind(&at.into()).and_then(|()| listener.listen(1)).at("listen")?;
        keep(&listener, INHERITED[3])?;
        let this = Try { aim, dir: PathBuf::from(dir) };
        if how == "join" {
            this.meet("join")?;
        }
    }
    Ok(())
}

/// Serves one socket pair, outside, for as long as whoever made it lives.
fn at_the_other_end(kind: Kind, far: &socket2::Socket) -> ! {
    // SAFETY: integers only. The judge reads that output to its end, which must not wait for this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::close(1);
    }
    outside::converse(kind, far);
    // SAFETY: ends this process, which shares nothing that a destructor would clean up.
    unsafe { libc::_exit(0) }
}

/// What a set-uid program does for its caller.
pub(crate) fn set_uid(privilege: &str, phase: &str) -> ExitCode {
    let (Some(privilege), Some(phase)) = (Privilege::named(privilege), Phase::named(phase)) else {
        return ExitCode::from(2);
    };
    let Some((vector, _)) = catalogue::named("setuid_program") else { return ExitCode::from(2) };
    let this = Try { aim: Aim { vector, privilege, phase }, dir: PathBuf::new() };
    match vectors::protocols::raw_icmp(&this) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) if fail.step == "socket" => ExitCode::from(10),
        Err(_) => ExitCode::from(11),
    }
}
