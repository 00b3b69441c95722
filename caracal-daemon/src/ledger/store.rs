//! Where a ledger is kept. A store commits a batch whole or not at all.

use super::books::{Changes, OpenIntent, Total};
use super::tree::Tile;
use crate::event::{Hash, WindowKey};
use crate::journal::{SignedHead, Start};
use std::collections::HashMap;
use std::future::Future;

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("ledger {path}: {why}")]
    Database {
        /// Where.
        path: String,
        /// What.
        why: String,
    },
    /// What is stored contradicts itself.
    #[error("the ledger is damaged: {0}; run `caracald ledger verify`")]
    Damaged(String),
    /// Somebody else wrote meanwhile.
    #[error("another process writes this ledger; stop it first")]
    Conflict,
}

/// Where a ledger stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log's name.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The place in the host's journal of the record to come.
    pub cursor: Start,
}

/// What a store holds, as much as is needed to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `None` for an empty store.
    pub position: Option<Position>,
    /// The open tiles, lowest level first.
    pub edges: Vec<Vec<Hash>>,
    /// Intents without an outcome.
    pub open: Vec<OpenIntent>,
    /// The largest checkpoint: its size and its note.
    pub checkpoint: Option<(u64, String)>,
    /// The sequence number of the last signed head of the host's chain.
    pub head: Option<u64>,
}

/// Up to 256 records that stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Earliest time of a record, Unix milliseconds.
    pub min_ms: u64,
    /// Latest time of a record, Unix milliseconds.
    pub max_ms: u64,
    /// Each record's length in two bytes, big-endian, and its bytes.
    pub data: Vec<u8>,
}

impl Chunk {
    /// Its records.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records(&self.data)
    }
}

/// Reads the records of a chunk or an entry bundle. Ends early where the bytes do.
#[derive(Clone, Debug)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (record, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        Some(record)
    }
}

/// What is committed at once.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The size that the store must have before.
    pub before: u64,
    /// The position after.
    pub position: Position,
    /// New records.
    pub chunks: Vec<Chunk>,
    /// New full tiles.
    pub tiles: Vec<Tile>,
    /// The open tiles after.
    pub edges: Vec<Vec<Hash>>,
    /// A new checkpoint: its size and its note.
    pub checkpoint: Option<(u64, String)>,
    /// A new signed head of the host's chain.
    pub head: Option<SignedHead>,
    /// What the records say of money.
    pub changes: Changes,
    /// What a log of several hosts has besides.
    pub fleet: Option<super::fleet::Part>,
}

/// Keeps a ledger. One writer.
pub trait Store: Send {
    /// What is stored.
    fn load(&mut self) -> impl Future<Output = Result<State, StoreError>> + Send;

    /// Commits a batch. After an error nobody knows whether it was: load again.
    fn commit(&mut self, batch: &Batch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Holds one view of the ledger from now on, whatever is committed meanwhile.
    fn freeze(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The largest checkpoint: its size and its note.
    fn checkpoint(&mut self) -> impl Future<Output = Result<Option<(u64, String)>, StoreError>> + Send;

    /// At most `limit` chunks from `first` on that may hold a record of a time in `span`, Unix milliseconds, both included.
    fn chunks_within(
        &mut self,
        first: u64,
        span: (u64, u64),
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Chunk>, StoreError>> + Send;

    /// The chunk that holds leaf `index`.
    fn chunk(&mut self, index: u64) -> impl Future<Output = Result<Option<Chunk>, StoreError>> + Send;

    /// The hashes of a tile, as many as there are; empty if there are none.
    fn tile(&mut self, level: u32, n: u64) -> impl Future<Output = Result<Vec<Hash>, StoreError>> + Send;

    /// No more is committed: leaves what is kept in its tidiest form. Nothing depends on it.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Every total of a budget window.
    fn totals(&mut self) -> impl Future<Output = Result<HashMap<WindowKey, Total>, StoreError>> + Send;
}

/// Splits hashes that stand together.
///
/// # Errors
/// When there is a part of one.
pub fn split_hashes(bytes: &[u8]) -> Result<Vec<Hash>, StoreError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { Ok(hashes.to_vec()) } else { Err(StoreError::Damaged("a tile holds a part of a hash".into())) }
}
