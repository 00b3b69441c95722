//! Writes a ledger as static files that any reader of c2sp.org/tlog-tiles understands: `checkpoint`, `tile/L/N`,
//! `tile/entries/N`, with `.p/W` for the ones at the right edge. Full tiles that are there already are kept.

use super::store::{Store, StoreError};
use super::tree::{TILE_HEIGHT, TILE_WIDTH};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no checkpoint yet.
    #[error("the ledger has no checkpoint yet; try again in a second")]
    Empty,
    /// The directory.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: std::io::Error,
    },
}

/// Exports the tree under the last checkpoint of `store` to `dir`. `progress` is told how many of how many leaves are written.
/// The checkpoint is written last, so that whoever reads meanwhile finds what it covers. Gives the number of leaves.
///
/// # Errors
/// The ledger's or the directory's.
pub async fn export<S: Store>(
    store: &mut S,
    dir: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<u64, ExportError> {
    let (size, note) = store.load().await?.checkpoint.ok_or(ExportError::Empty)?;
    entries(store, dir, size, progress).await?;
    tiles(store, dir, size).await?;
    put(&dir.join("checkpoint"), note.as_bytes())?;
    Ok(size)
}

async fn entries<S: Store>(
    store: &mut S,
    dir: &Path,
    size: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<(), ExportError> {
    for n in 0..size.div_ceil(TILE_WIDTH as u64) {
        let bundle = bundle(store, n, width(size, n, 0)).await?;
        put(&dir.join(bundle_path(n, width(size, n, 0))), &bundle)?;
        progress(size.min((n + 1) * TILE_WIDTH as u64), size);
    }
    Ok(())
}

/// The first `count` records of bundle `n`.
///
/// # Errors
/// The store's, or that one is missing.
pub(super) async fn bundle<S: Store>(store: &mut S, n: u64, count: usize) -> Result<Vec<u8>, StoreError> {
    let mut bundle = Vec::new();
    let mut have = 0;
    while have < count {
        let next = n * TILE_WIDTH as u64 + have as u64;
        let chunk = store.chunk(next).await?.filter(|chunk| chunk.first == next);
        let chunk = chunk.ok_or_else(|| StoreError::Damaged(format!("leaf {next} is missing")))?;
        let before = have;
        for record in chunk.records().take(count - have) {
            bundle.extend_from_slice(&u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
            bundle.extend_from_slice(record);
            have += 1;
        }
        if have == before {
            return Err(StoreError::Damaged(format!("leaf {next} is missing")));
        }
    }
    Ok(bundle)
}

async fn tiles<S: Store>(store: &mut S, dir: &Path, size: u64) -> Result<(), ExportError> {
    let mut level = 0;
    while size >> (TILE_HEIGHT * level) > 0 {
        let hashes = size >> (TILE_HEIGHT * level);
        for n in 0..hashes.div_ceil(TILE_WIDTH as u64) {
            let width = width(size, n, level);
            // A tile that was open at the checkpoint may be longer by now; it begins with what it was.
            let stored = store.tile(level, n).await?;
            let tile =
                stored.get(..width).ok_or_else(|| StoreError::Damaged(format!("tile {level}/{n} is missing")))?;
            put(&dir.join(tile_path(level, n, width)), tile.as_flattened())?;
        }
        level += 1;
    }
    Ok(())
}

/// How many hashes tile `n` of a level has in the tree of `size` leaves.
pub(super) fn width(size: u64, n: u64, level: u32) -> usize {
    let hashes = (size >> (TILE_HEIGHT * level)) - n * TILE_WIDTH as u64;
    usize::try_from(hashes).unwrap_or(usize::MAX).min(TILE_WIDTH)
}

/// The path of a tile of hashes: `tile/0/x001/x234/067`, and `.p/W` behind it when it is not full.
pub(super) fn tile_path(level: u32, n: u64, width: usize) -> String {
    path(&level.to_string(), n, width)
}

/// The path of a bundle of records.
pub(super) fn bundle_path(n: u64, width: usize) -> String {
    path("entries", n, width)
}

fn path(level: &str, n: u64, width: usize) -> String {
    let mut number = format!("{:03}", n % 1_000);
    let mut rest = n / 1_000;
    while rest > 0 {
        number = format!("x{:03}/{number}", rest % 1_000);
        rest /= 1_000;
    }
    let partial = if width < TILE_WIDTH { format!(".p/{width}") } else { String::new() };
    format!("tile/{level}/{number}{partial}")
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let write = || {
        if std::fs::metadata(path).is_ok_and(|meta| meta.len() == bytes.len() as u64) && std::fs::read(path)? == bytes {
            return Ok(());
        }
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let draft = path.with_extension("new");
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|error| ExportError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_those_of_the_format() {
        assert_eq!(super::path("0", 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(super::path("entries", 0, 112), "tile/entries/000.p/112");
        assert_eq!(super::path("1", 1_000, 255), "tile/1/x001/000.p/255");
    }
}
