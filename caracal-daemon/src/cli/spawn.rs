//! Takes a command line and what must be hidden from it; gives a confined child in the caller's session and terminal.
//! Refuses to run a command that it cannot confine as planned. Never executes one byte of the command before the
//! caller has moved the child into its governed cgroup.
//!
//! ```text
//! prepare()  fork; the child waits           caller moves pid into the cgroup         release()  wait()
//! ```
//! What the command gets, on any kernel: no descriptor but 0-2 and no socket among them, no_new_privs, a private mount
//! namespace ([`mounts`]), few capabilities ([`capability`]), Landlock scopes, a seccomp filter ([`filter`]). What a
//! kernel or a setup does not allow is named in [`Prepared::limits`].
//!
//! It keeps the caller's environment (as the plan gives it), directory, terminal, process group, groups and limits. An
//! ordinary user's command runs in a user namespace that maps only this user and group: other ids read as `nobody`.
//!
//! Signals: what the terminal sends reaches the whole process group by itself. What a process sends to the caller
//! (TERM, HUP, INT, QUIT, USR1, USR2) is passed on. When the calling *thread* dies the command is killed
//! (`PR_SET_PDEATHSIG`); its own children are not, only the cgroup can reach those.

pub mod capability;
mod child;
pub mod filter;
pub mod mounts;
mod relay;
mod running;

#[cfg(test)]
mod tests;

pub use running::{Running, exit_code};

use crate::cli::trust::Trust;
pub(in crate::cli) use child::landlock_abi;
use child::{Child, Failure};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};
use relay::Stdio;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Signals that are passed on to the command when a process (not the terminal) sends them to the caller.
pub const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// What to run and how.
#[derive(Clone, Debug)]
pub struct SpawnPlan {
    /// The command and its arguments. A name without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment, usually [`Trust::apply`] of the caller's.
    pub env: Vec<(OsString, OsString)>,
    /// Files to mount over others, usually [`Cover::trust`].
    pub covers: Vec<Cover>,
    /// Files and directories that the command must not see: the control socket's and the state's directory. BPF file
    /// systems are hidden, and cgroup file systems made read-only, without being named.
    pub hide: Vec<PathBuf>,
}

/// One file mounted over another in the command's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// What it sees.
    pub source: PathBuf,
    /// Where. Left out when it does not exist.
    pub target: PathBuf,
}

impl Cover {
    /// The system's certificate stores, covered with the bundle and the Java store of `trust`.
    #[must_use]
    pub fn trust(trust: &Trust) -> Vec<Cover> {
        let pem = crate::cli::trust::bundle::SYSTEM_BUNDLES.iter().map(|path| (path, &trust.bundle));
        let java = ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"];
        let java = java.iter().map(|path| (path, &trust.java_store));
        pem.chain(java).map(|(path, source)| Cover { source: source.clone(), target: PathBuf::from(*path) }).collect()
    }
}

/// What the kernel, the setup or the user's rights leave open in this spawn.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Uncovered {
    /// No private mount namespace.
    NoUserNamespace {
        /// What failed.
        why: String,
    },
    /// Landlock has no scopes here.
    NoLandlockScopes {
        /// The kernel's Landlock ABI; 0 without Landlock.
        abi: u32,
    },
    /// The command runs as root.
    RootDeputies,
}

impl Uncovered {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Uncovered::NoUserNamespace { .. } => "no_user_namespace",
            Uncovered::NoLandlockScopes { .. } => "no_landlock_scopes",
            Uncovered::RootDeputies => "root_deputies",
        }
    }
}

