//! What the writer does to its segments: takes what waits, gives it places, writes, syncs, answers, and goes on in the next
//! segment. A failure takes back what was not durable, tells those who wait, and keeps the rest to be written again.

use super::{LAST, MAX_UNSYNCED_BYTES, Writer, set_priority};
use crate::clock::monotonic_ns;
use crate::journal::frame::{self, FRAME_BYTES};
use crate::journal::kept::Slot;
use crate::journal::segment::{self, HEADER_BYTES};
use crate::journal::{JournalError, Receipt, Start};
use std::collections::VecDeque;
use std::os::unix::fs::FileExt as _;

impl Writer {
    /// Writes all that waits.
    pub(super) fn advance(&mut self) -> std::io::Result<()> {
        while let Some(pending) = self.waiting.front() {
            let size = (FRAME_BYTES + pending.sealed.record_len()) as u64;
            if self.position + self.buffer.len() as u64 + size > self.options.segment_bytes {
                self.write()?;
                self.sync()?;
                self.roll()?;
            }
            let Some(mut pending) = self.waiting.pop_front() else { break };
            let start = frame::begin(&mut self.buffer);
            pending.sequence = self.next.sequence;
            pending.sealed.place(self.next.sequence, &self.next.prev, &mut self.buffer);
            let leaf = frame::finish(&mut self.buffer, start, self.durable.sequence);
            self.next = Start { sequence: self.next.sequence + 1, prev: leaf };
            self.unsynced.push(pending);
        }
        self.write()
    }

    fn write(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let size = self.buffer.len();
        let end = self.position + size as u64;
        if end < self.high {
            // A rewrite that is shorter than what failed: nothing stale may stand behind it.
            self.buffer.resize(size + usize::try_from(self.high - end).unwrap_or(0), 0);
        }
        self.file.write_all_at(&self.buffer, self.position)?;
        self.high = self.high.max(end);
        self.position = end;
        self.unsynced_bytes += size;
        self.buffer.clear();
        // A killed process leaves what is written: nothing needs to be kept for it any more.
        self.unsynced.iter_mut().skip(self.written).filter_map(|pending| pending.slot.take()).for_each(Slot::written);
        self.written = self.unsynced.len();
        if self.sync_at.is_none() {
            let delay = u64::try_from(self.options.sync_within.as_nanos()).unwrap_or(u64::MAX);
            self.sync_at = Some(monotonic_ns().saturating_add(delay));
        }
        self.prepare_spare();
        Ok(())
    }

    /// Writes nothing, and yet waits where a file system lets nobody write: a hang shows before a record needs the disk.
    /// An error is none of its business: the next write meets it.
    pub(super) fn touch(&self) {
        let _nothing = self.file.write_at(&[], self.position);
    }

    pub(super) fn sync_if_due(&mut self) -> std::io::Result<()> {
        let due = self.unsynced.iter().any(|pending| pending.done.is_some())
            || self.unsynced_bytes >= MAX_UNSYNCED_BYTES
            || self.sync_at.is_some_and(|at| monotonic_ns() >= at);
        if due { self.sync() } else { Ok(()) }
    }

    pub(super) fn sync(&mut self) -> std::io::Result<()> {
        if self.unsynced.is_empty() && !self.failing {
            self.sync_at = None;
            return Ok(());
        }
        self.file.sync_data()?;
        self.durable = self.next;
        self.durable_position = self.position;
        self.sync_at = None;
        self.unsynced_bytes = 0;
        self.tail.advance(self.durable);
        self.room.add_permits(self.unsynced.len());
        self.written = 0;
        let answers = self.unsynced.drain(..).filter_map(|pending| {
            let receipt = Receipt { sequence: pending.sequence };
            pending.done.map(|done| (done, Ok(receipt)))
        });
        let answers: Vec<_> = answers.collect();
        self.crowded = answers.len() > 1;
        #[cfg(test)]
        self.tail.waited_syncs.fetch_add(u64::from(!answers.is_empty()), std::sync::atomic::Ordering::Relaxed);
        self.relay.give(answers);
        Ok(())
    }

