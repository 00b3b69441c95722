//! A log that takes the place of a frozen one. Takes the final statement of the old log; gives the first leaf of the new one, which
//! names the old log's origin, size and root and carries the statement; and, on one host, the new ledger with all that the old one has.

use super::keyring::Frozen;
use super::rebuild::{RebuildError, root};
use super::sequence::SUCCESSION;
use super::sqlite::SqliteStore;
use super::store::StoreError;
use super::{BATCH_RECORDS, Ledger};
use crate::clock::UnixNanos;
use crate::event::write;
use crate::keeper::ledger_key::Signed;
use std::io::Write as _;
use std::path::Path;

/// Rows read at once: some thousand records.
const CHUNKS_AT_ONCE: u32 = 16;

/// The first leaf of the log `name`, which takes the place of the one that `note` closes.
#[must_use]
pub fn first_leaf(name: &str, frozen: &Frozen, note: &str, at: UnixNanos) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_536);
    write::place(1, 0, &[0; 32], &mut out);
    let id = uuid::Builder::from_unix_timestamp_millis(at.0 / 1_000_000, &rand::random()).into_uuid();
    let _ = write!(out, r#""type":"{SUCCESSION}","id":"{id}","source":"#);
    write::string(&mut out, &format!("{}/ledger", write::source(name)), 512);
    out.extend_from_slice(br#","time":""#);
    write::time(&mut out, at.0);
    out.extend_from_slice(br#"","datacontenttype":"application/json","data":{"caracal.predecessor.origin":"#);
    write::string(&mut out, &frozen.origin, 512);
    let root = hex::encode(frozen.root);
    let _ = write!(out, r#","caracal.predecessor.size":{},"caracal.predecessor.root":"{root}","#, frozen.size);
    out.extend_from_slice(br#""caracal.predecessor.statement":"#);
    write::string(&mut out, note, 8_192);
    out.extend_from_slice(b"}}");
    out
}

/// Whether `store` has, in its first leaves, exactly the tree that was signed last.
///
/// # Errors
/// The store's, or that the tree is another one.
pub async fn must_be(store: &mut SqliteStore, signed: Signed) -> Result<(), StoreError> {
    let found = root(store, signed.size).await?;
    if found == signed.root {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("its first {} leaves are not those that were signed", signed.size)))
}

/// Makes the ledger `origin` of the host at `into`: `first`, and then every leaf of `old`. Gives its size.
///
/// # Errors
/// When one cannot be read or the other not be written.
pub async fn replay(
    old: &mut SqliteStore,
    into: &Path,
    (host_id, origin): (&str, &str),
    first: Vec<u8>,
) -> Result<u64, RebuildError> {
    old.freeze().await?;
    let store = SqliteStore::open(into).await?;
    let mut made = Ledger::open_as(store, host_id, origin.to_owned()).await?;
    let mut leaves = vec![first];
    let mut next = 0;
    loop {
        let chunks = old.chunks_from(next, CHUNKS_AT_ONCE).await?;
        let Some(last) = chunks.last() else { break };
        next = last.first.saturating_add(1);
        leaves.extend(chunks.iter().flat_map(|chunk| chunk.records().map(<[u8]>::to_vec)));
        if leaves.len() >= BATCH_RECORDS {
            made.replay(&std::mem::take(&mut leaves)).await?.map_err(RebuildError::Broken)?;
        }
    }
    made.replay(&leaves).await?.map_err(RebuildError::Broken)?;
    old.thaw().await?;
    let size = made.size();
    made.into_store().close().await?;
    Ok(size)
}

#[cfg(test)]
mod tests;
