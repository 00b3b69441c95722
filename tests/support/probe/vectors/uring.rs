//! Class 14: the same by io_uring, which passes by system calls and what filters them.

use super::transport::card;
use crate::raw::{self, Step as _, Tried, check, owned, tcp, udp};
use crate::runner::Try;
use socket2::{SockAddr, Socket};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use support::catalogue::PORT;

const SENDMSG: u8 = 9;
const CONNECT: u8 = 16;
const SEND: u8 = 26;
const SOCKET: u8 = 45;
const COMMAND: u8 = 46;
const POLLED: u32 = 2;

/// A ring for one entry at a time (io_uring_setup(2)).
pub(crate) struct Ring {
    fd: OwnedFd,
    ring: *mut u8,
    entries: *mut [u8; 64],
    parameters: [u32; 30],
    flags: u32,
}

impl Ring {
    pub(crate) fn new(flags: u32) -> Tried<Ring> {
        let mut parameters = [0_u32; 30];
        parameters[2] = flags;
        parameters[4] = 500; // the submitting thread sleeps after so many milliseconds
        // SAFETY: the structure is 120 bytes, as the kernel has it.
        let fd = owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) }).at("socket")?;
        let map = |length: usize, offset: libc::off_t| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            // SAFETY: a mapping of the ring's own memory.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd.as_raw_fd(), offset) };
            if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(at.cast::<u8>()) }
        };
        // One mapping holds both rings since 5.4.
        let ring = map(4_096, 0).at("mmap")?;
        let entries = map(8 * 64, 0x1000_0000).at("mmap")?.cast();
        Ok(Ring { fd, ring, entries, parameters, flags })
    }

    /// A word of the ring: `struct io_sqring_offsets` begins at word 10 of the parameters, `io_cqring_offsets` at 20.
    fn word(&self, parameter: usize) -> &AtomicU32 {
        let offset = self.parameters.get(parameter).copied().unwrap_or(0) as usize;
        // SAFETY: the kernel gave the offset; the mapping lives as long as the process.
        unsafe { &*self.ring.add(offset).cast::<AtomicU32>() }
    }

    /// Submits one entry and gives its result.
    pub(crate) fn submit(&self, entry: &[u8; 64]) -> Tried<i32> {
        let tail = self.word(11);
        let place = tail.load(Ordering::Acquire) & 7;
        let array = self.parameters.get(16).copied().unwrap_or(0) as usize;
        // SAFETY: place is below the eight entries; both arrays are as long.
        unsafe {
            self.entries.add(place as usize).write(*entry);
            self.ring.add(array).cast::<u32>().add(place as usize).write(place);
        }
        tail.fetch_add(1, Ordering::Release);
        // With a thread of the kernel's: wake it; else submit one. Then wait for one.
        let (count, flags) = if self.flags & POLLED != 0 { (0, 3) } else { (1, 1) };
        // SAFETY: integers only.
        let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), count, 1, flags, 0, 0) };
        check(entered).at("enter")?;
        let head = self.word(20);
        let mask = self.word(22).load(Ordering::Acquire);
        let place = (head.load(Ordering::Acquire) & mask) as usize;
        let completions = self.parameters.get(25).copied().unwrap_or(0) as usize;
        // SAFETY: the entry is 16 bytes: user data, then the result.
        let result = unsafe { self.ring.add(completions + place * 16 + 8).cast::<i32>().read_volatile() };
        head.fetch_add(1, Ordering::Release);
        if result < 0 { raw::fail("uring", -result) } else { Ok(result) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: both mappings are this ring's and nobody keeps a pointer into them.
        unsafe {
            libc::munmap(self.ring.cast(), 4_096);
            libc::munmap(self.entries.cast(), 8 * 64);
        }
    }
}

/// `struct io_uring_sqe`: the fields that these operations use.
fn entry(code: u8, fd: i32, second: u64, address: u64, length: u32) -> [u8; 64] {
    let mut out = [0; 64];
    out[0] = code;
    out[4..8].copy_from_slice(&fd.to_ne_bytes());
    out[8..16].copy_from_slice(&second.to_ne_bytes());
    out[16..24].copy_from_slice(&address.to_ne_bytes());
    out[24..28].copy_from_slice(&length.to_ne_bytes());
    out
}