    /// Goes on in a new segment. Everything in this one is durable.
    pub(super) fn roll(&mut self) -> std::io::Result<()> {
        if let Some(spare) = self.spare.take() {
            let _ = spare.join();
        }
        let used = (self.segments.len() as u64 + 1) * self.options.segment_bytes;
        if used > self.options.max_bytes {
            return Err(std::io::Error::other(format!(
                "it has reached its limit of {} bytes because the ledger has not caught up",
                self.options.max_bytes
            )));
        }
        let (segment, file) = segment::create(&self.dir, self.next, self.options.segment_bytes)?;
        self.segments.push_back(segment);
        self.file = file;
        self.position = HEADER_BYTES;
        self.durable_position = HEADER_BYTES;
        self.high = HEADER_BYTES;
        self.count_bytes();
        Ok(())
    }

    /// Has the next segment's file made once this one is half full: ahead of its use and off this thread. If that fails,
    /// the roll tries again and says so.
    fn prepare_spare(&mut self) {
        let bytes = self.options.segment_bytes;
        if self.spare.is_some() || self.position < bytes / 2 {
            return;
        }
        let dir = self.dir.clone();
        self.spare = std::thread::Builder::new()
            .name("journal-spare".into())
            .spawn(move || {
                set_priority(LAST);
                drop(segment::prepare_spare(&dir, bytes));
            })
            .ok();
    }

    /// Tells everybody who waits; keeps what was accepted without a wait, to be written again.
    pub(super) fn failed(&mut self, error: &std::io::Error) -> Result<(), JournalError> {
        let why =
            format!("{}: {error}; free space or replace the disk, caracald goes on by itself", self.dir.display());
        if !self.failing {
            tracing::error!(dir = %self.dir.display(), %error, "the journal cannot be written; nothing is forwarded");
        }
        self.failing = true;
        self.tail.set_failure(Some(why.clone()));
        let mut kept = VecDeque::new();
        for mut pending in self.unsynced.drain(..).chain(self.waiting.drain(..)) {
            match pending.done.take() {
                Some(done) => {
                    let _ = done.send(Err(JournalError::Unavailable(why.clone())));
                    self.room.add_permits(1);
                }
                None => kept.push_back(pending),
            }
        }
        self.waiting = kept;
        self.written = 0;
        self.buffer.clear();
        self.next = self.durable;
        self.high = self.high.max(self.position);
        self.position = self.durable_position;
        self.unsynced_bytes = 0;
        self.sync_at = None;
        Err(JournalError::Unavailable(why))
    }

    pub(super) fn recovered(&mut self) -> Result<(), JournalError> {
        if self.failing {
            self.failing = false;
            self.tail.set_failure(None);
            tracing::info!(dir = %self.dir.display(), "the journal can be written again");
        }
        Ok(())
    }

    pub(super) fn release(&mut self, sequence: u64) {
        while let (Some(first), Some(second)) = (self.segments.front(), self.segments.get(1)) {
            if second.first > sequence || second.first > self.durable.sequence {
                break;
            }
            if let Err(error) = std::fs::remove_file(&first.path) {
                tracing::warn!(segment = %first.path.display(), %error, "a segment that the ledger holds cannot be deleted");
                break;
            }
            self.segments.pop_front();
        }
        self.count_bytes();
    }

    pub(super) fn count_bytes(&mut self) {
        let bytes = self.segments.len() as u64 * self.options.segment_bytes;
        self.tail.set_bytes(bytes);
        let high = bytes / 4 * 5 >= self.options.max_bytes;
        if high && !self.warned {
            tracing::warn!(
                bytes,
                limit = self.options.max_bytes,
                "the journal is over 80 % full; is the ledger behind?"
            );
        }
        self.warned = high;
    }
}
