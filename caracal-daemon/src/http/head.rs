//! Takes a request's head and what is known of its connection; gives the one host that it is for.
//! Refuses a host that differs from the TLS server name or from the tunnel's target, and every other second reading.

use crate::refusal::{Reason, Refusal, Side, Stage};
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// What a connection says of where its requests go, before any head is read.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The name that every request must name: the TLS server name, or the target of the CONNECT. `None` in the clear.
    pub name: Option<Arc<str>>,
    /// A second name that must be the same: the target of the CONNECT around this TLS.
    pub tunnel: Option<Arc<str>>,
    /// The port that the agent connected to.
    pub port: u16,
    /// The connection is TLS.
    pub tls: bool,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host: a DNS name in lower case without a trailing dot, or an address as text.
    pub host: Arc<str>,
    /// The host as an address, if it is one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// The target of a request.
///
/// # Errors
/// `head_invalid` without a usable host, `ambiguous_request` with two, `host_mismatch` with another than the connection's.
pub fn target(parts: &Parts, expected: &Expected) -> Result<Target, Refusal> {
    let header = one_host(parts)?;
    let (host, port) = match (parts.uri.authority(), header) {
        (Some(authority), None) => authority_of(authority.as_str())?,
        (None, Some(header)) => authority_of(header)?,
        (Some(authority), Some(header)) => {
            let (one, other) = (authority_of(authority.as_str())?, authority_of(header)?);
            if one != other {
                return Err(refuse(Reason::AmbiguousRequest, "its target and its Host header name different hosts"));
            }
            one
        }
        (None, None) => return Err(refuse(Reason::HeadInvalid, "it names no host")),
    };
    agree(&host, expected)?;
    let port = port_of(parts, port, expected)?;
    let address = host.parse().ok();
    let host = match &expected.name {
        Some(name) if **name == *host => name.clone(),
        _ => Arc::from(host),
    };
    Ok(Target { host, address, port })
}

/// The target of a CONNECT: always a host and a port.
///
/// # Errors
/// `head_invalid` when it is not, `ambiguous_request` when a Host header names another host.
pub fn connect_target(parts: &Parts) -> Result<Target, Refusal> {
    let authority = parts.uri.authority().ok_or_else(|| refuse(Reason::HeadInvalid, "its CONNECT names no host"))?;
    let (host, port) = authority_of(authority.as_str())?;
    let port = port.ok_or_else(|| refuse(Reason::HeadInvalid, "its CONNECT names no port"))?;
    if let Some(header) = one_host(parts)? {
        let (named, _) = authority_of(header)?;
        if named != host {
            return Err(refuse(Reason::AmbiguousRequest, "its CONNECT and its Host header name different hosts"));
        }
    }
    let address = host.parse().ok();
    Ok(Target { host: Arc::from(host), address, port })
}

fn one_host(parts: &Parts) -> Result<Option<&str>, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err(refuse(Reason::AmbiguousRequest, "it has two Host headers"));
    }
    host.to_str().map(Some).map_err(|_| refuse(Reason::HeadInvalid, "its Host header is not text"))
}

/// The host, normalized, and the port of `host[:port]`.
fn authority_of(text: &str) -> Result<(String, Option<u16>), Refusal> {
    let invalid = || refuse(Reason::HeadInvalid, "its host is neither a DNS name nor an address");
    if text.contains('@') {
        return Err(refuse(Reason::HeadInvalid, "its host holds user information"));
    }
    let authority: Authority = text.parse().map_err(|_| invalid())?;
    let port = match text.get(authority.host().len()..) {
        Some("" | ":") => None,
        Some(_) => Some(authority.port_u16().filter(|port| *port != 0).ok_or_else(invalid)?),
        None => return Err(invalid()),
    };
    let host = authority.host();
    if let Some(inside) = host.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']').and_then(|inside| inside.parse().ok()).ok_or_else(invalid)?;
        return Ok((address.to_canonical().to_string(), port));
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || crate::keeper::authority::is_dns_name(&host) {
        Ok((host, port))
    } else {
        Err(invalid())
    }
}

fn agree(host: &str, expected: &Expected) -> Result<(), Refusal> {
    for (name, what) in [(&expected.name, "the connection is"), (&expected.tunnel, "the tunnel is")] {
        if let Some(name) = name.as_deref().filter(|name| *name != host) {
            return Err(Refusal {
                stage: Stage::Http,
                side: Side::Agent,
                reason: Reason::HostMismatch,
                sentence: format!("Caracal does not forward this request: it is for {host}, but {what} for {name}."),
                limit: None,
            });
        }
    }
    Ok(())
}

