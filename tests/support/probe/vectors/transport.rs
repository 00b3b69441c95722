//! Classes 1 to 5: TCP and UDP as a process may use them.

use crate::raw::{self, Step as _, Tried, check, connect, int_option, send, send_to, socket, tcp, udp};
use crate::runner::Try;
use socket2::{SockAddr, Socket};
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use support::catalogue::PORT;

const MPTCP: i32 = 262;

/// The cable's device in the world of the tests.
pub(crate) fn card() -> Tried<u32> {
    let index = nix::net::if_::if_nametoindex("leak").at("card")?;
    Ok(index)
}

pub(super) fn tcp_connect(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = tcp(&to)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    })
}

pub(super) fn ipv6_addrform(this: &Try) -> Tried {
    const IPV6_ADDRFORM: i32 = 1;
    let [four, _, mapped] = this.aim.all(PORT);
    let socket = udp(&mapped)?;
    connect(&socket, &mapped)?;
    int_option(&socket, libc::IPPROTO_IPV6, IPV6_ADDRFORM, libc::AF_INET)?;
    let first = send_to(&socket, &this.token(), &four);
    send(&socket, &this.token()).or(first)
}

pub(super) fn neighbour_solicitation(this: &Try) -> Tried {
    let to = SocketAddr::V6(SocketAddrV6::new(this.aim.link_local(), PORT, 0, card()?));
    send_to(&udp(&to)?, &this.token(), &to)?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    Ok(())
}

pub(super) fn arp_request(this: &Try) -> Tried {
    let Some(ip) = this.aim.neighbour() else { return raw::fail("unknown", libc::ENOSYS) };
    let to = SocketAddr::from((ip, PORT));
    send_to(&udp(&to)?, &this.token(), &to)?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    Ok(())
}

fn fast_open(this: &Try, protocol: i32) -> Tried {
    const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
    this.each(PORT, |to| {
        let socket = socket(raw::family(&to), libc::SOCK_STREAM, protocol)?;
        // Then the data is in the SYN; without the option it follows.
        let _older = int_option(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1);
        let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
        socket.send_to_with_flags(&this.token(), &SockAddr::from(to), flags).at("send").map(drop)
    })
}

pub(super) fn fast_open_sendto(this: &Try) -> Tried {
    fast_open(this, 0)
}

pub(super) fn fast_open_connect(this: &Try) -> Tried {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    this.each(PORT, |to| {
        let socket = tcp(&to)?;
        int_option(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    })
}

pub(super) fn mptcp_connect(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = socket(raw::family(&to), libc::SOCK_STREAM, MPTCP)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    })
}

pub(super) fn mptcp_fast_open(this: &Try) -> Tried {
    fast_open(this, MPTCP)
}

pub(super) fn udp_sendto(this: &Try) -> Tried {
    this.each(PORT, |to| send_to(&udp(&to)?, &this.token(), &to))
}

/// A datagram socket connected there.
pub(super) fn connected(to: &SocketAddr) -> Tried<Socket> {
    let socket = udp(to)?;
    connect(&socket, to)?;
    Ok(socket)
}

pub(super) fn udp_connected(this: &Try) -> Tried {
    this.each(PORT, |to| send(&connected(&to)?, &this.token()))
}

pub(super) fn udp_connected_sendto(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = connected(&SocketAddr::new(to.ip(), 9))?;
        send_to(&socket, &this.token(), &to)
    })
}

pub(super) fn udp_sendmmsg(this: &Try) -> Tried {
    let token = this.token();
    this.each(PORT, |to| {
        let socket = udp(&to)?;
        let name = SockAddr::from(to);
        let mut word = libc::iovec { iov_base: token.as_ptr().cast_mut().cast(), iov_len: token.len() };
        // SAFETY: all zero is a valid header; what it points at lives through the call.
        let sent = unsafe {
            let mut one: libc::mmsghdr = std::mem::zeroed();
            one.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            one.msg_hdr.msg_namelen = name.len();
            one.msg_hdr.msg_iov = &raw mut word;
            one.msg_hdr.msg_iovlen = 1;
            let mut both = [one, one];
            libc::sendmmsg(socket.as_raw_fd(), both.as_mut_ptr(), 2, libc::MSG_NOSIGNAL)
        };
        check(sent.into()).at("send").map(drop)
    })
}

pub(super) fn udp_corked(this: &Try) -> Tried {
    let token = this.token();
    let (head, tail) = token.split_at(token.len() / 2);
    this.each(PORT, |to| {
        let socket = udp(&to)?;
        socket.send_to_with_flags(head, &SockAddr::from(to), libc::MSG_MORE).at("send")?;
        send_to(&socket, tail, &to)
    })
}

pub(super) fn udp_segmented(this: &Try) -> Tried {
    const UDP_SEGMENT: i32 = 103;
    let mut piece = this.token();
    piece.resize(64, b'.');
    this.each(PORT, |to| {
        let socket = udp(&to)?;
        int_option(&socket, libc::IPPROTO_UDP, UDP_SEGMENT, 64)?;
        send_to(&socket, &piece.repeat(3), &to)
    })
}

pub(super) fn udp_disconnected(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = connected(&to)?;
        // SAFETY: all zero is a valid address: AF_UNSPEC.
        let done = unsafe {
            let nobody: libc::sockaddr = std::mem::zeroed();
            libc::connect(socket.as_raw_fd(), &raw const nobody, 16)
        };
        check(done.into()).at("disconnect")?;
        send_to(&socket, &this.token(), &to)
    })
}

pub(super) fn udp_splice(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = connected(&to)?;
        let (from, into) = nix::unistd::pipe().at("pipe")?;
        nix::unistd::write(&into, &this.token()).at("pipe")?;
        let flags = nix::fcntl::SpliceFFlags::empty();
        nix::fcntl::splice(&from, None, &socket, None, 256, flags).at("send").map(drop)
    })
}

pub(super) fn udp_zerocopy(this: &Try) -> Tried {
    const SO_ZEROCOPY: i32 = 60;
    const MSG_ZEROCOPY: i32 = 0x400_0000;
    this.each(PORT, |to| {
        let socket = udp(&to)?;
        int_option(&socket, libc::SOL_SOCKET, SO_ZEROCOPY, 1)?;
        socket.send_to_with_flags(&this.token(), &SockAddr::from(to), MSG_ZEROCOPY).at("send").map(drop)
    })
}

pub(super) fn quic_initial(this: &Try) -> Tried {
    // RFC 9000 17.2.2: long header, version 1, an eight-byte connection id; padded as a client must.
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e];
    packet.extend(this.token());
    packet.resize(1_200, 0);
    let first = this.each(443, |to| send_to(&udp(&to)?, &packet, &to));
    this.each(443, |to| send(&connected(&to)?, &packet)).or(first)
}
