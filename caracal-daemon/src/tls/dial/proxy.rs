//! The company's HTTP proxy: CONNECT through it, and the names that go past it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest head of the proxy's answer.
const MOST_HEAD: usize = 16 * 1_024;

/// A proxy, read from its URL.
#[derive(Clone)]
pub struct Proxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    authorization: Option<String>,
    except: Vec<Exception>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Why a proxy's settings cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not `http://[user:password@]host[:port]`.
    #[error("`[upstream] proxy` must be http://[USER:PASSWORD@]HOST[:PORT]")]
    Url,
    /// An entry of the exceptions is nothing known.
    #[error("`[upstream] no_proxy` entry {0:?} is neither a name, a suffix, an address nor a network")]
    Exception(String),
}

/// One entry of NO_PROXY.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    /// A name and everything below it.
    Name(String, Option<u16>),
    /// A network: address and prefix length.
    Network(IpAddr, u8),
}

impl Proxy {
    /// Reads `url` and the entries of NO_PROXY (`*`, `name`, `.suffix`, `name:port`, address, network).
    ///
    /// # Errors
    /// See [`ProxyError`].
    pub fn new(url: &str, except: &[String]) -> Result<Proxy, ProxyError> {
        let url: http::Uri = url.parse().map_err(|_| ProxyError::Url)?;
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http")).ok_or(ProxyError::Url)?;
        if url.path() != "/" && !url.path().is_empty() || url.query().is_some() {
            return Err(ProxyError::Url);
        }
        let userinfo = authority.as_str().rsplit_once('@').map(|(userinfo, _)| percent_decode(userinfo));
        let authorization = userinfo.map(|userinfo| format!("Basic {}", STANDARD.encode(userinfo)));
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(ProxyError::Url);
        }
        let entries = except.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty());
        let except = entries.map(exception).collect::<Result<Vec<_>, _>>()?;
        Ok(Proxy { host, port: authority.port_u16().unwrap_or(80), authorization, except })
    }

    /// Connections to this host and port go past the proxy. Loopback always does.
    #[must_use]
    pub fn is_excepted(&self, host: &str, port: u16) -> bool {
        let address = host.parse::<IpAddr>().ok();
        if address.is_some_and(crate::address::is_loopback) || host == "localhost" {
            return true;
        }
        self.except.iter().any(|exception| match exception {
            Exception::All => true,
            Exception::Name(name, only) => {
                only.is_none_or(|only| only == port) && crate::dns::resolve::is_below(host, name)
            }
            Exception::Network(network, length) => address.is_some_and(|address| contains(*network, *length, address)),
        })
    }

    /// Asks the proxy for a tunnel (RFC 9110 9.3.6). Reads not one byte beyond the answer's head.
    pub(crate) async fn tunnel<S>(&self, stream: &mut S, host: &str, port: u16) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MOST_HEAD {
                return Err("a head longer than 16 KB".to_owned());
            }
            // What follows the head belongs to the tunnel, and a server may speak first in it.
            head.push(stream.read_u8().await.map_err(|error| error.to_string())?);
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split(' ');
        let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        match words.next() {
            Some(status) if is_http && status.len() == 3 && status.starts_with('2') => Ok(()),
            _ => Err(line.chars().filter(|character| !character.is_control()).take(100).collect()),
        }
    }
}

fn exception(entry: &str) -> Result<Exception, ProxyError> {
    let unknown = || ProxyError::Exception(entry.to_owned());
    if entry == "*" {
        return Ok(Exception::All);
    }
    if let Some((address, length)) = entry.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| unknown())?;
        let length: u8 = length.parse().map_err(|_| unknown())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        return if length <= most { Ok(Exception::Network(address, length)) } else { Err(unknown()) };
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok(Exception::Network(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| unknown())?)),
        None => (entry, None),
    };
    let name = name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
    if !crate::keeper::authority::is_dns_name(&name) {
        return Err(unknown());
    }
    Ok(Exception::Name(name, port))
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let (network, address, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let shift = u32::from(bits - length);
    network.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((byte, after)) = rest.split_first() {
        let digits =
            after.first_chunk::<2>().filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                decoded.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(except: &[&str]) -> Proxy {
        let except: Vec<String> = except.iter().map(|entry| (*entry).to_owned()).collect();
        Proxy::new("http://user:p%40ss@proxy.corp:3128", &except).expect("proxy")
    }

    #[test]
    fn reads_its_url() {
        let proxy = proxy(&[]);
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.corp", 3128));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dXNlcjpwQHNz"));
        assert!(!format!("{proxy:?}").contains("Basic"), "the password stays out of logs");
        for wrong in ["https://a", "a:80", "http://", "socks5://a:1", "http://a/path", "http://a/?q"] {
            assert_eq!(Proxy::new(wrong, &[]).expect_err(wrong), ProxyError::Url);
        }
    }

    #[test]
    fn exceptions_match_names_suffixes_and_networks() {
        let proxy = proxy(&[
            "corp.example",
            ".internal",
            "*.wild.example",
            "one.example:8443",
            "10.0.0.0/8",
            "fd00::/8",
            "192.0.2.7",
        ]);
        for (host, port, past) in [
            ("corp.example", 443, true),
            ("a.corp.example", 443, true),
            ("notcorp.example", 443, false),
            ("x.internal", 80, true),
            ("x.wild.example", 80, true),
            ("one.example", 8443, true),
            ("one.example", 443, false),
            ("10.200.1.1", 443, true),
            ("11.0.0.1", 443, false),
            ("fd12::1", 443, true),
            ("192.0.2.7", 443, true),
            ("192.0.2.8", 443, false),
            ("127.0.0.1", 80, true),
            ("api.openai.com", 443, false),
        ] {
            assert_eq!(proxy.is_excepted(host, port), past, "{host}:{port}");
        }
        assert!(self::proxy(&["*"]).is_excepted("any.example", 443));
        assert!(self::proxy(&["0.0.0.0/0"]).is_excepted("9.9.9.9", 443));
        for wrong in ["10.0.0.0/33", "a b", "x:port", "fd00::/200"] {
            assert!(Proxy::new("http://p", &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
