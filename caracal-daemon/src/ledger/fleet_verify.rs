//! Audits a log of several hosts in PostgreSQL: every leaf, tile, checkpoint, chain, signature, charge and sum. Takes the log's public
//! keys and reads; gives findings. Trusts nothing that is stored but who was enrolled with which key.

mod heads;
mod hosts;
mod load;
mod sums;

use super::books::Corrected;
use super::chain::{Chain, Link, Place};
use super::fleet::{FleetState, FleetStore as _};
use super::kept::Kept;
use super::note::{Checkpoint, Verifier};
use super::postgres::{PostgresStore, chunk, failed};
use super::sequence::{FORK, GAP, RESTART, is_of, is_succession};
use super::store::{Chunk, State, Store as _, StoreError};
use super::tree::{Tile, Tree};
use super::verify::{Report, count};
use crate::bus::signed_run::source_of;
use crate::event::write::read_place;
use crate::event::{Hash, leaf_hashes};
use crate::keeper::ledger_key::Signed;
use crate::meter::PriceBook;
use heads::Run;
use hosts::Hosts;
use sqlx::Row as _;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const CHUNKS_AT_ONCE: i64 = 64;
/// How often a log that is shorter than what its worker signed is looked at, 100 ms apart.
const TRIES: usize = 20;

/// Every log of the database: its number and its origin.
///
/// # Errors
/// The database's.
pub async fn logs(database: &mut super::postgres::Database) -> Result<Vec<(i32, String)>, StoreError> {
    let rows = async {
        let connection = database.up().await?;
        let rows = sqlx::query("SELECT log, origin FROM logs ORDER BY log").fetch_all(connection).await?;
        rows.iter().map(|row| Ok((row.try_get("log")?, row.try_get("origin")?))).collect()
    };
    let rows: Result<_, sqlx::Error> = rows.await;
    rows.map_err(|error| failed(&error))
}

/// What to check against.
#[derive(Clone, Debug)]
pub struct Against<'a> {
    /// The log's public keys.
    pub keys: &'a [Verifier],
    /// The largest tree that the worker says it signed. To be read before the database is.
    pub signed: Option<Signed>,
    /// Checkpoints that whoever audits kept: the log must begin with each.
    pub kept: &'a [Checkpoint],
    /// Price books: outcomes that one of them priced are priced again.
    pub books: &'a [Arc<PriceBook>],
}

