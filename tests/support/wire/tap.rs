//! The packet socket: sees every frame of a cable before any filter does, and knows when it missed one.

use super::packet::{Packet, parse, parse_arp};
use anyhow::{Result, ensure};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a read waits for a packet.
const QUIET: Duration = Duration::from_millis(50);

pub(super) fn packet_socket(device: &CStr) -> Result<OwnedFd> {
    let protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    // SAFETY: socket takes integers; the result is checked before it is owned.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::c_int::from(protocol));
        ensure!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = protocol;
    // SAFETY: the name is a C string.
    address.sll_ifindex = libc::c_int::try_from(unsafe { libc::if_nametoindex(device.as_ptr()) })?;
    let timeout = libc::timeval { tv_sec: 0, tv_usec: QUIET.subsec_micros().into() };
    // SAFETY: both structures live through their calls and their sizes are given.
    unsafe {
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        ensure!(
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) == 0,
            "bind: {}",
            io::Error::last_os_error()
        );
        let size = libc::socklen_t::try_from(size_of::<libc::timeval>())?;
        let done = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size,
        );
        ensure!(done == 0, "SO_RCVTIMEO: {}", io::Error::last_os_error());
    }
    // Room for a burst while this process does not get to run; only what arrives, where the kernel can tell (4.20).
    integer_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    let _older = integer_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
    Ok(socket)
}

fn integer_option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the value lives through the call and its size is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    ensure!(done == 0, "setting option {name}: {}", io::Error::last_os_error());
    Ok(())
}

/// Packets that the kernel had to drop since the last time this was asked (packet(7), `PACKET_STATISTICS`).
pub(super) fn lost(socket: &OwnedFd) -> u32 {
    let mut statistics = [0_u32; 2];
    let mut size = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap_or(0);
    // SAFETY: struct tpacket_stats is two words, packets and drops.
    let got = unsafe {
        let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        libc::getsockopt(socket.as_raw_fd(), level, name, statistics.as_mut_ptr().cast(), &raw mut size)
    };
    if got == 0 { statistics[1] } else { u32::MAX }
}

/// Reads packets until `stop`, and counts in `flushed` how often nothing was left to read, at most once in [`QUIET`]: also
/// on a cable that is never quiet for so long.
pub(super) fn capture(
    socket: &OwnedFd,
    seen: &Mutex<Vec<Packet>>,
    flushed: &AtomicU64,
    stop: &AtomicBool,
    keep: fn(&Packet) -> bool,
) {
    let mut buffer = vec![0_u8; 1 << 16];
    let mut counted = Instant::now();
    let mut wait = false;
    while !stop.load(Ordering::SeqCst) {
        // SAFETY: zero is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: buffer and address live through the call and their sizes are given.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                if wait { 0 } else { libc::MSG_DONTWAIT },
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            // Nothing waits: everything that had arrived has been looked at.
            if counted.elapsed() >= QUIET {
                flushed.fetch_add(1, Ordering::SeqCst);
                counted = Instant::now();
            }
            wait = true;
            continue;
        };
        wait = false;
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            continue;
        }
        let arp = from.sll_protocol == u16::try_from(libc::ETH_P_ARP).unwrap_or(0).to_be();
        let read = if arp { parse_arp } else { parse };
        if let Some(packet) = buffer.get(..length).and_then(read).filter(keep) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < 100_000 {
                seen.push(packet);
            }
        }
    }
}
