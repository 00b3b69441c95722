//! Checkpoints that an auditor kept. Takes them opened, and the tree as it grows; gives findings. What a log shows today can be
//! whole and still not be what it showed before: only somebody's memory tells.

use super::note::Checkpoint;
use super::verify::Report;
use crate::event::Hash;
use std::collections::VecDeque;

/// Checkpoints that wait for the tree to reach their size, smallest first.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<Checkpoint>);

impl Kept {
    /// To be held against the log of this origin.
    pub(super) fn new(kept: &[Checkpoint], origin: &str, report: &mut Report) -> Kept {
        let (mut own, others): (Vec<_>, Vec<_>) = kept.iter().cloned().partition(|one| one.origin == origin);
        for other in others {
            let what = format!("the checkpoint that you kept is of {}, and this log is {origin}", other.origin);
            report.find("kept", what);
        }
        own.sort_by_key(|one| one.size);
        Kept(own.into())
    }

    /// The size of the smallest that the tree has not reached.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.front().map(|one| one.size)
    }

    /// The tree has `size` leaves now.
    pub(super) fn reached(&mut self, size: u64, root: impl Fn() -> Hash, report: &mut Report) {
        while let Some(one) = self.0.pop_front_if(|one| one.size <= size) {
            if one.root != root() {
                let what = format!("the first {} leaves are not those of the checkpoint that you kept", one.size);
                report.find("kept", what);
            }
        }
    }

    /// The tree grows no more: what was kept must have been reached.
    pub(super) fn ends(&mut self, size: u64, report: &mut Report) {
        for one in std::mem::take(&mut self.0) {
            let what = format!("the checkpoint that you kept covers {} leaves, and {size} are there", one.size);
            report.find("truncated", what);
        }
    }
}
