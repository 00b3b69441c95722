//! Takes entries of a host's journal; gives the batch that puts them into the ledger. Pure.
//!
//! Duplicates are dropped, since the chain says that they are; a gap, a fork or a broken chain becomes a leaf of its
//! own, made from nothing but what was seen, so that a rebuild gives the same root.

use super::books::{Changes, OpenIntent};
use super::store::{Batch, Chunk, Position};
use super::tree::{TILE_WIDTH, Tile, Tree};
use crate::event::{Hash, leaf_hash, write};
use crate::journal::{Entry, Start};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::Write as _;

/// The `type` of a leaf that says that records are missing.
pub const GAP: &str = "caracal.gap.v1";
/// The `type` of a leaf that says that a host told two histories.
pub const FORK: &str = "caracal.fork.v1";
/// The `type` of a leaf that says that a host began a new chain, after it was enrolled anew.
pub const RESTART: &str = "caracal.restart.v1";

/// The `type` of the first leaf of a log that takes the place of a frozen one.
pub const SUCCESSION: &str = "caracal.succession.v1";

/// Whose chain the next entries are of, in a log of several hosts.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// The host's CloudEvents source.
    pub(crate) source: &'a str,
    /// Where its chain stands.
    pub(crate) cursor: Start,
    /// Its intents that were open before the batch.
    pub(crate) open: &'a HashMap<String, OpenIntent>,
    /// What its records said of money so far.
    pub(crate) changes: Changes,
}

/// Builds a batch.
#[derive(Debug)]
pub struct Sequencer<'a> {
    source: &'a str,
    before: u64,
    tree: Tree,
    cursor: Start,
    open: &'a HashMap<String, OpenIntent>,
    chunks: Vec<Chunk>,
    tiles: Vec<Tile>,
    changes: Changes,
    watched: Option<(u64, Option<Hash>)>,
    // A leaf of the ledger's own stands before the record that it explains.
    explained: bool,
}

/// What an entry is, next to what the ledger has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The next one.
    Next,
    /// Its sequence number is one that the ledger has passed.
    Passed,
    /// Some are missing before it.
    Gap,
    /// The next one by number, but it follows another record.
    Broken,
}