/// The port that the request goes to. Only a request to a proxy (absolute form, in the clear) may name another than the
/// agent connected to.
fn port_of(parts: &Parts, named: Option<u16>, expected: &Expected) -> Result<u16, Refusal> {
    let to_proxy = !expected.tls && parts.version < http::Version::HTTP_2 && parts.uri.scheme().is_some();
    if to_proxy {
        if parts.uri.scheme() != Some(&http::uri::Scheme::HTTP) {
            return Err(refuse(Reason::HeadInvalid, "only http:// can be asked of a proxy without CONNECT"));
        }
        return Ok(named.unwrap_or(80));
    }
    match named {
        Some(named) if named != expected.port => Err(Refusal {
            stage: Stage::Http,
            side: Side::Agent,
            reason: Reason::HostMismatch,
            sentence: format!(
                "Caracal does not forward this request: it is for port {named}, but the connection is to port {}.",
                expected.port
            ),
            limit: None,
        }),
        _ => Ok(expected.port),
    }
}

fn refuse(reason: Reason, why: &str) -> Refusal {
    Refusal {
        stage: Stage::Http,
        side: Side::Agent,
        reason,
        sentence: format!("Caracal does not forward this request: {why}."),
        limit: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(uri: &str, host: Option<&str>) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(()).expect("request").into_parts().0
    }

    fn tls(name: &str) -> Expected {
        Expected { name: Some(Arc::from(name)), tunnel: None, port: 443, tls: true }
    }

    fn clear() -> Expected {
        Expected { name: None, tunnel: None, port: 80, tls: false }
    }

    #[test]
    fn host_and_server_name_agree() {
        let found = target(&parts("/a", Some("A.Example.:443")), &tls("a.example")).expect("agrees");
        assert_eq!((&*found.host, found.port), ("a.example", 443));
        assert_eq!(
            target(&parts("/", Some("b.example")), &tls("a.example")).expect_err("differs").reason,
            Reason::HostMismatch
        );
        assert_eq!(
            target(&parts("/", Some("a.example:8443")), &tls("a.example")).expect_err("port").reason,
            Reason::HostMismatch
        );
        let tunnel = Expected { tunnel: Some(Arc::from("b.example")), ..tls("a.example") };
        assert_eq!(target(&parts("/", Some("a.example")), &tunnel).expect_err("tunnel").reason, Reason::HostMismatch);
    }

    #[test]
    fn two_hosts_are_refused() {
        let mut two = parts("/", Some("a.example"));
        two.headers.append(HOST, http::HeaderValue::from_static("a.example"));
        assert_eq!(target(&two, &tls("a.example")).expect_err("two").reason, Reason::AmbiguousRequest);
        let differs = parts("http://b.example/", Some("a.example"));
        assert_eq!(target(&differs, &clear()).expect_err("differs").reason, Reason::AmbiguousRequest);
        assert_eq!(target(&parts("/", None), &clear()).expect_err("none").reason, Reason::HeadInvalid);
    }

    #[test]
    fn odd_hosts_are_refused() {
        for host in [
            "u@a.example",
            "a b",
            "a..b",
            "*.a",
            "[::1",
            "a:0",
            "a:99999",
            "a:x",
            "",
            "ex\u{e4}mple",
            "a/b",
            "a#b",
            "a?b",
        ] {
            let mut head = parts("/", None);
            head.headers.append(HOST, http::HeaderValue::from_bytes(host.as_bytes()).expect("value"));
            assert_eq!(target(&head, &clear()).expect_err(host).reason, Reason::HeadInvalid, "{host:?}");
        }
    }

    #[test]
    fn a_request_to_a_proxy_names_its_own_port() {
        let proxy = Expected { port: 3128, ..clear() };
        let found = target(&parts("http://a.example:8080/x", Some("a.example:8080")), &proxy).expect("target");
        assert_eq!((&*found.host, found.port), ("a.example", 8080));
        let found = target(&parts("http://a.example/x", Some("a.example")), &proxy).expect("target");
        assert_eq!(found.port, 80);
        assert!(target(&parts("https://a.example/x", Some("a.example")), &proxy).is_err());
        let found = connect_target(&parts("a.example:443", Some("a.example:443"))).expect("target");
        assert_eq!((&*found.host, found.port), ("a.example", 443));
        let found = target(&parts("/", Some("[2001:DB8::1]:80")), &clear()).expect("target");
        assert_eq!(&*found.host, "2001:db8::1");
    }

    proptest! {
        #[test]
        fn what_passes_is_a_name_or_an_address(host in "\\PC{0,40}") {
            if let Ok((host, _)) = authority_of(&host) {
                prop_assert!(host.parse::<IpAddr>().is_ok() || crate::keeper::authority::is_dns_name(&host));
            }
        }
    }
}
