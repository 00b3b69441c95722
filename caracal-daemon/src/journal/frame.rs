//! One record on disk: magic, length, how much was durable when it was written, a check, and the record's bytes.

use crate::event::{Hash, MAX_RECORD_BYTES, leaf_hash};
use sha2::{Digest as _, Sha256};

/// Bytes of a frame before the record.
pub(crate) const FRAME_BYTES: usize = 24;
/// The longest frame, bytes.
pub(crate) const MAX_FRAME_BYTES: usize = FRAME_BYTES + MAX_RECORD_BYTES;
const MAGIC: [u8; 4] = *b"CRJ\x01";

/// A frame, read.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// Every record below this sequence number was durable when this one was written.
    pub(crate) synced: u64,
    /// The record's leaf hash.
    pub(crate) leaf: Hash,
    /// The record.
    pub(crate) record: &'a [u8],
}

impl Frame<'_> {
    /// Bytes on disk.
    pub(crate) fn len(&self) -> usize {
        FRAME_BYTES + self.record.len()
    }
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    /// A good frame.
    Frame(Frame<'a>),
    /// No frame, or not all of one.
    Bad,
}

/// Starts a frame in `out`; [`finish`] completes it once the record's bytes are behind it. Gives where it starts.
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    start
}

/// Completes the frame that starts at `start` and ends with `out`; gives the record's leaf hash.
pub(crate) fn finish(out: &mut [u8], start: usize, synced: u64) -> Hash {
    let Some((head, record)) = out.get_mut(start..).and_then(|frame| frame.split_at_mut_checked(FRAME_BYTES)) else {
        return [0; 32];
    };
    let leaf = leaf_hash(record);
    // A record is at most MAX_RECORD_BYTES long, so its length fits.
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&MAGIC);
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..16].copy_from_slice(&synced.to_le_bytes());
    head[16..24].copy_from_slice(&check(length, synced, &leaf));
    leaf
}

/// Reads the frame at the start of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_BYTES>() else { return Parsed::Bad };
    let (magic, length, synced, checked) = split(head);
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if magic != MAGIC || size > MAX_RECORD_BYTES {
        return Parsed::Bad;
    }
    let Some(record) = rest.get(..size) else {
        return Parsed::Bad;
    };
    let leaf = leaf_hash(record);
    if checked != check(length, synced, &leaf) {
        return Parsed::Bad;
    }
    Parsed::Frame(Frame { synced, leaf, record })
}

/// Where the next magic is, at or behind `from`.
pub(crate) fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|at| from + at)
}

fn split(head: &[u8; FRAME_BYTES]) -> ([u8; 4], u32, u64, [u8; 8]) {
    let [m0, m1, m2, m3, l0, l1, l2, l3, s0, s1, s2, s3, s4, s5, s6, s7, check @ ..] = *head;
    let synced = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    ([m0, m1, m2, m3], u32::from_le_bytes([l0, l1, l2, l3]), synced, check)
}

fn check(length: u32, synced: u64, leaf: &Hash) -> [u8; 8] {
    let mut hasher = Sha256::new();
    hasher.update(b"frame");
    hasher.update(length.to_le_bytes());
    hasher.update(synced.to_le_bytes());
    hasher.update(leaf);
    let digest: Hash = hasher.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}
