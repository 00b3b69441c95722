//! The journal beside the ledger under audit: what only it has, and what both have. It moves while it is read.

use super::{Against, Audit, Report};
use crate::journal::{self, Entry, ReadError, Reader, SignedHead, head};
use std::collections::VecDeque;
use std::path::Path;

/// What was found of the journal before the ledger was looked at.
pub(super) struct Journal {
    pub(super) head: Option<SignedHead>,
    pub(super) tailer: Option<Tailer>,
}

impl Journal {
    pub(super) fn open(against: &Against<'_>, report: &mut Report) -> Journal {
        let Some(dir) = against.journal else { return Journal { head: None, tailer: None } };
        let head = head::load(dir).unwrap_or_else(|error| {
            report.find("journal_head", error.to_string());
            None
        });
        Journal { head, tailer: Tailer::open(dir) }
    }
}

/// Reads the journal beside the ledger.
pub(super) struct Tailer {
    reader: Reader,
    waiting: VecDeque<Entry>,
}

impl Tailer {
    pub(super) fn open(dir: &Path) -> Option<Tailer> {
        let mut reader = Reader::of_files(dir, 0);
        // A daemon deletes segments that its ledger has: these stay readable.
        reader.pin().ok()?;
        let oldest = reader.oldest().ok().flatten()?;
        reader.seek(oldest);
        Some(Tailer { reader, waiting: VecDeque::new() })
    }

    /// The record with this sequence number, if the journal still has it.
    pub(super) fn at(&mut self, sequence: u64) -> Option<Entry> {
        self.from(sequence).filter(|entry| entry.sequence == sequence)
    }

    /// The first record at or above this sequence number. Records below it are passed over for good; one above it
    /// that was only looked at is kept.
    pub(super) fn from(&mut self, sequence: u64) -> Option<Entry> {
        loop {
            if self.waiting.is_empty() {
                self.fill()?;
            }
            while self.waiting.pop_front_if(|entry| entry.sequence < sequence).is_some() {}
            match self.waiting.front() {
                Some(entry) if entry.sequence == sequence => return self.waiting.pop_front(),
                Some(entry) => return Some(entry.clone()),
                None => {}
            }
        }
    }

    fn fill(&mut self) -> Option<()> {
        let batch = match self.reader.batch(1_024, 1 << 20) {
            // Deleted meanwhile, since the ledger has it.
            Err(ReadError::Gone(_)) => {
                let next = self.reader.next_segment().ok().flatten()?;
                self.reader.seek(next);
                self.reader.batch(1_024, 1 << 20).ok()?
            }
            other => other.ok()?,
        };
        self.waiting.extend(batch);
        (!self.waiting.is_empty()).then_some(())
    }
}

impl Audit<'_> {
    /// Goes on into what only the journal has. Gives the sequence number of a record that is there while the one before
    /// it is not.
    pub(super) fn tail(&mut self) -> Option<u64> {
        let dir = self.against.journal?;
        match journal::check(dir, self.cursor) {
            Ok(found) => self.report.torn_bytes = found.torn_bytes,
            Err(error) => self.report.find("journal", error.to_string()),
        }
        while let Some(entry) = self.journal.as_mut().and_then(|journal| journal.from(self.cursor.sequence)) {
            if entry.sequence != self.cursor.sequence {
                return Some(entry.sequence);
            }
            if entry.prev != self.cursor.prev {
                self.report.find(
                    "chain",
                    format!("record {} of the journal does not follow the ledger's last", entry.sequence),
                );
                break;
            }
            self.report.journal_records += 1;
            self.link(entry.sequence, entry.leaf);
            self.tree.append(entry.leaf, &mut self.full);
            self.due_checkpoints();
        }
        None
    }
}
