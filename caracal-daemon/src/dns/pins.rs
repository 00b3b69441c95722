//! Takes the addresses that an agent was given for an allowed name; gives the names that it may mean when it connects to
//! one of them. For protocols that name nobody on the wire: SSH, PostgreSQL.
//! Never decides and is never dialled: policy is asked about the name, and `resolve` for its addresses.
//! Bounded for each agent: the oldest address and the oldest name go first.

use crate::agent::CgroupId;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Addresses remembered of one agent.
const MOST_ADDRESSES: usize = 1_024;
/// Names remembered for one address: many may share one.
const MOST_NAMES: usize = 8;

/// Which names each agent's addresses came from. How long a program keeps an address is its own affair, so nothing here
/// ends by time.
#[derive(Debug, Default)]
pub struct Pins(Mutex<HashMap<CgroupId, Given>>);

/// What one agent was given.
#[derive(Debug, Default)]
struct Given {
    /// Newest name last.
    names: HashMap<IpAddr, VecDeque<Arc<str>>>,
    /// Addresses in the order in which they came first.
    order: VecDeque<IpAddr>,
}

impl Pins {
    /// Remembers that `agent` was told these addresses for `name`.
    pub fn pin(&self, agent: CgroupId, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let given = all.entry(agent).or_default();
        let name: Arc<str> = Arc::from(name);
        for address in addresses {
            given.add(address.to_canonical(), &name);
        }
    }

    /// The names that `agent` was told this address for, newest first.
    #[must_use]
    pub fn names(&self, agent: CgroupId, address: IpAddr) -> Vec<Arc<str>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = all.get(&agent).and_then(|given| given.names.get(&address.to_canonical()));
        names.map(|names| names.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// Forgets an agent that is no more.
    pub fn forget(&self, agent: CgroupId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&agent);
    }
}

impl Given {
    fn add(&mut self, address: IpAddr, name: &Arc<str>) {
        if let Some(names) = self.names.get_mut(&address) {
            names.retain(|known| known != name);
            names.push_back(name.clone());
            if names.len() > MOST_NAMES {
                names.pop_front();
            }
            return;
        }
        if self.order.len() >= MOST_ADDRESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        self.order.push_back(address);
        self.names.insert(address, VecDeque::from([name.clone()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const AGENT: CgroupId = CgroupId(7);

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0c00_0000 + number))
    }

    fn names(pins: &Pins, agent: CgroupId, number: u32) -> Vec<String> {
        pins.names(agent, address(number)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_name_comes_first_and_agents_know_nothing_of_each_other() {
        let pins = Pins::default();
        for name in ["a.test", "b.test", "a.test"] {
            pins.pin(AGENT, name, [address(1)]);
        }
        assert_eq!(names(&pins, AGENT, 1), ["a.test", "b.test"]);
        let mapped = Ipv4Addr::from_bits(0x0c00_0001).to_ipv6_mapped().into();
        assert_eq!(pins.names(AGENT, mapped).len(), 2, "the same address, as a v6 socket sees it");
        assert_eq!(names(&pins, AGENT, 2), [""; 0]);
        assert_eq!(names(&pins, CgroupId(8), 1), [""; 0]);
        pins.forget(AGENT);
        assert_eq!(names(&pins, AGENT, 1), [""; 0]);
    }

    #[test]
    fn the_oldest_goes_first() {
        let pins = Pins::default();
        let most = u32::try_from(MOST_ADDRESSES).expect("a count");
        for number in 0..=most {
            pins.pin(AGENT, "a.test", [address(number)]);
        }
        assert_eq!(names(&pins, AGENT, 0), [""; 0]);
        assert_eq!((names(&pins, AGENT, 1).len(), names(&pins, AGENT, most).len()), (1, 1));
        for number in 0..=MOST_NAMES {
            pins.pin(AGENT, &format!("{number}.test"), [address(5)]);
        }
        let kept = names(&pins, AGENT, 5);
        assert_eq!((kept.len(), kept[0].as_str(), kept[7].as_str()), (MOST_NAMES, "8.test", "1.test"));
    }
}
