//! Makes a host's ledger again from its records and holds it against the one that is there: the same records give the same root.
//! Takes the journal, or JSON lines as `ledger query --json` and `events --json` print them; gives how far both agree. Signs nothing.

pub mod kafka;

use super::sqlite::SqliteStore;
use super::store::{Store, StoreError};
use super::tree::empty_root;
use super::{BATCH_BYTES, BATCH_RECORDS, Ledger, LedgerError};
use crate::event::Hash;
use crate::event::write::MAX_RECORD_BYTES;
use crate::journal::Reader;
use std::io::{BufRead, Read as _};
use std::path::Path;

/// A line: a record in base64 would fit, and its opened detail.
const MAX_LINE_BYTES: u64 = 4 * MAX_RECORD_BYTES as u64;

/// Why a ledger could not be made again.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// One of the databases.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is read.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The journal has let its beginning go.
    #[error(
        "the journal begins at record {0}: what stood before is in the ledger only; rebuild from an export of it (`ledger query --json`)"
    )]
    Begins(u64),
    /// Kafka.
    #[error(transparent)]
    Bus(#[from] crate::bus::kafka::BusError),
    /// The partition does not have what the log was made of.
    #[error("partition {partition} of topic {topic}: {why}")]
    Partition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What is missing.
        why: String,
    },
    /// A leaf does not go on with the one before it.
    #[error("leaf {0} does not follow the one before it: the records are not in order, or some are missing")]
    Broken(u64),
}

/// How a ledger that was made again compares with the one that is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Comparison {
    /// Leaves made again.
    pub rebuilt: u64,
    /// Their root, hex.
    pub rebuilt_root: String,
    /// Leaves of the ledger that is there.
    pub stored: u64,
    /// The root of its first `rebuilt` leaves, or of all where it has fewer, hex.
    pub stored_root: String,
    /// The first leaf that differs, if one does, as far as both go.
    pub differs_at: Option<u64>,
}

impl Comparison {
    /// Whether one is the beginning of the other, and as long as it.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.differs_at.is_none() && self.rebuilt == self.stored && self.rebuilt_root == self.stored_root
    }
}

/// Makes the ledger again from JSON lines: each is a record, or has one in `record`. `progress` is told how many are read.
///
/// # Errors
/// When a line is no record, does not follow, or the new ledger cannot be written.
pub async fn from_lines(
    into: &mut Ledger<SqliteStore>,
    mut lines: impl BufRead,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RebuildError> {
    #[derive(serde::Deserialize)]
    struct Shown<'a> {
        #[serde(borrow)]
        record: &'a serde_json::value::RawValue,
    }
    let (mut number, mut leaves, mut bytes) = (0, Vec::new(), 0);
    loop {
        let mut line = String::new();
        let wrong = |line: u64, why: String| RebuildError::Line { line, why };
        let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut line);
        let read = read.map_err(|error| wrong(number + 1, error.to_string()))?;
        number += 1;
        let text = line.trim();
        if !text.is_empty() {
            let shown = serde_json::from_str::<Shown<'_>>(text).map(|shown| shown.record.get());
            let leaf = shown.unwrap_or(text).as_bytes().to_vec();
            if leaf.len() > MAX_RECORD_BYTES || crate::event::write::read_place(&leaf).is_none() {
                return Err(wrong(number, "it is no record as this ledger writes them".into()));
            }
            bytes += leaf.len();
            leaves.push(leaf);
        }
        if leaves.len() == BATCH_RECORDS || bytes >= BATCH_BYTES || read == 0 && !leaves.is_empty() {
            into.replay(&leaves).await?.map_err(RebuildError::Broken)?;
            leaves.clear();
            bytes = 0;
            progress(into.size());
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Makes the ledger again from the journal in `dir`, which must have it from its beginning.
///
/// # Errors
/// When it has not, or cannot be read.
pub async fn from_journal(
    into: &mut Ledger<SqliteStore>,
    dir: &Path,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RebuildError> {
    let mut reader = Reader::of_files(dir, 0);
    match reader.oldest().map_err(LedgerError::Read)? {
        None | Some(0) => {}
        Some(oldest) => return Err(RebuildError::Begins(oldest)),
    }
    loop {
        let entries = reader.batch(BATCH_RECORDS, BATCH_BYTES).map_err(LedgerError::Read)?;
        if entries.is_empty() {
            return Ok(());
        }
        into.ingest(&entries, None, None).await?;
        progress(into.size());
    }
}

/// Holds what was made again against the ledger that is there, in one view of it.
///
/// # Errors
/// When one of them cannot be read.
pub async fn compare(rebuilt: &mut Ledger<impl Store>, stored: &mut impl Store) -> Result<Comparison, RebuildError> {
    let position = stored.load().await?.position;
    let (size, stored_size) = (rebuilt.size(), position.as_ref().map_or(0, |at| at.size));
    let rebuilt_root = rebuilt.tree.root();
    let common = size.min(stored_size);
    let stored_root = root(stored, common).await?;
    let same = if common == size { rebuilt_root } else { root(rebuilt.store(), common).await? } == stored_root;
    let differs_at = if same { None } else { Some(first_difference(rebuilt.store(), stored, common).await?) };
    Ok(Comparison {
        rebuilt: size,
        rebuilt_root: hex::encode(rebuilt_root),
        stored: stored_size,
        stored_root: hex::encode(stored_root),
        differs_at,
    })
}

/// The root of the first `size` leaves.
pub(super) async fn root(store: &mut impl Store, size: u64) -> Result<Hash, StoreError> {
    if size == 0 {
        return Ok(empty_root());
    }
    let mut tiles = super::proof::Tiles::new();
    for (level, n) in super::proof::root_tiles(size) {
        tiles.insert((level, n), store.tile(level, n).await?);
    }
    super::proof::root(size, &tiles).ok_or_else(|| StoreError::Damaged("a tile is missing".into()))
}

/// The first of `size` leaves whose records are not the same.
async fn first_difference(one: &mut impl Store, other: &mut impl Store, size: u64) -> Result<u64, StoreError> {
    let mut index = 0;
    while index < size {
        let (Some(here), Some(there)) = (one.chunk(index).await?, other.chunk(index).await?) else { return Ok(index) };
        let skip = |first: u64| usize::try_from(index - first).unwrap_or(usize::MAX);
        let pairs = here.records().skip(skip(here.first)).zip(there.records().skip(skip(there.first)));
        let before = index;
        for (here, there) in pairs {
            if here != there {
                return Ok(index);
            }
            index += 1;
        }
        if index == before {
            return Ok(index);
        }
    }
    // The records are the same, and the hashes that are stored are not theirs.
    Ok(size)
}

#[cfg(test)]
mod tests;
