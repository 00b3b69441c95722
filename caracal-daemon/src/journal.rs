//! Takes a [`Draft`]; gives a [`Receipt`] once it is durable. Append-only segments with a sequence and a hash chain.
//! Refuses when it cannot write. Never drops or reorders a record it accepted, also when the process is killed: until it
//! is written, it stands in a mapped file (`kept.rs`). Next: `bus`.
//!
//! One thread writes. It takes all that is queued, writes it at once, and syncs at once if somebody waits for
//! durability; records that nobody waits for are synced with the next group or [`Options::sync_within`] later. Such
//! records do not wake a writer that has just worked: it looks by itself within half a millisecond, or with the next
//! record that is waited for. A write or sync that fails is told to everybody who waited; the place is then written
//! again, so that the disk's return leaves neither a gap nor a duplicate.

mod bell;
pub(crate) mod beside;
pub(crate) mod frame;
pub mod head;
mod kept;
pub mod read;
pub(crate) mod recover;
mod relay;
pub(crate) mod segment;
pub(crate) mod successor;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use head::SignedHead;
pub use read::{Entry, ReadError, Reader};
pub use recover::Recovered;
pub use successor::Successor;
pub use tail::Tail;

use crate::clock::Clock;
use crate::event::write::event_id;
use crate::event::{Data, Detail, Draft, Hash, Kind, Scribe, Sealed};
use bell::Bell;
use kept::{Keep, Slot};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use writer::{Message, Parting};

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Sequence number on this host, from 0.
    pub sequence: u64,
}

/// Why a record was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full or failing; says which file and what to do.
    #[error("the journal cannot be written: {0}")]
    Unavailable(String),
    /// What is on disk contradicts itself or what was signed; says where and what to do.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
}

/// Sizes and delays of a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of one segment, bytes.
    pub segment_bytes: u64,
    /// Size of all segments, bytes: above it nothing is accepted until the ledger has caught up. Warned of at 80 %.
    pub max_bytes: u64,
    /// Records that may be queued or unsynced at once.
    pub queue: usize,
    /// Longest time until a record that nobody waits for is synced.
    pub sync_within: Duration,
    /// Longest time that [`Journal::append`] and [`Journal::durable`] wait for room in the queue.
    pub room_within: Duration,
    /// Records and counts that may be kept for a killed process at once; a journal that is there keeps its own number.
    pub kept: usize,
    /// Where an empty journal goes on: what the ledger has, if it has something.
    pub start: Start,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 16 << 20,
            max_bytes: 4 << 30,
            queue: 8_192,
            sync_within: Duration::from_millis(50),
            room_within: Duration::from_secs(2),
            kept: 6_144,
            start: Start::default(),
        }
    }
}

/// The place of the next record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its sequence number.
    pub sequence: u64,
    /// The leaf hash of the record before it; zeros for the first.
    pub prev: Hash,
}

/// Up to where each consumer has what it needs; a segment goes when all have.
#[derive(Debug)]
struct Claims {
    ledger: AtomicU64,
    /// Everything, where nothing is published.
    bus: AtomicU64,
}

impl Default for Claims {
    fn default() -> Claims {
        Claims { ledger: AtomicU64::new(0), bus: AtomicU64::new(u64::MAX) }
    }
}

/// A handle to the journal's writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    scribe: Scribe,
    queue: std::sync::mpsc::Sender<Message>,
    bell: Arc<Bell>,
    room: Arc<Semaphore>,
    tail: Arc<Tail>,
    keep: Arc<Keep>,
    claims: Arc<Claims>,
    dir: Arc<PathBuf>,
    room_within: Duration,
    // Joins the writer when the last handle goes.
    _writer: Arc<writer::Handle>,
}

