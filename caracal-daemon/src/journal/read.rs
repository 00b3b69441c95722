//! Reads the journal in order from a sequence number on, and follows it. Never reads past what is durable when it
//! knows the writer; in another process it reads what is on disk, which is good enough to look at and no more.

use super::frame::{self, MAX_FRAME_BYTES, Parsed};
use super::segment::{self, HEADER_BYTES, Segment};
use super::tail::Tail;
use crate::event::Hash;
use crate::event::write::read_place;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const BLOCK_BYTES: usize = 512 << 10;
const POLL: Duration = Duration::from_millis(100);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its sequence number.
    pub sequence: u64,
    /// The leaf hash of the record before it.
    pub prev: Hash,
    /// Its leaf hash.
    pub leaf: Hash,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why the journal could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system.
    #[error("journal {path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: std::io::Error,
    },
    /// A record that is durable is not readable.
    #[error("record {sequence} in {path} is damaged; run `caracald ledger verify`")]
    Damaged {
        /// Which.
        sequence: u64,
        /// Where.
        path: PathBuf,
    },
    /// The segment is deleted already: the ledger has it.
    #[error("record {0} is no longer in the journal; the ledger holds it")]
    Gone(u64),
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: Arc<File>,
    position: u64,
}

/// Follows a journal.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    next: u64,
    open: Option<Open>,
    tail: Option<Arc<Tail>>,
    block: Vec<u8>,
    /// Segments that stay readable when they are deleted.
    pinned: Vec<(Segment, Arc<File>)>,
}

impl Reader {
    /// A reader of the files in `dir`, in any process, from `sequence` on.
    #[must_use]
    pub fn of_files(dir: &Path, sequence: u64) -> Reader {
        Reader { dir: dir.to_owned(), next: sequence, open: None, tail: None, block: Vec::new(), pinned: Vec::new() }
    }

    pub(crate) fn of_tail(dir: &Path, sequence: u64, tail: Arc<Tail>) -> Reader {
        Reader {
            dir: dir.to_owned(),
            next: sequence,
            open: None,
            tail: Some(tail),
            block: Vec::new(),
            pinned: Vec::new(),
        }
    }

    /// The sequence number of the next record.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Goes to `sequence`, back or forth.
    pub fn seek(&mut self, sequence: u64) {
        self.next = sequence;
        self.open = None;
    }

    /// The sequence number of the oldest record that is still there.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn oldest(&self) -> Result<Option<u64>, ReadError> {
        Ok(self.list()?.first().map(|segment| segment.first))
    }

    /// The first record of the first segment that begins behind the next record.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn next_segment(&self) -> Result<Option<u64>, ReadError> {
        Ok(self.list()?.iter().map(|segment| segment.first).find(|first| *first > self.next))
    }

    /// Waits for the next record; false if none came `within`.
    pub fn wait(&mut self, within: Duration) -> bool {
        match &self.tail {
            Some(tail) => tail.wait(self.next, within),
            None => {
                std::thread::sleep(within.min(POLL));
                true
            }
        }
    }

    /// The next records that are there: at most `records`, and about `bytes` in all. Empty when there are none yet.
    ///
    /// # Errors
    /// When they cannot be read, or are gone.
    pub fn batch(&mut self, records: usize, bytes: usize) -> Result<Vec<Entry>, ReadError> {
        let mut batch = Vec::new();
        let mut taken = 0;
        let end = self.tail.as_ref().map_or(u64::MAX, |tail| tail.next().sequence);
        while self.next < end && batch.len() < records && taken < bytes {
            let Some(mut open) = self.open.take().map_or_else(|| self.find(), |open| Ok(Some(open)))? else { break };
            let before = batch.len();
            self.read_block(&mut open, records, end, &mut batch)?;
            taken += batch.iter().skip(before).map(|entry| entry.bytes.len()).sum::<usize>();
            if batch.len() > before {
                self.open = Some(open);
            } else if !self.roll(open)? {
                break;
            }
        }
        Ok(batch)
    }

    /// Reads frames from one block of `open`.
    fn read_block(
        &mut self,
        open: &mut Open,
        records: usize,
        end: u64,
        batch: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        self.block.resize(BLOCK_BYTES.max(MAX_FRAME_BYTES), 0);
        let filled =
            read_at(&open.file, &mut self.block, open.position).map_err(|error| io(&open.segment.path, error))?;
        let mut rest = self.block.get(..filled).unwrap_or_default();
        while batch.len() < records && self.next < end {
            let Parsed::Frame(frame) = frame::parse(rest) else { break };
            let Some((sequence, prev)) = read_place(frame.record) else { break };
            if sequence > self.next {
                break;
            }
            if sequence == self.next {
                batch.push(Entry { sequence, prev, leaf: frame.leaf, bytes: frame.record.to_vec() });
                self.next += 1;
            }
            open.position += frame.len() as u64;
            rest = rest.get(frame.len()..).unwrap_or_default();
        }
        Ok(())
    }

    /// No frame for `self.next` in what was read of `open`: skips on, goes to the next segment, or waits for more.
    fn roll(&mut self, open: Open) -> Result<bool, ReadError> {
        let following = self.list()?.into_iter().find(|segment| segment.first > open.segment.first);
        if following.is_some_and(|segment| segment.first <= self.next) {
            return Ok(true);
        }
        // A block may have held only records before the one that is wanted.
        let mut probe = [0u8; MAX_FRAME_BYTES];
        let filled = read_at(&open.file, &mut probe, open.position).map_err(|error| io(&open.segment.path, error))?;
        if matches!(frame::parse(probe.get(..filled).unwrap_or_default()), Parsed::Frame(_)) {
            self.open = Some(open);
            return Ok(true);
        }
        if self.tail.is_some() {
            return Err(ReadError::Damaged { sequence: self.next, path: open.segment.path });
        }
        self.open = Some(open);
        Ok(false)
    }

    /// The segment that holds `self.next`.
    fn find(&self) -> Result<Option<Open>, ReadError> {
        let segments = self.list()?;
        let Some(segment) = segments.iter().rev().find(|segment| segment.first <= self.next) else {
            return if segments.is_empty() { Ok(None) } else { Err(ReadError::Gone(self.next)) };
        };
        let pinned = self.pinned.iter().find(|(pinned, _)| pinned.first == segment.first);
        let file = match pinned {
            Some((_, file)) => Arc::clone(file),
            None => match File::open(&segment.path) {
                Ok(file) => Arc::new(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(ReadError::Gone(self.next)),
                Err(error) => return Err(io(&segment.path, error)),
            },
        };
        Ok(Some(Open { segment: segment.clone(), file, position: HEADER_BYTES }))
    }

    /// Keeps every segment that is there now readable, also when it is deleted.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn pin(&mut self) -> Result<(), ReadError> {
        for segment in self.list()? {
            match File::open(&segment.path) {
                Ok(file) => self.pinned.push((segment, Arc::new(file))),
                // Deleted since it was listed: the oldest go first, so what was pinned before is no use without it.
                Err(error) if error.kind() == ErrorKind::NotFound => self.pinned.clear(),
                Err(error) => return Err(io(&segment.path, error)),
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Segment>, ReadError> {
        let mut segments = segment::list(&self.dir).map_err(|error| io(&self.dir, error))?;
        segments.extend(self.pinned.iter().map(|(segment, _)| segment.clone()));
        segments.sort();
        segments.dedup();
        Ok(segments)
    }
}

/// Reads up to `block`'s length; less only at the file's end.
fn read_at(file: &File, block: &mut [u8], position: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..)
        && !rest.is_empty()
    {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn io(path: &Path, error: std::io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), error }
}
