//! sock_diag(7): what the kernel knows of the sockets of a network namespace, and the order to destroy one. Takes and
//! gives the fixed layouts of `linux/inet_diag.h`, `linux/unix_diag.h` and `linux/netlink.h`, which never change. Own
//! lines rather than a crate: three messages, and no crate at hand reads the cgroup of a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY` (Linux 4.5, `CONFIG_INET_DIAG_DESTROY`).
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `INET_DIAG_REQ_PROTOCOL`: protocol numbers above 255.
const REQ_PROTOCOL: u16 = 3;
/// `INET_DIAG_CGROUP_ID` (Linux 5.9).
const CGROUP_ID: u16 = 21;
/// `UNIX_DIAG_PEER` and `UDIAG_SHOW_PEER`.
const PEER: u16 = 2;
const SHOW_PEER: u32 = 4;
/// Sizes of `struct nlmsghdr`, `inet_diag_sockid`, `inet_diag_msg`, `unix_diag_msg`.
const HEADER: usize = 16;
const ID: usize = 48;
const INET: usize = 72;
const UNIX: usize = 16;
/// At most so many sockets of a namespace are looked at.
const MOST: usize = 1 << 20;

/// An IP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inet {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// IP protocol.
    pub protocol: u16,
    /// `TCP_ESTABLISHED` (1) to `TCP_NEW_SYN_RECV` (12); of UDP: 1 connected, 7 not.
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's; unspecified where there is none.
    pub peer: SocketAddr,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// The cgroup that it was made in; `None` before Linux 5.9.
    pub cgroup: Option<u64>,
    /// `struct inet_diag_sockid`, as the kernel gave it.
    id: [u8; ID],
}

/// A unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unix {
    /// Its inode.
    pub inode: u64,
    /// The inode of the socket that it is connected to.
    pub peer: Option<u64>,
}

/// A netlink socket in one network namespace. It stays there, whoever uses it.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

impl Diag {
    /// Opens one in the network namespace `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the kernel has no sock_diag.
    pub fn inside(namespace: BorrowedFd<'_>) -> io::Result<Diag> {
        // A thread of its own: setns changes the calling thread, and this one ends with it.
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Diag::open()
            });
            opened.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
        })
    }

    /// Opens one in the network namespace of the calling thread.
    fn open() -> io::Result<Diag> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Diag { socket, sequence: 0 })
    }

    /// Every socket of a family and protocol, in any state.
    ///
    /// # Errors
    /// `ENOENT` where the kernel cannot list the protocol.
    pub fn inet(&mut self, family: u8, protocol: u16) -> io::Result<Vec<Inet>> {
        let mut body = request(family, protocol, &[0; ID]);
        if protocol > 255 {
            body.extend(attribute(REQ_PROTOCOL, &u32::from(protocol).to_ne_bytes()));
        }
        self.ask(BY_FAMILY, DUMP, &body, |message| inet(message, protocol))
    }

    /// Every unix socket.
    ///
    /// # Errors
    /// `ENOENT` where the kernel cannot list them.
    pub fn unix(&mut self) -> io::Result<Vec<Unix>> {
        let mut body = vec![1, 0, 0, 0]; // AF_UNIX
        for word in [u32::MAX, 0, SHOW_PEER, u32::MAX, u32::MAX] {
            body.extend(word.to_ne_bytes());
        }
        self.ask(BY_FAMILY, DUMP, &body, unix)
    }

    /// Ends a socket: who uses it reads `ECONNABORTED`. It can be used anew afterwards.
    ///
    /// # Errors
    /// `EOPNOTSUPP` without `CONFIG_INET_DIAG_DESTROY`; `ENOENT` when it is gone already.
    pub fn destroy(&mut self, socket: &Inet) -> io::Result<()> {
        let mut body = request(socket.family, socket.protocol, &socket.id);
        if socket.protocol > 255 {
            body.extend(attribute(REQ_PROTOCOL, &u32::from(socket.protocol).to_ne_bytes()));
        }
        self.ask(DESTROY, ACK, &body, |_| None::<()>).map(drop)
    }

    /// Sends one request and reads what comes back, to its end.
    fn ask<T>(&mut self, kind: u16, flags: u16, body: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for part in parts(buffer.get(..length).unwrap_or_default()) {
                if part.sequence != self.sequence {
                    continue;
                }
                match part.kind {
                    DONE => return Ok(found),
                    ERROR => {
                        let code = word(part.body, 0).map_or(libc::EPROTO, |word| word.cast_signed().wrapping_neg());
                        return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(code)) };
                    }
                    _ if found.len() < MOST => found.extend(read(part.body)),
                    _ => {}
                }
            }
        }
    }
}

struct Part<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in a datagram.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        let message = bytes.get(..length)?;
        let part = Part { kind: half(message, 4)?, sequence: word(message, 8)?, body: message.get(HEADER..)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

/// The attributes behind a message's fixed part.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let attribute = (half(bytes, 2)?, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

fn attribute(kind: u16, value: &[u8; 4]) -> Vec<u8> {
    let mut bytes = 8_u16.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

/// `struct inet_diag_req_v2` for every state.
fn request(family: u8, protocol: u16, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, protocol.to_ne_bytes()[usize::from(cfg!(target_endian = "big"))], 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(id);
    body
}

fn inet(message: &[u8], protocol: u16) -> Option<Inet> {
    let family = *message.first()?;
    let id: [u8; ID] = message.get(4..4 + ID)?.try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        let v4 = i32::from(family) == libc::AF_INET;
        Some(if v4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(bytes).to_canonical() })
    };
    let port = |at: usize| Some(u16::from_be_bytes([*id.get(at)?, *id.get(at + 1)?]));
    let cgroup = attributes(message.get(INET..)?).find(|(kind, _)| *kind == CGROUP_ID);
    Some(Inet {
        family,
        protocol,
        state: *message.get(1)?,
        local: SocketAddr::new(address(4)?, port(0)?),
        peer: SocketAddr::new(address(20)?, port(2)?),
        cookie: u64::from(word(&id, 40)?) | u64::from(word(&id, 44)?) << 32,
        cgroup: cgroup.and_then(|(_, value)| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))),
        id,
    })
}

fn unix(message: &[u8]) -> Option<Unix> {
    let peer = attributes(message.get(UNIX..)?).find(|(kind, _)| *kind == PEER);
    Some(Unix { inode: u64::from(word(message, 4)?), peer: peer.and_then(|(_, value)| word(value, 0)).map(u64::from) })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// Needs root, to destroy a socket.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a connection to be destroyed")]
    fn a_connection_is_listed_and_destroyed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut diag = Diag::open().unwrap();
        let all = diag.inet(libc::AF_INET as u8, libc::IPPROTO_TCP as u16).unwrap();
        let ours = all.iter().find(|one| one.local == stream.local_addr().unwrap()).unwrap();
        assert_eq!((ours.peer, ours.state), (listener.local_addr().unwrap(), 1));
        assert!(ours.cgroup.is_some());
        assert!(all.iter().any(|one| one.local == listener.local_addr().unwrap() && one.state == 10));
        diag.destroy(ours).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
        assert_eq!(diag.destroy(ours).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = nix::sys::stat::fstat(&left).unwrap().st_ino;
        assert!(diag.unix().unwrap().iter().any(|one| one.inode == inode && one.peer.is_some()));
    }

    proptest::proptest! {
        #[test]
        fn no_message_panics(bytes: Vec<u8>) {
            for part in parts(&bytes) {
                let _ = (inet(part.body, 6), unix(part.body));
            }
            let _ = (inet(&bytes, 6), unix(&bytes));
        }
    }
}
