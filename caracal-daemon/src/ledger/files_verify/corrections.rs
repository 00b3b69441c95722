//! Corrections in a log's files, held against the charges that they name. Files can be read from their beginning only, so where there
//! are corrections all of it is read a second time, and must be what it was.

use super::bundle;
use crate::bus::signed_run::source_of;
use crate::event::write::{PLACE_BYTES, read_place};
use crate::event::{Hash, Record, leaf_hash};
use crate::ledger::books::Corrected;
use crate::ledger::corrections::{Charge, Found, faults};
use crate::ledger::files::{Files, FilesError};
use crate::ledger::note::Checkpoint;
use crate::ledger::tree::Tree;
use crate::ledger::verify::Report;
use std::collections::{BTreeMap, HashMap};

/// Corrections, each with the host whose chain it is in.
pub(super) type Made = Vec<(String, Corrected)>;

/// Checks `made`, which are in the order of their leaves. `first` is the size and the root of what was read before.
pub(super) async fn check(
    files: &mut Files,
    checkpoint: &Checkpoint,
    first: (u64, Hash),
    made: Made,
    report: &mut Report,
) -> Result<(), FilesError> {
    report.corrections = made.len() as u64;
    if made.is_empty() {
        return Ok(());
    }
    let mut look = Look::new(made);
    // What is wrong with the files was said when they were read first.
    let mut said = Report::default();
    let (mut tree, mut read, mut n) = (Tree::default(), Vec::new(), 0);
    while tree.size() < first.0 {
        let Some(records) = bundle(files, &mut read, n, checkpoint, &mut said).await? else { break };
        for record in records {
            look.at(tree.size(), record);
            tree.append(leaf_hash(record), &mut Vec::new());
        }
        n += 1;
    }
    if (tree.size(), tree.root()) != first {
        report.find("changed", "the records were others when they were read again for their corrections".into());
    }
    look.faults().into_iter().for_each(|what| report.find("correction", what));
    Ok(())
}

/// What is looked for, and what was found.
struct Look {
    made: Made,
    found: Vec<(Option<Record>, Option<Charge>)>,
    /// Which corrections stand at a leaf, and which name the record of a host with this sequence number.
    by_leaf: HashMap<u64, usize>,
    by_place: HashMap<(String, u64), Vec<usize>>,
}

impl Look {
    fn new(made: Made) -> Look {
        let mut by_place: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, (host, correction)) in made.iter().enumerate() {
            by_place.entry((host.clone(), correction.sequence)).or_default().push(at);
        }
        let by_leaf = made.iter().enumerate().map(|(at, (_, correction))| (correction.leaf, at)).collect();
        Look { found: made.iter().map(|_| (None, None)).collect(), made, by_leaf, by_place }
    }

    fn at(&mut self, leaf: u64, record: &[u8]) {
        if let Some(found) = self.by_leaf.get(&leaf).and_then(|at| self.found.get_mut(*at)) {
            found.0 = Record::parse(record).ok();
        }
        if !record.get(PLACE_BYTES..).unwrap_or_default().starts_with(br#""type":"caracal.outcome.v1""#) {
            return;
        }
        let host = source_of(record).and_then(|source| source.strip_prefix("/caracal/"));
        let (Some(host), Some((sequence, _))) = (host, read_place(record)) else { return };
        let Some(wanted) = self.by_place.get(&(host.to_owned(), sequence)) else { return };
        let Some(charge) = Record::parse(record).ok().and_then(Charge::of) else { return };
        for at in wanted {
            // A chain that began anew has another record at this place: the last one before the correction is meant.
            if let (Some((_, correction)), Some(found)) = (self.made.get(*at), self.found.get_mut(*at))
                && leaf < correction.leaf
                && charge.call.to_string() == correction.call
            {
                found.1 = Some(charge.clone());
            }
        }
    }

    fn faults(self) -> Vec<String> {
        let mut of_host: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for ((host, correction), (record, charge)) in self.made.into_iter().zip(self.found) {
            of_host.entry(host).or_default().push(Found { correction, record, charge });
        }
        of_host.values().flat_map(|found| faults(found)).collect()
    }
}
