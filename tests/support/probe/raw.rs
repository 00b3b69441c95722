//! System calls as the attempts make them, each with the name of the step that failed.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// What stopped an attempt.
#[derive(Debug)]
pub(crate) struct Fail {
    pub(crate) step: &'static str,
    pub(crate) error: io::Error,
}

pub(crate) type Tried<T = ()> = Result<T, Fail>;

/// Names the step of a result.
pub(crate) trait Step<T> {
    fn at(self, step: &'static str) -> Tried<T>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn at(self, step: &'static str) -> Tried<T> {
        self.map_err(|error| Fail { step, error: error.into() })
    }
}

/// A socket by its three numbers: `socket` is the step whose failure says that the kernel has no such thing.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Tried<Socket> {
    Socket::new(Domain::from(family), Type::from(kind), (protocol != 0).then(|| Protocol::from(protocol))).at("socket")
}

pub(crate) fn family(to: &SocketAddr) -> i32 {
    if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

pub(crate) fn tcp(to: &SocketAddr) -> Tried<Socket> {
    socket(family(to), libc::SOCK_STREAM, 0)
}

pub(crate) fn udp(to: &SocketAddr) -> Tried<Socket> {
    socket(family(to), libc::SOCK_DGRAM, 0)
}

/// Connects, for at most a second.
pub(crate) fn connect(socket: &Socket, to: &SocketAddr) -> Tried {
    socket.connect_timeout(&SockAddr::from(*to), std::time::Duration::from_secs(1)).at("connect")
}

pub(crate) fn send(socket: &Socket, bytes: &[u8]) -> Tried {
    socket.send_with_flags(bytes, libc::MSG_NOSIGNAL).at("send").map(drop)
}

pub(crate) fn send_to(socket: &Socket, bytes: &[u8], to: &SocketAddr) -> Tried {
    socket.send_to_with_flags(bytes, &SockAddr::from(*to), libc::MSG_NOSIGNAL).at("send").map(drop)
}

/// An option with any bytes.
pub(crate) fn option(socket: &Socket, level: i32, name: i32, value: &[u8]) -> Tried {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the value is as long as said; the descriptor is open.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    check(done.into()).at("setsockopt").map(drop)
}

pub(crate) fn int_option(socket: &Socket, level: i32, name: i32, value: i32) -> Tried {
    option(socket, level, name, &value.to_ne_bytes())
}

/// The result of a system call.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that a system call gave.
pub(crate) fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Hands over a descriptor (unix(7), `SCM_RIGHTS`).
pub(crate) fn pass(over: &Socket, bytes: &[u8], fd: RawFd) -> Tried {
    let words = [io::IoSlice::new(bytes)];
    sendmsg::<()>(over.as_raw_fd(), &words, &[ControlMessage::ScmRights(&[fd])], MsgFlags::empty(), None)
        .at("pass")
        .map(drop)
}

/// Receives bytes and perhaps a descriptor. A descriptor that the kernel takes away on the way is a failed step.
pub(crate) fn receive(from: &Socket, bytes: &mut [u8]) -> Tried<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut words = [io::IoSliceMut::new(bytes)];
    let message =
        recvmsg::<()>(from.as_raw_fd(), &mut words, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).at("receive")?;
    let mut found = None;
    for part in message.cmsgs().at("receive")? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just given it to us.
            found = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Ok((message.bytes, found))
}

/// Fails with a number of errno.h.
pub(crate) fn fail<T>(step: &'static str, errno: i32) -> Tried<T> {
    Err(Fail { step, error: io::Error::from_raw_os_error(errno) })
}

/// RFC 1071, over `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let pair = |pair: &[u8]| u32::from(*pair.first().unwrap_or(&0)) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// An ICMP echo request of version 4 or 6 with a payload.
pub(crate) fn echo_request(v4: bool, payload: &[u8]) -> Vec<u8> {
    let mut request = [&[if v4 { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1][..], payload].concat();
    if v4 {
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
    }
    request
}

/// An IPv4 packet with a UDP datagram.
pub(crate) fn udp_packet(from: std::net::Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let std::net::IpAddr::V4(target) = to.ip() else { return Vec::new() };
    let length = u16::try_from(28 + payload.len()).unwrap_or(0);
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(target.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    // Without a UDP checksum, which IPv4 allows.
    for word in [7_000_u16, to.port(), length - 20, 0] {
        header.extend(word.to_be_bytes());
    }
    header.extend(payload);
    header
}
