//! The judge: what left the host, and who sent it.
//!
//! A packet socket in `B` sees every frame on the `leak` cable before any filter does. The data path's own packets take
//! the other cable (see [`crate::netns`]): the kernel routes by the user that owns the socket, so neither a forged
//! address nor a reused port changes the cable. Hence the judgement is short: *any* IP packet on `leak` while agents are
//! governed is a leak. Left out are the host's own neighbour discovery and multicast listener reports, which the kernel
//! sends for the cable itself, and what it answers for a connection of the data path's that is no more (a reset, the
//! acknowledgement of a late segment): such a segment has no socket, hence no user, and takes the default route. It is
//! known by all four of its numbers: the data path opened that very connection on its own cable. It carries no byte of any
//! process; one with a payload, or one that asks for a connection, is a leak whatever its numbers.
//!
//! Link-layer requests for a neighbour that an attempt of the catalogue chose, and reports of a group that it joined, are
//! packets as any other: their addresses are its bytes.
//!
//! A judge that sees nothing proves nothing: each escape test first runs the same attempt without a daemon and demands
//! that the judge sees it.

use crate::catalogue::{self, Aim};
use crate::netns::{Net, until};
use anyhow::{Result, ensure};
use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One packet that somebody other than the data path sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IP protocol number; [`ARP`] for a request of that protocol.
    pub protocol: u8,
    /// Destination port of TCP, UDP and UDP-Lite.
    pub port: Option<u16>,
    /// Source port of the same.
    pub source_port: Option<u16>,
    /// The packet from its IP header on.
    pub bytes: Vec<u8>,
    /// When the judge saw it.
    pub at: Instant,
}

impl Packet {
    /// A TCP reset over IPv4 that carries nothing: how the kernel itself answers for a connection that is no more.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.source.is_ipv4() && matches!(self.segment(), Some((flags, 0)) if flags & 4 != 0)
    }

    /// Whether it opens a connection or has a payload. The kernel itself answers late segments of connections that the
    /// data path has closed; such an answer has no owner, goes by the default route, and carries nothing.
    #[must_use]
    pub fn carries(&self) -> bool {
        self.segment().is_none_or(|(flags, payload)| flags & 2 != 0 || payload > 0)
    }

    /// Whether it is something else than a TCP segment without payload.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.segment().is_none_or(|(_, payload)| payload > 0)
    }

    /// Asks for a connection: SYN without ACK.
    fn asks(&self) -> bool {
        self.segment().is_some_and(|(flags, _)| flags & 0x12 == 2)
    }

    /// The four numbers of a connection, as its first segment has them.
    fn connection(&self) -> Connection {
        (self.source, self.source_port, self.destination, self.port)
    }

    /// The flags of a TCP segment (RFC 9293 3.1) and the length of its payload.
    fn segment(&self) -> Option<(u8, usize)> {
        let header = match self.source {
            IpAddr::V4(_) => usize::from(self.bytes.first()? & 0x0f) * 4,
            IpAddr::V6(_) => 40,
        };
        let length = usize::from(self.bytes.get(header + 12)? >> 4) * 4;
        let payload = self.bytes.len().checked_sub(header + length)?;
        (self.protocol == 6).then_some((*self.bytes.get(header + 13)?, payload))
    }
}

type Connection = (IpAddr, Option<u16>, IpAddr, Option<u16>);

/// Stands for the protocol number of an ARP request: 255 is reserved (RFC 5237).
pub const ARP: u8 = 255;

impl Packet {
    /// Whose attempts of the catalogue it is: by a token in it, by where it goes, by the neighbour or the groups that it
    /// asks for, or by the port that it comes from.
    #[must_use]
    pub fn owners(&self) -> Vec<Aim> {
        let begins = |window: &&[u8]| window.starts_with(catalogue::TOKEN.as_bytes());
        let token = self.bytes.windows(catalogue::TOKEN_LENGTH).find(begins).and_then(Aim::of_token);
        if let Some(aim) = token.or_else(|| Aim::of_address(self.destination)) {
            return vec![aim];
        }
        match self.protocol {
            // One report names several groups.
            2 => {
                let words = self.bytes.chunks_exact(4).filter_map(|word| <[u8; 4]>::try_from(word).ok());
                words.filter_map(|word| Aim::of_group(Ipv4Addr::from(word).into())).collect()
            }
            0 | 58 => {
                let after = self.bytes.get(40..).unwrap_or_default();
                let places = after.windows(16).filter_map(|place| <[u8; 16]>::try_from(place).ok());
                let aim = |ip: IpAddr| Aim::of_group(ip).or_else(|| Aim::of_address(ip));
                places.filter_map(|place| aim(Ipv6Addr::from(place).into())).collect()
            }
            _ => self.source_port.and_then(Aim::of_inbound_port).into_iter().collect(),
        }
    }
}

