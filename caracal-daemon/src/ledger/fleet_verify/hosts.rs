//! What an audit made again of each host. Takes names; gives states.

use super::heads::Heads;
use crate::ledger::books::{By, Recount};
use crate::ledger::chain::Chain;
use std::collections::BTreeMap;

/// What was made again for one host.
pub(super) struct Host {
    pub(super) chain: Chain,
    pub(super) explained: bool,
    /// Records that came before are missing.
    pub(super) partial: bool,
    pub(super) heads: Heads,
    /// The latest enrolment that signed a run; it never falls.
    pub(super) enrolment: i32,
    /// The next run must be of a later one: the host told two histories, or began anew.
    pub(super) renews: bool,
    pub(super) recount: Recount,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            chain: Chain::default(),
            explained: false,
            partial: false,
            heads: Heads::default(),
            enrolment: 0,
            renews: false,
            recount: Recount::new(By::Minute),
        }
    }
}

/// The hosts whose records were read. Records of one host mostly follow each other, so the one that was asked for last is found
/// without a search.
#[derive(Default)]
pub(super) struct Hosts {
    places: BTreeMap<String, usize>,
    states: Vec<Host>,
    last: Option<(String, usize)>,
}

impl Hosts {
    /// The state of `host`, which is new where nobody asked for it before.
    pub(super) fn of(&mut self, host: &str) -> &mut Host {
        let at = match &self.last {
            Some((last, at)) if last == host => *at,
            _ => {
                let at = *self.places.entry(host.to_owned()).or_insert(self.states.len());
                self.last = Some((host.to_owned(), at));
                at
            }
        };
        if at == self.states.len() {
            self.states.push(Host::default());
        }
        &mut self.states[at]
    }

    /// The state of `host`, where there is one.
    pub(super) fn get_mut(&mut self, host: &str) -> Option<&mut Host> {
        self.states.get_mut(*self.places.get(host)?)
    }

    /// All of them, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Host)> {
        self.places.iter().filter_map(|(name, at)| Some((name, self.states.get(*at)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever was asked for before, a host has the state that it had.
        #[test]
        fn every_host_keeps_its_own_state(asked in proptest::collection::vec("[ab]{0,2}", 0..40)) {
            let (mut hosts, mut counts) = (Hosts::default(), BTreeMap::<String, u64>::new());
            for name in asked {
                hosts.of(&name).chain.next += 1;
                *counts.entry(name).or_default() += 1;
            }
            prop_assert!(hosts.iter().map(|(name, host)| (name, host.chain.next)).eq(counts.iter().map(|(name, count)| (name, *count))));
            for (name, count) in counts {
                prop_assert_eq!(hosts.get_mut(&name).map(|host| host.chain.next), Some(count));
            }
            prop_assert!(hosts.get_mut("c").is_none());
        }
    }
}
