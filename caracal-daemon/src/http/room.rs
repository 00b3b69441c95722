//! Takes the bytes of bodies that are read whole before they are priced, as they come; counts them for all agents and for each.
//! Refuses what goes beyond either bound: one agent's bodies take neither the host's memory nor the room of the others'.
//! What is kept stays counted until the last copy of it is gone.

use crate::agent::CgroupId;
use crate::refusal::{Reason, Refusal, Side, Stage};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One agent has a quarter of the room.
const SHARES: usize = 4;

/// Room for bodies.
#[derive(Debug)]
pub struct Room {
    most: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    agents: HashMap<CgroupId, usize>,
}

/// There is no room for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for one more body")]
pub enum Full {
    /// The agent has its share, bytes.
    Share(usize),
    /// All agents together have all, bytes.
    All(usize),
}

impl Full {
    /// What the agent is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        let (side, whose, bytes) = match self {
            Full::Share(bytes) => (Side::Agent, "this agent's calls", bytes),
            Full::All(bytes) => (Side::Us, "all agents' calls", bytes),
        };
        Refusal {
            stage: Stage::Http,
            side,
            reason: Reason::TooManyBodies,
            sentence: format!(
                "Caracal prices a call by its whole body, and holds as much as it may of {whose} already ({} MiB). Send this one when others are on their way.",
                bytes >> 20
            ),
            limit: None,
        }
    }
}

impl Room {
    /// Room for `most` bytes, of which one agent has a quarter.
    #[must_use]
    pub fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { most, counts: Mutex::default() })
    }

    /// Room for one body of an agent's, of which nothing has come yet.
    #[must_use]
    pub fn of(self: &Arc<Room>, agent: CgroupId) -> Taken {
        Taken { room: Arc::clone(self), agent, bytes: 0 }
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.counts().all
    }

    fn take(&self, agent: CgroupId, bytes: usize) -> Result<(), Full> {
        let share = self.most / SHARES;
        let mut counts = self.counts();
        let own = counts.agents.get(&agent).copied().unwrap_or(0).saturating_add(bytes);
        let all = counts.all.saturating_add(bytes);
        if own > share {
            return Err(Full::Share(share));
        }
        if all > self.most {
            return Err(Full::All(self.most));
        }
        counts.all = all;
        counts.agents.insert(agent, own);
        Ok(())
    }

    fn give_back(&self, agent: CgroupId, bytes: usize) {
        let mut counts = self.counts();
        counts.all = counts.all.saturating_sub(bytes);
        if let Some(own) = counts.agents.get_mut(&agent) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                counts.agents.remove(&agent);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that one body takes; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    agent: CgroupId,
    bytes: usize,
}

impl Taken {
    /// Takes room for `bytes` more.
    ///
    /// # Errors
    /// When there is none; what was taken before stays taken.
    pub fn more(&mut self, bytes: usize) -> Result<(), Full> {
        self.room.take(self.agent, bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Room for the next body of the same agent's.
    #[must_use]
    pub fn next(&self) -> Taken {
        self.room.of(self.agent)
    }

    /// `bytes`, which the room was taken for: given back with their last copy.
    #[must_use]
    pub fn keep<B: AsRef<[u8]> + Send + 'static>(self, bytes: B) -> Bytes {
        if self.bytes == 0 {
            return Bytes::new();
        }
        Bytes::from_owner(Kept { bytes, _taken: self })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.give_back(self.agent, self.bytes);
        }
    }
}

struct Kept<B> {
    bytes: B,
    _taken: Taken,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Kept<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_has_its_share_and_no_more() {
        let room = Room::new(4_000);
        let mut one = room.of(CgroupId(1));
        one.more(900).expect("room");
        assert_eq!(one.more(101), Err(Full::Share(1_000)));
        one.more(100).expect("what was refused took nothing");
        assert_eq!(room.of(CgroupId(1)).more(1), Err(Full::Share(1_000)), "the share is the agent's, not a body's");
        let mut others = Vec::new();
        for agent in 2..=4 {
            let mut other = room.of(CgroupId(agent));
            other.more(1_000).expect("room");
            others.push(other);
        }
        assert_eq!(room.of(CgroupId(5)).more(1), Err(Full::All(4_000)));
        drop(one);
        room.of(CgroupId(5)).more(1_000).expect("room again");
        drop(others);
        assert_eq!(room.taken(), 0);
        assert!(room.counts().agents.is_empty(), "an agent without bodies leaves nothing behind");
    }

    #[test]
    fn room_is_given_back_with_the_last_copy() {
        let room = Room::new(4_000);
        let mut taken = room.of(CgroupId(1));
        taken.more(5).expect("room");
        let body = taken.keep(b"hello".to_vec());
        let part = body.slice(1..3);
        assert_eq!((body.as_ref(), part.as_ref()), (&b"hello"[..], &b"el"[..]));
        drop(body);
        assert_eq!(room.taken(), 5, "a part of it holds all of it");
        drop(part);
        assert_eq!(room.taken(), 0);
        assert!(room.of(CgroupId(1)).keep(Vec::new()).is_empty());
    }
}
