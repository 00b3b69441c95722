//! Class 10: below IP.

use super::transport::card;
use crate::raw::{self, Step as _, Tried, check, option, socket, udp_packet};
use crate::runner::Try;
use socket2::{SockAddr, Socket};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use support::catalogue::PORT;

const ETH_P_IP: u16 = 0x0800;
/// The other end of the cable takes frames for everybody.
const EVERYBODY: [u8; 6] = [0xff; 6];

/// The packet that goes below IP.
fn packet(this: &Try) -> Vec<u8> {
    udp_packet(Ipv4Addr::new(198, 51, 100, 1), SocketAddr::from((this.aim.ip4(), PORT)), &this.token())
}

fn frame(this: &Try) -> Vec<u8> {
    let mut frame = EVERYBODY.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(ETH_P_IP.to_be_bytes());
    frame.extend(packet(this));
    frame
}

/// Bytes as an address.
fn address<T>(value: &T) -> SockAddr {
    // SAFETY: an address of any family is shorter than the storage; the length is its own.
    let made = unsafe {
        SockAddr::try_init(|storage, length| {
            std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), storage.cast(), size_of::<T>());
            *length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
            Ok(())
        })
    };
    made.map_or_else(|_| SockAddr::from(SocketAddr::from(([0; 4], 0))), |((), address)| address)
}

fn link() -> Tried<SockAddr> {
    // SAFETY: all zero is a valid address.
    let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    link.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    link.sll_protocol = ETH_P_IP.to_be();
    link.sll_ifindex = i32::try_from(card()?).unwrap_or(0);
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&EVERYBODY);
    Ok(address(&link))
}

fn opened(kind: i32) -> Tried<Socket> {
    socket(libc::AF_PACKET, kind, ETH_P_IP.to_be().into())
}

pub(super) fn packet_datagram(this: &Try) -> Tried {
    opened(libc::SOCK_DGRAM)?.send_to(&packet(this), &link()?).at("send").map(drop)
}

pub(super) fn packet_raw(this: &Try) -> Tried {
    opened(libc::SOCK_RAW)?.send_to(&frame(this), &link()?).at("send").map(drop)
}

/// packet_mmap: one frame in a ring of one page.
pub(super) fn packet_ring(this: &Try) -> Tried {
    const PACKET_TX_RING: i32 = 13;
    const TP_STATUS_SEND_REQUEST: u32 = 1;
    /// `TPACKET_ALIGN(sizeof(struct tpacket_hdr))`, less the address that only receivers have.
    const DATA: usize = 32;
    let socket = opened(libc::SOCK_RAW)?;
    let ring: Vec<u8> = [4_096_u32, 1, 2_048, 2].iter().flat_map(|word| word.to_ne_bytes()).collect();
    option(&socket, libc::SOL_PACKET, PACKET_TX_RING, &ring)?;
    socket.bind(&link()?).at("bind")?;
    let frame = frame(this);
    // SAFETY: the kernel gives a page of its own, which is written within its bounds; version 1 of the header has its
    // status in the first word (a long) and the length in the next.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), 4_096, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0);
        if page == libc::MAP_FAILED {
            return Err(raw::Fail { step: "mmap", error: std::io::Error::last_os_error() });
        }
        let page = page.cast::<u8>();
        std::ptr::copy_nonoverlapping(frame.as_ptr(), page.add(DATA), frame.len());
        page.add(8).cast::<u32>().write(u32::try_from(frame.len()).unwrap_or(0));
        page.cast::<u32>().write_volatile(TP_STATUS_SEND_REQUEST);
        check(libc::send(socket.as_raw_fd(), std::ptr::null(), 0, 0).try_into().unwrap_or(-1)).at("send").map(drop)
    }
}

/// AF_XDP in copy mode (Documentation/networking/af_xdp.rst): no program is needed to send.
pub(super) fn xdp_socket(this: &Try) -> Tried {
    const SOL_XDP: i32 = 283;
    const XDP_MMAP_OFFSETS: i32 = 1;
    const XDP_TX_RING: i32 = 3;
    const XDP_UMEM_REG: i32 = 4;
    const XDP_UMEM_FILL_RING: i32 = 5;
    const XDP_UMEM_COMPLETION_RING: i32 = 6;
    const XDP_PGOFF_TX_RING: libc::off_t = 0x8000_0000;
    const XDP_COPY: u16 = 2;
    const CHUNK: usize = 4_096;
    let socket = socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: fresh anonymous memory; it lives until the process ends.
    let memory = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        libc::mmap(std::ptr::null_mut(), CHUNK * 4, protection, flags, -1, 0)
    };
    // struct xdp_umem_reg: address, length, chunk size, headroom.
    let mut region = Vec::new();
    region.extend((memory as u64).to_ne_bytes());
    region.extend((CHUNK as u64 * 4).to_ne_bytes());
    region.extend(4_096_u32.to_ne_bytes());
    region.extend([0; 12]);
    option(&socket, SOL_XDP, XDP_UMEM_REG, region.get(..24).unwrap_or_default())?;
    for ring in [XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING] {
        raw::int_option(&socket, SOL_XDP, ring, 4)?;
    }
    // struct xdp_mmap_offsets: producer, consumer, descriptors, flags of rx, tx, fill and completion.
    let mut offsets = [0_u64; 16];
    let mut length = libc::socklen_t::try_from(size_of_val(&offsets)).unwrap_or(0);
    // SAFETY: the buffer is as long as said.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), SOL_XDP, XDP_MMAP_OFFSETS, offsets.as_mut_ptr().cast(), &raw mut length)
    };
    check(got.into()).at("getsockopt")?;
    let [_, _, _, _, producer, _, descriptors, ..] = offsets;
    // struct sockaddr_xdp: family, flags, device, queue, shared descriptor.
    let mut name = Vec::new();
    name.extend(u16::try_from(libc::AF_XDP).unwrap_or(0).to_ne_bytes());
    name.extend(XDP_COPY.to_ne_bytes());
    name.extend(card()?.to_ne_bytes());
    name.extend([0; 8]);
    let name: [u8; 16] = name.try_into().unwrap_or_default();
    let frame = frame(this);
    // SAFETY: the ring is the kernel's; what is written lies within it and within our memory.
    unsafe {
        let tx = libc::mmap(
            std::ptr::null_mut(),
            4_096,
            protection,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            XDP_PGOFF_TX_RING,
        );
        if tx == libc::MAP_FAILED {
            return Err(raw::Fail { step: "mmap", error: std::io::Error::last_os_error() });
        }
        check(libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), 16).into()).at("bind")?;
        std::ptr::copy_nonoverlapping(frame.as_ptr(), memory.cast(), frame.len());
        let tx = tx.cast::<u8>();
        let descriptor = tx.add(usize::try_from(descriptors).unwrap_or(0));
        descriptor.cast::<u64>().write(0);
        descriptor.add(8).cast::<u32>().write(u32::try_from(frame.len()).unwrap_or(0));
        descriptor.add(12).cast::<u32>().write(0);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        tx.add(usize::try_from(producer).unwrap_or(0)).cast::<u32>().write_volatile(1);
        let sent = libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0);
        check(sent.try_into().unwrap_or(-1)).at("send").map(drop)
    }
}
