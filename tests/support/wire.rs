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

mod packet;
mod tap;

pub use packet::{ARP, Packet};

use crate::catalogue;
use crate::netns::{Net, until};
use anyhow::Result;
use packet::Connection;
use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tap::{capture, lost, packet_socket};

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
    use super::packet::parse;
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
