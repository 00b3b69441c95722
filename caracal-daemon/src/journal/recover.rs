//! What a journal finds when it opens: the longest good prefix. A torn tail is cut; anything else that is wrong
//! refuses to start, since a record that was durable would be missing.

use super::frame::{self, Parsed};
use super::segment::{self, HEADER_BYTES, Segment};
use super::{JournalError, Start, head};
use crate::event::write::read_place;
use std::io::ErrorKind;
use std::path::Path;

/// What an opened journal held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Sequence number of the next record.
    pub next_sequence: u64,
    /// Bytes of a torn tail that were cut. They were never acknowledged as durable.
    pub torn_bytes: u64,
    /// Records that a killed process had taken and not written: they are written now, and not in `next_sequence`.
    pub kept: u64,
}

/// A journal as found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) segments: Vec<Segment>,
    /// The place behind the last good record.
    pub(crate) next: Start,
    /// Where that is in the last segment, bytes.
    pub(crate) position: u64,
    /// The end of what is to be cut behind it, bytes.
    pub(crate) torn_end: u64,
}

/// Reads every segment in `dir`.
pub(crate) fn scan(dir: &Path, empty: Start) -> Result<Scan, JournalError> {
    let unavailable = |error: std::io::Error| JournalError::Unavailable(format!("{}: {error}", dir.display()));
    // Before the segments: beside a writer that goes on, the head read last would name a record written since.
    let head = head::load(dir)?;
    let segments = segment::list(dir).map_err(unavailable)?;
    let mut scan = Scan { segments: Vec::new(), next: empty, position: 0, torn_end: 0 };
    let (mut first, last) = (0, segments.len().saturating_sub(1));
    for (index, segment) in segments.iter().enumerate() {
        let bytes = match std::fs::read(&segment.path) {
            Ok(bytes) => bytes,
            // Beside a daemon that goes on: deleted since it was listed, as are all before it, since the ledger has them.
            Err(error) if error.kind() == ErrorKind::NotFound && index < last => {
                first = index + 1;
                continue;
            }
            Err(error) => return Err(unavailable(error)),
        };
        let start = segment::read_header(&bytes, segment)?;
        if index > first && start != scan.next {
            return Err(damaged(segment, scan.next.sequence, "does not go on where the one before it ends"));
        }
        scan.next = start;
        read_segment(&mut scan, segment, &bytes, index == last)?;
    }
    scan.segments = segments;
    check_end(dir, &scan, empty, head)?;
    Ok(scan)
}

fn read_segment(scan: &mut Scan, segment: &Segment, bytes: &[u8], last: bool) -> Result<(), JournalError> {
    let mut position = HEADER_BYTES as usize;
    while let Some(rest) = bytes.get(position..)
        && let Parsed::Frame(frame) = frame::parse(rest)
        && read_place(frame.record) == Some((scan.next.sequence, scan.next.prev))
    {
        scan.next = Start { sequence: scan.next.sequence + 1, prev: frame.leaf };
        position += frame.len();
    }
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1).max(position);
    if end > position {
        let bad = scan.next.sequence;
        if !last {
            return Err(damaged(segment, bad, "is not readable"));
        }
        if durable_behind(bytes, position) > bad {
            return Err(damaged(segment, bad, "is not readable, and was durable"));
        }
    }
    scan.position = position as u64;
    scan.torn_end = end as u64;
    Ok(())
}

/// The most that any good frame behind `position` says was durable when it was written.
fn durable_behind(bytes: &[u8], position: usize) -> u64 {
    let mut from = position;
    let mut durable = 0;
    while let Some(at) = frame::find_magic(bytes, from) {
        from = at + 1;
        if let Some(rest) = bytes.get(at..)
            && let Parsed::Frame(frame) = frame::parse(rest)
        {
            durable = durable.max(frame.synced);
            from = at + frame.len();
        }
    }
    durable
}

/// The end must not lie before what was signed or what the ledger has.
fn check_end(dir: &Path, scan: &Scan, ledger: Start, head: Option<head::SignedHead>) -> Result<(), JournalError> {
    let missing = |what: &str, have: u64| {
        JournalError::Corrupt(format!(
            "{} ends before record {}, but {what} record {have}; records are missing. Restore the directory, or move \
             it aside and run `caracald ledger verify` to see up to where the ledger is complete",
            dir.display(),
            scan.next.sequence,
        ))
    };
    if ledger.sequence > scan.next.sequence {
        return Err(missing("the ledger holds", ledger.sequence - 1));
    }
    if ledger.sequence == scan.next.sequence && ledger.prev != scan.next.prev {
        return Err(JournalError::Corrupt(format!(
            "the last record in {} is not the one that the ledger holds; run `caracald ledger verify`",
            dir.display()
        )));
    }
    match head {
        Some(head) if head.sequence >= scan.next.sequence => Err(missing("its signed head names", head.sequence)),
        Some(head) if head.sequence + 1 == scan.next.sequence && head.leaf != scan.next.prev => {
            Err(JournalError::Corrupt(format!(
                "record {} in {} is not the one that was signed; run `caracald ledger verify`",
                head.sequence,
                dir.display()
            )))
        }
        _ => Ok(()),
    }
}

fn damaged(segment: &Segment, sequence: u64, what: &str) -> JournalError {
    JournalError::Corrupt(format!(
        "record {sequence} in {} {what}; restore the file from a backup, or move the journal's directory aside and run \
         `caracald ledger verify` to see up to where the ledger is complete",
        segment.path.display()
    ))
}
