//! Audits a log from its static files (c2sp.org/tlog-tiles): every record, hash, chain link and charge under its checkpoint.
//! Takes public keys and files; gives the findings that the audit of the database gives for the same fault. Sums, the heads that
//! hosts signed and older checkpoints are not in the files: the database has them, and an auditor keeps checkpoints. The first record
//! says whether the log is one host's own.

mod corrections;

use super::export::{bundle_path, tile_path, width};
use super::files::{Files, FilesError};
use super::fleet_verify;
use super::kept::Kept;
use super::note::{self, Checkpoint, Verifier};
use super::store::{Records, split_hashes};
use super::tree::{TILE_HEIGHT, TILE_WIDTH, Tile, Tree, empty_root};
use super::verify::{self, Against, Report};
use crate::bus::signed_run::source_of;
use crate::event::Hash;
use crate::event::write::{MAX_RECORD_BYTES, source};
use crate::meter::PriceBook;
use std::sync::Arc;

const MAX_CHECKPOINT_BYTES: usize = 1 << 20;
const TILE_BYTES: usize = TILE_WIDTH * 32;
const MAX_BUNDLE_BYTES: usize = TILE_WIDTH * (MAX_RECORD_BYTES + 2);

/// Audits the log in `files`, whose checkpoint is signed by `keys` and begins with each of `kept`. `progress` is told how many of
/// how many leaves are read.
///
/// # Errors
/// When the files cannot be read at all; everything else, a missing file too, is a finding.
pub async fn verify(
    files: &mut Files,
    keys: &[Verifier],
    kept: &[Checkpoint],
    books: &[Arc<PriceBook>],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, FilesError> {
    let mut report = Report::default();
    let Some(checkpoint) = open(files, keys, &mut report).await? else { return Ok(report) };
    let host_id = note::host_of(checkpoint.log_name().unwrap_or_default()).to_owned();
    let against = Against { host_id: &host_id, keys, journal: None, signed: None, kept: &[], books };
    let mut kept = Kept::new(kept, &checkpoint.origin, &mut report);
    kept.reached(0, empty_root, &mut report);
    let mut audit = Audit { checkpoint: &checkpoint, chains: None, kept, report };
    // Read into again and again: new memory for each file would cost more than its bytes.
    let (mut read, mut stored, mut n) = (Vec::new(), Vec::new(), 0);
    while audit.size() < checkpoint.size {
        let Some(records) = bundle(files, &mut read, n, &checkpoint, &mut audit.report).await? else { break };
        if let Some(first) = records.first().filter(|_| n == 0) {
            audit.chains = Some(Chains::of(first, &against, &checkpoint.origin));
        }
        audit.leaves(&records);
        for tile in audit.full() {
            audit.tile(files, &mut stored, &tile).await?;
        }
        progress(audit.size(), checkpoint.size);
        n += 1;
    }
    audit.edges(files).await?;
    let (first, made) = ((audit.size(), audit.root()), audit.take_corrections(&host_id));
    corrections::check(files, &checkpoint, first, made, &mut audit.report).await?;
    Ok(audit.end())
}

/// The checkpoint, where both keys of the log signed it. Without one nothing else can be believed.
async fn open(files: &mut Files, keys: &[Verifier], report: &mut Report) -> Result<Option<Checkpoint>, FilesError> {
    let Some(note) = files.read("checkpoint", MAX_CHECKPOINT_BYTES).await? else {
        report.find("checkpoint", "there is no checkpoint, or it is too long to be one".into());
        return Ok(None);
    };
    let opened = std::str::from_utf8(&note).map_err(|_| "it is not text".to_owned());
    let opened = opened.and_then(|note| Checkpoint::open(note, keys).map_err(|error| error.to_string()));
    match opened {
        Ok(checkpoint) if !checkpoint.is_signed_by_both() || checkpoint.log_name().is_none() => {
            let what = format!("the checkpoint of {} is not signed by both keys of a ledger", checkpoint.origin);
            report.find("checkpoint", what);
            Ok(None)
        }
        Ok(checkpoint) => {
            report.checkpoints = 1;
            Ok(Some(checkpoint))
        }
        Err(why) => {
            report.find("checkpoint", format!("the checkpoint: {why}"));
            Ok(None)
        }
    }
}

/// Reads the bundle with number `n` into `bytes`; gives as many records as it must have, or `None` where there are fewer. One at the
/// right edge may have been replaced by the full one since the checkpoint.
async fn bundle<'b>(
    files: &mut Files,
    bytes: &'b mut Vec<u8>,
    n: u64,
    checkpoint: &Checkpoint,
    report: &mut Report,
) -> Result<Option<Vec<&'b [u8]>>, FilesError> {
    let wanted = width(checkpoint.size, n, 0);
    let mut expected = wanted;
    let mut found = files.read_into(bytes, &bundle_path(n, wanted), MAX_BUNDLE_BYTES).await?;
    if !found && wanted < TILE_WIDTH {
        expected = TILE_WIDTH;
        found = files.read_into(bytes, &bundle_path(n, TILE_WIDTH), MAX_BUNDLE_BYTES).await?;
    }
    if !found {
        report.find("leaf_missing", format!("{} is missing", bundle_path(n, wanted)));
        return Ok(None);
    }
    // One more than it may have is enough to say so.
    let mut records = Vec::with_capacity(TILE_WIDTH + 1);
    records.extend(Records(bytes).take(TILE_WIDTH + 1));
    let length: usize = records.iter().map(|record: &&[u8]| 2 + record.len()).sum();
    if (records.len(), length) != (expected, bytes.len()) {
        let what = format!("{} does not hold {expected} records and nothing else", bundle_path(n, expected));
        report.find("leaf_row", what);
    }
    // What is there is read on, unless the leaves behind it would stand at other places.
    let there = records.len() >= wanted;
    records.truncate(wanted);
    Ok(there.then_some(records))
}

