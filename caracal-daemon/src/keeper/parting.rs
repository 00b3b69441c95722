//! Takes agents whose cgroup is gone; gives them back when they are to be dismissed. A program may write and end: the kernel
//! sends what is left in the buffers of its sockets, which are closed and can be used for nothing else, and the packets
//! of an agent that was dismissed at once would be refused. Bounded in time and in number, the oldest first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::{Agent, CgroupId};

/// How long the last bytes may take, nanoseconds: ten minutes.
const LONGEST: u64 = 600 * 1_000_000_000;
/// Agents that may be parting at once: a small part of what the kernel's map holds.
const MOST: usize = 256;

/// Agents that are gone and not dismissed yet, with the moment at which they went, oldest first.
#[derive(Debug, Default)]
pub(super) struct Parting(Mutex<VecDeque<(Agent, u64)>>);

impl Parting {
    /// Adds one that went `now` (monotonic nanoseconds); gives those that there is no more room for.
    pub(super) fn add(&self, agent: Agent, now: u64) -> Vec<CgroupId> {
        let mut all = self.all();
        all.push_back((agent, now));
        let over = all.len().saturating_sub(MOST);
        all.drain(..over).map(|(agent, _)| agent.cgroup).collect()
    }

    /// The one with this id.
    pub(super) fn find(&self, id: CgroupId) -> Option<Agent> {
        self.all().iter().map(|(agent, _)| agent).find(|agent| agent.cgroup == id).cloned()
    }

    /// Those whose time is over.
    pub(super) fn due(&self, now: u64) -> Vec<CgroupId> {
        let mut all = self.all();
        let over = all.iter().take_while(|(_, since)| now.saturating_sub(*since) >= LONGEST).count();
        all.drain(..over).map(|(agent, _)| agent.cgroup).collect()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<(Agent, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: u64) -> Agent {
        Agent { name: "a".into(), cgroup: CgroupId(id), path: "/a".into(), uid: 0, learn: false }
    }

    #[test]
    fn agents_go_when_their_time_is_over_or_there_is_no_room() {
        let parting = Parting::default();
        assert_eq!(parting.add(agent(1), 5), []);
        assert_eq!(parting.add(agent(2), 6), []);
        assert_eq!(parting.due(LONGEST + 4), []);
        assert_eq!(parting.due(LONGEST + 5), [CgroupId(1)]);
        assert_eq!([1, 2].map(|id| parting.find(CgroupId(id))), [None, Some(agent(2))]);
        for id in 3..=257 {
            assert_eq!(parting.add(agent(id), 7), []);
        }
        assert_eq!(parting.add(agent(258), 8), [CgroupId(2)], "the oldest goes first");
        assert_eq!(parting.due(LONGEST + 7).len(), 255);
        assert_eq!(parting.due(u64::MAX), [CgroupId(258)]);
    }
}
