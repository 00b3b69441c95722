//! Takes an [`Ask`] as an agent's bytes made it; gives the facts that policies see, in one spelling.
//! Refuses a host that contradicts its address. A path with several readings gives several, and each must be permitted.

use super::{Action, Ask};
use std::borrow::Cow;
use std::net::IpAddr;

/// How often a path is decoded to see what an upstream that decodes again would see.
const MAX_DECODINGS: usize = 2;

/// An ask in one spelling.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) action: Action,
    pub(super) agent: &'a str,
    pub(super) learn: bool,
    pub(super) user: u32,
    pub(super) comm: &'a str,
    /// Lower case, no trailing dot; an address in its canonical form.
    pub(super) host: Cow<'a, str>,
    /// Whether `host` is a name.
    pub(super) named: bool,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// Upper case.
    pub(super) method: Cow<'a, str>,
    pub(super) paths: Paths<'a>,
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) tool: &'a str,
    /// Nano-USD; the largest number where nothing is known.
    pub(super) estimate: i64,
}

/// Every reading of a path: as it is written, and others if there are any.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    pub(super) written: &'a str,
    pub(super) others: Vec<String>,
}

/// The host is one address and the connection's is another.
#[derive(Debug)]
pub(super) struct HostMismatch;

impl<'a> Facts<'a> {
    pub(super) fn of(ask: &Ask<'a>) -> Result<Facts<'a>, HostMismatch> {
        let host = spelled(ask.host);
        let literal =
            host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok().map(|a| a.to_canonical());
        let given = ask.address.map(|address| address.to_canonical());
        if literal.is_some() && given.is_some() && literal != given {
            return Err(HostMismatch);
        }
        let path = ask.path.unwrap_or_default();
        let (user, comm) = ask.process.map_or((ask.agent.uid, ""), |process| (process.uid, &process.comm));
        Ok(Facts {
            action: ask.action,
            agent: &ask.agent.name,
            learn: ask.agent.learn,
            user,
            comm,
            named: literal.is_none() && !ends_in_number(&host),
            host: literal.map_or(host, |address| Cow::Owned(address.to_string())),
            address: given.or(literal),
            port: ask.port,
            method: upper(ask.method.unwrap_or_default()),
            paths: Paths { written: path, others: other_readings(path) },
            provider: ask.provider.unwrap_or_default(),
            model: ask.model.unwrap_or_default(),
            tool: ask.tool.unwrap_or_default(),
            estimate: ask.estimate.map_or(i64::MAX, |amount| i64::try_from(amount.0).unwrap_or(i64::MAX)),
        })
    }
}

fn spelled(host: &str) -> Cow<'_, str> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

fn upper(method: &str) -> Cow<'_, str> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Cow::Owned(method.to_ascii_uppercase())
    } else {
        Cow::Borrowed(method)
    }
}

/// What some resolvers take for an IPv4 address (`127.1`, `0x7f000001`; WHATWG URL, host parsing) is no name.
fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || last.bytes().all(|b| b.is_ascii_digit())
}

/// What an upstream may take the path for that decodes `%xx`, joins slashes, drops `;parameters`, turns `\` into `/`
/// and removes dot segments (RFC 3986, 6.2.2).
pub(crate) fn other_readings(path: &str) -> Vec<String> {
    let bytes = path.as_bytes();
    let plain = !bytes.iter().any(|b| matches!(b, b'%' | b'\\' | b';'))
        && !bytes.windows(2).any(|two| matches!(two, b"//" | b"/."));
    let mut found: Vec<String> = Vec::new();
    if plain {
        return found;
    }
    let mut current = path.to_owned();
    for _ in 0..=MAX_DECODINGS {
        let undecoded = without_dots(&current);
        let known = undecoded == path || found.contains(&undecoded);
        if !known {
            found.push(undecoded);
        }
        let decoded = decode(&current);
        if decoded == current {
            break;
        }
        current = decoded;
    }
    found
}

fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let value = pair
            .filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn without_dots(path: &str) -> String {
    let slashed = path.replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = true;
    for segment in slashed.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let slash = if ends_in_slash && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["", "/", "/v1/messages", "/a/b.c/d", "/v1/"] {
            assert!(other_readings(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn every_way_to_the_same_place_is_seen() {
        for path in [
            "/a/../admin",
            "//admin",
            "/%61dmin",
            "/a/%2e%2e/admin",
            "/a/..%2fadmin",
            "/a\\..\\admin",
            "/%2561dmin",
            "/./admin",
            "/admin;x=1",
            "/a/..;/admin",
        ] {
            assert!(
                other_readings(path).iter().any(|reading| reading == "/admin"),
                "{path}: {:?}",
                other_readings(path)
            );
        }
        assert_eq!(other_readings("/a/../.."), ["/"]);
        assert_eq!(other_readings("/bad%zz%"), Vec::<String>::new());
    }

    #[test]
    fn numbers_are_not_names() {
        for host in ["127.1", "0x7f000001", "10.0x1", "2130706433", "1.2.3.4"] {
            assert!(ends_in_number(host), "{host}");
        }
        for host in ["a1", "1a.example", "x.0y", "example.com"] {
            assert!(!ends_in_number(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn readings_are_bounded_and_total(path in "[/a.%25e\\\\;fF]{0,40}") {
            prop_assert!(other_readings(&path).len() <= MAX_DECODINGS + 1);
        }
    }
}
