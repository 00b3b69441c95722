//! Answers questions about records and spend for the command line and the control socket. Reads; never writes.
//! Who may see what is said by the caller through a [`Filter`]; an ordinary user's is their own uid and agents.

use super::Store as _;
use super::books::{Spend, SpendKey, Total};
use super::sequence::{FORK, GAP};
use super::sqlite::SqliteStore;
use super::state::StateDir;
use super::store::{Chunk, StoreError};
use crate::event::write::read_place;
use crate::event::{Detail, DetailKeys, Record, WindowKey};
use crate::journal::{ReadError, Reader};
use crate::money::NanoUsd;

/// Chunks looked through at once, and in all, for one question.
const CHUNKS_AT_ONCE: u32 = 16;
const MAX_CHUNKS: usize = 16_384;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only records of these agents.
    pub agents: Option<Vec<String>>,
    /// Only records whose sealed detail names this user. Without its key a record names nobody and is left out.
    pub uid: Option<u32>,
}

/// One record, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its index in the ledger, once it is there.
    pub index: Option<u64>,
    /// The record.
    pub record: Record,
    /// Its detail, when the key is readable.
    pub detail: Option<Detail>,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

impl Event {
    /// The host whose chain it is in, or is about.
    #[must_use]
    pub fn host(&self) -> &str {
        let source = self.record.source.strip_prefix("/caracal/").unwrap_or(&self.record.source);
        source.strip_suffix("/ledger").unwrap_or(source)
    }

    /// Whether this is a leaf that the ledger wrote about a host's broken chain.
    #[must_use]
    pub fn is_anomaly(&self) -> bool {
        [GAP, FORK].contains(&self.record.kind.as_str())
    }
}

impl Filter {
    /// Reads a record and opens its detail; `None` if it is not asked for or cannot be read.
    #[must_use]
    pub fn read(&self, index: Option<u64>, bytes: &[u8], keys: &DetailKeys) -> Option<Event> {
        let record = Record::parse(bytes).ok()?;
        if let Some(agents) = &self.agents
            && !record.data.agent.as_ref().is_some_and(|agent| agents.contains(agent))
        {
            return None;
        }
        let detail = keys.open_detail(&record);
        if let Some(uid) = self.uid
            && detail.as_ref().and_then(|detail| detail.uid) != Some(uid)
        {
            return None;
        }
        Some(Event { index, record, detail, bytes: bytes.to_vec() })
    }

    /// Whether a row of spend is asked for. Spend has no user: the caller names the user's agents.
    #[must_use]
    pub fn spends(&self, key: &SpendKey) -> bool {
        self.agents.as_ref().is_none_or(|agents| agents.contains(&key.agent))
    }
}

/// The last `limit` records that `filter` asks for, oldest first, and the sequence number of the record to come.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn events(state: &StateDir, filter: &Filter, limit: usize) -> Result<(Vec<Event>, u64), StoreError> {
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut found = Vec::new();
    let mut next = 0;
    let mut store = None;
    if state.ledger().is_file() {
        let mut opened = SqliteStore::read(&state.ledger()).await?;
        opened.freeze().await?;
        next = opened.load().await?.position.map_or(0, |position| position.cursor.sequence);
        store = Some(opened);
    }
    let mut reader = Reader::of_files(&state.journal(), next);
    // What the ledger does not have yet. A journal that cannot be read is `ledger verify`'s to report.
    while let Ok(entries) = reader.batch(1_024, 1 << 20)
        && !entries.is_empty()
    {
        found.extend(entries.iter().filter_map(|entry| filter.read(None, &entry.bytes, &keys)));
        found.drain(..found.len().saturating_sub(limit));
    }
    next = reader.next();
    if let Some(store) = &mut store {
        found.reverse();
        older(store, filter, limit, &keys, &mut found).await?;
        found.reverse();
    }
    Ok((found, next))
}

/// Adds records of the ledger to `found`, latest first, until there are `limit`.
async fn older(
    store: &mut SqliteStore,
    filter: &Filter,
    limit: usize,
    keys: &DetailKeys,
    found: &mut Vec<Event>,
) -> Result<(), StoreError> {
    let mut below = i64::MAX as u64;
    for _ in 0..MAX_CHUNKS / CHUNKS_AT_ONCE as usize {
        let chunks = store.chunks_before(below, CHUNKS_AT_ONCE).await?;
        let Some(oldest) = chunks.last() else { break };
        below = oldest.first;
        for chunk in &chunks {
            take_chunk(chunk, filter, limit, keys, found);
            if found.len() >= limit {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn take_chunk(chunk: &Chunk, filter: &Filter, limit: usize, keys: &DetailKeys, found: &mut Vec<Event>) {
    let records: Vec<(u64, &[u8])> = (chunk.first..).zip(chunk.records()).collect();
    for (index, record) in records.into_iter().rev() {
        if found.len() >= limit {
            break;
        }
        found.extend(filter.read(Some(index), record, keys));
    }
}

/// Hands the bytes of every record from `sequence` on to `each`, of the ledger and of `journal`, in no order; gives the
/// sequence number of the record to come.
///
/// # Errors
/// When one of the two cannot be read.
pub async fn records_from(
    state: &StateDir,
    mut journal: Reader,
    sequence: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<u64, StoreError> {
    let mut next = sequence;
    if state.ledger().is_file() {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        store.freeze().await?;
        next = next.max(store.load().await?.position.map_or(0, |position| position.cursor.sequence));
        let (mut below, mut more) = (i64::MAX as u64, next > sequence);
        while more {
            let chunks = store.chunks_before(below, CHUNKS_AT_ONCE).await?;
            more = false;
            for chunk in &chunks {
                let wanted = |record: &&[u8]| read_place(record).is_some_and(|(place, _)| place >= sequence);
                chunk.records().filter(wanted).for_each(&mut each);
                below = chunk.first;
                more = chunk.records().next().as_ref().is_some_and(wanted);
            }
        }
    }
    journal.seek(next);
    loop {
        let unreadable = |error: ReadError| StoreError::Damaged(error.to_string());
        let entries = journal.batch(1_024, 1 << 20).map_err(unreadable)?;
        if entries.is_empty() {
            return Ok(journal.next());
        }
        entries.iter().for_each(|entry| each(&entry.bytes));
    }
}

/// The rows of spend that `filter` asks for.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn spend(state: &StateDir, filter: &Filter) -> Result<Vec<(SpendKey, Spend)>, StoreError> {
    if !state.ledger().is_file() {
        return Ok(Vec::new());
    }
    let rows = SqliteStore::read(&state.ledger()).await?.spend().await?;
    Ok(rows.into_iter().filter(|(key, _)| filter.spends(key)).collect())
}

/// What was charged to each window of each budget, sorted.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn windows(state: &StateDir) -> Result<Vec<(WindowKey, Total)>, StoreError> {
    if !state.ledger().is_file() {
        return Ok(Vec::new());
    }
    let totals = SqliteStore::read(&state.ledger()).await?.totals().await?;
    let mut rows: Vec<(WindowKey, Total)> = totals.into_iter().collect();
    rows.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(rows)
}

/// What was charged to one budget window.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn budget_window(state: &StateDir, budget: &str, scope: &str, window: &str) -> Result<NanoUsd, StoreError> {
    let key = WindowKey { budget: budget.into(), scope: scope.into(), window: window.into() };
    Ok(SqliteStore::read(&state.ledger()).await?.total(&key).await?.net())
}
