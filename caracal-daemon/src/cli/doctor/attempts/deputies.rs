//! By a deputy outside, which hears over a unix socket, a pipe, a file or a message queue.

use super::sockets::says;
use super::{Done, Place, check};
use crate::cli::doctor::outside;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;

pub(super) fn reach(place: &Place, kind: SockType, file: &str) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(&place.dir.join(file))?)?;
    Ok(fd)
}

pub(super) fn unix_stream(place: &Place) -> Done {
    says(&reach(place, SockType::Stream, outside::STREAM)?)
}

pub(super) fn unix_datagram(place: &Place) -> Done {
    says(&reach(place, SockType::Datagram, outside::DATAGRAM)?)
}

pub(super) fn unix_seqpacket(place: &Place) -> Done {
    says(&reach(place, SockType::SeqPacket, outside::PACKETS)?)
}

pub(super) fn unix_abstract(place: &Place) -> Done {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new_abstract(place.dir.as_os_str().as_bytes())?)?;
    says(&fd)
}

pub(super) fn fifo(place: &Place) -> Done {
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK).open(place.dir.join(outside::FIFO))?.write_all(b"canary")
}

pub(super) fn file(place: &Place) -> Done {
    fs::write(place.dir.join(outside::FILE), "canary")
}

pub(super) fn queue(place: &Place) -> Done {
    let numbers = place.numbers(outside::QUEUE)?;
    let queue = numbers.first().and_then(|number| i32::try_from(*number).ok()).unwrap_or(-1);
    let message = [1_u64, 0];
    // SAFETY: struct msgbuf: a long, then eight bytes.
    check(unsafe { libc::msgsnd(queue, message.as_ptr().cast(), 8, libc::IPC_NOWAIT) }.into()).map(drop)
}
