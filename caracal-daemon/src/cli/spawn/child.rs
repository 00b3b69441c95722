//! What happens between fork and exec. Takes a [`Child`] in which everything is allocated; becomes the command, or
//! reports the step that failed and exits. Never allocates, locks, or returns: the caller may have had other threads.

use super::mounts::{Namespace, Step as MountStep};
use super::{SpawnError, c_string, capability};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use seccompiler::BpfProgram;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::path::Path;

/// The step that failed, as it travels over the error pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Wait = 1,
    Stdio,
    Descriptors,
    Unshare,
    IdMap,
    Propagation,
    Mount,
    NoNewPrivs,
    Capabilities,
    Landlock,
    ParentDeath,
    Signals,
    Seccomp,
    Exec,
}

const STEPS: [(Step, &str); 14] = [
    (Step::Wait, "wait for the cgroup"),
    (Step::Stdio, "set up descriptors 0-2"),
    (Step::Descriptors, "close inherited descriptors"),
    (Step::Unshare, "make a private mount namespace"),
    (Step::IdMap, "map this user into its user namespace"),
    (Step::Propagation, "make mounts private"),
    (Step::Mount, "mount over what must be hidden or covered"),
    (Step::NoNewPrivs, "set no_new_privs"),
    (Step::Capabilities, "drop capabilities"),
    (Step::Landlock, "enter a Landlock domain"),
    (Step::ParentDeath, "ask to end with the parent"),
    (Step::Signals, "restore signals"),
    (Step::Seccomp, "install the seccomp filter"),
    (Step::Exec, "execute"),
];

impl Step {
    pub(super) fn name(self) -> &'static str {
        STEPS.iter().find(|(step, _)| *step == self).map_or("unknown step", |(_, name)| name)
    }
}

/// A step and its errno.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure(Step, i32);

impl Failure {
    fn last(step: Step) -> Failure {
        Failure(step, nix::errno::Errno::last_raw())
    }

    fn encode(self) -> [u8; 5] {
        let [a, b, c, d] = self.1.to_ne_bytes();
        [self.0 as u8, a, b, c, d]
    }

    /// None when the pipe was closed without a report, which exec does.
    pub(super) fn decode(report: &[u8]) -> Option<(Step, io::Error)> {
        let (code, rest) = report.split_first()?;
        let errno = rest.try_into().map_or(libc::EPROTO, i32::from_ne_bytes);
        let step = STEPS.iter().find(|(step, _)| *step as u8 == *code).map_or(Step::Wait, |(step, _)| *step);
        Some((step, io::Error::from_raw_os_error(errno)))
    }
}

type Done = Result<(), Failure>;

fn check(step: Step, result: libc::c_long) -> Done {
    if result < 0 { Err(Failure::last(step)) } else { Ok(()) }
}

/// The arguments of `execve`, with the shell's for a script without a `#!` line, as `execvp` has it.
#[derive(Debug)]
pub(super) struct Exec {
    program: CString,
    argv: Pointers,
    script: Pointers,
    env: Pointers,
}

/// Strings and the null-terminated array that points at them.
#[derive(Debug)]
struct Pointers {
    array: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Pointers {
        let array = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Pointers { array, _strings: strings }
    }
}

const SHELL: &CStr = c"/bin/sh";

impl Exec {
    pub(super) fn new(program: &Path, argv: &[OsString], env: &[(OsString, OsString)]) -> Result<Exec, SpawnError> {
        let program = c_string(program.as_os_str().into(), "the command")?;
        let argv = argv.iter().map(|a| c_string(a.clone(), "an argument")).collect::<Result<Vec<_>, _>>()?;
        let mut script = vec![SHELL.to_owned(), program.clone()];
        script.extend(argv.iter().skip(1).cloned());
        let env = env.iter().map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            c_string(pair, "a variable")
        });
        let env = env.collect::<Result<Vec<_>, _>>()?;
        Ok(Exec { program, argv: Pointers::new(argv), script: Pointers::new(script), env: Pointers::new(env) })
    }

    fn run(&self) -> Failure {
        let env = self.env.array.as_ptr();
        // SAFETY: the arrays end with a null pointer and the strings they point at live in `self`.
        unsafe {
            libc::execve(self.program.as_ptr(), self.argv.array.as_ptr(), env);
            if nix::errno::Errno::last() == nix::errno::Errno::ENOEXEC {
                libc::execve(SHELL.as_ptr(), self.script.array.as_ptr(), env);
            }
        }
        Failure::last(Step::Exec)
    }
}

