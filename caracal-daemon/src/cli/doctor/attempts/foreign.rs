//! By what others opened: sockets that were inherited, passed, taken from a process, or made before the cgroup was joined,
//! and the memory of a process outside.

use super::deputies::reach;
use super::sockets::{name, opened, says, take_call};
use super::{Done, Place, check, owned};
use crate::cli::doctor::outside;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockType, connect, recv, recvmsg};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// A descriptor that was open when this process began.
fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: gives a new descriptor or an error, also for a number that is not open.
    owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100) }.into())
}

pub(super) fn inherited_socket(_: &Place) -> Done {
    says(&inherited(outside::INHERITED_SOCKET)?)
}

pub(super) fn inherited_listener(_: &Place) -> Done {
    take_call(inherited(outside::INHERITED_LISTENER)?.as_raw_fd())
}

pub(super) fn passed_socket(place: &Place) -> Done {
    received(&reach(place, SockType::Stream, outside::GIVER)?)
}

/// The same over a socket pair: nobody is connected to.
pub(super) fn pair_passed_socket(_: &Place) -> Done {
    received(&asked()?)
}

/// A word to whoever has the other end, and his answer.
pub(super) fn pair_deputy(_: &Place) -> Done {
    recv(asked()?.as_raw_fd(), &mut [0], MsgFlags::empty()).map(drop).map_err(io::Error::from)
}

/// The inherited end of a socket pair, once a word was said by it. What was sent to an attempt before goes first.
fn asked() -> io::Result<OwnedFd> {
    let pair = inherited(outside::INHERITED_PAIR)?;
    while recv(pair.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok_and(|length| length > 0) {}
    says(&pair)?;
    Ok(pair)
}

/// Takes the socket that is passed, and sends by it.
fn received(giver: &OwnedFd) -> Done {
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut byte = [0_u8; 1];
    let mut words = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(giver.as_raw_fd(), &mut words, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just given it to us.
            return says(&unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

pub(super) fn pidfd_getfd(place: &Place) -> Done {
    let numbers = place.numbers(outside::PROCESS)?;
    let [pid, fd, _] = numbers.as_slice() else { return Err(io::Error::from_raw_os_error(libc::EIO)) };
    // SAFETY: integers only.
    let socket = unsafe {
        let process = owned(libc::syscall(libc::SYS_pidfd_open, *pid, 0))?;
        owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), *fd, 0))?
    };
    says(&socket)
}

pub(super) fn process_memory(place: &Place) -> Done {
    let numbers = place.numbers(outside::PROCESS)?;
    let [pid, _, at] = numbers.as_slice() else { return Err(io::Error::from_raw_os_error(libc::EIO)) };
    let byte = [7_u8];
    let local = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(*at), iov_len: 1 };
    let pid = i32::try_from(*pid).map_err(io::Error::other)?;
    // SAFETY: reads our byte; the kernel checks the other side's address, which is a place kept for this.
    let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    check(i64::try_from(written).unwrap_or(-1)).map(drop)
}

pub(super) fn created_before(place: &Place) -> Done {
    let to = SocketAddr::from((outside::ADDRESS, outside::TCP));
    let fd = opened(&to, SockType::Stream)?;
    (place.moved)()?;
    connect(fd.as_raw_fd(), &name(&to))?;
    says(&fd)
}

pub(super) fn connected_before(place: &Place) -> Done {
    let to = SocketAddr::from((outside::ADDRESS, outside::TCP));
    let fd = opened(&to, SockType::Stream)?;
    connect(fd.as_raw_fd(), &name(&to))?;
    (place.moved)()?;
    says(&fd)
}
