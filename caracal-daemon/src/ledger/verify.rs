//! Audits a ledger: every leaf, tile, checkpoint, chain link, signed head and sum, and the journal behind it.
//! Takes public keys and reads; gives findings. Trusts nothing that is stored: all of it is made again from the
//! records' bytes and compared.

mod price;
mod report;
mod sums;
mod tail;

pub(super) use price::count;
pub use report::{Finding, Report};

use super::books::{By, Corrected, Recount};
use super::kept::Kept;
use super::note::{self, Checkpoint, Verifier};
use super::sequence::{event_ms, is_anomaly, is_succession};
use super::sqlite::SqliteStore;
use super::store::{Chunk, Store as _, StoreError};
use super::tree::{TILE_WIDTH, Tile, Tree};
use crate::bus::signed_run::source_of;
use crate::event::write::{read_place, source};
use crate::event::{Hash, leaf_hashes};
use crate::journal::{SignedHead, Start, head};
use crate::keeper::ledger_key::Signed;
use crate::meter::PriceBook;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use tail::{Journal, Tailer};

const CHUNKS_AT_ONCE: u32 = 64;
const TRIGGERS: [&str; 8] = [
    "checkpoints_keep_delete",
    "checkpoints_keep_update",
    "events_keep_delete",
    "events_keep_update",
    "host_heads_keep_delete",
    "host_heads_keep_update",
    "tiles_keep_delete",
    "tiles_keep_update",
];

/// What to check against.
#[derive(Clone, Debug)]
pub struct Against<'a> {
    /// The host's id.
    pub host_id: &'a str,
    /// The public keys of the ledger and of the host.
    pub keys: &'a [Verifier],
    /// The journal's directory, to check what the ledger does not have yet.
    pub journal: Option<&'a Path>,
    /// The largest tree that the keeper says it signed. To be read before the ledger is opened.
    pub signed: Option<Signed>,
    /// Checkpoints that whoever audits kept: the ledger must begin with each.
    pub kept: &'a [Checkpoint],
    /// Price books: outcomes that one of them priced are priced again.
    pub books: &'a [Arc<PriceBook>],
}

/// Audits the ledger in `store`. `progress` is told how many of how many leaves are read.
///
/// # Errors
/// When the database cannot be read at all; everything else is a finding.
pub async fn verify(
    store: &mut SqliteStore,
    against: &Against<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    // Before the view of the ledger: what a daemon lets go of its journal from here on is in one or the other.
    let journal = Journal::open(against, &mut report);
    store.freeze().await?;
    let state = match store.load().await {
        Ok(state) => state,
        Err(error) => {
            report.find("state", error.to_string());
            return Ok(report);
        }
    };
    let (checkpoints, heads) = (store.checkpoints().await?, store.heads().await?);
    // A log that takes the place of a frozen one has a number behind the host's name.
    let stored = state.position.as_ref().map(|position| position.origin.clone());
    let own = stored.filter(|stored| note::is_of(stored, against.host_id));
    let origin = own.unwrap_or_else(|| note::origin(against.host_id));
    let mut audit = Audit::new(against, origin, report, journal, checkpoints, heads);
    audit.counts(store.counts().await?);
    let size = state.position.as_ref().map_or(0, |position| position.size);
    let mut next = 0;
    loop {
        let chunks = store.chunks_from(next, CHUNKS_AT_ONCE).await?;
        let Some(last) = chunks.last() else { break };
        next = last.first.saturating_add(1);
        for chunk in &chunks {
            audit.chunk(chunk);
        }
        for tile in audit.full() {
            audit.tile(&tile, &store.tile(tile.level, tile.n).await?);
        }
        progress(audit.tree.size().min(size), size);
    }
    let tiles = store.tile_count().await?;
    if tiles != audit.report.tiles {
        audit.report.find("tile", format!("{tiles} full tiles are there, but the records make {}", audit.report.tiles));
    }
    audit.state(&state);
    audit.money(&state, store.totals().await?, store.spend().await?);
    audit.corrections(store).await?;
    let triggers = store.triggers().await?;
    if triggers != TRIGGERS {
        audit.report.find("schema", format!("the triggers that keep evidence are {triggers:?}"));
    }
    if *audit.recount.overruns() != store.overruns().await?.into_iter().collect() {
        audit.report.find("overruns", "the stored bills above their holds are not those of the records".into());
    }
    if let Some(next) = audit.tail() {
        // Let go meanwhile, since the ledger has it by now; or missing.
        store.thaw().await?;
        let has = store.load().await.ok().and_then(|state| state.position).map_or(0, |at| at.cursor.sequence);
        if has < next {
            let what = format!("record {next} of the journal does not follow the ledger's last");
            audit.report.find("chain", what);
        }
    }
    audit.ends();
    Ok(audit.report)
}