impl Journal {
    /// Opens the journal in `dir`, which is made if need be, cuts a torn tail, and starts the writer. Detail keys
    /// stand in `keys`. A cut is reported as the first record; what a killed process had taken follows.
    ///
    /// # Errors
    /// `Unavailable` when files cannot be made, read or locked; `Corrupt` when records that were durable are
    /// missing or changed.
    pub fn open(
        dir: &Path,
        keys: &Path,
        host_id: &str,
        options: Options,
        clock: &Clock,
    ) -> Result<(Journal, Recovered), JournalError> {
        let scribe = Scribe::open(host_id, keys).map_err(|error| JournalError::Unavailable(error.to_string()))?;
        let tail = Arc::new(Tail::new(options.max_bytes));
        let room = Arc::new(Semaphore::new(options.queue));
        #[expect(clippy::disallowed_methods, reason = "`room` bounds it: a record takes a permit before it is queued")]
        let (queue, taken) = std::sync::mpsc::channel();
        let (room_within, places, queued) = (options.room_within, options.kept, options.queue as u64);
        let bell = Arc::new(Bell::default());
        let (handle, mut recovered) =
            writer::start(dir, options, Arc::clone(&tail), Arc::clone(&room), Arc::clone(&bell), taken)?;
        // After the start of the writer, which holds the lock: nobody else keeps anything here.
        let (keep, found) = match Keep::open(dir, places) {
            Ok(opened) => opened,
            Err(error) => {
                // The writer ends when its queue does, and its handle waits for that.
                drop(queue);
                return Err(JournalError::Unavailable(format!("{}: {error}", dir.display())));
            }
        };
        let journal = Journal {
            scribe,
            queue,
            bell,
            room,
            tail,
            keep,
            claims: Arc::new(Claims::default()),
            dir: Arc::new(dir.to_owned()),
            room_within,
            _writer: Arc::new(handle),
        };
        if recovered.torn_bytes > 0 {
            journal.report_cut(recovered.torn_bytes, clock)?;
        }
        recovered.kept = journal.write_found(found, queued)?;
        Ok((journal, recovered))
    }

    /// Appends and waits until the record is durable. An intent whose wait is given up half-way (the future is
    /// dropped) is followed by an outcome that releases it: its record may be there, and its request was not sent.
    ///
    /// # Errors
    /// When it is not durable. It may then still come back after a crash, so nothing may have been sent on its
    /// strength, and nothing is lost if it does.
    pub async fn durable(&self, draft: Draft) -> Result<Receipt, JournalError> {
        let sealed = self.seal(&draft)?;
        let (done, waiting) = oneshot::channel();
        self.take_room().await?;
        self.send(Message::Append { sealed, done: Some(done), slot: None })?;
        let mut waited = Waited { journal: self, draft: Some(draft) };
        let answer = waiting.await;
        waited.draft = None;
        answer.map_err(|_| stopped())?
    }

    /// Appends without waiting: safe from a kill when this returns, written with the next group. For outcomes and
    /// decisions. While the disk fails, outcomes are still taken, up to the queue's size, and written when it is back;
    /// all else is refused.
    ///
    /// # Errors
    /// When the disk fails, the writer has stopped, or its bounded queue stays full.
    pub async fn append(&self, draft: Draft) -> Result<(), JournalError> {
        if draft.kind != Kind::Outcome
            && let Some(why) = self.tail.failure()
        {
            return Err(JournalError::Unavailable(why));
        }
        self.append_sealed(self.seal(&draft)?).await
    }

    /// Appends a record that another process of this host has made, as [`Journal::append`] does.
    pub(crate) async fn append_sealed(&self, sealed: Sealed) -> Result<(), JournalError> {
        self.take_room().await?;
        if let Some(slot) = self.keep.put(&sealed, Some(self.tail.durable())) {
            return self.send(Message::Append { sealed, done: None, slot: Some(slot) });
        }
        // Too long to be kept, or no room: then it is waited for. While the disk fails that would refuse an outcome.
        if self.tail.failure().is_some() {
            return self.send(Message::Append { sealed, done: None, slot: None });
        }
        let (done, waiting) = oneshot::channel();
        self.send(Message::Append { sealed, done: Some(done), slot: None })?;
        waiting.await.map_err(|_| stopped())?.map(drop)
    }

    /// Begins to count equal events, of which `draft` is the first: its record is written when [`Journal::append_counted`]
    /// is called, or at the next start if the process is killed before.
    ///
    /// # Errors
    /// When the record cannot be made.
    pub fn count(&self, draft: &Draft) -> Result<Counted, JournalError> {
        Ok(Counted { sealed: self.seal(draft)?, count: 0, slot: None, keep: Arc::clone(&self.keep) })
    }

