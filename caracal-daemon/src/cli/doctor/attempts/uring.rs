//! By io_uring (io_uring_setup(2), io_uring_enter(2)), which passes by the system calls of sockets: a datagram by a socket
//! that no `socket` call made, and a membership that no `setsockopt` call asked for.

use super::sockets::{everywhere, opened};
use super::{Done, check, owned};
use crate::cli::doctor::outside;
use nix::sys::socket::{SockType, SockaddrLike as _, SockaddrStorage};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Operations of `linux/io_uring.h`; the last two are of Linux 5.19.
const SENDMSG: u8 = 9;
const CONNECT: u8 = 16;
const SEND: u8 = 26;
const SOCKET: u8 = 45;
const COMMAND: u8 = 46;
/// `SOCKET_URING_OP_SETSOCKOPT` (6.7).
const SETSOCKOPT: u64 = 3;
/// Where the two mappings begin: `IORING_OFF_SQ_RING`, which holds both rings since 5.4, and `IORING_OFF_SQES`.
const RINGS: libc::off_t = 0;
const ENTRIES: libc::off_t = 0x1000_0000;
const RING_BYTES: usize = 4_096;
const ENTRY_BYTES: usize = 64;

/// An entry of the submission queue, `struct io_uring_sqe`.
type Entry = [u8; ENTRY_BYTES];

/// A ring for one entry at a time.
struct Ring {
    fd: OwnedFd,
    rings: NonNull<u8>,
    entries: NonNull<Entry>,
    /// `struct io_uring_params`, in words.
    parameters: [u32; 30],
}

impl Ring {
    fn new() -> io::Result<Ring> {
        let mut parameters = [0_u32; 30];
        // SAFETY: the structure is 120 bytes, as the kernel has it.
        let fd = owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })?;
        let map = |length: usize, offset: libc::off_t| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a mapping of the ring's own memory.
            let at = unsafe {
                libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset)
            };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            NonNull::new(at.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
        };
        let rings = map(RING_BYTES, RINGS)?;
        let entries = map(ENTRY_BYTES, ENTRIES)?.cast();
        Ok(Ring { fd, rings, entries, parameters })
    }

    /// Where in the rings a member stands that the kernel gave this offset.
    fn offset(&self, parameter: usize) -> usize {
        self.parameters.get(parameter).map_or(0, |offset| *offset as usize).min(RING_BYTES - 64)
    }

    /// A word of the rings: `struct io_sqring_offsets` begins at word 10 of the parameters, `io_cqring_offsets` at 20.
    fn word(&self, parameter: usize) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long as the ring; the kernel aligns its words.
        unsafe { &*self.rings.as_ptr().add(self.offset(parameter)).cast::<AtomicU32>() }
    }

    /// Submits one entry and gives its result.
    fn submit(&self, entry: &Entry) -> io::Result<i32> {
        // SAFETY: the one entry, and the one place of the array that names it.
        unsafe {
            self.entries.as_ptr().write(*entry);
            self.rings.as_ptr().add(self.offset(16)).cast::<u32>().write(0);
        }
        self.word(11).fetch_add(1, Ordering::Release);
        // One to submit, and one to wait for (`IORING_ENTER_GETEVENTS`).
        // SAFETY: integers, and no signal mask.
        let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), 1, 1, 1, 0, 0) };
        check(entered)?;
        let head = self.word(20);
        let place = (head.load(Ordering::Acquire) & self.word(22).load(Ordering::Acquire)) as usize & 1;
        // SAFETY: one of the two completions, of 16 bytes: eight of the entry's data, then the result.
        let result = unsafe { self.rings.as_ptr().add(self.offset(25) + place * 16 + 8).cast::<i32>().read_volatile() };
        head.fetch_add(1, Ordering::Release);
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: both mappings are this ring's and nobody keeps a pointer into them.
        unsafe {
            libc::munmap(self.rings.as_ptr().cast(), RING_BYTES);
            libc::munmap(self.entries.as_ptr().cast(), ENTRY_BYTES);
        }
    }
}

/// The fields that these operations use.
fn entry(code: u8, fd: i32, second: u64, address: u64, length: u32) -> Entry {
    let mut out = [0; ENTRY_BYTES];
    put(&mut out, 0, &[code]);
    put(&mut out, 4, &fd.to_ne_bytes());
    put(&mut out, 8, &second.to_ne_bytes());
    put(&mut out, 16, &address.to_ne_bytes());
    put(&mut out, 24, &length.to_ne_bytes());
    out
}

fn put(entry: &mut Entry, at: usize, bytes: &[u8]) {
    if let Some(place) = entry.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// What a kernel answers to an operation that it has not: as an attempt, there is no such thing.
fn absent(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => io::Error::from_raw_os_error(libc::ENOSYS),
        _ => error,
    }
}

/// A datagram by a socket that the ring makes, unconnected and connected.
pub(super) fn uring_socket(_: &super::Place) -> Done {
    let ring = Ring::new()?;
    let mut last = Ok(());
    for to in everywhere(outside::UDP) {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = libc::SOCK_DGRAM as u64;
        let made = ring.submit(&entry(SOCKET, family, kind, 0, 0)).map_err(absent)?;
        // SAFETY: the kernel has just given it to us.
        let socket = unsafe { OwnedFd::from_raw_fd(made) };
        last = sends(&ring, &socket, &to).or_else(|_| connects(&ring, &socket, &to));
        if last.is_ok() {
            break;
        }
    }
    last
}

fn sends(ring: &Ring, socket: &OwnedFd, to: &SocketAddr) -> Done {
    let (name, bytes) = (SockaddrStorage::from(*to), b"canary");
    let mut word = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len();
    message.msg_iov = &raw mut word;
    message.msg_iovlen = 1;
    ring.submit(&entry(SENDMSG, socket.as_raw_fd(), 0, &raw const message as u64, 1)).map(drop)
}

fn connects(ring: &Ring, socket: &OwnedFd, to: &SocketAddr) -> Done {
    let (name, bytes) = (SockaddrStorage::from(*to), b"canary");
    ring.submit(&entry(CONNECT, socket.as_raw_fd(), name.len().into(), name.as_ptr() as u64, 0))?;
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    ring.submit(&entry(SEND, socket.as_raw_fd(), 0, bytes.as_ptr() as u64, length)).map(drop)
}

/// A membership as in `sockets::join`.
pub(super) fn uring_join(_: &super::Place) -> Done {
    let ring = Ring::new()?;
    let socket = opened(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SockType::Datagram)?;
    let request: [u8; 12] = super::sockets::MEMBERSHIP;
    let mut one = entry(COMMAND, socket.as_raw_fd(), SETSOCKOPT, 0, 0);
    let (level, name) = (libc::IPPROTO_IP.to_ne_bytes(), libc::IP_ADD_MEMBERSHIP.to_ne_bytes());
    let (length, value) = ((request.len() as u32).to_ne_bytes(), (request.as_ptr() as u64).to_ne_bytes());
    for (at, bytes) in [(16, &level[..]), (20, &name[..]), (44, &length[..]), (48, &value[..])] {
        put(&mut one, at, bytes);
    }
    ring.submit(&one).map(drop).map_err(absent)
}
