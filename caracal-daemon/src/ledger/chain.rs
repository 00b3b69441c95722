//! Where one host's chain of records stands in a log. Takes entries; says what each is next to what the log has.
//! Pure: the writer and the auditor use the same one.

use crate::event::Hash;
use crate::journal::{Entry, Start};

/// Gaps that a chain may have at once. A host with more has lost its journal many times over.
pub const MAX_GAPS: usize = 256;

/// One host's chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Chain {
    /// The enrolment whose key signed last.
    pub enrolment: u32,
    /// Sequence number of the record to come.
    pub next: u64,
    /// The leaf hash of the one before it.
    #[serde(with = "hexadecimal")]
    pub prev: Hash,
    /// Index of the leaf with which this chain began.
    pub began: u64,
    /// The host told two histories: nothing more of this enrolment is taken.
    pub forked: bool,
    /// Records that are missing, in order.
    pub gaps: Vec<Gap>,
}

/// Records that are missing between two that are there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// Sequence number of the first that is missing.
    pub from: u64,
    /// Sequence number behind the last that is missing.
    pub to: u64,
    /// The leaf hash of the record before `from`.
    #[serde(with = "hexadecimal")]
    pub before: Hash,
    /// The leaf hash of the last that is missing, as the record `to` names it.
    #[serde(with = "hexadecimal")]
    pub last: Hash,
}

/// What a chain asks of a record: its place, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its sequence number.
    pub sequence: u64,
    /// The leaf hash of the record before it.
    pub prev: Hash,
    /// Its leaf hash.
    pub leaf: Hash,
}

impl From<&Entry> for Link {
    fn from(entry: &Entry) -> Link {
        Link { sequence: entry.sequence, prev: entry.prev, leaf: entry.leaf }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The next one.
    Next,
    /// One that the log has in its place, or another one.
    Passed,
    /// Some are missing before it.
    Gap,
    /// One that was missing.
    Late,
    /// It does not fit to its neighbours.
    Broken,
}

impl Chain {
    /// The place of the record to come.
    #[must_use]
    pub fn cursor(&self) -> Start {
        Start { sequence: self.next, prev: self.prev }
    }

    /// What `entry` is.
    #[must_use]
    pub fn place(&self, entry: impl Into<Link>) -> Place {
        let entry = entry.into();
        if entry.sequence > self.next {
            return if self.gaps.len() < MAX_GAPS { Place::Gap } else { Place::Broken };
        }
        if entry.sequence == self.next {
            return if entry.prev == self.prev { Place::Next } else { Place::Broken };
        }
        let Some(gap) = self.gap_of(entry.sequence).and_then(|at| self.gaps.get(at)) else { return Place::Passed };
        let fits_left = entry.sequence != gap.from || entry.prev == gap.before;
        let fits_right = entry.sequence + 1 != gap.to || entry.leaf == gap.last;
        if fits_left && fits_right && self.gaps.len() < MAX_GAPS { Place::Late } else { Place::Broken }
    }

    /// Goes past an entry that is `Next`, `Gap` or `Late`; gives what it was. Others change nothing.
    pub fn pass(&mut self, entry: impl Into<Link>) -> Place {
        let entry = entry.into();
        let place = self.place(entry);
        match place {
            Place::Gap => {
                self.gaps.push(Gap { from: self.next, to: entry.sequence, before: self.prev, last: entry.prev });
                self.go_on(&entry);
            }
            Place::Next => self.go_on(&entry),
            Place::Late => self.fill(&entry),
            Place::Passed | Place::Broken => {}
        }
        place
    }

    fn go_on(&mut self, entry: &Link) {
        self.next = entry.sequence.saturating_add(1);
        self.prev = entry.leaf;
    }

    fn fill(&mut self, entry: &Link) {
        let Some(at) = self.gap_of(entry.sequence) else { return };
        let gap = self.gaps.remove(at);
        let left = Gap { to: entry.sequence, last: entry.prev, ..gap.clone() };
        let right = Gap { from: entry.sequence + 1, before: entry.leaf, ..gap };
        let parts = [left, right].into_iter().filter(|gap| gap.from < gap.to);
        self.gaps.splice(at..at, parts);
    }

    fn gap_of(&self, sequence: u64) -> Option<usize> {
        self.gaps.iter().position(|gap| (gap.from..gap.to).contains(&sequence))
    }
}

/// A hash as hex digits.
mod hexadecimal {
    use crate::event::Hash;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(String::deserialize(from)?, &mut hash).map_err(D::Error::custom)?;
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::signed_run::tests::Host;
    use proptest::prelude::*;

    fn entries(count: usize) -> Vec<Entry> {
        let mut host = Host::new("h");
        (0..count).map(|index| host.record(&index.to_string())).collect()
    }

    #[test]
    fn another_history_does_not_fit() {
        let (one, mut other) = (entries(9), Host::new("h"));
        let mut chain = Chain::default();
        one[..5].iter().for_each(|entry| assert_eq!(chain.pass(entry), Place::Next));
        let forged: Vec<Entry> = (0..9).map(|_| other.record("another")).collect();
        assert_eq!(chain.place(&forged[5]), Place::Broken);
        assert_eq!(chain.place(&forged[3]), Place::Passed, "whether it is the same, the store knows");
        assert_eq!(chain.pass(&one[7]), Place::Gap);
        // 5 and 6 are missing: what 7 and 4 name is known.
        assert_eq!((chain.place(&forged[6]), chain.place(&forged[5])), (Place::Broken, Place::Broken));
        assert_eq!((chain.pass(&one[6]), chain.pass(&one[5])), (Place::Late, Place::Late));
        assert_eq!((chain.gaps.len(), chain.place(&one[5])), (0, Place::Passed));
    }

    proptest! {
        /// In whatever order records come, the chain ends where it should, and each is taken once.
        #[test]
        fn any_order_ends_whole(order in Just((0..24usize).collect::<Vec<_>>()).prop_shuffle()) {
            let entries = entries(24);
            let mut chain = Chain::default();
            for at in &order {
                prop_assert!(matches!(chain.pass(&entries[*at]), Place::Next | Place::Gap | Place::Late));
                prop_assert_eq!(chain.pass(&entries[*at]), Place::Passed);
            }
            prop_assert_eq!(chain.cursor(), Start { sequence: 24, prev: entries[23].leaf });
            prop_assert_eq!(chain.gaps, []);
        }
    }
}
