//! Class 9: IP protocols that are neither TCP nor UDP.

use crate::raw::{self, Tried, connect, echo_request, send, send_to, socket, udp_packet};
use crate::runner::{Try, any};
use std::net::{Ipv4Addr, SocketAddr};
use support::catalogue::PORT;

/// An echo request over the families that have one; a raw socket takes no port.
fn echo(this: &Try, kind: i32, connects: bool) -> Tried {
    let [four, six, _] = this.aim.all(0);
    any([four, six], &mut |to| {
        let protocol = if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let socket = socket(raw::family(&to), kind, protocol)?;
        let request = echo_request(to.is_ipv4(), &this.token());
        if connects {
            connect(&socket, &to)?;
            send(&socket, &request)
        } else {
            send_to(&socket, &request, &to)
        }
    })
}

pub(super) fn ping_sendto(this: &Try) -> Tried {
    echo(this, libc::SOCK_DGRAM, false)
}

pub(super) fn ping_connected(this: &Try) -> Tried {
    echo(this, libc::SOCK_DGRAM, true)
}

pub(crate) fn raw_icmp(this: &Try) -> Tried {
    echo(this, libc::SOCK_RAW, false)
}

pub(super) fn raw_connected(this: &Try) -> Tried {
    echo(this, libc::SOCK_RAW, true)
}

pub(super) fn raw_header_included(this: &Try) -> Tried {
    let socket = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    send_to(&socket, &udp_packet(Ipv4Addr::new(198, 51, 100, 1), to, &this.token()), &SocketAddr::new(to.ip(), 0))
}

pub(super) fn raw_unassigned(this: &Try) -> Tried {
    // RFC 3692: for experiments.
    let [four, six, _] = this.aim.all(0);
    any([four, six], &mut |to| send_to(&socket(raw::family(&to), libc::SOCK_RAW, 253)?, &this.token(), &to))
}

pub(super) fn udplite_sendto(this: &Try) -> Tried {
    this.each(PORT, |to| {
        send_to(&socket(raw::family(&to), libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?, &this.token(), &to)
    })
}

/// A socket of a kind, connected and written to.
fn connected(this: &Try, kind: i32, protocol: i32) -> Tried {
    this.each(PORT, |to| {
        let socket = socket(raw::family(&to), kind, protocol)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())
    })
}

pub(super) fn udplite_connected(this: &Try) -> Tried {
    connected(this, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)
}

pub(super) fn sctp_connect(this: &Try) -> Tried {
    connected(this, libc::SOCK_STREAM, libc::IPPROTO_SCTP)
}

pub(super) fn sctp_sendto(this: &Try) -> Tried {
    this.each(PORT, |to| {
        send_to(&socket(raw::family(&to), libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP)?, &this.token(), &to)
    })
}

pub(super) fn dccp_connect(this: &Try) -> Tried {
    connected(this, libc::SOCK_DCCP, libc::IPPROTO_DCCP)
}

pub(super) fn l2tp_ip(this: &Try) -> Tried {
    const L2TP: i32 = 115;
    let to = SocketAddr::from((this.aim.ip4(), 0));
    send_to(&socket(libc::AF_INET, libc::SOCK_DGRAM, L2TP)?, &this.token(), &to)
}
