//! Takes durable records of the journal; gives them in order, in batches, to the ledger and to spend.
//! On one host the journal is the bus, and this is a cursor over it. With `[kafka]` they also go to the bus that many
//! hosts share (`publish.rs`), in runs that the host signed (`signed_run.rs`). Never gives a record that is not durable,
//! and never one twice to the same cursor. Next: `ledger`, `spend`.

pub mod checkpoints;
pub mod dead_letters;
pub mod kafka;
pub mod publish;
mod published;
pub mod signed_run;

use crate::journal::{Entry, Journal, ReadError, Reader};
use std::time::Duration;

/// A consumer's place in the records of this host.
#[derive(Debug)]
pub struct Feed {
    journal: Journal,
    reader: Reader,
}

impl Feed {
    /// The records of `journal` from `sequence` on.
    #[must_use]
    pub fn new(journal: &Journal, sequence: u64) -> Feed {
        Feed { journal: journal.clone(), reader: journal.reader(sequence) }
    }

    /// The next records: at most `records`, and about `bytes` in all; empty if there are none yet. Goes on at the
    /// oldest record that is left if the next one is gone; the sequence numbers show it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn batch(&mut self, records: usize, bytes: usize) -> Result<Vec<Entry>, ReadError> {
        match self.reader.batch(records, bytes) {
            Err(ReadError::Gone(_)) => {
                if let Some(oldest) = self.reader.oldest()? {
                    self.reader.seek(oldest);
                }
                self.reader.batch(records, bytes)
            }
            other => other,
        }
    }

    /// Waits for the next record; false if none came `within`.
    pub fn wait(&mut self, within: Duration) -> bool {
        self.reader.wait(within)
    }

    /// Goes to `sequence`, to be given again what was not committed; nothing to do if that is where it stands.
    pub fn seek_if_moved(&mut self, sequence: u64) {
        if self.reader.next() != sequence {
            self.reader.seek(sequence);
        }
    }

    /// Everything below `sequence` is committed and may be deleted.
    pub fn release(&self, sequence: u64) {
        self.journal.release(sequence);
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}
