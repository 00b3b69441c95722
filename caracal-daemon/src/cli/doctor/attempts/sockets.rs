//! By sockets of its own: TCP, datagrams, a listener, a multicast group, and whatever family has a number.

use super::{Done, Place, check, owned};
use crate::cli::doctor::outside;
use crate::keeper::cgroup_v1;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, accept, bind, connect, listen, send, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

pub(super) fn tcp(_: &Place) -> Done {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, outside::TCP));
    any(everywhere(outside::TCP).into_iter().chain([loopback]), |to| {
        Ok(connect(opened(to, SockType::Stream)?.as_raw_fd(), &name(to))?)
    })
}

pub(super) fn fast_open(_: &Place) -> Done {
    any(everywhere(outside::TCP), |to| {
        let fd = opened(to, SockType::Stream)?;
        sendto(fd.as_raw_fd(), b"canary", &name(to), MsgFlags::from_bits_retain(libc::MSG_FASTOPEN))?;
        Ok(())
    })
}

/// From Linux 6.2 on; before, the kernel has no such option on such a socket (`EOPNOTSUPP`).
pub(super) fn mptcp_fast_open(_: &Place) -> Done {
    let to = SocketAddr::from((outside::ADDRESS, outside::TCP));
    // SAFETY: integers only.
    let fd = owned(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) }.into(),
    )?;
    sendto(fd.as_raw_fd(), b"canary", &name(&to), MsgFlags::from_bits_retain(libc::MSG_FASTOPEN))?;
    Ok(())
}

fn datagram(to: &SocketAddr) -> Done {
    sendto(opened(to, SockType::Datagram)?.as_raw_fd(), b"canary", &name(to), MsgFlags::empty())?;
    Ok(())
}

fn connected(to: &SocketAddr) -> io::Result<OwnedFd> {
    let fd = opened(to, SockType::Datagram)?;
    connect(fd.as_raw_fd(), &name(to))?;
    Ok(fd)
}

pub(super) fn says(fd: &OwnedFd) -> Done {
    send(fd.as_raw_fd(), b"canary", MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

pub(super) fn udp(_: &Place) -> Done {
    let [four, _, mapped] = everywhere(outside::UDP);
    any([four, mapped], datagram)
}

/// Datagrams with a mark, by which routes and other programs may choose: for who has `CAP_NET_ADMIN`, and from 5.17 on
/// `CAP_NET_RAW` (socket(7), `SO_MARK`).
pub(super) fn marked(_: &Place) -> Done {
    any(everywhere(outside::UDP), |to| {
        let fd = opened(to, SockType::Datagram)?;
        setsockopt(&fd, sockopt::Mark, &0x0ca2)?;
        if sendto(fd.as_raw_fd(), b"canary", &name(to), MsgFlags::empty()).is_ok() {
            return Ok(());
        }
        connect(fd.as_raw_fd(), &name(to))?;
        says(&fd)
    })
}

pub(super) fn udp_connected(_: &Place) -> Done {
    any(everywhere(outside::UDP), |to| says(&connected(to)?))
}

/// From Linux 5.15 on a class of cgroup v1 changes nothing: plain datagrams. Before, setting one takes the sockets of the whole
/// host out of their cgroups until the next boot, so nobody tries it here: where it can be done it counts as done.
pub(super) fn older_cgroup(place: &Place) -> Done {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match (cgroup_v1::unbinds(), cgroup_v1::keeps_sockets(&release)) {
        (Some(_), _) => Ok(()),
        (None, Some(true)) if cgroup_v1::is_there() => udp(place).or_else(|_| udp_connected(place)),
        (None, _) => Err(io::Error::from_raw_os_error(libc::ENODEV)),
    }
}

pub(super) fn loopback_udp(_: &Place) -> Done {
    let to =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|ip| SocketAddr::new(ip, outside::UDP));
    any(to, |to| datagram(to).or_else(|_| says(&connected(to)?)))
}

/// Listens where somebody outside keeps calling.
pub(super) fn inbound(_: &Place) -> Done {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, outside::CALLED));
    let fd = opened(&at, SockType::Stream)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &name(&at))?;
    listen(&fd, Backlog::new(1)?)?;
    take_call(fd.as_raw_fd())
}

pub(super) fn take_call(listener: i32) -> Done {
    let caller = accept(listener)?;
    // SAFETY: the kernel has just given it to us.
    says(&unsafe { OwnedFd::from_raw_fd(caller) })
}

/// `struct ip_mreqn`: a group, by the loopback device, which has number 1 in every namespace.
pub(super) const MEMBERSHIP: [u8; 12] = [239, 9, 9, 9, 0, 0, 0, 0, 1, 0, 0, 0];

pub(super) fn join(_: &Place) -> Done {
    let fd = opened(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SockType::Datagram)?;
    // SAFETY: the value is as long as said.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, MEMBERSHIP.as_ptr().cast(), 12)
    };
    check(set.into()).map(drop)
}

pub(super) fn opened(to: &SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::milliseconds(500);
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    Ok(fd)
}

pub(super) fn name(to: &SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(*to)
}

/// An address that is not loopback, an IPv6 one, and the first as IPv6 sees it.
pub(super) fn everywhere(port: u16) -> [SocketAddr; 3] {
    let ips = [IpAddr::V4(outside::ADDRESS), IpAddr::V6(Ipv6Addr::LOCALHOST), outside::ADDRESS.to_ipv6_mapped().into()];
    ips.map(|ip| SocketAddr::new(ip, port))
}

/// Ok when one family gets through.
fn any(to: impl IntoIterator<Item = SocketAddr>, one: impl Fn(&SocketAddr) -> Done) -> Done {
    let results: Vec<Done> = to.into_iter().map(|to| one(&to)).collect();
    if results.iter().any(Result::is_ok) { Ok(()) } else { results.into_iter().next().unwrap_or(Ok(())) }
}

pub(super) fn open_socket(numbers: &str) -> Done {
    let mut words = numbers.split(':').filter_map(|word| word.parse::<i32>().ok());
    let (Some(family), Some(kind), Some(protocol)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    };
    // SAFETY: integers only.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into()).map(drop)
}
