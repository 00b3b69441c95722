//! Classes 25 and 26: many sockets, and options that say where packets go.

use super::transport::{card, connected, tcp_connect, udp_connected, udp_sendto};
use crate::raw::{self, Step as _, Tried, connect, fail, int_option, option, send, send_to, tcp, udp};
use crate::runner::{Try, any};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::Socket;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use support::catalogue::PORT;

/// The card's own addresses in the world of the tests.
const CARD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x1ea, 0, 0, 0, 0, 1))];

pub(super) fn many_connections(this: &Try) -> Tried {
    let mut open: Vec<Socket> = Vec::new();
    for number in 0..400 {
        let to = SocketAddr::from((this.aim.ip4(), 10_000 + number));
        let Ok(socket) = tcp(&to) else { break };
        let _set = socket.set_nonblocking(true);
        let _going = socket.connect(&to.into());
        open.push(socket);
    }
    let first = udp_sendto(this);
    let second = tcp_connect(this);
    udp_connected(this).or(first).or(second)
}

pub(super) fn port_reuse(this: &Try) -> Tried {
    let from = SocketAddr::from(([0, 0, 0, 0], this.aim.inbound_port()));
    let one = |port: u16| {
        let to = SocketAddr::from((this.aim.ip4(), port));
        let socket = tcp(&to)?;
        socket.set_reuse_address(true).at("setsockopt")?;
        socket.set_reuse_port(true).at("setsockopt")?;
        socket.bind(&from.into()).at("bind")?;
        connect(&socket, &to)?;
        send(&socket, &this.token())?;
        Ok(socket)
    };
    let results: Vec<_> = (0..8).map(|number| one(PORT + number)).collect();
    if results.iter().any(Result::is_ok) {
        Ok(())
    } else {
        results.into_iter().next().map_or(Ok(()), |one| one.map(drop))
    }
}

fn bound(socket: Socket) -> Tried<Socket> {
    socket.bind_device(Some(b"leak")).at("setsockopt")?;
    Ok(socket)
}

pub(super) fn device_bound_tcp(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = bound(tcp(&to)?)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    })
}

/// First a look-up, so that the socket is known to have asked for one, then bytes to where that was sent.
pub(super) fn device_bound_dns(this: &Try) -> Tried {
    let resolver = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = bound(udp(&resolver(53))?)?;
    let _asked = connect(&socket, &resolver(53)).and_then(|()| send(&socket, &this.token()));
    let again = connect(&socket, &resolver(15_053)).and_then(|()| send(&socket, &this.token()));
    let outside = this.each(53, |to| {
        let socket = bound(udp(&to)?)?;
        let first = send_to(&socket, &this.token(), &to);
        connect(&socket, &to)?;
        send(&socket, &this.token()).or(first)
    });
    again.or(outside)
}

pub(super) fn source_address(this: &Try) -> Tried {
    let [four, six, _] = this.aim.all(PORT);
    let stream = any([four, six], &mut |to| {
        let socket = tcp(&to)?;
        socket.bind(&SocketAddr::new(CARD[usize::from(to.is_ipv6())], 0).into()).at("bind")?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    });
    let datagram = any([four, six], &mut |to| {
        let socket = udp(&to)?;
        socket.bind(&SocketAddr::new(CARD[usize::from(to.is_ipv6())], 0).into()).at("bind")?;
        send_to(&socket, &this.token(), &to)
    });
    datagram.or(stream)
}

