//! Takes an address; tells whether it is one of the public internet. Everything else needs a rule that names it.
//!
//! Source: the IANA special-purpose address registries (RFC 6890), and the metadata addresses of the clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The Azure host's metadata and DNS address, which stands in a public range.
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// `address` can be dialled without a rule that names it: global, unicast, nobody's metadata service.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network; private; shared (CGNAT); loopback; link-local with metadata.
        [0 | 10 | 127, ..] | [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Protocol assignments; the three documentation ranges; 6to4 relays; benchmarking.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => true,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => true,
        _ => false,
    };
    !special && address != AZURE_HOST
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // IPv4-mapped, and NAT64 (RFC 6052): as public as the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056), likewise.
        [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments with Teredo and ORCHID; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast is 2000::/3; all else is local, multicast, reserved or obsolete.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// `address` is loopback, in either family or mapped: it means another place in each network namespace.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_unspecified(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.is_loopback() || mapped.is_unspecified(),
            None => address.is_loopback() || address.is_unspecified(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{is_loopback, is_public};

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1",
            "172.31.255.255", "192.168.1.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
            "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::ffff:127.0.0.1",
            "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
            "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "fc00::1", "fd00:ec2::254", "fe80::1",
            "fec0::1", "ff02::1", "5f00::1",
        ] {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[test]
    fn global_addresses_are_public() {
        for address in ["1.1.1.1", "104.18.6.192", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1", "2a00:1450::1", "64:ff9b::101:101", "::ffff:1.1.1.1"] {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[test]
    fn loopback_is_told_in_every_spelling() {
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(is_loopback(address.parse().expect(address)), "{address}");
        }
        assert!(!is_loopback("10.0.0.1".parse().expect("address")));
    }
}
