//! A packet as it was seen on a cable: takes its bytes; gives who sent it to whom, what kind of segment it is, and whose
//! attempt of the catalogue.

use crate::catalogue::{self, Aim};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

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
    /// A TCP reset that carries nothing: how the kernel itself answers for a connection that is no more.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        matches!(self.segment(), Some((flags, 0)) if flags & 4 != 0)
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
    pub(super) fn asks(&self) -> bool {
        self.segment().is_some_and(|(flags, _)| flags & 0x12 == 2)
    }

    /// The four numbers of a connection, as its first segment has them.
    pub(super) fn connection(&self) -> Connection {
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

/// Sender and its port, receiver and its port.
pub(super) type Connection = (IpAddr, Option<u16>, IpAddr, Option<u16>);

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

/// RFC 826: who asks, for whom.
pub(super) fn parse_arp(bytes: &[u8]) -> Option<Packet> {
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

pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
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
