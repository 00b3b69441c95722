//! Serves logs over HTTP as their static files would be (c2sp.org/tlog-tiles), out of the database that has them. Takes a path;
//! gives what the last committed checkpoint covers, and nothing behind it: what is not signed yet is nobody's evidence.
//! Refuses every other path. Reads; never writes.

mod counters;
mod http;
mod logs;
#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use http::serve;
pub use logs::Logs;

use super::export::{bundle, bundle_path, tile_path};
use super::store::{Store, StoreError};
use super::tree::{TILE_HEIGHT, TILE_WIDTH};
use std::sync::atomic::{AtomicU64, Ordering};

/// Levels that a tree of 2^64 leaves has.
const LEVELS: u32 = 8;
/// The longest path that is looked at, bytes: the deepest one of the format is much shorter.
const MAX_PATH_BYTES: usize = 256;

/// A file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// The last checkpoint. It changes; everything else never does.
    Checkpoint,
    /// The first `width` hashes of a tile.
    Tile { level: u32, n: u64, width: usize },
    /// The first `width` records of a bundle.
    Bundle { n: u64, width: usize },
}

impl File {
    /// The file at `path`, which is relative to the log. Only the one spelling that the format has for each.
    pub(crate) fn parse(path: &str) -> Option<File> {
        if path == "checkpoint" {
            return Some(File::Checkpoint);
        }
        let (level, rest) = path.strip_prefix("tile/").filter(|_| path.len() <= MAX_PATH_BYTES)?.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (rest, TILE_WIDTH),
        };
        let n = number.split('/').try_fold(0_u64, |n, part| {
            let digits = part.strip_prefix('x').unwrap_or(part);
            n.checked_mul(1_000)?.checked_add(digits.parse::<u64>().ok().filter(|_| digits.len() == 3)?)
        })?;
        let file = match level {
            "entries" => File::Bundle { n, width },
            level => File::Tile { level: level.parse().ok().filter(|level| *level < LEVELS)?, n, width },
        };
        (file.path() == path).then_some(file)
    }

    pub(crate) fn path(self) -> String {
        match self {
            File::Checkpoint => "checkpoint".to_owned(),
            File::Tile { level, n, width } => tile_path(level, n, width),
            File::Bundle { n, width } => bundle_path(n, width),
        }
    }

    /// Whether the tree of `size` leaves has all of it.
    fn is_within(self, size: u64) -> bool {
        let (level, n, width) = match self {
            File::Checkpoint => return true,
            File::Tile { level, n, width } => (level, n, width),
            File::Bundle { n, width } => (0, n, width),
        };
        let end = n.checked_mul(TILE_WIDTH as u64).and_then(|first| first.checked_add(width as u64));
        end.is_some_and(|end| end <= size >> (TILE_HEIGHT * level))
    }

    /// Its bytes; `None` if the last checkpoint does not cover it. `known` is the size of a checkpoint that was seen before: a log
    /// only grows, so that what is within it needs no second look.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn read<S: Store>(self, store: &mut S, known: &AtomicU64) -> Result<Option<Vec<u8>>, StoreError> {
        if self == File::Checkpoint || !self.is_within(known.load(Ordering::Relaxed)) {
            let Some((size, note)) = store.checkpoint().await? else { return Ok(None) };
            known.fetch_max(size, Ordering::Relaxed);
            if self == File::Checkpoint {
                return Ok(Some(note.into_bytes()));
            }
            if !self.is_within(size) {
                return Ok(None);
            }
        }
        match self {
            File::Checkpoint => Ok(None),
            File::Bundle { n, width } => bundle(store, n, width).await.map(Some),
            File::Tile { level, n, width } => {
                let mut hashes = store.tile(level, n).await?;
                if hashes.len() < width {
                    // It was an open tile a moment ago, and became a full one between two looks.
                    hashes = store.tile(level, n).await?;
                }
                let hashes = hashes.get(..width);
                let missing = || StoreError::Damaged(format!("tile {level}/{n} is missing"));
                hashes.map(|hashes| Some(hashes.as_flattened().to_vec())).ok_or_else(missing)
            }
        }
    }
}
