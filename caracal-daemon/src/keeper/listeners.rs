//! The sockets that the data path serves: agents' connections and queries, on this namespace's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
};

use super::KeeperError;

/// One namespace's listening sockets, in the order in which the data path inherits them.
#[derive(Debug)]
pub struct Listeners {
    /// Connections, 127.0.0.1 and `[::1]`.
    pub tcp: [TcpListener; 2],
    /// DNS over UDP, likewise.
    pub dns_udp: [UdpSocket; 2],
    /// DNS over TCP, likewise.
    pub dns_tcp: [TcpListener; 2],
}

impl Listeners {
    /// Opens them in the namespace of the calling thread.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn open(tcp_port: u16, dns_port: u16) -> Result<Listeners, KeeperError> {
        Ok(Listeners {
            tcp: [tcp(V4, tcp_port)?.into(), tcp(v6(), tcp_port)?.into()],
            dns_udp: [udp(V4, dns_port)?.into(), udp(v6(), dns_port)?.into()],
            dns_tcp: [tcp(V4, dns_port)?.into(), tcp(v6(), dns_port)?.into()],
        })
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Stands in on a host without IPv6: nothing is redirected there, and a connect over IPv6 fails by itself.
const UNUSED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254));

/// The IPv6 loopback, or an address that nothing is redirected to where the host has none.
fn v6() -> IpAddr {
    let addr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if bound(addr, 0, SockType::Datagram).is_ok() { addr } else { UNUSED }
}

fn tcp(addr: IpAddr, port: u16) -> Result<OwnedFd, KeeperError> {
    let open = || -> nix::Result<OwnedFd> {
        let fd = bound(addr, port, SockType::Stream)?;
        listen(&fd, Backlog::new(4096)?)?;
        Ok(fd)
    };
    open().map_err(|error| taken("TCP", addr, port, error))
}

fn udp(addr: IpAddr, port: u16) -> Result<OwnedFd, KeeperError> {
    bound(addr, port, SockType::Datagram).map_err(|error| taken("UDP", addr, port, error))
}

fn bound(addr: IpAddr, port: u16, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // A restart must not wait for the last connections of the one before.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match SocketAddr::new(addr, port) {
        SocketAddr::V4(addr) => bind(fd.as_raw_fd(), &SockaddrIn::from(addr))?,
        SocketAddr::V6(addr) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(addr))?;
        }
    }
    Ok(fd)
}

fn taken(kind: &str, addr: IpAddr, port: u16, error: nix::Error) -> KeeperError {
    KeeperError::Listen(format!(
        "cannot listen on {kind} {}: {error}; set another port under [listen]",
        SocketAddr::new(addr, port)
    ))
}

/// The cookie of the calling thread's network namespace: `SO_NETNS_COOKIE`, Linux 5.14.
///
/// # Errors
/// On older kernels.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
