//! Classes 15, 18 and 19: out of the cgroup, into other namespaces, and the older hierarchy.

use super::transport::{connected, udp_connected, udp_sendto};
use crate::raw::{self, Step as _, Tried, check, connect, send, tcp, udp};
use crate::runner::Try;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;
use support::catalogue::PORT;

/// Sends by new sockets of its own.
fn sends(this: &Try) -> Tried {
    let first = udp_sendto(this);
    udp_connected(this).or(first)
}

/// The directory above the agents' cgroups; the cgroup `beside` in it is governed by nobody.
fn top(this: &Try) -> Tried<PathBuf> {
    Ok(PathBuf::from(std::fs::read_to_string(this.dir.join("top")).at("open")?.trim()))
}

pub(super) fn procs(this: &Try) -> Tried {
    std::fs::write(top(this)?.join("beside/cgroup.procs"), "0").at("move")?;
    sends(this)
}

pub(super) fn made(this: &Try) -> Tried {
    let made = top(this)?.join(this.aim.token());
    std::fs::create_dir(&made).at("mkdir")?;
    std::fs::write(made.join("cgroup.procs"), "0").at("move")?;
    sends(this)
}

pub(super) fn clone_into(this: &Try) -> Tried {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let beside = File::open(top(this)?.join("beside")).at("open")?;
    // struct clone_args: flags first, the exit signal fifth, the cgroup last.
    let mut arguments = [0_u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = u64::try_from(libc::SIGCHLD).unwrap_or(17);
    arguments[10] = u64::try_from(beside.as_raw_fd()).unwrap_or(0);
    // SAFETY: without CLONE_VM this is fork; this process has one thread.
    let child =
        check(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) }).at("clone")?;
    if child == 0 {
        let code = if sends(this).is_ok() { 0 } else { 1 };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) }
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child).unwrap_or(0));
    match nix::sys::wait::waitpid(pid, None).at("wait")? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        _ => raw::fail("send", libc::EPERM),
    }
}

/// The socket stays in the namespace in which it was made.
pub(super) fn socket_before_unshare(this: &Try) -> Tried {
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    let (stream, datagram) = (tcp(&to)?, udp(&to)?);
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).at("socket")?;
    let first = raw::send_to(&datagram, &this.token(), &to);
    connect(&stream, &to)?;
    send(&stream, &this.token()).or(first)
}

/// What slirp4netns, pasta or a container runtime do for a rootless container: somebody outside lays the cable.
pub(super) fn namespace_with_cable(this: &Try) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).at("socket")?;
    this.meet("cable")?;
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    let first = udp(&to).and_then(|socket| raw::send_to(&socket, &this.token(), &to));
    let second = connected(&to).and_then(|socket| send(&socket, &this.token()));
    let stream = tcp(&to)?;
    let third = connect(&stream, &to).and_then(|()| send(&stream, &this.token()));
    first.or(second).or(third)
}

/// net_cls marks the sockets of its members. Before 5.15 that took them out of their v2 cgroup.
pub(super) fn net_cls(this: &Try) -> Tried {
    let path = std::fs::read_to_string(this.dir.join("net_cls")).at("socket")?;
    let tasks = PathBuf::from(path.trim()).join("tasks");
    std::fs::write(&tasks, std::process::id().to_string()).at("move")?;
    std::thread::sleep(Duration::from_millis(10));
    sends(this)
}