/// All that the child needs, allocated before the fork.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) parent: Pid,
    pub(super) go: i32,
    pub(super) go_write: i32,
    pub(super) errors: i32,
    pub(super) stdio: [Option<i32>; 3],
    pub(super) mask: SigSet,
    pub(super) namespace: Option<Namespace>,
    pub(super) keep: &'static [u32],
    pub(super) root: bool,
    pub(super) scopes: bool,
    pub(super) filters: Vec<BpfProgram>,
    pub(super) exec: Exec,
}

impl Child {
    /// Never returns.
    pub(super) fn run(&self) -> ! {
        let failure = match self.confine() {
            Ok(()) => self.exec.run(),
            Err(failure) => failure,
        };
        let report = failure.encode();
        // SAFETY: writes five bytes of a local array; `_exit` runs no destructor of the parent's.
        unsafe {
            // After `descriptors` the pipe is number 3; before, `errors` is. Closed numbers only give EBADF.
            if libc::write(self.errors, report.as_ptr().cast(), report.len()) < 0 {
                libc::write(3, report.as_ptr().cast(), report.len());
            }
            libc::_exit(125)
        }
    }

    /// The order matters: mounts need capabilities, capabilities go before seccomp, and a change of credentials clears
    /// the parent-death signal, which is why it is asked for twice.
    fn confine(&self) -> Done {
        self.die_with_parent()?;
        self.wait()?;
        self.descriptors()?;
        if let Some(namespace) = &self.namespace {
            enter(namespace)?;
            mount_all(namespace)?;
        }
        // SAFETY: prctl with integers.
        check(Step::NoNewPrivs, unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        if self.scopes {
            landlock_scopes()?;
        }
        drop_capabilities(self.keep, self.root || self.namespace.is_some())?;
        self.die_with_parent()?;
        self.restore_signals()?;
        self.filters.iter().try_for_each(seccomp)
    }

    fn die_with_parent(&self) -> Done {
        // SAFETY: prctl with integers; getppid cannot fail.
        unsafe {
            check(Step::ParentDeath, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
            if libc::getppid() != self.parent.as_raw() {
                return Err(Failure(Step::ParentDeath, libc::ESRCH));
            }
        }
        Ok(())
    }

    fn wait(&self) -> Done {
        let mut byte = 0_u8;
        // SAFETY: reads one byte into a local; the write end is closed first, so that a dead parent reads as end.
        unsafe {
            libc::close(self.go_write);
            loop {
                match libc::read(self.go, (&raw mut byte).cast(), 1) {
                    1 => return Ok(()),
                    0 => return Err(Failure(Step::Wait, libc::ECANCELED)),
                    _ if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
                    _ => return Err(Failure::last(Step::Wait)),
                }
            }
        }
    }

    /// 0-2 as planned, the error pipe as 3 and closed by exec, nothing else.
    fn descriptors(&self) -> Done {
        // SAFETY: descriptor numbers only; nothing in this process uses them after this.
        unsafe {
            for (fd, from) in (0..).zip(self.stdio) {
                if let Some(from) = from {
                    check(Step::Stdio, libc::dup2(from, fd).into())?;
                }
            }
            if self.errors != 3 {
                check(Step::Descriptors, libc::dup3(self.errors, 3, libc::O_CLOEXEC).into())?;
            }
            check(Step::Descriptors, libc::syscall(libc::SYS_close_range, 4_u32, u32::MAX, 0_u32))
        }
    }

    fn restore_signals(&self) -> Done {
        // SAFETY: default actions and the mask of before the fork. Rust ignores SIGPIPE; a command expects it.
        unsafe {
            if libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR {
                return Err(Failure::last(Step::Signals));
            }
            check(Step::Signals, libc::sigprocmask(libc::SIG_SETMASK, self.mask.as_ref(), std::ptr::null_mut()).into())
        }
    }
}

/// Whether this user can make the namespaces: tries it in a child that ends at once.
pub(super) fn probe(namespace: &Namespace) -> Result<(), String> {
    use nix::sys::wait::{WaitStatus, waitpid};
    // SAFETY: the child makes system calls on prepared memory and exits.
    match unsafe { nix::unistd::fork() } {
        Err(e) => Err(e.to_string()),
        Ok(nix::unistd::ForkResult::Child) => {
            let code = match enter(namespace).and_then(|()| mount_all(namespace)) {
                Ok(()) => 0,
                Err(Failure(_, errno)) => errno.clamp(1, 255),
            };
            // SAFETY: runs no destructor of the parent's.
            unsafe { libc::_exit(code) }
        }
        Ok(nix::unistd::ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => Err(io::Error::from_raw_os_error(errno).to_string()),
            Ok(status) => Err(format!("{status:?}")),
            Err(e) => Err(e.to_string()),
        },
    }
}

fn enter(namespace: &Namespace) -> Done {
    let user = if namespace.maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: unshare takes flags; this process has one thread.
    check(Step::Unshare, unsafe { libc::unshare(user | libc::CLONE_NEWNS) }.into())?;
    if let Some((uids, gids)) = &namespace.maps {
        write_file(c"/proc/self/setgroups", b"deny")?;
        write_file(c"/proc/self/uid_map", uids)?;
        write_file(c"/proc/self/gid_map", gids)?;
    }
    let (flags, none) = (libc::MS_REC | libc::MS_PRIVATE, std::ptr::null());
    // SAFETY: constant path, flags only.
    check(Step::Propagation, unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) }.into())
}

