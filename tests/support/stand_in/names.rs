//! The name server: every known name has addresses, every other does not exist, every look-up is logged.

use super::World;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;

/// The names served. Those in `example` stand for the rest of the world.
pub const KNOWN: &[&str] = &[
    "api.openai.com",
    "api.anthropic.com",
    "chatgpt.com",
    "ab.chatgpt.com",
    "github.com",
    "api.github.com",
    "raw.githubusercontent.com",
    "registry.npmjs.org",
    "pypi.org",
    "files.pythonhosted.org",
    "downloads.claude.ai",
    "statsig.anthropic.com",
    "example.com",
    "denied.example",
    "other.example",
    "proxy.example",
    "wrong-certificate.example",
    "client-certificate.example",
    "files.corp.example",
    "generativelanguage.googleapis.com",
    "bedrock-runtime.us-east-1.amazonaws.com",
    "api.mistral.ai",
    "api.groq.com",
    "mcp.example",
    "index.crates.io",
    "static.crates.io",
    "ssh.example",
    "grpc.example",
    "db.example",
    "api.deepseek.com",
    "api.x.ai",
    "openrouter.ai",
    "api.together.xyz",
    "mine.openai.azure.com",
    "ollama.example",
    "llm.example",
];

/// The address of the first of them, unless the command line says another.
pub const FIRST_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Names whose address is one that a policy must name: what a hostile zone would answer.
const REBOUND: &[(&str, Ipv4Addr)] = &[
    ("private.example", Ipv4Addr::new(10, 1, 2, 3)),
    ("loopback.example", Ipv4Addr::LOCALHOST),
    ("metadata.example", Ipv4Addr::new(169, 254, 169, 254)),
];

/// Which name has which address.
#[derive(Debug)]
pub struct Zone {
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
}

impl Zone {
    /// The first known name has these addresses, the next the following ones.
    #[must_use]
    pub fn new(v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Zone {
        Zone { v4, v6 }
    }

    /// All addresses of `name`; `None` when it does not exist.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Some((_, address)) = REBOUND.iter().find(|(known, _)| *known == name) {
            return Some(vec![IpAddr::V4(*address)]);
        }
        let place = u32::try_from(KNOWN.iter().position(|known| *known == name)?).ok()?;
        let mut out = vec![IpAddr::V4(Ipv4Addr::from_bits(self.v4.to_bits() + place))];
        out.extend(self.v6.map(|first| IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + u128::from(place)))));
        Some(out)
    }
}

/// Answers on `address`.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(world: Arc<World>, zone: Arc<Zone>, address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address).await.with_context(|| format!("binding the name server to {address}"))?;
    tokio::spawn(async move {
        let mut buffer = [0_u8; 1_500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let query = buffer.get(..length).unwrap_or_default();
            if let Some((name, kind, question)) = question(query) {
                world.log.write(&json!({
                    "event": "query", "name": name, "type": kind, "peer": peer.ip().to_string(),
                    "server": address.ip().to_string(),
                }));
                let _lost = socket.send_to(&reply(query, question, zone.addresses(&name), kind), peer).await;
            }
        }
    });
    Ok(())
}

/// Name, type, and the length of header and question.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut name = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    (query.len() >= at + 4).then_some((name.join("."), kind, at + 4))
}

fn reply(query: &[u8], question: usize, addresses: Option<Vec<IpAddr>>, kind: u16) -> Vec<u8> {
    let missing = addresses.is_none();
    let data: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .into_iter()
        .filter_map(|address| match (kind, address) {
            (1, IpAddr::V4(v4)) => Some(v4.octets().to_vec()),
            (28, IpAddr::V6(v6)) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut out = query.get(..question).unwrap_or_default().to_vec();
    // Response, authoritative, recursion available; NXDOMAIN for unknown names. One question, no more sections.
    let counts = [0x85, if missing { 0x83 } else { 0x80 }, 0, 1, 0, u8::try_from(data.len()).unwrap_or(0), 0, 0, 0, 0];
    for (place, byte) in out.iter_mut().skip(2).zip(counts) {
        *place = byte;
    }
    for value in data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        out.extend(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_have_both_families_and_others_none() {
        let zone = Zone::new(Ipv4Addr::new(203, 0, 113, 10), Some("2001:db8:ca::10".parse().unwrap()));
        let openai = zone.addresses("api.openai.com").unwrap();
        assert_eq!(openai, ["203.0.113.10".parse::<IpAddr>().unwrap(), "2001:db8:ca::10".parse().unwrap()]);
        assert_ne!(zone.addresses("api.anthropic.com").unwrap(), openai);
        assert_eq!(zone.addresses("nowhere.example"), None);
    }

    #[test]
    fn a_query_is_answered_in_the_wire_format() {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
        let (name, kind, length) = question(&query).unwrap();
        assert_eq!((name.as_str(), kind, length), ("example.com", 1, query.len()));
        let answer = reply(&query, length, Some(vec!["203.0.113.9".parse().unwrap()]), kind);
        assert_eq!(answer.get(..4).unwrap(), [7, 7, 0x85, 0x80]);
        assert_eq!(answer.get(answer.len() - 4..).unwrap(), [203, 0, 113, 9]);
    }
}
