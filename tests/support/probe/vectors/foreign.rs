//! Class 13: sockets that somebody else made, or that were made before.

use super::deputies;
use super::inbound::inherited;
use super::transport::connected;
use crate::raw::{self, Step as _, Tried, check, connect, owned, send, send_to, tcp};
use crate::runner::{INHERITED, Try};
use socket2::Socket;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;
use support::catalogue::{Aim, PORT, Phase};

pub(super) fn inherited_udp(this: &Try) -> Tried {
    send(&inherited(INHERITED[0])?, &this.token())
}

pub(super) fn inherited_tcp(this: &Try) -> Tried {
    send(&inherited(INHERITED[1])?, &this.token())
}

pub(super) fn inherited_sendfile(this: &Try) -> Tried {
    let socket = inherited(INHERITED[2])?;
    let file = nix::sys::memfd::memfd_create("canary", nix::sys::memfd::MFdFlags::empty()).at("memfd")?;
    let mut file = std::fs::File::from(file);
    file.write_all(&this.token()).and_then(|()| file.rewind()).at("memfd")?;
    nix::sys::sendfile::sendfile(&socket, &file, None, 256).at("send").map(drop)
}

fn to(this: &Try) -> SocketAddr {
    SocketAddr::from((this.aim.ip4(), PORT))
}

/// Where a connection is made before the attempt proper: its handshake is no leak, the token on it is.
fn before(this: &Try) -> SocketAddr {
    SocketAddr::from((Aim { phase: Phase::Control, ..this.aim }.ip4(), PORT))
}

/// A socket made by the accomplice outside.
fn given(this: &Try, what: &str) -> Tried<Socket> {
    taken(deputies::ask_giver(this, what)?)
}

/// A socket made outside by whoever has the other end of a socket pair that this process has inherited.
fn given_by_pair(this: &Try, what: &str) -> Tried<Socket> {
    taken(deputies::ask_pair(this, what)?)
}

fn taken((_, socket): (String, Option<OwnedFd>)) -> Tried<Socket> {
    match socket {
        Some(fd) => Ok(Socket::from(fd)),
        // The kernel takes a refused descriptor out of the message without a word.
        None => raw::fail("receive", libc::EACCES),
    }
}

pub(super) fn passed_connected(this: &Try) -> Tried {
    send(&given(this, &format!("udp {}", to(this)))?, &this.token())
}

pub(super) fn passed_unconnected(this: &Try) -> Tried {
    send_to(&given(this, "udp -")?, &this.token(), &to(this))
}

pub(super) fn passed_then_connect(this: &Try) -> Tried {
    let socket = given(this, "tcp -")?;
    connect(&socket, &to(this))?;
    send(&socket, &this.token())
}

pub(super) fn pair_passed_connected(this: &Try) -> Tried {
    send(&given_by_pair(this, &format!("udp {}", to(this)))?, &this.token())
}

pub(super) fn pair_passed_unconnected(this: &Try) -> Tried {
    send_to(&given_by_pair(this, "udp -")?, &this.token(), &to(this))
}

pub(super) fn pidfd_getfd(this: &Try) -> Tried {
    let (text, _) = deputies::ask_giver(this, &format!("hold {}", to(this)))?;
    let mut words = text.split(' ').filter_map(|word| word.parse::<i64>().ok());
    let (Some(pid), Some(fd)) = (words.next(), words.next()) else { return raw::fail("giver", libc::EPROTO) };
    // SAFETY: integers only.
    let socket = unsafe {
        let process = owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)).at("socket")?;
        owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0)).at("socket")?
    };
    send(&Socket::from(socket), &this.token())
}

pub(super) fn process_memory(this: &Try) -> Tried {
    let (text, _) = deputies::ask_giver(this, "beacon")?;
    let mut words = text.split(' ').filter_map(|word| word.parse::<usize>().ok());
    let (Some(pid), Some(at)) = (words.next(), words.next()) else { return raw::fail("giver", libc::EPROTO) };
    let token = this.token();
    let local = libc::iovec { iov_base: token.as_ptr().cast_mut().cast(), iov_len: token.len() };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(at), iov_len: token.len() };
    let pid = libc::pid_t::try_from(pid).unwrap_or(0);
    // SAFETY: reads our token; the kernel checks the other side's address.
    let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    check(i64::try_from(written).unwrap_or(-1)).at("socket")?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

pub(super) fn created_before_joining(this: &Try) -> Tried {
    let socket = tcp(&to(this))?;
    this.meet("join")?;
    connect(&socket, &to(this))?;
    send(&socket, &this.token())
}

pub(super) fn connected_before_joining(this: &Try) -> Tried {
    let socket = tcp(&before(this))?;
    connect(&socket, &before(this))?;
    this.meet("join")?;
    send(&socket, &this.token())
}

pub(super) fn tcp_before_attach(this: &Try) -> Tried {
    let socket = tcp(&before(this))?;
    connect(&socket, &before(this))?;
    this.meet("attach")?;
    send(&socket, &this.token())?;
    // A packet that is dropped is sent again.
    std::thread::sleep(Duration::from_millis(600));
    Ok(())
}

pub(super) fn udp_before_attach(this: &Try) -> Tried {
    let socket = connected(&to(this))?;
    this.meet("attach")?;
    send(&socket, &this.token())
}