/// Goes away before it is answered, from a port that is its own: what the kernel then sends to the daemon's `::1` for a
/// socket that is no more would be routed by the card.
pub(super) fn source_reset(this: &Try) -> Tried {
    let [four, six, _] = this.aim.all(80);
    let one = |to: SocketAddr| -> Tried {
        let socket = tcp(&to)?;
        socket.set_reuse_address(true).at("setsockopt")?;
        let at = SocketAddr::new(CARD[usize::from(to.is_ipv6())], this.aim.inbound_port());
        socket.bind(&at.into()).at("bind")?;
        connect(&socket, &to)?;
        send(&socket, b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n")
    };
    // Read nothing, wait for nothing.
    let tried = any([four, six], &mut |to| one(to));
    std::thread::sleep(std::time::Duration::from_millis(500));
    tried
}

/// IP_FREEBIND and IPV6_FREEBIND are anybody's. Look-ups, because the answer repeats what was asked; and a connect, whose
/// second packet goes to its source.
pub(super) fn source_freely_chosen(this: &Try) -> Tried {
    const IPV6_FREEBIND: i32 = 78;
    let [four, six, _] = this.aim.all(0);
    let free = |socket: Socket, from: SocketAddr| -> Tried<Socket> {
        let (level, name) =
            if from.is_ipv4() { (libc::IPPROTO_IP, libc::IP_FREEBIND) } else { (libc::IPPROTO_IPV6, IPV6_FREEBIND) };
        int_option(&socket, level, name, 1)?;
        socket.bind(&from.into()).at("bind")?;
        Ok(socket)
    };
    let query = super::naming::query(this, 16);
    let datagram = any([four, six], &mut |from| {
        let to = SocketAddr::new(from.ip(), 53);
        let first = send_to(&free(udp(&from)?, from)?, &query, &to);
        let connected = free(udp(&from)?, from)?;
        connect(&connected, &to)?;
        send(&connected, &query).or(first)
    });
    let stream = any([four, six], &mut |from| {
        let socket = free(tcp(&from)?, from)?;
        connect(&socket, &SocketAddr::new(from.ip(), PORT))
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    datagram.or(stream)
}

pub(super) fn packet_information(this: &Try) -> Tried {
    let to = SocketAddrV4::new(this.aim.ip4(), PORT);
    let socket = udp(&SocketAddr::V4(to))?;
    let mut information = libc::in_pktinfo {
        ipi_ifindex: i32::try_from(card()?).unwrap_or(0),
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    information.ipi_spec_dst.s_addr = u32::from_ne_bytes([198, 51, 100, 1]);
    let token = this.token();
    let words = [std::io::IoSlice::new(&token)];
    let parts = [ControlMessage::Ipv4PacketInfo(&information)];
    let name = SockaddrIn::from(to);
    sendmsg(socket.as_raw_fd(), &words, &parts, MsgFlags::empty(), Some(&name)).at("send").map(drop)
}

pub(super) fn unicast_interface(this: &Try) -> Tried {
    const IP_UNICAST_IF: i32 = 50;
    const IPV6_UNICAST_IF: i32 = 76;
    let [four, six, _] = this.aim.all(PORT);
    any([four, six], &mut |to| {
        let socket = udp(&to)?;
        let index = card()?.to_be_bytes();
        let (level, name) =
            if to.is_ipv4() { (libc::IPPROTO_IP, IP_UNICAST_IF) } else { (libc::IPPROTO_IPV6, IPV6_UNICAST_IF) };
        option(&socket, level, name, &index)?;
        let first = send_to(&socket, &this.token(), &to);
        connect(&socket, &to)?;
        send(&socket, &this.token()).or(first)
    })
}

/// RFC 791: loose source and record route, whose first stop the packet is sent to, whatever address it was connected to.
pub(super) fn source_route(this: &Try) -> Tried {
    const IP_OPTIONS: i32 = 4;
    let mut route = vec![131, 7, 4];
    route.extend(this.aim.ip4().octets());
    route.push(0);
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    let stream = tcp(&to)?;
    option(&stream, libc::IPPROTO_IP, IP_OPTIONS, &route)?;
    let first = connect(&stream, &to).and_then(|()| send(&stream, &this.token()));
    let mut last = first;
    for port in [PORT, 53] {
        let socket = udp(&to)?;
        option(&socket, libc::IPPROTO_IP, IP_OPTIONS, &route)?;
        let to = SocketAddr::new(to.ip(), port);
        let unconnected = send_to(&socket, &this.token(), &to);
        last = connect(&socket, &to).and_then(|()| send(&socket, &this.token())).or(unconnected).or(last);
    }
    last
}

/// RFC 8200 4.4: type 2 (mobility) where the kernel has it, else type 4 (segments).
pub(super) fn routing_header(this: &Try) -> Tried {
    const IPV6_RTHDR: i32 = 57;
    let stop = this.aim.ip6().octets();
    let mobile = [&[0, 2, 2, 1, 0, 0, 0, 0][..], &stop].concat();
    let segments = [&[0, 4, 4, 1, 1, 0, 0, 0][..], &stop, &stop].concat();
    let routed = |socket: &Socket| {
        let set = option(socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &mobile);
        set.or_else(|_| option(socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &segments))
    };
    let to = SocketAddr::from((this.aim.ip6(), PORT));
    let stream = tcp(&to)?;
    if routed(&stream).is_err() {
        return fail("socket", libc::ENOPROTOOPT);
    }
    let mut last = connect(&stream, &to).and_then(|()| send(&stream, &this.token()));
    for port in [PORT, 53] {
        let socket = udp(&to)?;
        routed(&socket)?;
        let to = SocketAddr::new(to.ip(), port);
        let unconnected = send_to(&socket, &this.token(), &to);
        last = connect(&socket, &to).and_then(|()| send(&socket, &this.token())).or(unconnected).or(last);
    }
    last
}

pub(super) fn marked(this: &Try) -> Tried {
    this.each(PORT, |to| {
        let socket = udp(&to)?;
        match int_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, 0x0ca2) {
            // Before 5.17 a raw socket's right was not enough for it.
            Err(refused) if refused.error.raw_os_error() == Some(libc::EPERM) => return fail("socket", libc::ENOTSUP),
            set => set?,
        }
        send_to(&socket, &this.token(), &to)
    })
}

pub(super) fn transparent(this: &Try) -> Tried {
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    let socket = udp(&to)?;
    match int_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1) {
        Err(refused) => return fail("socket", refused.error.raw_os_error().unwrap_or(libc::EPERM)),
        Ok(()) => socket.bind(&SocketAddr::from(([203, 0, 113, 99], 0)).into()).at("bind")?,
    }
    let first = send_to(&socket, &this.token(), &to);
    send(&connected(&to)?, &this.token()).or(first)
}

pub(super) fn dont_route(this: &Try) -> Tried {
    let Some(ip) = this.aim.neighbour() else { return fail("unknown", libc::ENOSYS) };
    let to = SocketAddr::from((ip, PORT));
    let flags = libc::MSG_DONTROUTE | libc::MSG_NOSIGNAL;
    let first = udp(&to)?.send_to_with_flags(&this.token(), &to.into(), flags).at("send").map(drop);
    let connected = connected(&to)?;
    let second = connected.send_with_flags(&this.token(), flags).at("send").map(drop);
    std::thread::sleep(std::time::Duration::from_millis(100));
    raw::check(0).at("send").and(second.or(first))
}