pub(super) struct Audit<'a> {
    against: &'a Against<'a>,
    origin: String,
    /// What its records say where they are from.
    source: String,
    report: Report,
    tree: Tree,
    full: Vec<Tile>,
    cursor: Start,
    // A gap leaf stands before the record that it explains.
    explained: bool,
    // Records that came before are missing.
    partial: bool,
    checkpoints: VecDeque<(u64, String)>,
    kept: Kept,
    heads: VecDeque<SignedHead>,
    journal: Option<Tailer>,
    recount: Recount,
}

impl<'a> Audit<'a> {
    fn new(
        against: &'a Against<'a>,
        origin: String,
        mut report: Report,
        journal: Journal,
        checkpoints: Vec<(u64, String)>,
        mut heads: Vec<SignedHead>,
    ) -> Audit<'a> {
        report.checkpoints = checkpoints.len() as u64;
        report.heads = heads.len() as u64;
        let Journal { head, tailer: journal } = journal;
        heads.extend(head.filter(|head| heads.iter().all(|stored| stored != head)));
        heads.sort_by_key(|head| head.sequence);
        let kept = Kept::new(against.kept, &origin, &mut report);
        let mut audit = Audit {
            against,
            origin,
            source: source(against.host_id),
            report,
            tree: Tree::default(),
            full: Vec::new(),
            cursor: Start::default(),
            explained: false,
            partial: false,
            checkpoints: checkpoints.into(),
            kept,
            heads: VecDeque::new(),
            journal,
            recount: Recount::new(By::Day),
        };
        for head in heads {
            audit.head_signature(&head);
            audit.heads.push_back(head);
        }
        audit.due_checkpoints();
        audit
    }

    /// An audit of records that somebody else brings, and holds against hashes and checkpoint.
    pub(super) fn of_files(against: &'a Against<'a>, origin: String) -> Audit<'a> {
        Audit::new(against, origin, Report::default(), Journal { head: None, tailer: None }, Vec::new(), Vec::new())
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tiles that were filled since the last call.
    pub(super) fn full(&mut self) -> Vec<Tile> {
        std::mem::take(&mut self.full)
    }

    pub(super) fn take_corrections(&mut self) -> Vec<Corrected> {
        std::mem::take(&mut self.recount.corrections)
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    fn counts(&mut self, (checkpoints, heads): (u64, u64)) {
        let stored = (self.report.checkpoints, self.report.heads);
        if stored != (checkpoints, heads) {
            self.report.find(
                "count",
                format!(
                    "{checkpoints} checkpoints and {heads} heads were committed; {} and {} are there",
                    stored.0, stored.1
                ),
            );
        }
    }

    fn head_signature(&mut self, head: &SignedHead) {
        let name = note::host_key_name(self.against.host_id);
        let Some(key) = self.against.keys.iter().find(|key| key.name() == name) else {
            self.report.find("head_key", format!("no public key {name} was given, so no chain head can be checked"));
            return;
        };
        if !key.verify(&head::signed_bytes(self.against.host_id, head.sequence, &head.leaf), &head.signature) {
            self.report.find("head_signature", format!("the signature of the chain's head {} is wrong", head.sequence));
        }
    }

    fn chunk(&mut self, chunk: &Chunk) {
        let at = self.tree.size();
        let last = chunk.first.saturating_add(chunk.count.saturating_sub(1));
        if chunk.first != at || chunk.first / TILE_WIDTH as u64 != last / TILE_WIDTH as u64 {
            self.report
                .find("leaf_missing", format!("leaf {at} is not where it belongs; a row begins at {}", chunk.first));
        }
        let (mut records, mut bytes) = (Vec::with_capacity(TILE_WIDTH), 0);
        let (mut min, mut max) = (u64::MAX, 0);
        for record in chunk.records() {
            let ms = event_ms(record);
            (min, max) = (min.min(ms), max.max(ms));
            bytes += 2 + record.len();
            records.push(record);
        }
        self.leaves(&records);
        let count = records.len() as u64;
        if (count, bytes) != (chunk.count, chunk.data.len()) || (min, max) != (chunk.min_ms, chunk.max_ms) {
            self.report.find("leaf_row", format!("the row of leaf {} does not describe its records", chunk.first));
        }
    }

    /// Records that follow each other.
    pub(super) fn leaves(&mut self, records: &[&[u8]]) {
        let (first, hashes) = (self.tree.size(), leaf_hashes(records));
        for ((index, record), leaf) in (first..).zip(records).zip(&hashes) {
            self.chain(index, record, *leaf);
            // Behind a gap, and in a log that took another one's place, the intent may be what is missing.
            count(self.against.books, index, record, (&mut self.recount, self.partial), &mut self.report);
        }
        let mut rest = hashes.as_slice();
        while !rest.is_empty() {
            let signed = self.against.signed.map(|signed| signed.size);
            let due = [self.checkpoints.front().map(|(size, _)| *size), self.kept.next(), signed];
            let (now, later) = rest.split_at(self.tree.until(due.into_iter().flatten()).min(rest.len()));
            self.tree.append_all(now, &mut self.full);
            self.due_checkpoints();
            rest = later;
        }
        self.report.leaves = self.tree.size();
    }

    fn chain(&mut self, index: u64, record: &[u8], leaf: Hash) {
        let Some((sequence, prev)) = read_place(record) else {
            self.report.find("record", format!("leaf {index} is no record"));
            return;
        };
        if index == 0 && is_succession(record) {
            (self.explained, self.partial) = (true, true);
            return;
        }
        if is_anomaly(record) {
            self.report.anomalies += 1;
            (self.explained, self.partial) = (true, true);
            self.from(index, source_of(record).and_then(|source| source.strip_suffix("/ledger")));
            return;
        }
        self.from(index, source_of(record));
        let here = Start { sequence, prev };
        let explained = std::mem::take(&mut self.explained);
        if here != self.cursor && !(explained && sequence >= self.cursor.sequence) {
            self.report.find(
                "chain",
                format!(
                    "leaf {index} is record {sequence} of the host, but record {} should follow",
                    self.cursor.sequence
                ),
            );
        }
        self.link(sequence, leaf);
        let in_journal = self.journal.as_mut().and_then(|journal| journal.at(sequence));
        if in_journal.is_some_and(|entry| entry.bytes != record) {
            self.report.find("journal", format!("record {sequence} is another one in the journal than in the ledger"));
        }
    }

    /// A host's own ledger has no other's records.
    fn from(&mut self, index: u64, source: Option<&str>) {
        if source != Some(&self.source) {
            self.report.find("source", format!("leaf {index} is not of the host whose ledger this is"));
        }
    }

    /// Moves the chain past a record and checks the signed heads that name it.
    fn link(&mut self, sequence: u64, leaf: Hash) {
        self.cursor = Start { sequence: sequence.saturating_add(1), prev: leaf };
        while let Some(head) = self.heads.pop_front_if(|head| head.sequence <= sequence) {
            if (head.sequence, head.leaf) != (sequence, leaf) {
                self.report
                    .find("head", format!("the chain's signed head {} is not the record that is there", head.sequence));
            }
        }
    }

    fn due_checkpoints(&mut self) {
        if let Some(signed) = self.against.signed
            && signed.size == self.tree.size()
            && signed.root != self.tree.root()
        {
            self.report.find("signed", format!("the keeper signed another root at size {}", signed.size));
        }
        self.kept.reached(self.tree.size(), || self.tree.root(), &mut self.report);
        while let Some((size, note)) = self.checkpoints.pop_front_if(|(size, _)| *size <= self.tree.size()) {
            match Checkpoint::open(&note, self.against.keys) {
                Ok(opened) if (opened.size, opened.root) != (size, self.tree.root()) || size != self.tree.size() => {
                    self.report.find("checkpoint", format!("checkpoint {size} is not of these records"));
                }
                Ok(opened) if opened.origin != self.origin || !opened.is_signed_by_both() => {
                    self.report
                        .find("checkpoint", format!("checkpoint {size} is not signed by both keys of this ledger"));
                }
                Ok(_) => self.report.covered = size,
                Err(error) => self.report.find("checkpoint", format!("checkpoint {size}: {error}")),
            }
        }
    }

    fn tile(&mut self, made: &Tile, stored: &[Hash]) {
        self.report.tiles += 1;
        if stored != made.hashes {
            self.report.find("tile", format!("tile {}/{} is missing or not of these records", made.level, made.n));
        }
    }

    /// What was signed must have been reached.
    fn ends(&mut self) {
        self.kept.ends(self.tree.size(), &mut self.report);
        self.report.ends();
        for (size, _) in std::mem::take(&mut self.checkpoints) {
            self.report.find(
                "truncated",
                format!("checkpoint {size} covers more than the {} leaves there are", self.tree.size()),
            );
        }
        for head in std::mem::take(&mut self.heads) {
            self.report.find(
                "truncated",
                format!("the chain's head {} was signed, but that record is not there", head.sequence),
            );
        }
        if let Some(signed) = self.against.signed.filter(|signed| signed.size > self.tree.size()) {
            self.report
                .find("truncated", format!("{} leaves were signed, but {} are there", signed.size, self.tree.size()));
        }
    }
}
