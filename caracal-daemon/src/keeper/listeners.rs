//! The sockets that the data path serves: agents' connections and queries, on a namespace's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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

/// How many they are.
pub const LISTENERS: usize = 6;

impl Listeners {
    /// Opens them in the namespace of the calling thread, which is the daemon's own.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn open(tcp_port: u16, dns_port: u16) -> Result<Listeners, KeeperError> {
        Listeners::bind(Bind { free: false }, tcp_port, dns_port)
    }

    /// The same in another namespace, whose loopback may be down: the listeners are there before it comes up.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn open_elsewhere(tcp_port: u16, dns_port: u16) -> Result<Listeners, KeeperError> {
        Listeners::bind(Bind { free: true }, tcp_port, dns_port)
    }

    fn bind(bind: Bind, tcp_port: u16, dns_port: u16) -> Result<Listeners, KeeperError> {
        let v6 = bind.v6();
        Ok(Listeners {
            tcp: [bind.tcp(V4, tcp_port)?.into(), bind.tcp(v6, tcp_port)?.into()],
            dns_udp: [bind.udp(V4, dns_port)?.into(), bind.udp(v6, dns_port)?.into()],
            dns_tcp: [bind.tcp(V4, dns_port)?.into(), bind.tcp(v6, dns_port)?.into()],
        })
    }

    /// Their descriptors, in the order in which they are handed over.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; LISTENERS] {
        let [tcp4, tcp6] = &self.tcp;
        let [udp4, udp6] = &self.dns_udp;
        let [dns4, dns6] = &self.dns_tcp;
        [tcp4.as_fd(), tcp6.as_fd(), udp4.as_fd(), udp6.as_fd(), dns4.as_fd(), dns6.as_fd()]
    }

    /// Takes them, in that order. `None`: they are not as many as they should be.
    #[must_use]
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Listeners> {
        let [tcp4, tcp6, udp4, udp6, dns4, dns6] = <[OwnedFd; LISTENERS]>::try_from(descriptors).ok()?;
        Some(Listeners {
            tcp: [tcp4.into(), tcp6.into()],
            dns_udp: [udp4.into(), udp6.into()],
            dns_tcp: [dns4.into(), dns6.into()],
        })
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Stands in on a host without IPv6: nothing is redirected there, and a connect over IPv6 fails by itself.
const UNUSED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254));

/// How sockets are bound.
#[derive(Clone, Copy, Debug)]
struct Bind {
    /// Also to an address that the namespace does not have yet (`IP_FREEBIND`, ip(7)).
    free: bool,
}

impl Bind {
    /// The IPv6 loopback, or an address that nothing is redirected to where the host has none.
    fn v6(self) -> IpAddr {
        let addr = IpAddr::V6(Ipv6Addr::LOCALHOST);
        if self.bound(addr, 0, SockType::Datagram).is_ok() { addr } else { UNUSED }
    }

    fn tcp(self, addr: IpAddr, port: u16) -> Result<OwnedFd, KeeperError> {
        let open = || -> nix::Result<OwnedFd> {
            let fd = self.bound(addr, port, SockType::Stream)?;
            listen(&fd, Backlog::new(4096)?)?;
            Ok(fd)
        };
        open().map_err(|error| taken("TCP", addr, port, error))
    }

    fn udp(self, addr: IpAddr, port: u16) -> Result<OwnedFd, KeeperError> {
        self.bound(addr, port, SockType::Datagram).map_err(|error| taken("UDP", addr, port, error))
    }

    fn bound(self, addr: IpAddr, port: u16, kind: SockType) -> nix::Result<OwnedFd> {
        let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // A restart must not wait for the last connections of the one before.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if self.free {
            setsockopt(&fd, sockopt::IpFreebind, &true)?;
        }
        match SocketAddr::new(addr, port) {
            SocketAddr::V4(addr) => bind(fd.as_raw_fd(), &SockaddrIn::from(addr))?,
            SocketAddr::V6(addr) => {
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
                bind(fd.as_raw_fd(), &SockaddrIn6::from(addr))?;
            }
        }
        Ok(fd)
    }
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
pub fn netns_cookie() -> Result<u64, KeeperError> {
    own_cookie().map_err(|error| KeeperError::Kernel(error.to_string()))
}

fn own_cookie() -> io::Result<u64> {
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