/// The capture on `leak`, and listeners that accept whatever arrives on a port.
#[derive(Debug)]
pub struct Wire {
    seen: Arc<Mutex<Vec<Packet>>>,
    flushed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    socket: Arc<OwnedFd>,
    /// The first segments of the data path's own connections, on its own cable.
    own: Option<Box<Wire>>,
}

/// A port of `B` on which nothing but a canary listens, TCP and UDP, both families.
pub const CANARY_PORT: u16 = 7_777;

impl Wire {
    /// Starts to listen on the `leak` cable.
    ///
    /// # Errors
    /// When the packet socket or a listener cannot be opened.
    pub fn tap(net: &Net) -> Result<Wire> {
        net.b.inside(canaries)?;
        let mut wire = Wire::on(net, c"leak", |packet| !cable_noise(packet))?;
        wire.own = Some(Box::new(Wire::on(net, c"road", Packet::asks)?));
        Ok(wire)
    }

    /// Starts to listen on the data path's own cable, for tokens only: not even the data path may send one.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn road(net: &Net) -> Result<Wire> {
        let holds_token = |packet: &Packet| {
            packet.bytes.windows(catalogue::TOKEN.len()).any(|window| window == catalogue::TOKEN.as_bytes())
        };
        Wire::on(net, c"road", holds_token)
    }

    fn on(net: &Net, device: &'static CStr, keep: fn(&Packet) -> bool) -> Result<Wire> {
        let socket = Arc::new(net.b.inside(|| packet_socket(device))?);
        let wire = Wire { seen: Arc::default(), flushed: Arc::default(), stop: Arc::default(), socket, own: None };
        let (seen, flushed, stop, socket) =
            (Arc::clone(&wire.seen), Arc::clone(&wire.flushed), Arc::clone(&wire.stop), Arc::clone(&wire.socket));
        std::thread::spawn(move || capture(&socket, &seen, &flushed, &stop, keep));
        Ok(wire)
    }

    /// Everything seen so far that somebody sent. Waits until the capture has gone through what the kernel holds.
    ///
    /// # Panics
    /// When the kernel had no room for a packet: a judge that missed one cannot say that there was none.
    #[must_use]
    #[track_caller]
    pub fn packets(&self) -> Vec<Packet> {
        let mut packets = self.captured();
        // Seldom: the second cable is looked at only then.
        if let Some(own) = &self.own
            && packets.iter().any(|packet| !packet.carries())
        {
            let connections: HashSet<Connection> = own.captured().iter().map(Packet::connection).collect();
            packets.retain(|packet| !answers_for(packet, &connections));
        }
        packets
    }

    #[track_caller]
    fn captured(&self) -> Vec<Packet> {
        let before = self.flushed.load(Ordering::SeqCst);
        // Two whole rounds: the first may have begun before the packet of interest arrived.
        let _late = until("the capture", Duration::from_secs(60), || self.flushed.load(Ordering::SeqCst) > before + 1);
        let lost = lost(&self.socket);
        assert_eq!(lost, 0, "the judge lost {lost} packets");
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        let _old = self.captured();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Demands that nothing leaked.
    ///
    /// # Panics
    /// When something did.
    #[track_caller]
    pub fn silent(&self) {
        judge(&self.packets());
    }

    /// Demands that nothing leaked but the kernel's own resets of connections that are no more.
    ///
    /// # Panics
    /// When something did.
    #[track_caller]
    pub fn silent_but_for_resets(&self) {
        let packets: Vec<Packet> = self.packets().into_iter().filter(|packet| !packet.is_reset()).collect();
        judge(&packets);
    }
}

#[track_caller]
fn judge(packets: &[Packet]) {
    let shown: Vec<String> = packets
        .iter()
        .map(|p| format!("{} -> {} proto {} port {:?}", p.source, p.destination, p.protocol, p.port))
        .collect();
    assert!(packets.is_empty(), "{} packets left the host outside the data path: {shown:?}", packets.len());
}