pub(crate) fn send_entry(socket: &Socket, bytes: &[u8]) -> [u8; 64] {
    entry(SEND, socket.as_raw_fd(), 0, bytes.as_ptr() as u64, u32::try_from(bytes.len()).unwrap_or(0))
}

pub(crate) fn connect_entry(socket: &Socket, to: &SockAddr) -> [u8; 64] {
    entry(CONNECT, socket.as_raw_fd(), to.len().into(), to.as_ptr() as u64, 0)
}

/// A datagram to an address, as one entry.
pub(crate) fn sendmsg_entry(ring: &Ring, socket: &Socket, bytes: &[u8], to: &SockAddr) -> Tried {
    let mut word = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut word;
    message.msg_iovlen = 1;
    ring.submit(&entry(SENDMSG, socket.as_raw_fd(), 0, &raw const message as u64, 1)).map(drop)
}

pub(super) fn connect(this: &Try) -> Tried {
    let ring = Ring::new(0)?;
    this.each(PORT, |to| {
        let socket = tcp(&to)?;
        ring.submit(&connect_entry(&socket, &SockAddr::from(to)))?;
        ring.submit(&send_entry(&socket, &this.token())).map(drop)
    })
}

pub(super) fn sendmsg(this: &Try) -> Tried {
    let ring = Ring::new(0)?;
    this.each(PORT, |to| sendmsg_entry(&ring, &udp(&to)?, &this.token(), &SockAddr::from(to)))
}

/// A socket that no `socket` call made (5.19); connected and not.
pub(super) fn socket(this: &Try) -> Tried {
    let ring = Ring::new(0)?;
    this.each(PORT, |to| {
        let family = raw::family(&to);
        let made = ring.submit(&entry(SOCKET, family, libc::SOCK_DGRAM as u64, 0, 0));
        let made = match made {
            // This kernel has no such operation.
            Err(fail) if fail.error.raw_os_error() == Some(libc::EINVAL) => return raw::fail("socket", libc::EINVAL),
            made => made?,
        };
        // SAFETY: the kernel has just given it to us.
        let socket = unsafe { Socket::from_raw_fd(made) };
        let first = sendmsg_entry(&ring, &socket, &this.token(), &SockAddr::from(to));
        ring.submit(&connect_entry(&socket, &SockAddr::from(to)))?;
        ring.submit(&send_entry(&socket, &this.token())).map(drop).or(first)
    })
}

pub(super) fn polled(this: &Try) -> Tried {
    let ring = Ring::new(POLLED)?;
    let first = this.each(PORT, |to| sendmsg_entry(&ring, &udp(&to)?, &this.token(), &SockAddr::from(to)));
    this.each(PORT, |to: SocketAddr| {
        let socket = tcp(&to)?;
        ring.submit(&connect_entry(&socket, &SockAddr::from(to)))?;
        ring.submit(&send_entry(&socket, &this.token())).map(drop)
    })
    .or(first)
}

/// `SOCKET_URING_OP_SETSOCKOPT` (6.7).
pub(super) fn join(this: &Try) -> Tried {
    let ring = Ring::new(0)?;
    let socket = udp(&SocketAddr::from(([0; 4], 0)))?;
    let request = super::kernel::membership(this.aim.group4(), card()?);
    let mut one = entry(COMMAND, socket.as_raw_fd(), 3, 0, 0);
    one[16..20].copy_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
    one[20..24].copy_from_slice(&libc::IP_ADD_MEMBERSHIP.to_ne_bytes());
    one[44..48].copy_from_slice(&u32::try_from(request.len()).unwrap_or(0).to_ne_bytes());
    one[48..56].copy_from_slice(&(request.as_ptr() as u64).to_ne_bytes());
    match ring.submit(&one) {
        Err(fail) if matches!(fail.error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            return raw::fail("socket", libc::EOPNOTSUPP);
        }
        joined => joined?,
    };
    std::thread::sleep(std::time::Duration::from_millis(300));
    Ok(())
}
