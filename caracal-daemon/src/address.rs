//! Ground floor: which addresses are private, and ranges of addresses. Policy, TLS and the configuration judge by this alone.
//!
//! Source: the IANA special-purpose address registries (RFC 6890), and the metadata addresses of the clouds. Not listed
//! although they are special: the documentation ranges (RFC 5737, RFC 3849, RFC 9637). They lead nowhere on the internet,
//! so refusing them protects nothing, and test networks use them because they belong to nobody.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 ranges that are not the public internet's: `(first, prefix)`.
const V4: [(Ipv4Addr, u8); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10), // behind a carrier's NAT; a cloud's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's host: metadata and DNS, in a public range
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; most clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),   // protocol assignments
    (Ipv4Addr::new(192, 88, 99, 0), 24), // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15), // benchmarking; refused names are answered from here
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What is public in IPv6: global unicast without the protocol assignments (Teredo, ORCHID, benchmarking).
const V6_PUBLIC: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const V6_KEPT: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23);
/// Prefixes that carry an IPv4 address: NAT64 (RFC 6052), at the end, and 6to4 (RFC 3056), after 16 bits.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const SIX_TO_FOUR: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether the address is private, loopback, link-local, a cloud's metadata address, multicast or otherwise not public:
/// reached only where a rule names it. An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by that.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => V4.into_iter().any(|range| within(v4.into(), range)),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let inside = |range| within(address.into(), range);
    let bits = u128::from(address);
    // The casts keep the 32 bits that hold the IPv4 address.
    if inside(NAT64) {
        return is_private(Ipv4Addr::from(bits as u32).into());
    }
    if inside(SIX_TO_FOUR) {
        return is_private(Ipv4Addr::from((bits >> 80) as u32).into());
    }
    !inside(V6_PUBLIC) || inside(V6_KEPT)
}

/// Whether all of the range is private, so that a rule which writes it means a private address.
#[must_use]
pub fn is_private_range(range: &Cidr) -> bool {
    let below = |(first, prefix): (IpAddr, u8)| prefix <= range.prefix && within(range.first, (first, prefix));
    match range.first {
        IpAddr::V4(_) => V4.into_iter().any(|(first, prefix)| below((first.into(), prefix))),
        // Each private IPv6 range that people write (::1, fc00::/7, fe80::/10, ff00::/8) lies outside 2000::/3.
        IpAddr::V6(_) => {
            let kept = below((V6_KEPT.0.into(), V6_KEPT.1));
            let mixed = range.contains(NAT64.0.into()) || within(range.first, NAT64);
            kept || (range.prefix >= V6_PUBLIC.1 && !within(range.first, V6_PUBLIC) && !mixed)
        }
    }
}

fn within(address: IpAddr, (first, prefix): (impl Into<IpAddr>, u8)) -> bool {
    Cidr { first: first.into(), prefix }.contains(address)
}

/// Whether the address is loopback or unspecified, in either family or mapped: it means another place in each network
/// namespace.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first address.
    pub first: IpAddr,
    /// Bits that are fixed.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let bad = || format!("{text:?} is no range of addresses; write one as \"10.0.0.0/8\" or \"fd00::/8\"");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let first: IpAddr = address.parse().map_err(|_| bad())?;
        let plain = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| plain).ok_or_else(bad)?;
        if prefix > width(first) {
            return Err(bad());
        }
        if first.to_canonical() != first {
            return Err(format!("{text:?}: write the IPv4 range itself, not its IPv4-mapped form"));
        }
        let range = Cidr { first: masked(first, prefix), prefix };
        if range.first == first {
            Ok(range)
        } else {
            Err(format!("{text:?} has bits set after /{prefix}; did you mean \"{range}\"?"))
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl Cidr {
    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(v4) => {
                IpAddr::V4((u32::from(v4) | u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                IpAddr::V6((u128::from(v6) | u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)).into())
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_addresses_are_private() -> Result<(), std::net::AddrParseError> {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.192",
            "192.88.99.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::a83f:8110",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ] {
            assert!(is_private(private.parse()?), "{private}");
        }
        Ok(())
    }

    #[test]
    fn global_addresses_are_public() -> Result<(), std::net::AddrParseError> {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "104.18.6.192",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "100.63.0.1",
            "168.63.129.15",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(!is_private(public.parse()?), "{public}");
        }
        for documentation in ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"] {
            assert!(!is_private(documentation.parse()?), "{documentation}");
        }
        Ok(())
    }

    #[test]
    fn loopback_is_told_in_every_spelling() -> Result<(), std::net::AddrParseError> {
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert!(is_loopback(address.parse()?), "{address}");
        }
        assert!(!is_loopback("10.0.0.1".parse()?));
        Ok(())
    }

    #[test]
    fn private_ranges() {
        let range = |text: &str| text.parse::<Cidr>().map(|range| is_private_range(&range));
        for private in [
            "10.0.0.0/8",
            "10.2.0.0/16",
            "127.0.0.0/8",
            "169.254.169.254/32",
            "168.63.129.16/32",
            "fd00::/8",
            "fe80::/10",
            "::1/128",
            "2001::/32",
        ] {
            assert_eq!(range(private), Ok(true), "{private}");
        }
        for wider in [
            "0.0.0.0/0",
            "8.0.0.0/6",
            "1.1.1.0/24",
            "168.63.128.0/17",
            "203.0.113.0/24",
            "::/0",
            "2000::/3",
            "2001:db8::/32",
            "2600::/16",
            "::/2",
            "::/3",
            "::/8",
            "64:ff9b::/96",
            "64:ff9b::/120",
        ] {
            assert_eq!(range(wider), Ok(false), "{wider}");
        }
    }

    #[test]
    fn ranges_end_where_they_should() {
        let range = |text: &str| text.parse::<Cidr>().map(|r| r.last().to_string());
        assert_eq!(range("10.0.0.0/8"), Ok("10.255.255.255".into()));
        assert_eq!(range("0.0.0.0/0"), Ok("255.255.255.255".into()));
        assert_eq!(range("10.0.0.1/32"), Ok("10.0.0.1".into()));
        assert_eq!(range("fe80::/10"), Ok("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff".into()));
        assert_eq!(range("::1/128"), Ok("::1".into()));
    }

    proptest! {
        #[test]
        fn every_address_of_a_private_range_is_private(bits: u32, prefix in 0_u8..=32, inside: u32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let range = Cidr { first: IpAddr::V4((bits & mask).into()), prefix };
            if is_private_range(&range) {
                prop_assert!(is_private(IpAddr::V4(((bits & mask) | (inside & !mask)).into())));
            }
        }
    }
}