/// Whether the kernel itself answers for one of these connections, which has no socket any more.
fn answers_for(packet: &Packet, connections: &HashSet<Connection>) -> bool {
    !packet.carries() && connections.contains(&packet.connection())
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn packet_socket(device: &CStr) -> Result<OwnedFd> {
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
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
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
fn lost(socket: &OwnedFd) -> u32 {
    let mut statistics = [0_u32; 2];
    let mut size = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap_or(0);
    // SAFETY: struct tpacket_stats is two words, packets and drops.
    let got = unsafe {
        let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        libc::getsockopt(socket.as_raw_fd(), level, name, statistics.as_mut_ptr().cast(), &raw mut size)
    };
    if got == 0 { statistics[1] } else { u32::MAX }
}

fn capture(
    socket: &OwnedFd,
    seen: &Mutex<Vec<Packet>>,
    flushed: &AtomicU64,
    stop: &AtomicBool,
    keep: fn(&Packet) -> bool,
) {
    let mut buffer = vec![0_u8; 1 << 16];
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
                0,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            // Nothing waits: everything that had arrived has been looked at.
            flushed.fetch_add(1, Ordering::SeqCst);
            continue;
        };
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

/// RFC 826: who asks, for whom.
fn parse_arp(bytes: &[u8]) -> Option<Packet> {
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let (source, destination) = (address(14)?, address(24)?);
    Some(Packet {
        source,
        destination,
        protocol: ARP,
        port: None,
        source_port: None,
        bytes: bytes.to_vec(),
        at: Instant::now(),
    })
}

fn parse(bytes: &[u8]) -> Option<Packet> {
    let port_at = |at: usize, protocol: u8| {
        let known = matches!(protocol, 6 | 17 | 136);
        known.then(|| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))).flatten()
    };
    match bytes.first()? >> 4 {
        4 => {
            let protocol = *bytes.get(9)?;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            let header = usize::from(bytes.first()? & 0x0f) * 4;
            let (source, destination) = (address(12)?.into(), address(16)?.into());
            let (source_port, port) = (port_at(header, protocol), port_at(header + 2, protocol));
            Some(Packet { source, destination, protocol, port, source_port, bytes: bytes.to_vec(), at: Instant::now() })
        }
        6 => {
            let protocol = *bytes.get(6)?;
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            let (source, destination) = (address(8)?.into(), address(24)?.into());
            let (source_port, port) = (port_at(40, protocol), port_at(42, protocol));
            Some(Packet { source, destination, protocol, port, source_port, bytes: bytes.to_vec(), at: Instant::now() })
        }
        _ => None,
    }
}

/// Neighbour discovery, multicast listener reports: the kernel's own words about the cable, unless an attempt chose what
/// they are about. (`probe join` joins a group of the catalogue's.)
fn cable_noise(packet: &Packet) -> bool {
    let v6 = packet.source.is_ipv6();
    // A listener report carries a hop-by-hop header (protocol 0) before its ICMPv6 type.
    let kind = if packet.protocol == 0 { packet.bytes.get(48) } else { packet.bytes.get(40) };
    let discovery = v6 && matches!(packet.protocol, 0 | 58) && matches!(kind, Some(130..=137 | 143));
    let cable = [IpAddr::from([198, 51, 100, 1]), IpAddr::from([198, 51, 100, 2])];
    let neighbours = packet.protocol == ARP && cable.contains(&packet.destination);
    neighbours || ((discovery || packet.protocol == 2) && packet.owners().is_empty())
}

/// Echoes on [`CANARY_PORT`], so that an attempt that gets out is a success for the one who tries. The wildcard sockets
/// take both families.
fn canaries() -> Result<()> {
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, CANARY_PORT))?;
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, CANARY_PORT))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _lost = udp.send_to(buffer.get(..length).unwrap_or_default(), peer);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP segment over IPv6 from the data path's address and this port.
    fn segment(port: u16, flags: u8, payload: &[u8]) -> Packet {
        let (from, to) = ([0x20, 1, 0xd, 0xb8, 0, 0xca, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [9_u8; 16]);
        let mut bytes = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        bytes.extend(from.iter().chain(&to));
        bytes.extend(port.to_be_bytes().iter().chain(&443_u16.to_be_bytes()));
        bytes.extend([0; 8]);
        bytes.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        parse(&bytes).expect("a segment")
    }

    #[test]
    fn what_the_kernel_answers_for_the_data_path_is_no_leak_and_nothing_else_is_left_out() {
        let (syn, rst, ack) = (2, 4, 16);
        let opened = segment(40_000, syn, b"");
        assert!(opened.asks() && !segment(40_000, syn | ack, b"").asks());
        let own = HashSet::from([opened.connection()]);
        assert!(answers_for(&segment(40_000, rst, b""), &own));
        assert!(answers_for(&segment(40_000, ack, b""), &own));
        assert!(!answers_for(&segment(40_001, rst, b""), &own), "another connection");
        assert!(!answers_for(&segment(40_000, ack, b"byte"), &own), "a payload");
        assert!(!answers_for(&opened, &own), "a connection that is asked for");
    }
}