impl<'a> Sequencer<'a> {
    /// Goes on from `tree` and `cursor`. `source` is the host's CloudEvents source.
    #[must_use]
    pub fn new(source: &'a str, tree: Tree, cursor: Start, open: &'a HashMap<String, OpenIntent>) -> Sequencer<'a> {
        let before = tree.size();
        Sequencer {
            source,
            before,
            tree,
            cursor,
            open,
            chunks: Vec::new(),
            tiles: Vec::new(),
            changes: Changes::default(),
            watched: None,
            explained: false,
        }
    }

    /// Remembers the root that the tree has at `size`, if it passes it.
    #[must_use]
    pub fn watch(mut self, size: Option<u64>) -> Sequencer<'a> {
        self.watched = size.map(|size| (size, None));
        self
    }

    /// Goes on with another host's chain; gives back where the one before stands.
    pub(crate) fn turn(&mut self, next: Turn<'a>) -> Turn<'a> {
        Turn {
            source: std::mem::replace(&mut self.source, next.source),
            cursor: std::mem::replace(&mut self.cursor, next.cursor),
            open: std::mem::replace(&mut self.open, next.open),
            changes: std::mem::replace(&mut self.changes, next.changes),
        }
    }

    /// Moves the cursor: the next entry is placed by whoever calls.
    pub(crate) fn stand(&mut self, cursor: Start) {
        self.cursor = cursor;
    }

    /// The index of the leaf to come.
    pub(crate) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// What `entry` is.
    #[must_use]
    pub fn place(&self, entry: &Entry) -> Place {
        match entry.sequence.cmp(&self.cursor.sequence) {
            std::cmp::Ordering::Less => Place::Passed,
            std::cmp::Ordering::Greater => Place::Gap,
            std::cmp::Ordering::Equal if entry.prev == self.cursor.prev => Place::Next,
            std::cmp::Ordering::Equal => Place::Broken,
        }
    }

    /// Appends `entry`, and before it what is wrong with its place, if something is.
    pub fn accept(&mut self, entry: &Entry) {
        match self.place(entry) {
            Place::Next | Place::Passed => {}
            Place::Gap => self.anomaly(GAP, entry),
            Place::Broken => self.anomaly(FORK, entry),
        }
        let leaf = self.tree.size();
        self.changes.post(leaf, &entry.bytes, self.open);
        self.append(&entry.bytes, entry.leaf);
        self.cursor = Start { sequence: entry.sequence + 1, prev: entry.leaf };
    }

    /// Appends a leaf as another copy of this ledger has it. What a ledger writes itself is taken as it stands, and explains the
    /// place of the record behind it. False if it is no record, or does not follow the one before.
    pub(crate) fn again(&mut self, record: &[u8]) -> bool {
        let Some((sequence, prev)) = write::read_place(record) else { return false };
        let leaf = leaf_hash(record);
        if is_anomaly(record) || is_succession(record) {
            self.explained = true;
            self.append(record, leaf);
            return true;
        }
        let explained = std::mem::take(&mut self.explained);
        if explained && sequence >= self.cursor.sequence {
            self.cursor = Start { sequence, prev };
        }
        let entry = Entry { sequence, prev, leaf, bytes: record.to_vec() };
        let follows = self.place(&entry) == Place::Next;
        if follows {
            self.accept(&entry);
        }
        follows
    }

    /// Appends a leaf that says that `entry` is another record than the one that the ledger has in its place.
    pub fn fork(&mut self, entry: &Entry) {
        self.anomaly(FORK, entry);
    }

    /// Ends the batch; the last value is the root at the watched size.
    #[must_use]
    pub fn finish(self, origin: &str) -> (Tree, Batch, Option<Hash>) {
        let position =
            Position { origin: origin.to_owned(), size: self.tree.size(), root: self.tree.root(), cursor: self.cursor };
        let batch = Batch {
            before: self.before,
            position,
            chunks: self.chunks,
            tiles: self.tiles,
            edges: self.tree.edges().to_vec(),
            checkpoint: None,
            head: None,
            changes: self.changes,
            fleet: None,
        };
        (self.tree, batch, self.watched.and_then(|(_, root)| root))
    }

    fn append(&mut self, record: &[u8], leaf: Hash) {
        let index = self.tree.size();
        let ms = event_ms(record);
        let new = index.is_multiple_of(TILE_WIDTH as u64) || self.chunks.is_empty();
        if new {
            self.chunks.push(Chunk { first: index, count: 0, min_ms: ms, max_ms: ms, data: Vec::new() });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.count += 1;
            chunk.min_ms = chunk.min_ms.min(ms);
            chunk.max_ms = chunk.max_ms.max(ms);
            // The journal takes no record that is longer.
            chunk.data.extend_from_slice(&u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
            chunk.data.extend_from_slice(record);
        }
        self.tree.append(leaf, &mut self.tiles);
        if let Some((size, root)) = &mut self.watched
            && *size == self.tree.size()
        {
            *root = Some(self.tree.root());
        }
    }

    /// Appends a leaf of this kind about `entry`.
    pub(crate) fn anomaly(&mut self, kind: &str, entry: &Entry) {
        tracing::error!(
            kind,
            source = self.source,
            expected = self.cursor.sequence,
            seen = entry.sequence,
            "the host's chain does not go on"
        );
        let record = anomaly_record(self.source, kind, self.cursor, entry);
        let leaf = leaf_hash(&record);
        self.append(&record, leaf);
    }
}

/// The record of what is wrong with `entry`. Its place is that of the record that was expected.
fn anomaly_record(source: &str, kind: &str, expected: Start, entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(640);
    // Its fields are those of the first version, and a rebuild by any later one must give the same bytes.
    write::place(1, expected.sequence, &expected.prev, &mut out);
    let ms = event_ms(&entry.bytes);
    let mut seed = Sha256::new();
    seed.update(kind);
    seed.update(expected.sequence.to_le_bytes());
    seed.update(expected.prev);
    seed.update(entry.leaf);
    let digest: Hash = seed.finalize().into();
    let mut random = [0u8; 10];
    random.copy_from_slice(&digest[..10]);
    let id = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid();
    let _ = write!(out, r#""type":"{kind}","id":"{id}","source":"#);
    write::string(&mut out, &format!("{source}/ledger"), 512);
    out.extend_from_slice(br#","time":""#);
    write::time(&mut out, ms.saturating_mul(1_000_000));
    let _ = write!(
        out,
        r#"","datacontenttype":"application/json","data":{{"caracal.expected.sequence":{},"caracal.expected.prev":"{}","caracal.seen.sequence":{},"caracal.seen.prev":"{}","caracal.seen.leaf":"{}"}}}}"#,
        expected.sequence,
        hex::encode(expected.prev),
        entry.sequence,
        hex::encode(entry.prev),
        hex::encode(entry.leaf),
    );
    out
}

/// Whether this is a leaf that a ledger wrote about a host's broken chain.
#[must_use]
pub fn is_anomaly(record: &[u8]) -> bool {
    [GAP, FORK].into_iter().any(|anomaly| is_of(record, anomaly))
}

/// Whether this is the first leaf of a log that takes the place of a frozen one.
#[must_use]
pub fn is_succession(record: &[u8]) -> bool {
    is_of(record, SUCCESSION)
}

/// Whether the record is of this `type`.
pub(super) fn is_of(record: &[u8], kind: &str) -> bool {
    let rest = record.get(write::PLACE_BYTES..).and_then(|rest| rest.strip_prefix(br#""type":""#));
    rest.and_then(|rest| rest.strip_prefix(kind.as_bytes())).is_some_and(|rest| rest.starts_with(b"\""))
}

/// The time in a record's id, Unix milliseconds; 0 if there is none.
#[must_use]
pub fn event_ms(record: &[u8]) -> u64 {
    write::event_id(record).and_then(ms_of_id).unwrap_or(0)
}

/// The time in a UUIDv7, Unix milliseconds.
#[must_use]
pub fn ms_of_id(id: &str) -> Option<u64> {
    let (high, low) = (id.get(..8)?, id.get(9..13)?);
    Some((u64::from_str_radix(high, 16).ok()? << 16) | u64::from_str_radix(low, 16).ok()?)
}
