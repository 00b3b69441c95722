//! Where an attempt aims: takes who tries what under which circumstances; gives addresses, groups, ports and a token that are
//! nobody else's, and from any of them whose they are.

use super::{Phase, Privilege, VECTORS};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every token begins with.
pub const TOKEN: &str = "caracal-canary";
/// How long a token is.
pub const TOKEN_LENGTH: usize = TOKEN.len() + 10;

/// Whose attempt, under which circumstances: what is aimed at says it, so that a packet seen anywhere has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aim {
    /// Place in [`VECTORS`].
    pub vector: usize,
    /// Who tries.
    pub privilege: Privilege,
    /// Under which circumstances.
    pub phase: Phase,
}

impl Aim {
    fn numbers(self) -> [u8; 3] {
        [self.privilege as u8 + 1, self.phase as u8, u8::try_from(self.vector + 1).unwrap_or(0)]
    }

    /// `9.PRIVILEGE.PHASE.VECTOR`: in the world of a test every address is the other host's.
    #[must_use]
    pub fn ip4(self) -> Ipv4Addr {
        let [privilege, phase, vector] = self.numbers();
        Ipv4Addr::new(9, privilege, phase, vector)
    }

    /// `2001:db8:9:PRIVILEGE:PHASE::VECTOR`.
    #[must_use]
    pub fn ip6(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0x2001, 0xdb8, 9, privilege, phase, 0, 0, vector)
    }

    /// A link-local address that nobody has.
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, 9, privilege, phase, vector)
    }

    /// A neighbour on the cable that nobody is, for the two that aim at one; the cable's own are .1 and .2.
    #[must_use]
    pub fn neighbour(self) -> Option<Ipv4Addr> {
        let [privilege, phase, _] = self.numbers();
        let base = match VECTORS.get(self.vector)?.name {
            "arp_request" => 100,
            "dont_route" => 150,
            _ => return None,
        };
        Some(Ipv4Addr::new(198, 51, 100, base + 10 * privilege + phase))
    }

    /// IPv4, IPv6, and IPv4 as IPv6 sees it.
    #[must_use]
    pub fn all(self, port: u16) -> [SocketAddr; 3] {
        let (four, six) = (self.ip4(), self.ip6());
        [IpAddr::V4(four), IpAddr::V6(six), IpAddr::V6(four.to_ipv6_mapped())].map(|ip| SocketAddr::new(ip, port))
    }

    /// `239.PRIVILEGE.PHASE.VECTOR`.
    #[must_use]
    pub fn group4(self) -> Ipv4Addr {
        let [privilege, phase, vector] = self.numbers();
        Ipv4Addr::new(239, privilege, phase, vector)
    }

    /// `ff05::9:PRIVILEGE:PHASE:VECTOR`.
    #[must_use]
    pub fn group6(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0xff05, 0, 0, 0, 9, privilege, phase, vector)
    }

    /// Bytes that are this attempt's and nobody else's; a good DNS label.
    #[must_use]
    pub fn token(self) -> String {
        let [privilege, phase, vector] = self.numbers();
        format!("{TOKEN}-{privilege}-{phase}-{vector:03}-x")
    }

    fn of_numbers([privilege, phase, vector]: [u16; 3]) -> Option<Aim> {
        let privilege = Privilege::ALL.into_iter().find(|one| *one as u16 + 1 == privilege)?;
        let phase = Phase::ALL.into_iter().find(|one| *one as u16 == phase)?;
        let vector = usize::from(vector).checked_sub(1).filter(|place| *place < VECTORS.len())?;
        Some(Aim { vector, privilege, phase })
    }

    /// The attempt whose token this is.
    #[must_use]
    pub fn of_token(token: &[u8]) -> Option<Aim> {
        let text = std::str::from_utf8(token).ok()?.strip_prefix(TOKEN)?.strip_suffix("-x")?;
        let mut numbers = text.split('-').skip(1).map(|word| word.parse().ok());
        Aim::of_numbers([numbers.next()??, numbers.next()??, numbers.next()??])
    }

    /// The attempt that aims at this address.
    #[must_use]
    pub fn of_address(ip: IpAddr) -> Option<Aim> {
        match ip.to_canonical() {
            IpAddr::V4(four) => match four.octets() {
                [9, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector].map(u16::from)),
                [198, 51, 100, last] if last >= 100 => aims().find(|aim| aim.neighbour() == Some(four)),
                _ => None,
            },
            IpAddr::V6(six) => match six.segments() {
                [0x2001, 0xdb8, 9, privilege, phase, 0, 0, vector] | [0xfe80, 0, 0, 0, 9, privilege, phase, vector] => {
                    Aim::of_numbers([privilege, phase, vector])
                }
                _ => None,
            },
        }
    }

    /// The attempt that joins this group.
    #[must_use]
    pub fn of_group(ip: IpAddr) -> Option<Aim> {
        match ip {
            IpAddr::V4(four) => match four.octets() {
                [239, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector].map(u16::from)),
                _ => None,
            },
            IpAddr::V6(six) => match six.segments() {
                [0xff05, 0, 0, 0, 9, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector]),
                _ => None,
            },
        }
    }

    /// The attempt that lets itself be called at this port.
    #[must_use]
    pub fn of_inbound_port(port: u16) -> Option<Aim> {
        let rest = port.checked_sub(20_000)?;
        Aim::of_numbers([rest / 4_000 + 1, (rest % 4_000) / 1_000 + 1, rest % 1_000])
    }

    /// A port of this host at which it lets itself be called.
    #[must_use]
    pub fn inbound_port(self) -> u16 {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        20_000 + 4_000 * (privilege - 1) + 1_000 * (phase - 1) + vector
    }
}

/// Every possible attempt.
pub fn aims() -> impl Iterator<Item = Aim> {
    let one = |vector| {
        Privilege::ALL.into_iter().flat_map(move |privilege| Phase::ALL.map(|phase| Aim { vector, privilege, phase }))
    };
    (0..VECTORS.len()).flat_map(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_attempts_aim_at_the_same_place() {
        let addresses: BTreeSet<_> =
            aims().map(|aim| (aim.ip4(), aim.ip6(), aim.group6(), aim.inbound_port())).collect();
        assert_eq!(addresses.len(), aims().count());
        let ports: BTreeSet<_> = aims().map(Aim::inbound_port).collect();
        assert_eq!(ports.len(), aims().count());
        assert_eq!(aims().map(Aim::token).collect::<BTreeSet<_>>().len(), aims().count());
        for aim in aims() {
            assert_eq!(Aim::of_token(aim.token().as_bytes()), Some(aim));
            assert_eq!(Aim::of_address(aim.ip4().into()), Some(aim));
            assert_eq!(Aim::of_address(aim.ip6().into()), Some(aim));
            assert_eq!(Aim::of_address(aim.link_local().into()), Some(aim));
            assert_eq!(Aim::of_group(aim.group4().into()), Some(aim));
            assert_eq!(Aim::of_group(aim.group6().into()), Some(aim));
            assert_eq!(Aim::of_inbound_port(aim.inbound_port()), Some(aim));
            assert!(aim.neighbour().is_none_or(|ip| Aim::of_address(ip.into()) == Some(aim)));
            assert_eq!(aim.token().len(), TOKEN_LENGTH);
        }
    }
}
