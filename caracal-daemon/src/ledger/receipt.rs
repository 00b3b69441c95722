//! A receipt: what shows that a record is in a ledger, to anybody who has the ledger's public key and nothing else.
//!
//! The form is `c2sp.org/tlog-proof@v1`; its `extra` line carries the record's exact bytes. Takes an id or an index;
//! gives text. Checking takes text and keys and reads nothing else.

use super::note::{Checkpoint, NoteError, Verifier};
use super::proof::{self, Tiles};
use super::sequence;
use super::store::{Store, StoreError};
use crate::event::{Hash, leaf_hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// A path has at most as many hashes as an index has bits.
const MAX_PROOF: usize = 64;
const MAX_RECEIPT_BYTES: usize = 1 << 20;
/// Chunks that are read at once when an id is looked for.
const CHUNKS: u32 = 64;

/// Why there is no receipt, or why one is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such record.
    #[error(
        "the ledger has no record {0}; `caracald events`, or `ledger query --fleet`, lists ids, and a new record is there within a second"
    )]
    NotFound(String),
    /// The record is newer than the last checkpoint.
    #[error("record {0} is not under a checkpoint yet; try again in a second")]
    NotSigned(u64),
    /// The text is no receipt.
    #[error("not a receipt: {0}")]
    Malformed(&'static str),
    /// The checkpoint is not accepted.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The path does not lead from the record to the signed root.
    #[error("the receipt does not hold: its record is not in the tree that was signed")]
    NotIncluded,
}

/// A receipt that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The record's index in the ledger.
    pub index: u64,
    /// The record's exact bytes.
    pub record: Vec<u8>,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
}

/// Writes the receipt of the record that `wanted` names by its id or its index.
///
/// # Errors
/// When there is no such record, or no checkpoint covers it yet.
pub async fn prove<S: Store>(store: &mut S, wanted: &str) -> Result<String, ReceiptError> {
    store.freeze().await?;
    let (index, record) = find(store, wanted).await?;
    let (size, note) =
        store.load().await?.checkpoint.filter(|(size, _)| index < *size).ok_or(ReceiptError::NotSigned(index))?;
    let mut tiles = Tiles::new();
    for (level, n) in proof::inclusion_tiles(index, size) {
        tiles.insert((level, n), store.tile(level, n).await?);
    }
    let path = proof::inclusion(index, size, &tiles).ok_or_else(|| StoreError::Damaged("a tile is missing".into()))?;
    Ok(write(index, &record, &path, &note))
}

async fn find<S: Store>(store: &mut S, wanted: &str) -> Result<(u64, Vec<u8>), ReceiptError> {
    let missing = || ReceiptError::NotFound(wanted.to_owned());
    if let Ok(index) = wanted.parse::<u64>() {
        let chunk = store.chunk(index).await?.ok_or_else(missing)?;
        let at = usize::try_from(index - chunk.first).unwrap_or(usize::MAX);
        let record = chunk.records().nth(at).ok_or_else(missing)?;
        return Ok((index, record.to_vec()));
    }
    let ms = sequence::ms_of_id(wanted).ok_or_else(missing)?;
    let mut first = 0;
    loop {
        let chunks = store.chunks_within(first, (ms, ms), CHUNKS).await?;
        let mut records = chunks.iter().flat_map(|chunk| (chunk.first..).zip(chunk.records()));
        let found = records.find(|(_, record)| crate::event::write::event_id(record) == Some(wanted));
        if let Some((index, record)) = found {
            return Ok((index, record.to_vec()));
        }
        first = chunks.last().ok_or_else(missing)?.first.saturating_add(1);
    }
}

fn write(index: u64, record: &[u8], path: &[Hash], note: &str) -> String {
    let mut text = format!("{MAGIC}\nextra {}\nindex {index}\n", STANDARD.encode(record));
    for hash in path {
        text.push_str(&STANDARD.encode(hash));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(note);
    text
}

/// Checks a receipt with public keys alone.
///
/// # Errors
/// When it is malformed, its checkpoint is not signed by a trusted key, or its record is not in the tree.
pub fn check(receipt: &str, trusted: &[Verifier]) -> Result<Proven, ReceiptError> {
    if receipt.len() > MAX_RECEIPT_BYTES {
        return Err(ReceiptError::Malformed("it is too long"));
    }
    let (proof, note) = receipt.split_once("\n\n").ok_or(ReceiptError::Malformed("it has no checkpoint"))?;
    let mut lines = proof.split('\n');
    if lines.next() != Some(MAGIC) {
        return Err(ReceiptError::Malformed("its first line is not c2sp.org/tlog-proof@v1"));
    }
    let record = lines.next().and_then(|line| STANDARD.decode(line.strip_prefix("extra ")?).ok());
    let record = record.ok_or(ReceiptError::Malformed("it carries no record"))?;
    let index = lines.next().and_then(|line| {
        let digits = line.strip_prefix("index ")?;
        digits.parse::<u64>().ok().filter(|index| index.to_string() == digits)
    });
    let index = index.ok_or(ReceiptError::Malformed("it has no index"))?;
    let path: Option<Vec<Hash>> = lines
        .take(MAX_PROOF + 1)
        .map(|line| STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok()))
        .collect();
    let path = path.filter(|path| path.len() <= MAX_PROOF).ok_or(ReceiptError::Malformed("its path is not hashes"))?;
    let checkpoint = Checkpoint::open(note, trusted)?;
    checkpoint.must_have_lines_of(trusted)?;
    if !proof::check_inclusion(&leaf_hash(&record), index, checkpoint.size, &path, &checkpoint.root) {
        return Err(ReceiptError::NotIncluded);
    }
    Ok(Proven { index, record, checkpoint })
}