/// Which rules the chains in the log follow.
enum Chains<'a> {
    /// One host's own ledger.
    Host(Box<verify::Audit<'a>>),
    /// Many hosts'.
    Fleet(Box<fleet_verify::Audit>),
}

impl<'a> Chains<'a> {
    fn of(first: &[u8], against: &'a Against<'a>, origin: &str) -> Chains<'a> {
        let own = source(against.host_id);
        let found = source_of(first).unwrap_or_default();
        if found == own || found.strip_suffix("/ledger") == Some(&own) {
            Chains::Host(Box::new(verify::Audit::of_files(against, origin.to_owned())))
        } else {
            Chains::Fleet(Box::new(fleet_verify::Audit::of_files(against.books)))
        }
    }
}

struct Audit<'a> {
    checkpoint: &'a Checkpoint,
    chains: Option<Chains<'a>>,
    kept: Kept,
    report: Report,
}

impl Audit<'_> {
    fn tree(&self) -> Option<&Tree> {
        match &self.chains {
            Some(Chains::Host(audit)) => Some(audit.tree()),
            Some(Chains::Fleet(audit)) => Some(audit.tree()),
            None => None,
        }
    }

    fn size(&self) -> u64 {
        self.tree().map_or(0, Tree::size)
    }

    fn root(&self) -> Hash {
        self.tree().map_or_else(empty_root, Tree::root)
    }

    /// The corrections that were read, with their hosts.
    fn take_corrections(&mut self, host_id: &str) -> corrections::Made {
        match &mut self.chains {
            Some(Chains::Host(audit)) => {
                audit.take_corrections().into_iter().map(|one| (host_id.to_owned(), one)).collect()
            }
            Some(Chains::Fleet(audit)) => audit.take_corrections(),
            None => Vec::new(),
        }
    }

    /// Records that follow each other; not all at once where a checkpoint was kept at a size between them.
    fn leaves(&mut self, records: &[&[u8]]) {
        let mut rest = records;
        while !rest.is_empty() {
            let until = self.tree().map_or(1, |tree| tree.until(self.kept.next()));
            let (now, later) = rest.split_at(until.min(rest.len()));
            match &mut self.chains {
                Some(Chains::Host(audit)) => audit.leaves(now),
                Some(Chains::Fleet(audit)) => audit.leaves(now),
                None => {}
            }
            let (size, chains) = (self.size(), &self.chains);
            let root = || match chains {
                Some(Chains::Host(audit)) => audit.tree().root(),
                Some(Chains::Fleet(audit)) => audit.tree().root(),
                None => empty_root(),
            };
            self.kept.reached(size, root, &mut self.report);
            rest = later;
        }
    }

    fn full(&mut self) -> Vec<Tile> {
        match &mut self.chains {
            Some(Chains::Host(audit)) => audit.full(),
            Some(Chains::Fleet(audit)) => audit.full(),
            None => Vec::new(),
        }
    }

    async fn tile(&mut self, files: &mut Files, stored: &mut Vec<u8>, made: &Tile) -> Result<(), FilesError> {
        self.report.tiles += 1;
        let path = tile_path(made.level, made.n, TILE_WIDTH);
        let found = files.read_into(stored, &path, TILE_BYTES).await?;
        if !found || stored.as_slice() != made.hashes.as_flattened() {
            self.report.find("tile", format!("{path} is missing or not of these records"));
        }
        Ok(())
    }

    /// The tiles at the right edge, where the records got that far.
    async fn edges(&mut self, files: &mut Files) -> Result<(), FilesError> {
        let size = self.checkpoint.size;
        let edges = match self.tree() {
            Some(tree) if tree.size() == size => tree.edges().to_vec(),
            _ => return Ok(()),
        };
        for (level, edge) in (0..).zip(edges).filter(|(_, edge)| !edge.is_empty()) {
            let n = size.checked_shr(TILE_HEIGHT * (level + 1)).unwrap_or(0);
            let path = tile_path(level, n, edge.len());
            let mut stored = files.read(&path, TILE_BYTES).await?;
            let partial = stored.is_some();
            if !partial {
                stored = files.read(&tile_path(level, n, TILE_WIDTH), TILE_BYTES).await?;
            }
            let hashes = stored.and_then(|bytes| split_hashes(&bytes).ok()).unwrap_or_default();
            let whole = !partial || hashes.len() == edge.len();
            if !whole || hashes.get(..edge.len()) != Some(&edge) {
                self.report.find("edge", format!("{path} is missing or not of these records"));
            }
        }
        Ok(())
    }

    fn end(mut self) -> Report {
        let (size, root) = (self.size(), self.root());
        self.kept.ends(size, &mut self.report);
        if size < self.checkpoint.size {
            let what = format!("the checkpoint covers {} leaves, and {size} are there", self.checkpoint.size);
            self.report.find("truncated", what);
        } else if root != self.checkpoint.root {
            self.report.find("checkpoint", format!("the checkpoint's root over {size} leaves is not of these records"));
        }
        let found = match self.chains {
            Some(Chains::Host(audit)) => audit.into_report(),
            Some(Chains::Fleet(audit)) => audit.into_report(),
            None => Report::default(),
        };
        let mut report = self.report;
        report.leaves = size;
        report.root = hex::encode(root);
        report.covered = self.checkpoint.size.min(size);
        report.anomalies = found.anomalies;
        report.repriced = found.repriced;
        report.not_repriced = found.not_repriced;
        found.findings.into_iter().for_each(|finding| report.find(finding.code, finding.what));
        report
    }
}

#[cfg(test)]
pub(crate) mod tests;