impl std::fmt::Display for Uncovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Uncovered::NoUserNamespace { why } => write!(
                f,
                "no private mounts ({why}): programs that clear their environment do not trust the local CA, and the \
                 control socket, cgroup files and sockets of helpers (docker, D-Bus, key agents) stay in reach; allow \
                 unprivileged user namespaces for caracald"
            ),
            Uncovered::NoLandlockScopes { abi } => write!(
                f,
                "Landlock ABI {abi}, 6 is needed (Linux 6.12): signals and abstract unix sockets of this user's other \
                 processes can be reached; ptrace is refused altogether instead"
            ),
            Uncovered::RootDeputies => write!(
                f,
                "the command runs as root: it can write cron tables and units, open raw disks and ask system services \
                 to act for it; run it as an ordinary user"
            ),
        }
    }
}

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Nothing to run.
    #[error("no command given; write it after `--`")]
    NoCommand,
    /// Not on the path.
    #[error("{}: command not found", .0.display())]
    NotFound(PathBuf),
    /// Not executable.
    #[error("{}: cannot be executed: {}", .0.display(), .1)]
    NotExecutable(PathBuf, std::io::Error),
    /// A zero byte in an argument or a variable.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
    /// A descriptor that would let bytes pass beside the policy.
    #[error("descriptor {fd} is {what}; give the command a terminal, a file or a pipe (for example `| cat`)")]
    Stdio {
        /// 0, 1 or 2.
        fd: i32,
        /// What it is.
        what: &'static str,
    },
    /// A covering file lies in a directory that is hidden.
    #[error("{} lies below {}, which is hidden from the command", .0.display(), .1.display())]
    CoverHidden(PathBuf, PathBuf),
    /// What is mounted over a file that must be covered was deleted.
    #[error(
        "{path} is covered by a mount whose own file was deleted, as a crash may leave it, and nothing can be mounted over it. \
         Take it away, then try again: sudo umount {path}", path = .0.display()
    )]
    StaleMount(PathBuf),
    /// The parent's side failed.
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
    /// The child could not be confined; the command was not run.
    #[error("the command was not run, because it could not be confined: {step}: {source}")]
    Confine {
        /// What failed.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The filter does not compile: a fault of ours.
    #[error("the seccomp filter is not valid: {0}")]
    Filter(String),
}

impl SpawnError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            SpawnError::NoCommand => "no_command",
            SpawnError::NotFound(_) => "command_not_found",
            SpawnError::NotExecutable(..) => "command_not_executable",
            SpawnError::ZeroByte(_) => "zero_byte",
            SpawnError::Stdio { .. } => "stdio_refused",
            SpawnError::CoverHidden(..) => "cover_hidden",
            SpawnError::StaleMount(_) => "stale_mount",
            SpawnError::System(..) => "system",
            SpawnError::Confine { .. } => "not_confined",
            SpawnError::Filter(_) => "filter_invalid",
        }
    }

    /// The exit code that shells give for it: 127 not found, 126 not executable; 125 for our own failures.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            SpawnError::NotFound(_) => 127,
            SpawnError::NotExecutable(..) => 126,
            _ => 125,
        }
    }
}

/// A child that waits to be moved into its cgroup. Dropping it ends the child.
#[derive(Debug)]
pub struct Prepared {
    running: Running,
    go: OwnedFd,
    errors: OwnedFd,
    program: PathBuf,
}

/// Forks a child that waits. Call it from the thread that will call [`Running::wait`], before other threads are started:
/// the child dies with this thread, and only threads made later inherit the blocked signals.
///
/// # Errors
/// When the command is not found, a descriptor 0-2 is refused, or the system refuses the fork.
pub fn prepare(plan: &SpawnPlan) -> Result<Prepared, SpawnError> {
    let program = find(plan)?;
    if let Some((cover, hidden)) = hidden_cover(plan) {
        return Err(SpawnError::CoverHidden(cover, hidden));
    }
    let stdio = Stdio::inspect()?;
    let mut limits = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    if root {
        limits.push(Uncovered::RootDeputies);
    }
    let abi = landlock_abi();
    let scopes = abi >= 6;
    if !scopes {
        limits.push(Uncovered::NoLandlockScopes { abi });
    }
    if !root && let Some(path) = mounts::stale_cover(plan).map_err(|e| SpawnError::System("read mounts", e))? {
        return Err(SpawnError::StaleMount(path));
    }
    let mut namespace = Some(mounts::Namespace::plan(plan, root).map_err(|e| SpawnError::System("read mounts", e))?);
    if !root && let Err(why) = namespace.as_ref().map_or(Ok(()), child::probe) {
        limits.push(Uncovered::NoUserNamespace { why });
        namespace = None;
    }
    let filters = filter::compile(!scopes).map_err(SpawnError::Filter)?;

    let system = |what| move |e: nix::Error| SpawnError::System(what, e.into());
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("make a pipe"));
    let (go_read, go) = pipe()?;
    let (errors, errors_write) = pipe()?;
    let mask = block_signals().map_err(system("block signals"))?;
    let child = Child {
        parent: Pid::this(),
        go: go_read.as_raw_fd(),
        go_write: go.as_raw_fd(),
        errors: errors_write.as_raw_fd(),
        stdio: stdio.child_fds(),
        mask,
        namespace,
        keep: if root { capability::ROOT_KEEPS } else { &[] },
        root,
        scopes,
        filters,
        exec: child::Exec::new(&program, &plan.argv, &plan.env)?,
    };
    // SAFETY: the child calls `Child::run`, which makes system calls on memory prepared above and nothing else: no
    // allocation, no lock, no return.
    let pid = match unsafe { nix::unistd::fork() }.map_err(system("fork"))? {
        ForkResult::Child => child.run(),
        ForkResult::Parent { child } => child,
    };
    let running = Running::new(pid, stdio, limits).map_err(|e| SpawnError::System("open a pidfd", e))?;
    Ok(Prepared { running, go, errors, program })
}

