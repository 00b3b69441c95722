//! The seccomp filter of a spawned command. Takes nothing; gives BPF programs. It closes what cgroup hooks do not see
//! (other socket families, io_uring on old kernels) and what leads to other processes (terminal injection, key
//! upcalls). Never refuses what an agent's own sandbox needs: user namespaces, mounts, seccomp, Landlock.

use crate::keeper::sandbox::arch;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;

type Rules = Vec<(i64, Vec<SeccompRule>)>;

const AF_UNIX: u64 = libc::AF_UNIX as u64;
const AF_NETLINK: u64 = libc::AF_NETLINK as u64;
const NETLINK_ROUTE: u64 = libc::NETLINK_ROUTE as u64;

/// Programs to install one after the other. `no_ptrace` refuses the calls that reach into other processes: for kernels
/// on which no Landlock domain bounds them.
///
/// # Errors
/// When a program does not compile: a fault of ours.
pub fn compile(no_ptrace: bool) -> Result<Vec<BpfProgram>, String> {
    let mut first = x32_is_absent();
    first.extend(program(families()?, libc::EAFNOSUPPORT)?);
    let mut all = vec![first, program(absent(), libc::ENOSYS)?, program(terminal()?, libc::EPERM)?];
    if no_ptrace {
        all.push(program(reach(), libc::EPERM)?);
    }
    Ok(all)
}

/// AF_UNIX, AF_INET and AF_INET6, which the cgroup hooks and the policy govern, and NETLINK_ROUTE, which every
/// getaddrinfo and getifaddrs opens. All other families (packet, vsock, xdp, bluetooth, alg ...) do not exist.
fn families() -> Result<Rules, String> {
    let family = |op, value| when(0, op, value);
    let other = vec![
        family(SeccompCmpOp::Ne, AF_UNIX)?,
        family(SeccompCmpOp::Ne, libc::AF_INET as u64)?,
        family(SeccompCmpOp::Ne, libc::AF_INET6 as u64)?,
        family(SeccompCmpOp::Ne, AF_NETLINK)?,
    ];
    let netlink = vec![family(SeccompCmpOp::Eq, AF_NETLINK)?, when(2, SeccompCmpOp::Ne, NETLINK_ROUTE)?];
    Ok(vec![
        (libc::SYS_socket, vec![rule(other)?, rule(netlink)?]),
        (libc::SYS_socketpair, vec![rule(vec![family(SeccompCmpOp::Ne, AF_UNIX)?])?]),
    ])
}

/// Answered as by a kernel without them, on which programs fall back. io_uring opens sockets past this filter;
/// request_key starts a helper of the host's that looks names up for the caller. clone3 can start a child in another
/// cgroup (`CLONE_INTO_CGROUP`), whose file system being read-only does not hinder it; every libc falls back to clone.
fn absent() -> Rules {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    calls.into_iter().chain([libc::SYS_request_key, libc::SYS_clone3]).map(|call| (call, vec![])).collect()
}

/// The terminal is shared with the user's shell, which is not governed: nothing may type into it.
fn terminal() -> Result<Rules, String> {
    let inject = |request: u64| rule(vec![when(1, SeccompCmpOp::Eq, request)?]);
    Ok(vec![(libc::SYS_ioctl, vec![inject(libc::TIOCSTI)?, inject(libc::TIOCLINUX)?])])
}

/// Reaching into another process of the same user, which may not be governed.
fn reach() -> Rules {
    [libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd]
        .map(|call| (call, vec![]))
        .into()
}

/// Instructions that answer ENOSYS to every x32 call (its numbers would fit no rule below) and fall through otherwise.
/// A call through another architecture's entry (32-bit programs) ends the process with SIGSYS: seccompiler begins
/// each program with that check.
fn x32_is_absent() -> Vec<sock_filter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32_BIT: u32 = 0x4000_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let enosys = 0x0005_0000 | libc::ENOSYS.unsigned_abs(); // SECCOMP_RET_ERRNO
    // The number is the first word of seccomp_data. No other architecture has numbers that high.
    vec![step(LOAD, 0, 0, 0), step(AT_LEAST, 0, 1, X32_BIT), step(RETURN, 0, 0, enosys)]
}

fn program(rules: Rules, errno: i32) -> Result<BpfProgram, String> {
    let rules: BTreeMap<_, _> = rules.into_iter().collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch()?)
        .and_then(TryInto::try_into)
        .map_err(|e: seccompiler::BackendError| e.to_string())
}

/// A condition on the low 32 bits of an argument: the kernel takes these arguments as `int`.
fn when(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, Dword, op, value).map_err(|e| e.to_string())
}

fn rule(all_of: Vec<SeccompCondition>) -> Result<SeccompRule, String> {
    SeccompRule::new(all_of).map_err(|e| e.to_string())
}