fn mount_all(namespace: &Namespace) -> Done {
    let none = std::ptr::null::<libc::c_char>();
    for step in &namespace.steps {
        // SAFETY: every path is a C string that `namespace` owns.
        let result = unsafe {
            match step {
                MountStep::Unmount { target } => {
                    libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)
                }
                MountStep::Bind { source, target } => {
                    libc::mount(source.as_ptr(), target.as_ptr(), none, libc::MS_BIND, none.cast())
                }
                MountStep::ReadOnly { target, keep } => {
                    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | keep;
                    libc::mount(none, target.as_ptr(), none, flags, none.cast())
                }
                MountStep::Empty { target } => {
                    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                    let kind = c"tmpfs".as_ptr();
                    libc::mount(kind, target.as_ptr(), kind, flags, c"size=4k,mode=755".as_ptr().cast())
                }
                MountStep::Nothing { target } => {
                    libc::mount(c"/dev/null".as_ptr(), target.as_ptr(), none, libc::MS_BIND, none.cast())
                }
            }
        };
        let hides = matches!(step, MountStep::Empty { .. } | MountStep::Nothing { .. });
        // Its owner took it away since it was planned: a socket of a session that has ended.
        if result < 0 && hides && nix::errno::Errno::last() == nix::errno::Errno::ENOENT {
            continue;
        }
        check(Step::Mount, result.into())?;
    }
    Ok(())
}

fn write_file(path: &CStr, bytes: &[u8]) -> Done {
    // SAFETY: `path` ends with a zero; `bytes` is read only.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(Step::IdMap, fd.into())?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let result = check(Step::IdMap, written as libc::c_long);
        libc::close(fd);
        result
    }
}

/// Drops everything but `keep` from the bounding, ambient, permitted, effective and inheritable sets. `bounding` is
/// false for a process without CAP_SETPCAP, which can gain nothing under no_new_privs.
fn drop_capabilities(keep: &[u32], bounding: bool) -> Done {
    // SAFETY: prctl with integers; capset reads two local structs of the documented layout (capset(2), version 3).
    unsafe {
        if bounding {
            // The last capability that this kernel knows is where reading the set starts to fail.
            for cap in 0..64_u32 {
                if libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) < 0 {
                    break;
                }
                if !keep.contains(&cap) {
                    check(Step::Capabilities, libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0).into())?;
                }
            }
        }
        // Kernels without ambient capabilities are older than any that caracald runs on.
        let clear = libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(Step::Capabilities, clear.into())?;
        let [low, high] = capability::mask(keep);
        let header = [0x2008_0522_u32, 0];
        let data = [low, low, 0, high, high, 0]; // effective, permitted, inheritable; twice
        check(Step::Capabilities, libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
    }
}

/// The kernel's Landlock ABI, 0 without Landlock (Documentation/userspace-api/landlock.rst).
pub(in crate::cli) fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: asks for the version: no attribute is read.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// A domain that bounds signals and abstract unix sockets, and with them ptrace and pidfd_getfd, to the command and its
/// descendants. It handles no file right: that would refuse mounts, which the agents' own sandboxes make.
fn landlock_scopes() -> Done {
    const SCOPES: u64 = 1 | 2; // LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL
    let attributes = [0_u64, 0, SCOPES]; // struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped
    // SAFETY: the kernel reads the local array, whose size is given; the descriptor is ours.
    unsafe {
        let size = size_of_val(&attributes);
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0_u32);
        check(Step::Landlock, ruleset)?;
        let result = check(Step::Landlock, libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32));
        libc::close(ruleset as i32);
        result
    }
}

fn seccomp(program: &BpfProgram) -> Done {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Failure(Step::Seccomp, libc::E2BIG))?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `sock_filter` of seccompiler and libc have the kernel's layout; the kernel copies the program.
    check(Step::Seccomp, unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0) }.into())
}
