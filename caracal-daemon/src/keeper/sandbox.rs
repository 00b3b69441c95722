//! Confines the data-path process, which parses what agents and upstreams send. Takes a user; gives a process with that
//! user's ids and no others, no capability, no_new_privs, no core dump, and a system-call allow-list.
//! Refuses to confine a process that has threads: they would keep what it had. Never leaves a step out.
//!
//! A call that is not on the list answers EPERM and is logged by the kernel (audit). Descriptors that need rights are
//! opened by the keeper and handed over.

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::io;

/// Why the process could not be confined. It must end then.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The data path must not be root.
    #[error("the data path must not run as root; set another user")]
    Root,
    /// More than one thread.
    #[error("the data path has {0} threads already and can only be confined before it starts any")]
    Threads(usize),
    /// A step failed.
    #[error("cannot {0}: {1}")]
    Step(&'static str, io::Error),
    /// The filter does not compile: a fault of ours.
    #[error("the seccomp filter is not valid: {0}")]
    Filter(String),
}

impl SandboxError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            SandboxError::Root => "sandbox_root",
            SandboxError::Threads(_) => "sandbox_threads",
            SandboxError::Step(..) => "sandbox_step",
            SandboxError::Filter(_) => "sandbox_filter",
        }
    }
}

/// Confines this process for good. Call it before the first thread is started.
///
/// # Errors
/// At the first step that fails; the process is then half confined and must end.
pub fn confine(uid: Uid, gid: Gid) -> Result<(), SandboxError> {
    if uid.is_root() || gid.as_raw() == 0 {
        return Err(SandboxError::Root);
    }
    let step = |what| move |e: nix::Error| SandboxError::Step(what, e.into());
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) => {}
        Ok(threads) => return Err(SandboxError::Threads(threads)),
        Err(e) => return Err(SandboxError::Step("count threads", e)),
    }
    let programs = [absent().and_then(compile_absent), allowed().and_then(compile_allowed)];

    // The bounding set first: dropping from it needs a capability.
    if nix::unistd::geteuid().is_root() {
        drop_bounding().map_err(step("drop the bounding set"))?;
        nix::unistd::setgroups(&[]).map_err(step("leave all groups"))?;
    }
    nix::unistd::setresgid(gid, gid, gid).map_err(step("change the group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("change the user"))?;
    drop_all().map_err(step("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    // No core dump with agents' data in it, and no ptrace by another process of this user.
    nix::sys::prctl::set_dumpable(false).map_err(step("forbid core dumps"))?;
    // The data path does not outlive its keeper. Here, because the kernel forgets the wish when the user changes.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("end with the keeper"))?;
    for program in programs {
        install(&program.map_err(SandboxError::Filter)?).map_err(step("install the seccomp filter"))?;
    }
    Ok(())
}

fn drop_bounding() -> nix::Result<()> {
    for cap in 0..64_u32 {
        // SAFETY: prctl with integers; reading fails past the last capability that this kernel knows.
        unsafe {
            if libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) < 0 {
                break;
            }
            nix::Error::result(libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0))?;
        }
    }
    Ok(())
}

fn drop_all() -> nix::Result<()> {
    let header = [0x2008_0522_u32, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
    let none = [0_u32; 6];
    // SAFETY: prctl with integers; capset reads two arrays of the documented size (capset(2)).
    unsafe {
        nix::Error::result(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        nix::Error::result(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()))?;
    }
    Ok(())
}

fn install(program: &BpfProgram) -> nix::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| nix::Error::E2BIG)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let (mode, log) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_LOG);
    // SAFETY: `sock_filter` of seccompiler and libc have the kernel's layout; the kernel copies the program.
    nix::Error::result(unsafe { libc::syscall(libc::SYS_seccomp, mode, log, &raw const filter) })?;
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Answered as by an old kernel. glibc then starts threads with `clone`, whose flags a filter can read.
fn absent() -> Result<Rules, String> {
    Ok([(libc::SYS_clone3, vec![])].into())
}

