//! One file of the journal: a header that says where its records begin, then frames, then zeros.
//!
//! A segment is made in full before its first record, with written zeros, so that a later `fdatasync` has no
//! metadata to wait for. Its name is the sequence number of its first record.

use super::{JournalError, Start};
use crate::event::Hash;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes before the first frame.
pub(crate) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"CARACAL\x01";
const SUFFIX: &str = "seg";
const SPARE: &str = "spare";
const SPARE_DRAFT: &str = "spare.new";

/// A segment's place and file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    /// Sequence number of its first record.
    pub(crate) first: u64,
    /// Its file.
    pub(crate) path: PathBuf,
}

/// Every segment in `dir`, oldest first.
pub(crate) fn list(dir: &Path) -> std::io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != SUFFIX) {
            continue;
        }
        let first = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(first) = first {
            found.push(Segment { first, path });
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the next segment's file ahead of its use: allocated, zeroed, synced.
pub(crate) fn prepare_spare(dir: &Path, bytes: u64) -> std::io::Result<()> {
    let spare = dir.join(SPARE);
    if std::fs::metadata(&spare).is_ok_and(|meta| meta.len() == bytes) {
        return Ok(());
    }
    let draft = dir.join(SPARE_DRAFT);
    let made = fill(&draft, bytes).and_then(|()| std::fs::rename(&draft, &spare));
    if made.is_err() {
        // Give the room back: a half-made spare on a full disk helps nobody.
        let _ = std::fs::remove_file(&draft);
    }
    made
}

fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let length = i64::try_from(bytes).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
    match nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, length) {
        // Some file systems cannot; the zeros below do it there, only slower.
        Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
        Err(errno) => return Err(errno.into()),
    }
    let zeros = vec![0u8; 1 << 18];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all(zeros.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    file.sync_all()
}

/// Makes the segment that begins at `start`, from the spare if there is one. It is durable when this returns.
pub(crate) fn create(dir: &Path, start: Start, bytes: u64) -> std::io::Result<(Segment, File)> {
    prepare_spare(dir, bytes)?;
    let spare = dir.join(SPARE);
    let file = OpenOptions::new().read(true).write(true).open(&spare)?;
    file.write_all_at(&header(start), 0)?;
    file.sync_all()?;
    let path = dir.join(format!("{:020}.{SUFFIX}", start.sequence));
    std::fs::rename(&spare, &path)?;
    File::open(dir)?.sync_all()?;
    Ok((Segment { first: start.sequence, path }, file))
}

/// Reads a segment's header.
pub(crate) fn read_header(bytes: &[u8], segment: &Segment) -> Result<Start, JournalError> {
    let header: Option<&[u8; HEADER_BYTES as usize]> = bytes.first_chunk();
    header.and_then(parse_header).filter(|start| start.sequence == segment.first).ok_or_else(|| {
        JournalError::Corrupt(format!(
            "{} has no valid header; restore it from a backup, or move the journal's directory aside and run \
             `caracald ledger verify` to see up to where the ledger is complete",
            segment.path.display()
        ))
    })
}

/// The header of the segment that begins at `start`.
pub(crate) fn header(start: Start) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&start.sequence.to_le_bytes());
    bytes[16..48].copy_from_slice(&start.prev);
    let digest: Hash = Sha256::digest(&bytes[..48]).into();
    bytes[48..].copy_from_slice(&digest[..16]);
    bytes
}

fn parse_header(bytes: &[u8; HEADER_BYTES as usize]) -> Option<Start> {
    let sequence = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    let start = Start { sequence, prev: bytes[16..48].try_into().ok()? };
    (header(start) == *bytes).then_some(start)
}
