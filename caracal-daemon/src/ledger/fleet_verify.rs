//! Audits a log of several hosts in PostgreSQL: every leaf, tile, checkpoint, chain, signature and sum. Takes the log's public
//! keys and reads; gives findings. Trusts nothing that is stored but who was enrolled with which key.

mod sums;

use super::books::{Changes, Corrected, OpenIntent, Spend, SpendKey, Total};
use super::chain::{Chain, Place};
use super::fleet::{FleetState, FleetStore as _};
use super::kept::Kept;
use super::note::{Checkpoint, Verifier};
use super::postgres::{PostgresStore, chunk, failed, number};
use super::sequence::{FORK, GAP, RESTART, is_succession};
use super::store::{Chunk, State, Store as _, StoreError};
use super::tree::{Tile, Tree};
use super::verify::Report;
use crate::bus::signed_run::source_of;
use crate::event::write::{PLACE_BYTES, read_place};
use crate::event::{Hash, WindowKey, leaf_hash};
use crate::journal::{Entry, head};
use sqlx::Row as _;
use std::collections::{BTreeMap, HashMap, VecDeque};

const CHUNKS_AT_ONCE: i64 = 64;

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

/// Audits the log of `store`, whose checkpoints are signed by `keys`, and which begins with each of `kept`. `progress` is told how many of how many leaves are read.
///
/// # Errors
/// When the database cannot be read at all; everything else is a finding.
pub async fn verify(
    store: &mut PostgresStore,
    keys: &[Verifier],
    kept: &[Checkpoint],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, StoreError> {
    run(store, keys, kept, progress).await.map_err(|error| failed(&error))
}

async fn run(
    store: &mut PostgresStore,
    keys: &[Verifier],
    kept: &[Checkpoint],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, sqlx::Error> {
    let fatal = |error: StoreError| sqlx::Error::Decode(error.into());
    let log = store.log();
    // One view, whatever is committed meanwhile.
    store.freeze().await.map_err(fatal)?;
    let state = store.load().await.map_err(fatal)?;
    let fleet = store.fleet().await.map_err(fatal)?;
    let mut audit = Audit::load(store, keys, log).await?;
    let origin = state.position.as_ref().map_or("", |position| &position.origin);
    audit.kept = Kept::new(kept, origin, &mut audit.report);
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
    audit.end(&state, &fleet, keys);
    let connection = store.database().up().await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(audit.report)
}

/// A row of `runs`.
struct Run {
    leaf: u64,
    host: String,
    enrolment: i32,
    first: u64,
    last: u64,
    head_sequence: u64,
    head: Vec<u8>,
    signature: Vec<u8>,
}

/// What was made again for one host.
#[derive(Default)]
struct Host {
    chain: Chain,
    explained: bool,
    open: HashMap<String, OpenIntent>,
    totals: BTreeMap<WindowKey, Total>,
    minutes: BTreeMap<SpendKey, Spend>,
}

pub(super) struct Audit {
    report: Report,
    tree: Tree,
    full: Vec<Tile>,
    checkpoints: VecDeque<(u64, String)>,
    opened: Vec<Result<Checkpoint, String>>,
    /// What the hosts signed; `None` where nobody can say, as in static files.
    runs: Option<VecDeque<Run>>,
    hosts: BTreeMap<String, Host>,
    /// With the host whose chain they are in.
    corrections: Vec<(String, Corrected)>,
    keys: HashMap<(String, i32), Verifier>,
    kept: Kept,
    counts: (u64, u64, u64),
    tiles: u64,
}

impl Audit {
    /// An audit of records that somebody else brings, and holds against hashes and checkpoint.
    pub(super) fn of_files() -> Audit {
        Audit {
            report: Report::default(),
            tree: Tree::default(),
            full: Vec::new(),
            checkpoints: VecDeque::new(),
            opened: Vec::new(),
            runs: None,
            hosts: BTreeMap::new(),
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

    async fn load(store: &mut PostgresStore, keys: &[Verifier], log: i32) -> Result<Audit, sqlx::Error> {
        let connection = store.database().up().await?;
        let rows = sqlx::query("SELECT host, enrolment, verifier FROM hosts").fetch_all(&mut *connection).await?;
        let mut enrolled = HashMap::new();
        let mut report = Report::default();
        for row in rows {
            let (host, enrolment): (String, i32) = (row.try_get("host")?, row.try_get("enrolment")?);
            match Verifier::parse(row.try_get("verifier")?) {
                Ok(key) => drop(enrolled.insert((host, enrolment), key)),
                Err(error) => report.find("host_key", format!("the key of {host}: {error}")),
            }
        }
        let rows = sqlx::query("SELECT size, note FROM checkpoints WHERE log = $1 ORDER BY size").bind(log);
        let mut checkpoints = VecDeque::new();
        for row in rows.fetch_all(&mut *connection).await? {
            checkpoints.push_back((number(&row, "size")?, row.try_get::<String, _>("note")?));
        }
        let opened =
            checkpoints.iter().map(|(_, note)| Checkpoint::open(note, keys).map_err(|error| error.to_string()));
        let opened = opened.collect();
        let rows = sqlx::query(
            "SELECT leaf, host, enrolment, first, last, head_sequence, head, signature FROM runs WHERE log = $1 ORDER BY leaf",
        );
        let mut runs = VecDeque::new();
        for row in rows.bind(log).fetch_all(&mut *connection).await? {
            runs.push_back(Run {
                leaf: number(&row, "leaf")?,
                host: row.try_get("host")?,
                enrolment: row.try_get("enrolment")?,
                first: number(&row, "first")?,
                last: number(&row, "last")?,
                head_sequence: number(&row, "head_sequence")?,
                head: row.try_get("head")?,
                signature: row.try_get("signature")?,
            });
        }
        let row = sqlx::query(
            "SELECT checkpoints, runs, (SELECT count(*) FROM tiles WHERE tiles.log = logs.log) AS tiles FROM logs WHERE log = $1",
        );
        let row = row.bind(log).fetch_optional(connection).await?;
        let counts = match &row {
            Some(row) => (number(row, "checkpoints")?, number(row, "runs")?, number(row, "tiles")?),
            None => (0, 0, 0),
        };
        report.checkpoints = checkpoints.len() as u64;
        report.heads = runs.len() as u64;
        let mut audit = Audit {
            report,
            tree: Tree::default(),
            full: Vec::new(),
            checkpoints,
            opened,
            runs: Some(runs),
            hosts: BTreeMap::new(),
            corrections: Vec::new(),
            keys: enrolled,
            kept: Kept::default(),
            counts,
            tiles: 0,
        };
        audit.opened.reverse();
        Ok(audit)
    }

    fn chunk(&mut self, chunk: &Chunk) {
        let at = self.tree.size();
        if chunk.first != at {
            self.report
                .find("leaf_missing", format!("leaf {at} is not where it belongs; a row begins at {}", chunk.first));
        }
        let mut count = 0;
        for record in chunk.records() {
            count += 1;
            self.leaf(record);
        }
        if count != chunk.count {
            self.report.find("leaf_row", format!("the row of leaf {} does not describe its records", chunk.first));
        }
    }

    pub(super) fn leaf(&mut self, record: &[u8]) {
        let (index, leaf) = (self.tree.size(), leaf_hash(record));
        match (read_place(record), source_of(record).and_then(|source| source.strip_prefix("/caracal/"))) {
            _ if index == 0 && is_succession(record) => {}
            (Some((sequence, prev)), Some(source)) => match source.strip_suffix("/ledger") {
                Some(host) => self.anomaly(index, host, record),
                None => self.record(index, source, &Entry { sequence, prev, leaf, bytes: record.to_vec() }),
            },
            _ => self.report.find("record", format!("leaf {index} is no record")),
        }
        self.tree.append(leaf, &mut self.full);
        self.report.leaves = self.tree.size();
        self.due();
    }

    fn anomaly(&mut self, index: u64, host: &str, record: &[u8]) {
        self.report.anomalies += 1;
        let kind = record.get(PLACE_BYTES..).unwrap_or_default();
        let is = |name: &str| kind.starts_with(format!(r#""type":"{name}""#).as_bytes());
        let state = self.hosts.entry(host.to_owned()).or_default();
        if is(GAP) {
            state.explained = true;
        } else if is(FORK) {
            state.chain.forked = true;
        } else if is(RESTART) {
            state.chain = Chain { began: index, ..Chain::default() };
        } else {
            self.report.find("record", format!("leaf {index} is of no kind that a ledger writes"));
        }
    }

    fn record(&mut self, index: u64, host: &str, entry: &Entry) {
        let covered = self.runs.as_ref().and_then(VecDeque::front).is_some_and(|run| {
            run.host == host && run.leaf <= index && run.first.checked_add(index - run.leaf) == Some(entry.sequence)
        });
        if !covered && self.runs.is_some() {
            self.report.find("unsigned", format!("leaf {index} of {host} is in nothing that the host signed"));
        }
        let state = self.hosts.entry(host.to_owned()).or_default();
        let explained = std::mem::take(&mut state.explained);
        match state.chain.pass(entry) {
            Place::Next | Place::Late => {}
            Place::Gap if explained => {}
            place => {
                self.report.find("chain", format!("leaf {index} does not go on with the chain of {host}: {place:?}"))
            }
        }
        let mut changes = Changes { minutes: Some(BTreeMap::new()), ..Changes::default() };
        changes.post(index, &entry.bytes, &state.open);
        changes.closed.iter().for_each(|call| drop(state.open.remove(call)));
        self.corrections.extend(changes.corrections.into_iter().map(|correction| (host.to_owned(), correction)));
        state.open.extend(changes.opened.into_iter().map(|(call, (_, intent))| (call, intent)));
        for (key, total) in changes.totals {
            state.totals.entry(key).or_default().add(total);
        }
        for (key, spend) in changes.minutes.unwrap_or_default() {
            state.minutes.entry(key).or_default().add(&spend);
        }
        if covered
            && let Some(run) = self.runs.as_mut().and_then(|runs| runs.pop_front_if(|run| run.last == entry.sequence))
        {
            self.signed(&run, entry);
        }
    }

    /// A run has ended: the head was signed by its host, and is the last record where the message ended there.
    fn signed(&mut self, run: &Run, last: &Entry) {
        if let Some(state) = self.hosts.get_mut(&run.host) {
            state.chain.forked = false;
        }
        let leaf: Option<Hash> = run.head.as_slice().try_into().ok();
        let good = match (leaf, self.keys.get(&(run.host.clone(), run.enrolment))) {
            (Some(leaf), Some(key)) => {
                key.verify(&head::signed_bytes(&run.host, run.head_sequence, &leaf), &run.signature)
                    && (run.head_sequence != run.last || leaf == last.leaf)
            }
            _ => false,
        };
        if !good {
            self.report.find(
                "head_signature",
                format!(
                    "the head {} of {}'s chain is not signed by its key, or is not its record",
                    run.head_sequence, run.host
                ),
            );
        }
    }

    fn due(&mut self) {
        self.kept.reached(self.tree.size(), || self.tree.root(), &mut self.report);
        while let Some((size, _)) = self.checkpoints.pop_front_if(|(size, _)| *size <= self.tree.size()) {
            match self.opened.pop() {
                Some(Ok(opened))
                    if (opened.size, opened.root) != (size, self.tree.root()) || size != self.tree.size() =>
                {
                    self.report.find("checkpoint", format!("checkpoint {size} is not of these records"));
                }
                Some(Ok(opened)) if !opened.is_signed_by_both() => {
                    self.report.find("checkpoint", format!("checkpoint {size} is not signed by both keys of this log"));
                }
                Some(Ok(_)) => {}
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
        let open = |chain: &Chain| (chain.next, chain.prev, chain.began, chain.forked, chain.gaps.clone());
        for (host, made) in &self.hosts {
            let stored = fleet.hosts.get(host);
            if stored.is_none_or(|stored| open(&stored.chain) != open(&made.chain)) {
                self.report
                    .find("chain_state", format!("the stored state of {host}'s chain is not that of its records"));
            }
            if stored.is_none_or(|stored| stored.open != made.open) {
                self.report
                    .find("open_intents", format!("the stored open calls of {host} are not those of its records"));
            }
        }
    }
}