/// Audits the log of `store`. `progress` is told how many of how many leaves are read.
///
/// # Errors
/// When the database cannot be read at all; everything else is a finding.
pub async fn verify(
    store: &mut PostgresStore,
    against: &Against<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, StoreError> {
    run(store, against, progress).await.map_err(|error| failed(&error))
}

async fn run(
    store: &mut PostgresStore,
    against: &Against<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, sqlx::Error> {
    let fatal = |error: StoreError| sqlx::Error::Decode(error.into());
    let log = store.log();
    // One view, whatever is committed meanwhile. A worker signs a moment before it commits.
    let signed = against.signed.map_or(0, |signed| signed.size);
    let mut tries = 0;
    let state = loop {
        store.freeze().await.map_err(fatal)?;
        let state = store.load().await.map_err(fatal)?;
        tries += 1;
        if tries == TRIES || state.position.as_ref().map_or(0, |position| position.size) >= signed {
            break state;
        }
        let connection = store.database().up().await?;
        sqlx::query("COMMIT").execute(connection).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let fleet = store.fleet().await.map_err(fatal)?;
    let mut audit = Audit::load(store, against, log).await?;
    let origin = state.position.as_ref().map_or("", |position| &position.origin);
    audit.origin = origin.to_owned();
    audit.kept = Kept::new(against.kept, origin, &mut audit.report);
    audit.due();
    let size = state.position.as_ref().map_or(0, |position| position.size);
    let mut next = 0_i64;
    loop {
        let connection = store.database().up().await?;
        let rows = sqlx::query(
            "SELECT first, count, min_ms, max_ms, data FROM events WHERE log = $1 AND first >= $2 ORDER BY first LIMIT $3",
        );
        let rows = rows.bind(log).bind(next).bind(CHUNKS_AT_ONCE).fetch_all(connection).await?;
        let Some(last) = rows.last() else { break };
        next = last.try_get::<i64, _>("first")?.saturating_add(1);
        for row in &rows {
            audit.chunk(&chunk(row)?);
        }
        for tile in audit.full() {
            let stored = store.tile(tile.level, tile.n).await.map_err(fatal)?;
            audit.tile(&tile, &stored);
        }
        progress(audit.tree.size().min(size), size);
    }
    audit.money(store, log).await?;
    audit.corrections(store).await;
    audit.end(&state, &fleet, against.keys);
    let connection = store.database().up().await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(audit.report)
}

pub(super) struct Audit {
    origin: String,
    signed: Option<Signed>,
    books: Vec<Arc<PriceBook>>,
    report: Report,
    tree: Tree,
    full: Vec<Tile>,
    checkpoints: VecDeque<(u64, String)>,
    opened: Vec<Result<Checkpoint, String>>,
    /// What the hosts signed; `None` where nobody can say, as in static files.
    runs: Option<VecDeque<Run>>,
    /// Records behind the end of a run that its signed head names.
    named: HashSet<(String, u64)>,
    /// It took the place of another log, which has what came before.
    succeeds: bool,
    hosts: Hosts,
    /// With the host whose chain they are in.
    corrections: Vec<(String, Corrected)>,
    keys: HashMap<(String, i32), Verifier>,
    kept: Kept,
    counts: (u64, u64, u64),
    tiles: u64,
}

impl Audit {
    /// An audit of records that somebody else brings, and holds against hashes and checkpoint.
    pub(super) fn of_files(books: &[Arc<PriceBook>]) -> Audit {
        Audit {
            origin: String::new(),
            signed: None,
            books: books.to_vec(),
            report: Report::default(),
            tree: Tree::default(),
            full: Vec::new(),
            checkpoints: VecDeque::new(),
            opened: Vec::new(),
            runs: None,
            named: HashSet::new(),
            succeeds: false,
            hosts: Hosts::default(),
            corrections: Vec::new(),
            keys: HashMap::new(),
            kept: Kept::default(),
            counts: (0, 0, 0),
            tiles: 0,
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tiles that were filled since the last call.
    pub(super) fn full(&mut self) -> Vec<Tile> {
        std::mem::take(&mut self.full)
    }

    pub(super) fn take_corrections(&mut self) -> Vec<(String, Corrected)> {
        std::mem::take(&mut self.corrections)
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    fn chunk(&mut self, chunk: &Chunk) {
        let at = self.tree.size();
        if chunk.first != at {
            self.report
                .find("leaf_missing", format!("leaf {at} is not where it belongs; a row begins at {}", chunk.first));
        }
        let records: Vec<&[u8]> = chunk.records().collect();
        self.leaves(&records);
        if records.len() as u64 != chunk.count {
            self.report.find("leaf_row", format!("the row of leaf {} does not describe its records", chunk.first));
        }
    }

    /// Records that follow each other.
    pub(super) fn leaves(&mut self, records: &[&[u8]]) {
        let (first, hashes) = (self.tree.size(), leaf_hashes(records));
        for ((index, record), leaf) in (first..).zip(records).zip(&hashes) {
            self.leaf(index, record, *leaf);
        }
        let mut rest = hashes.as_slice();
        while !rest.is_empty() {
            let signed = self.signed.map(|signed| signed.size);
            let due = [self.checkpoints.front().map(|(size, _)| *size), self.kept.next(), signed];
            let (now, later) = rest.split_at(self.tree.until(due.into_iter().flatten()).min(rest.len()));
            self.tree.append_all(now, &mut self.full);
            self.due();
            rest = later;
        }
        self.report.leaves = self.tree.size();
    }

    fn leaf(&mut self, index: u64, record: &[u8], leaf: Hash) {
        match (read_place(record), source_of(record).and_then(|source| source.strip_prefix("/caracal/"))) {
            _ if index == 0 && is_succession(record) => self.succeeds = true,
            (Some((sequence, prev)), Some(source)) => match source.strip_suffix("/ledger") {
                Some(host) => self.anomaly(index, host, record),
                None => self.record(index, source, record, Link { sequence, prev, leaf }),
            },
            _ => self.report.find("record", format!("leaf {index} is no record")),
        }
    }

    fn anomaly(&mut self, index: u64, host: &str, record: &[u8]) {
        self.report.anomalies += 1;
        let is = |kind: &str| is_of(record, kind);
        let state = self.hosts.of(host);
        state.partial = true;
        if is(GAP) {
            state.explained = true;
        } else if is(FORK) {
            state.chain.forked = true;
            state.renews = true;
        } else if is(RESTART) {
            self.heads_of(host);
            let state = self.hosts.of(host);
            state.chain = Chain { began: index, ..Chain::default() };
            state.renews = true;
        } else {
            self.report.find("record", format!("leaf {index} is of no kind that a ledger writes"));
        }
    }

    fn record(&mut self, index: u64, host: &str, record: &[u8], link: Link) {
        let covered = self.runs.as_ref().and_then(VecDeque::front).is_some_and(|run| {
            run.host == host && run.leaf <= index && run.first.checked_add(index - run.leaf) == Some(link.sequence)
        });
        if !covered && self.runs.is_some() {
            self.report.find("unsigned", format!("leaf {index} of {host} is in nothing that the host signed"));
        }
        let state = self.hosts.of(host);
        let explained = std::mem::take(&mut state.explained);
        match state.chain.pass(link) {
            Place::Next | Place::Late => {}
            Place::Gap if explained => {}
            place => {
                self.report.find("chain", format!("leaf {index} does not go on with the chain of {host}: {place:?}"))
            }
        }
        if !self.named.is_empty() && self.named.contains(&(host.to_owned(), link.sequence)) {
            state.heads.seen.insert(link.sequence, link.leaf);
        }
        let partial = self.succeeds || state.partial;
        count(&self.books, index, record, (&mut state.recount, partial), &mut self.report);
        while let Some(correction) = state.recount.corrections.pop() {
            self.corrections.push((host.to_owned(), correction));
        }
        if covered
            && let Some(run) = self.runs.as_mut().and_then(|runs| runs.pop_front_if(|run| run.last == link.sequence))
        {
            self.signed(&run, &link);
        }
    }

    fn due(&mut self) {
        if let Some(signed) = self.signed.filter(|signed| signed.size == self.tree.size())
            && signed.root != self.tree.root()
        {
            self.report.find("signed", format!("the worker signed another root at size {}", signed.size));
        }
        self.kept.reached(self.tree.size(), || self.tree.root(), &mut self.report);
        while let Some((size, _)) = self.checkpoints.pop_front_if(|(size, _)| *size <= self.tree.size()) {
            match self.opened.pop() {
                Some(Ok(opened))
                    if (opened.size, opened.root) != (size, self.tree.root()) || size != self.tree.size() =>
                {
                    self.report.find("checkpoint", format!("checkpoint {size} is not of these records"));
                }
                Some(Ok(opened)) if opened.origin != self.origin || !opened.is_signed_by_both() => {
                    self.report.find("checkpoint", format!("checkpoint {size} is not signed by both keys of this log"));
                }
                Some(Ok(_)) => self.report.covered = size,
                Some(Err(error)) => self.report.find("checkpoint", format!("checkpoint {size}: {error}")),
                None => {}
            }
        }
    }

    fn tile(&mut self, made: &Tile, stored: &[Hash]) {
        self.tiles += 1;
        if stored != made.hashes {
            self.report.find("tile", format!("tile {}/{} is missing or not of these records", made.level, made.n));
        }
    }

    fn end(&mut self, state: &State, fleet: &FleetState, keys: &[Verifier]) {
        self.report.root = hex::encode(self.tree.root());
        self.report.tiles = self.tiles;
        let (size, root) = (self.tree.size(), self.tree.root());
        let position = state.position.as_ref();
        if position.map_or((0, super::tree::empty_root()), |at| (at.size, at.root)) != (size, root) {
            self.report.find("position", "the stored size or root is not that of the records".into());
        }
        let edges = state.edges.iter().filter(|edge| !edge.is_empty());
        if !edges.eq(self.tree.edges().iter().filter(|edge| !edge.is_empty())) {
            self.report.find("edge", "the stored open tiles are not those of the records".into());
        }
        let found = (self.report.checkpoints, self.report.heads, self.tiles);
        if found != self.counts {
            let what =
                format!("checkpoints, runs and tiles: {:?} are stored or counted, {found:?} were found", self.counts);
            self.report.find("count", what);
        }
        if position.is_some_and(|at| keys.iter().all(|key| key.name() != at.origin)) {
            self.report.find("key", "no public key of this log was given".into());
        }
        self.kept.ends(size, &mut self.report);
        self.report.ends();
        if let Some(signed) = self.signed.filter(|signed| signed.size > size) {
            self.report.find(
                "truncated",
                format!(
                    "{} leaves were signed, but {size} are there; a worker that was killed is to be started before",
                    signed.size
                ),
            );
        }
        for (size, _) in std::mem::take(&mut self.checkpoints) {
            self.report.find(
                "truncated",
                format!("checkpoint {size} covers more than the {} leaves there are", self.tree.size()),
            );
        }
        for run in self.runs.take().into_iter().flatten() {
            let what = format!("{} signed records up to {}, but leaf {} is not there", run.host, run.last, run.leaf);
            self.report.find("truncated", what);
        }
        let hosts: Vec<String> = self.hosts.iter().map(|(host, _)| host.clone()).collect();
        hosts.iter().for_each(|host| self.heads_of(host));
        let stands = |chain: &Chain| (chain.next, chain.prev, chain.began, chain.forked, chain.gaps.clone());
        for (host, made) in self.hosts.iter() {
            let stored = fleet.hosts.get(host);
            if stored.is_none_or(|stored| stands(&stored.chain) != stands(&made.chain)) {
                self.report
                    .find("chain_state", format!("the stored state of {host}'s chain is not that of its records"));
            }
            let open = made.recount.open().into_iter().map(|intent| (intent.call.clone(), intent));
            let open: HashMap<String, _> = open.collect();
            if stored.is_none_or(|stored| stored.open != open) {
                self.report
                    .find("open_intents", format!("the stored open calls of {host} are not those of its records"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
