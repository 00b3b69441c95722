//! What hosts signed of their chains. A message of a host is signed by the head behind its last record; where the log had a part of
//! its records already, those that were new stand in several runs, each with that one head.

use super::Audit;
use crate::event::Hash;
use crate::journal::head;
use crate::ledger::chain::Link;
use std::collections::{HashMap, HashSet, VecDeque};

/// A row of `runs`.
pub(super) struct Run {
    pub(super) leaf: u64,
    pub(super) host: String,
    pub(super) enrolment: i32,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) head_sequence: u64,
    pub(super) head: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// Signed heads that are records behind the end of their run.
#[derive(Default)]
pub(super) struct Heads {
    /// Of the chain as it is now: records that such a head names.
    pub(super) seen: HashMap<u64, Hash>,
    /// The last record of a run, and its head.
    due: Vec<(u64, u64, Hash)>,
}

/// The records that a head names which stands behind its run.
pub(super) fn named(runs: &VecDeque<Run>) -> HashSet<(String, u64)> {
    let behind = runs.iter().filter(|run| run.head_sequence > run.last);
    behind.map(|run| (run.host.clone(), run.head_sequence)).collect()
}

impl Audit {
    /// A run has ended: the head was signed by its host, and is the last record where the message ended there.
    pub(super) fn signed(&mut self, run: &Run, last: &Link) {
        let leaf: Option<Hash> = run.head.as_slice().try_into().ok();
        let key = self.keys.get(&(run.host.clone(), run.enrolment));
        let good = leaf.zip(key).is_some_and(|(leaf, key)| {
            let place = run.head_sequence > run.last || run.head_sequence == run.last && leaf == last.leaf;
            place && key.verify(&head::signed_bytes(&run.host, run.head_sequence, &leaf), &run.signature)
        });
        if let Some(state) = self.hosts.get_mut(&run.host) {
            state.chain.forked = false;
            // Else what the host signed once could be taken again behind a leaf that says that it began anew.
            let least = state.enrolment.saturating_add(i32::from(std::mem::take(&mut state.renews)));
            if run.enrolment < least {
                let what = format!(
                    "the run of leaf {} of {} is of enrolment {}, not of {least} or a later one",
                    run.leaf, run.host, run.enrolment
                );
                self.report.find("enrolment", what);
            }
            state.enrolment = state.enrolment.max(run.enrolment);
            if let Some(leaf) = leaf.filter(|_| good && run.head_sequence > run.last) {
                state.heads.due.push((run.last, run.head_sequence, leaf));
            }
        }
        if !good {
            self.unsigned(&run.host, run.head_sequence);
        }
    }

    /// The chain of `host` ends, or begins anew: each head behind its run must be the record that is there, and no record be missing
    /// up to it. Else it was signed over other records.
    pub(super) fn heads_of(&mut self, host: &str) {
        let Some(state) = self.hosts.get_mut(host) else { return };
        let Heads { seen, due } = std::mem::take(&mut state.heads);
        let gaps = &state.chain.gaps;
        let whole = |last: u64, head: u64| gaps.iter().all(|gap| gap.to <= last || gap.from > head);
        let wrong = due.into_iter().filter(|(last, head, leaf)| seen.get(head) != Some(leaf) || !whole(*last, *head));
        let wrong: Vec<u64> = wrong.map(|(_, head, _)| head).collect();
        wrong.into_iter().for_each(|head| self.unsigned(host, head));
    }

    fn unsigned(&mut self, host: &str, head: u64) {
        let what = format!("the head {head} of {host}'s chain is not signed by its key, or is not its record");
        self.report.find("head_signature", what);
    }
}
