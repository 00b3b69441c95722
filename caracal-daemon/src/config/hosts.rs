//! Takes a host as a rule writes it; gives a [`HostPattern`]: a name, a suffix, an address or a range of addresses.

use crate::address::Cidr;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Which hosts a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`: every name. In a deny rule every address too.
    Any,
    /// `api.example.com`: that name, in lower case without a trailing dot.
    Name(String),
    /// `*.example.com`: every name below it, at any depth, but not `example.com` itself. Without the leading `*.`.
    Suffix(String),
    /// An address, where there is no name.
    Address(IpAddr),
    /// A range of addresses, where there is no name.
    Range(Cidr),
}

impl HostPattern {
    /// Whether the pattern, as an allow rule, is about this name (lower case, no trailing dot).
    #[must_use]
    pub fn matches_name(&self, name: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Name(own) => own == name,
            HostPattern::Suffix(suffix) => below(name, suffix),
            HostPattern::Address(_) | HostPattern::Range(_) => false,
        }
    }
}

/// Whether `name` lies below `suffix`.
fn below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<HostPattern, String> {
        let lower = text.trim().to_ascii_lowercase();
        if let Some(rest) = lower.split_once("://").map(|(_, rest)| rest) {
            let host = rest.split(['/', ':']).next().unwrap_or_default();
            return Err(format!("{text:?} is a URL; a host is a name alone, such as {host:?} (paths go into `paths`)"));
        }
        if lower == "*" {
            return Ok(HostPattern::Any);
        }
        if let Ok(address) = lower.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(HostPattern::Address(address.to_canonical()));
        }
        if lower.contains('/') {
            return lower.parse().map(HostPattern::Range);
        }
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if let Some((host, port)) = name.rsplit_once(':') {
            return Err(format!("{text:?} names a port; write {host:?} here and `ports = [{port}]`"));
        }
        match name.strip_prefix("*.") {
            Some(suffix) => check_name(suffix, text).map(|()| HostPattern::Suffix(suffix.to_owned())),
            None => check_name(name, text).map(|()| HostPattern::Name(name.to_owned())),
        }
    }
}

/// RFC 1123 labels, with the underscore that real names have; the last label is no number (it would be an address).
fn check_name(name: &str, written: &str) -> Result<(), String> {
    if !name.is_ascii() {
        return Err(format!("{written:?}: write an international name in its ASCII form (xn--...)"));
    }
    if name.contains('*') {
        return Err(format!("{written:?}: `*` stands for whole labels in front only, as in \"*.example.com\""));
    }
    let good_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let numeric_end = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || numeric_end || !name.split('.').all(good_label) {
        return Err(format!(
            "{written:?} is neither a name, a suffix (\"*.example.com\"), an address nor a range (\"10.0.0.0/8\")"
        ));
    }
    Ok(())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => write!(out, "*"),
            HostPattern::Name(name) => write!(out, "{name}"),
            HostPattern::Suffix(suffix) => write!(out, "*.{suffix}"),
            HostPattern::Address(address) => write!(out, "{address}"),
            HostPattern::Range(range) => write!(out, "{range}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<HostPattern, String> {
        text.parse()
    }

    #[test]
    fn names_suffixes_addresses_and_ranges() {
        assert_eq!(host("API.Example.COM."), Ok(HostPattern::Name("api.example.com".into())));
        assert_eq!(host("*.example.com"), Ok(HostPattern::Suffix("example.com".into())));
        assert_eq!(host("*"), Ok(HostPattern::Any));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_eq!(host("[fd00::1]"), host("fd00::1"));
        assert_eq!(host("10.0.0.0/8").map(|h| h.to_string()), Ok("10.0.0.0/8".into()));
        assert_eq!(host("0.0.0.0/0").map(|h| h.to_string()), Ok("0.0.0.0/0".into()));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        assert!(host("https://api.example.com/v1").is_err_and(|e| e.contains("\"api.example.com\"")));
        assert!(host("example.com:8443").is_err_and(|e| e.contains("ports = [8443]")));
        assert!(host("10.1.2.3/8").is_err_and(|e| e.contains("\"10.0.0.0/8\"")));
        assert!(host("api.*.com").is_err_and(|e| e.contains("*.example.com")));
        for bad in [
            "",
            ".",
            "a..b",
            "1.2.3",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "b\u{fc}cher.de",
            "a b",
            "::ffff:10.0.0.0/104",
            "x\"y",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_suffix_is_whole_labels() {
        let suffix = HostPattern::Suffix("example.com".into());
        assert!(suffix.matches_name("a.example.com") && suffix.matches_name("a.b.example.com"));
        assert!(
            !suffix.matches_name("example.com")
                && !suffix.matches_name("notexample.com")
                && !suffix.matches_name(".example.com")
        );
    }
}