    /// Appends what was counted, as [`Journal::append`] does.
    ///
    /// # Errors
    /// The same; `counted` is given back, to be tried again.
    pub async fn append_counted(&self, mut counted: Counted) -> Result<(), (JournalError, Counted)> {
        if let Some(why) = self.tail.failure() {
            return Err((JournalError::Unavailable(why), counted));
        }
        if let Err(error) = self.take_room().await {
            return Err((error, counted));
        }
        counted.sealed.set_count(counted.count);
        if let Some(slot) = &counted.slot {
            slot.hand_over(self.tail.durable());
        }
        let message = Message::Append { sealed: counted.sealed, done: None, slot: counted.slot };
        self.queue.send(message).map_err(|failed| failed.0).or_else(|message| match message {
            Message::Append { sealed, slot, .. } => {
                Err((stopped(), Counted { sealed, slot, count: counted.count, keep: Arc::clone(&self.keep) }))
            }
            _ => Ok(()),
        })?;
        self.bell.ring(false);
        Ok(())
    }

    /// Goes through the writer's queue and back, with a write of no bytes: proof that it is alive, and that its file system
    /// does not hang. A writer whose disk fails is alive and says so.
    ///
    /// # Errors
    /// When it is not, or its disk fails.
    pub async fn probe(&self) -> Result<(), JournalError> {
        let (done, waiting) = oneshot::channel();
        self.send(Message::Probe(done))?;
        waiting.await.map_err(|_| stopped())?
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// When the disk fails or the writer has stopped.
    pub async fn flush(&self) -> Result<(), JournalError> {
        let (done, waiting) = oneshot::channel();
        self.send(Message::Flush(done))?;
        waiting.await.map_err(|_| stopped())?
    }

    /// Lets go of the journal: all that was appended is durable when this returns, another process may open it, and what is
    /// appended from now on is that one's to write. Nobody may read it through this handle any more.
    ///
    /// # Errors
    /// When it cannot: then it is this process's as before.
    pub async fn part(&self, successor: Arc<Successor>) -> Result<(), JournalError> {
        // What is kept from now on would be in the next one's file.
        self.keep.set_closed(true);
        let (done, waiting) = oneshot::channel();
        self.send(Message::Part(Parting { keep: Arc::clone(&self.keep), successor, done }))?;
        let parted = waiting.await.map_err(|_| stopped())?;
        self.keep.set_closed(parted.is_ok());
        parted
    }

    /// Deletes whole segments whose records are all below `sequence` and below what [`Journal::publish_from`] keeps. For
    /// the ledger, after its commit.
    pub fn release(&self, sequence: u64) {
        self.claims.ledger.fetch_max(sequence, Ordering::AcqRel);
        self.release_claimed();
    }

    /// Keeps every record from `sequence` on until this is called with a larger number: the bus has not taken them yet.
    pub fn publish_from(&self, sequence: u64) {
        self.claims.bus.store(sequence, Ordering::Release);
        self.release_claimed();
    }

    fn release_claimed(&self) {
        let sequence = self.claims.ledger.load(Ordering::Acquire).min(self.claims.bus.load(Ordering::Acquire));
        // It fails only when the writer has stopped; the next start then releases again.
        let _ = self.send(Message::Release(sequence));
    }

    /// A reader of what is durable, from `sequence` on.
    #[must_use]
    pub fn reader(&self, sequence: u64) -> Reader {
        Reader::of_tail(&self.dir, sequence, Arc::clone(&self.tail))
    }

    /// What is durable, how full the journal is, and whether its disk fails.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    /// The directory of the segments.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What makes this host's records.
    #[must_use]
    pub fn scribe(&self) -> &Scribe {
        &self.scribe
    }

    fn seal(&self, draft: &Draft) -> Result<Sealed, JournalError> {
        self.scribe.seal(draft).map_err(|error| JournalError::Unavailable(error.to_string()))
    }

    /// Takes a place in the queue; the writer gives it back once the record is durable or refused.
    async fn take_room(&self) -> Result<(), JournalError> {
        if let Ok(permit) = self.room.try_acquire() {
            permit.forget();
            return Ok(());
        }
        match tokio::time::timeout(self.room_within, self.room.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(JournalError::Unavailable(
                self.tail.failure().unwrap_or_else(|| "its queue is full; the disk is too slow".into()),
            )),
        }
    }

    fn send(&self, message: Message) -> Result<(), JournalError> {
        let waited_for = message.is_waited_for();
        self.queue.send(message).map_err(|_| stopped())?;
        self.bell.ring(waited_for);
        Ok(())
    }

    fn report_cut(&self, torn: u64, clock: &Clock) -> Result<(), JournalError> {
        let draft = Draft {
            kind: Kind::Lifecycle,
            at: clock.now(),
            data: Box::new(Data {
                reason: Some("journal_tail_cut"),
                message: Some(format!("{torn} bytes of a torn tail were cut from the journal")),
                ..Data::default()
            }),
            detail: Detail::default(),
        };
        self.append_now(&draft)
    }

    /// Appends from where nobody can wait for room.
    fn append_now(&self, draft: &Draft) -> Result<(), JournalError> {
        let sealed = self.seal(draft)?;
        let slot = self.keep.put(&sealed, Some(self.tail.durable()));
        self.send_now(sealed, slot)
    }

    fn send_now(&self, sealed: Sealed, slot: Option<Slot>) -> Result<(), JournalError> {
        if let Ok(permit) = self.room.try_acquire() {
            permit.forget();
        }
        self.send(Message::Append { sealed, done: None, slot })
    }

    /// Writes what a killed process had taken and not written; gives how many records that were. At most about `queued`
    /// records stand before one that is handed over.
    fn write_found(&self, found: Vec<kept::Found>, queued: u64) -> Result<u64, JournalError> {
        let unreadable = |error: ReadError| JournalError::Unavailable(error.to_string());
        let mut reader = Reader::of_files(&self.dir, 0);
        let oldest = reader.oldest().map_err(unreadable)?.unwrap_or(0);
        let mut written = HashSet::new();
        if let Some(first) = found.iter().filter_map(|one| one.from).min() {
            reader.seek(first.max(oldest));
            read_ids(&mut reader, &mut written).map_err(unreadable)?;
        }
        let mut count = 0;
        for one in found {
            let in_ledger = one.from.is_some_and(|from| from.saturating_add(queued.saturating_mul(2)) < oldest);
            let in_journal = one.from.is_some() && one.sealed.id().is_some_and(|id| written.contains(id));
            if in_ledger || in_journal {
                one.slot.written();
                continue;
            }
            one.slot.hand_over(self.tail.durable());
            self.send_now(one.sealed, Some(one.slot))?;
            count += 1;
        }
        Ok(count)
    }
}

/// The ids of all records that `reader` gives.
fn read_ids(reader: &mut Reader, ids: &mut HashSet<String>) -> Result<(), ReadError> {
    loop {
        let batch = reader.batch(4_096, 8 << 20)?;
        if batch.is_empty() {
            return Ok(());
        }
        ids.extend(batch.iter().filter_map(|entry| event_id(&entry.bytes).map(str::to_owned)));
    }
}

/// Equal events that are counted until their one record is written. Dropped, it stays counted: the next start writes it.
#[derive(Debug)]
pub struct Counted {
    sealed: Sealed,
    count: u64,
    slot: Option<Slot>,
    keep: Arc<Keep>,
}

impl Counted {
    /// Counts one event. From here on it outlives the process; `false`: it does not, since there is no room.
    pub fn add(&mut self) -> bool {
        self.count += 1;
        match &self.slot {
            Some(slot) => slot.add(),
            None if self.count == 1 => self.slot = self.keep.put(&self.sealed, None),
            None => {}
        }
        self.slot.is_some()
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// A durable append that is waited for.
struct Waited<'a> {
    journal: &'a Journal,
    draft: Option<Draft>,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        let Some(intent) = self.draft.take().filter(|draft| draft.kind == Kind::Intent) else { return };
        let data = Data {
            reason: Some("abandoned"),
            settle: Some("released"),
            max_tokens: None,
            edits: Vec::new(),
            ..*intent.data
        };
        let outcome = Draft { kind: Kind::Outcome, at: intent.at, data: data.into(), detail: Detail::default() };
        // It fails only when the writer has stopped; the next start then charges the open intent.
        let _ = self.journal.append_now(&outcome);
    }
}

/// How often a journal that looks wrong is read again: a writer may have changed it while it was read.
const CHECKS: usize = 3;

/// Reads the journal in `dir` from end to end and changes nothing, also while it is written. `ledger` is where the ledger
/// goes on.
///
/// # Errors
/// As [`Journal::open`].
pub fn check(dir: &Path, ledger: Start) -> Result<Recovered, JournalError> {
    let mut scan = recover::scan(dir, ledger);
    for _ in 1..CHECKS {
        if scan.is_ok() {
            break;
        }
        scan = recover::scan(dir, ledger);
    }
    let scan = scan?;
    Ok(Recovered {
        next_sequence: scan.next.sequence,
        torn_bytes: scan.torn_end.saturating_sub(scan.position),
        kept: 0,
    })
}

fn stopped() -> JournalError {
    JournalError::Unavailable("its writer has stopped; restart caracald".into())
}