impl Prepared {
    /// The child's process id: move it into its cgroup before [`Prepared::release`].
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// A descriptor for the child that no other process can come to own.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.running.pidfd()
    }

    /// What this spawn leaves open.
    #[must_use]
    pub fn limits(&self) -> &[Uncovered] {
        self.running.limits()
    }

    /// Lets the child confine itself and become the command.
    ///
    /// # Errors
    /// When it could not be confined, or the command could not be executed. The child is gone then.
    pub fn release(self) -> Result<Running, SpawnError> {
        let Prepared { mut running, go, errors, program } = self;
        nix::unistd::write(&go, b"g").map_err(|e| SpawnError::System("start the child", e.into()))?;
        let mut report = Vec::new();
        std::fs::File::from(errors)
            .take(64)
            .read_to_end(&mut report)
            .map_err(|e| SpawnError::System("read the child's report", e))?;
        match Failure::decode(&report) {
            None => {
                running.start_relays().map_err(|e| SpawnError::System("copy the output", e))?;
                Ok(running)
            }
            Some((child::Step::Exec, source)) => Err(SpawnError::NotExecutable(program, source)),
            Some((step, source)) => Err(SpawnError::Confine { step: step.name(), source }),
        }
    }
}

/// Blocks what is read from a signalfd later; gives the mask from before, which the command gets back.
fn block_signals() -> nix::Result<SigSet> {
    // An ignored SIGCHLD would make the kernel reap the child before it can be waited for.
    let default = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::SigDfl,
        nix::sys::signal::SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: installs the default action, no handler.
    unsafe { nix::sys::signal::sigaction(Signal::SIGCHLD, &default) }?;
    running::signals().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
}

fn hidden_cover(plan: &SpawnPlan) -> Option<(PathBuf, PathBuf)> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    plan.covers.iter().find_map(|cover| {
        let hidden = plan.hide.iter().find(|hidden| real(&cover.source).starts_with(real(hidden)))?;
        Some((cover.source.clone(), hidden.clone()))
    })
}

/// Finds the program as `execvp` does.
fn find(plan: &SpawnPlan) -> Result<PathBuf, SpawnError> {
    let name = plan.argv.first().filter(|name| !name.is_empty()).ok_or(SpawnError::NoCommand)?;
    if name.as_bytes().contains(&b'/') {
        return match std::fs::metadata(name) {
            Ok(_) => Ok(name.into()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(SpawnError::NotFound(name.into())),
            Err(e) => Err(SpawnError::NotExecutable(name.into(), e)),
        };
    }
    let path = plan.env.iter().rev().find(|(n, _)| n == "PATH").map(|(_, v)| v.as_os_str());
    std::env::split_paths(path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")))
        .map(|dir| dir.join(name))
        .find(|path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| SpawnError::NotFound(name.into()))
}

/// A C string of `text`.
fn c_string(text: OsString, what: &'static str) -> Result<CString, SpawnError> {
    CString::new(text.into_vec()).map_err(|_| SpawnError::ZeroByte(what))
}

/// A descriptor of its own for descriptor `fd` of this process.
fn duplicate(fd: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC gives a new descriptor or -1 and touches no memory.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if new < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `new` was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}
