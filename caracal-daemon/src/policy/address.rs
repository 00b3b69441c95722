//! Which addresses are private: reached only where a rule names them.

use crate::config::Cidr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 ranges that are not the public internet's (IANA special-purpose registry): `(first, prefix)`.
const V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What is public in IPv6: global unicast without the ranges below it that are kept for other purposes.
const V6_PUBLIC: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const V6_KEPT: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),      // Teredo, ORCHID, benchmarking
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),  // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),      // documentation
];
/// Prefixes that carry an IPv4 address: NAT64 (RFC 6052), at the end, and 6to4 (RFC 3056), after 16 bits.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const SIX_TO_FOUR: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether the address is private, loopback, link-local, a cloud's metadata address, multicast or otherwise not public.
/// An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by that.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => V4.iter().any(|(first, prefix)| within(v4.into(), (*first).into(), *prefix)),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let inside = |range: (Ipv6Addr, u8)| within(address.into(), range.0.into(), range.1);
    let bits = u128::from(address);
    // The casts keep the 32 bits that hold the IPv4 address.
    if inside(NAT64) {
        return is_private(Ipv4Addr::from(bits as u32).into());
    }
    if inside(SIX_TO_FOUR) {
        return is_private(Ipv4Addr::from((bits >> 80) as u32).into());
    }
    !inside(V6_PUBLIC) || V6_KEPT.into_iter().any(inside)
}

fn within(address: IpAddr, first: IpAddr, prefix: u8) -> bool {
    Cidr { first, prefix }.contains(address)
}

/// Whether all of the range is private, so that a rule which writes it means a private address.
#[must_use]
pub fn is_private_range(range: &Cidr) -> bool {
    match range.first {
        IpAddr::V4(_) => V4.iter().any(|(first, prefix)| *prefix <= range.prefix && within(range.first, (*first).into(), *prefix)),
        // Each private IPv6 range that people write (::1, fc00::/7, fe80::/10, ff00::/8) lies outside 2000::/3.
        IpAddr::V6(first) => {
            let kept = V6_KEPT.iter().any(|(kept, prefix)| *prefix <= range.prefix && within(range.first, (*kept).into(), *prefix));
            let mixed = range.contains(NAT64.0.into()) || within(first.into(), NAT64.0.into(), NAT64.1);
            let public = within(first.into(), V6_PUBLIC.0.into(), V6_PUBLIC.1);
            kept || (range.prefix >= V6_PUBLIC.1 && !public && !mixed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn private_and_public() -> Result<(), std::net::AddrParseError> {
        for private in [
            "0.0.0.0", "10.1.2.3", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1", "100.64.0.1", "224.0.0.1",
            "255.255.255.255", "198.18.0.1", "::", "::1", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "::10.0.0.1",
            "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "2001:db8::1", "2001::1", "fec0::1",
        ] {
            assert!(is_private(private.parse()?), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "192.169.0.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"] {
            assert!(!is_private(public.parse()?), "{public}");
        }
        Ok(())
    }

    #[test]
    fn private_ranges() {
        let range = |text: &str| text.parse::<Cidr>().map(|range| is_private_range(&range));
        for private in ["10.0.0.0/8", "10.2.0.0/16", "127.0.0.0/8", "169.254.169.254/32", "fd00::/8", "fe80::/10", "::1/128", "2001:db8::/48"] {
            assert_eq!(range(private), Ok(true), "{private}");
        }
        for wider in ["0.0.0.0/0", "8.0.0.0/6", "1.1.1.0/24", "::/0", "2000::/3", "2600::/16", "::/2", "::/3", "::/8", "64:ff9b::/96", "64:ff9b::/120"] {
            assert_eq!(range(wider), Ok(false), "{wider}");
        }
    }

    proptest! {
        #[test]
        fn every_address_of_a_private_v4_range_is_private(bits: u32, prefix in 0_u8..=32, inside: u32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let range = Cidr { first: IpAddr::V4((bits & mask).into()), prefix };
            if is_private_range(&range) {
                prop_assert!(is_private(IpAddr::V4(((bits & mask) | (inside & !mask)).into())));
            }
        }
    }
}