/// All that the data path calls: tokio, rustls, SQLite, threads and the allocator.
fn allowed() -> Result<Rules, String> {
    let mut rules: Rules = GROUPS.iter().flat_map(|group| group.iter()).map(|call| (*call, vec![])).collect();
    // Sockets: TCP and UDP to upstreams and resolvers, unix to the keeper and the control clients.
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    rules.insert(libc::SYS_socket, any_of(0, families.map(|family| family as u64))?);
    rules.insert(libc::SYS_socketpair, any_of(0, [libc::AF_UNIX as u64])?);
    // Threads, never a new process or namespace.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    rules.insert(libc::SYS_clone, vec![all_of(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // BPF: read and delete an element of a map that the keeper handed over. No program, no other map, no write.
    let (lookup, delete) = (1, 3); // BPF_MAP_LOOKUP_ELEM, BPF_MAP_DELETE_ELEM
    rules.insert(libc::SYS_bpf, any_of(0, [lookup, delete])?);
    // Names of threads, names of anonymous mappings.
    let names = [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41]; // PR_SET_VMA
    rules.insert(libc::SYS_prctl, any_of(0, names)?);
    // Whether a descriptor is a terminal, how many bytes wait, (non-)blocking. No TIOCSTI.
    let requests = [libc::TCGETS, libc::FIONREAD, libc::FIONBIO, libc::TIOCGWINSZ];
    rules.insert(libc::SYS_ioctl, any_of(1, requests)?);
    // Limits are read, never raised.
    rules.insert(libc::SYS_prlimit64, vec![all_of(2, SeccompCmpOp::Eq, 0)?]);
    // A thread sets its own priority, within the limit that the keeper gave: the journal's comes first, the ledger's last.
    let own = [(0, u64::from(libc::PRIO_PROCESS)), (1, 0)];
    let own = own.map(|(argument, value)| SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value));
    let own = own.into_iter().collect::<Result<Vec<_>, _>>().and_then(SeccompRule::new).map_err(|e| e.to_string())?;
    rules.insert(libc::SYS_setpriority, vec![own]);
    Ok(rules)
}

/// Calls that are allowed whatever their arguments.
const GROUPS: &[&[i64]] = &[
    // Memory: allocator, thread stacks, SQLite's shared memory.
    &[
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_msync,
        libc::SYS_mlock,
        libc::SYS_munlock,
        libc::SYS_membarrier,
    ],
    // Threads and the scheduler.
    &[
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_rseq,
        libc::SYS_set_tid_address,
        libc::SYS_gettid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getcpu,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
    ],
    // Signals, within this process: the kernel lets another user's be.
    &[
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_tgkill,
        libc::SYS_tkill,
        libc::SYS_signalfd4,
    ],
    // Time.
    &[
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
        libc::SYS_timerfd_gettime,
    ],
    // Descriptors and readiness.
    &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_fcntl,
        libc::SYS_pipe2,
        libc::SYS_eventfd2,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_splice,
    ],
    // Sockets; `recvmsg` also takes descriptors from the keeper.
    &[
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
        libc::SYS_shutdown,
    ],
    // Files: journal, ledger, configuration, certificates. What may be opened is a matter of the user's rights.
    &[
        libc::SYS_openat,
        libc::SYS_newfstatat,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_fstatfs,
        libc::SYS_lseek,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fadvise64,
        libc::SYS_flock,
        libc::SYS_getdents64,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_mkdirat,
        libc::SYS_readlinkat,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_utimensat,
        libc::SYS_getcwd,
        libc::SYS_umask,
        libc::SYS_fchmod,
        libc::SYS_inotify_init1,
        libc::SYS_inotify_add_watch,
        libc::SYS_inotify_rm_watch,
    ],
    // Who am I, randomness, the machine.
    &[
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getrandom,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getrusage,
    ],
    OLD,
];

/// The older spellings, which exist on x86_64 only and which SQLite and glibc still use there.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_readlink,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_utimes,
    libc::SYS_getdents,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_create,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_renameat,
    libc::SYS_sync_file_range,
    libc::SYS_time,
    libc::SYS_arch_prctl,
    libc::SYS_getrlimit,
];
/// `renameat` and `sync_file_range`, which libc does not name on aarch64 (asm-generic/unistd.h).
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[38, 84];

fn compile_absent(rules: Rules) -> Result<BpfProgram, String> {
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))
}

fn compile_allowed(mut rules: Rules) -> Result<BpfProgram, String> {
    // Answered by the first program; of two errors the kernel would take the last one's.
    rules.insert(libc::SYS_clone3, vec![]);
    compile(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

/// The architecture that a filter is made for.
///
/// # Errors
/// When seccompiler does not know it.
pub fn arch() -> Result<seccompiler::TargetArch, String> {
    std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| e.to_string())
}

/// seccompiler's program kills a process that makes a call of another ABI.
fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, otherwise, matched, arch()?)
        .and_then(TryInto::try_into)
        .map_err(|e: seccompiler::BackendError| e.to_string())
}

/// One rule for each value: the low 32 bits of the argument are equal to it.
fn any_of<const N: usize>(argument: u8, values: [u64; N]) -> Result<Vec<SeccompRule>, String> {
    values.into_iter().map(|value| all_of(argument, SeccompCmpOp::Eq, value)).collect()
}

fn all_of(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, Dword, op, value).map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
