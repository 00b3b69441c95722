//! The one thread that writes. Takes what is queued; gives places, syncs, and answers.

use super::bell::Bell;
use super::frame::{self, FRAME_BYTES, MAX_FRAME_BYTES};
use super::kept::{Keep, Slot};
use super::recover::{self, Recovered};
use super::relay::{Relay, Waiter as Answer};
use super::segment::{self, HEADER_BYTES, Segment};
use super::successor::{self, Successor};
use super::{JournalError, Options, Receipt, Start, Tail};
use crate::clock::monotonic_ns;
use crate::event::Sealed;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// A group is written when it has this many bytes, even if more is queued.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// Unsynced bytes that are synced without waiting for the delay.
const MAX_UNSYNCED_BYTES: usize = 1 << 20;
/// How often a failing disk is tried.
const RETRY: Duration = Duration::from_millis(200);
/// How long records that are kept may take to come to a writer that is about to let go.
const PARTS_WITHIN: Duration = Duration::from_secs(1);

/// What the writer is asked.
#[derive(Debug)]
pub(crate) enum Message {
    /// Write a record; answer when it is durable. It is kept at `slot` until it is written.
    Append { sealed: Sealed, done: Option<Answer>, slot: Option<Slot> },
    /// Answer when it is this message's turn.
    Probe(oneshot::Sender<Result<(), JournalError>>),
    /// Answer when all before it is durable.
    Flush(oneshot::Sender<Result<(), JournalError>>),
    /// Delete segments that hold nothing at or above this.
    Release(u64),
    /// Let go of the journal once all before it is durable and nothing is kept; what comes then is the successor's.
    Part(Parting),
}

/// The journal goes to the next data path.
#[derive(Debug)]
pub(crate) struct Parting {
    pub(crate) keep: Arc<Keep>,
    pub(crate) successor: Arc<Successor>,
    pub(crate) done: oneshot::Sender<Result<(), JournalError>>,
}

impl Message {
    /// Whether somebody waits for what the writer does with it.
    pub(crate) fn is_waited_for(&self) -> bool {
        match self {
            Message::Append { done, .. } => done.is_some(),
            Message::Probe(_) | Message::Flush(_) | Message::Part(_) => true,
            Message::Release(_) => false,
        }
    }
}

/// Joins the writer when dropped, so that what was accepted is synced before the process ends.
#[derive(Debug)]
pub(crate) struct Handle {
    bell: Arc<Bell>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The queue's sender goes before this field does; the thread then ends by itself. It must not be waited
        // for from inside the writer, which never holds a handle.
        self.bell.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Pending {
    sealed: Sealed,
    sequence: u64,
    done: Option<Answer>,
    slot: Option<Slot>,
}

#[derive(Debug)]
struct Writer {
    dir: PathBuf,
    _lock: Lock,
    options: Options,
    tail: Arc<Tail>,
    room: Arc<Semaphore>,
    bell: Arc<Bell>,
    relay: Relay,
    segments: VecDeque<Segment>,
    file: File,
    /// The place of the next record, and where it goes in the file.
    next: Start,
    position: u64,
    /// The same, up to the last sync.
    durable: Start,
    durable_position: u64,
    /// Highest byte ever written in this segment: what a rewrite must cover.
    high: u64,
    buffer: Vec<u8>,
    waiting: VecDeque<Pending>,
    unsynced: Vec<Pending>,
    /// How many of them are written.
    written: usize,
    unsynced_bytes: usize,
    sync_at: Option<u64>,
    /// The last sync was waited for by several.
    crowded: bool,
    failing: bool,
    warned: bool,
    spare: Option<std::thread::JoinHandle<()>>,
}

/// Recovers the journal in `dir` and starts its writer.
pub(crate) fn start(
    dir: &Path,
    options: Options,
    tail: Arc<Tail>,
    room: Arc<Semaphore>,
    bell: Arc<Bell>,
    queue: Receiver<Message>,
) -> Result<(Handle, Recovered), JournalError> {
    let (mut writer, recovered) = open(dir, options, tail, room, Arc::clone(&bell))?;
    let (rings, permits) = (Arc::clone(&bell), Arc::clone(&writer.room));
    let run = move || {
        set_priority(FIRST);
        let Some(Parting { successor, done, .. }) = writer.run(&queue) else { return };
        // With it goes the lock.
        drop(writer);
        let _ = done.send(Ok(()));
        successor::serve(&successor, &queue, &rings, &permits);
    };
    let thread = std::thread::Builder::new().name("journal".into()).spawn(run);
    let thread = thread.map_err(|error| JournalError::Unavailable(error.to_string()))?;
    bell.is_answered_by(thread.thread().clone());
    Ok((Handle { bell, thread: Some(thread) }, recovered))
}

fn open(
    dir: &Path,
    options: Options,
    tail: Arc<Tail>,
    room: Arc<Semaphore>,
    bell: Arc<Bell>,
) -> Result<(Writer, Recovered), JournalError> {
    let unavailable = |error: std::io::Error| JournalError::Unavailable(format!("{}: {error}", dir.display()));
    if options.segment_bytes < HEADER_BYTES + MAX_FRAME_BYTES as u64 || options.max_bytes < options.segment_bytes * 2 {
        return Err(JournalError::Unavailable(
            "a segment must hold the longest record, and the journal two segments".into(),
        ));
    }
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(unavailable)?;
    let lock = lock(dir)?;
    let scan = recover::scan(dir, options.start)?;
    let mut segments: VecDeque<Segment> = scan.segments.into();
    let (file, position, torn_end) = match segments.back() {
        Some(last) => {
            let file = OpenOptions::new().read(true).write(true).open(&last.path).map_err(unavailable)?;
            (file, scan.position, scan.torn_end)
        }
        None => {
            let (made, file) = segment::create(dir, scan.next, options.segment_bytes).map_err(unavailable)?;
            segments.push_back(made);
            (file, HEADER_BYTES, HEADER_BYTES)
        }
    };
    cut(&file, position, torn_end).map_err(unavailable)?;
    let recovered = Recovered { next_sequence: scan.next.sequence, torn_bytes: torn_end - position, kept: 0 };
    let mut writer = Writer {
        dir: dir.to_owned(),
        _lock: lock,
        options,
        tail,
        room,
        bell,
        relay: Relay::new(),
        segments,
        file,
        next: scan.next,
        position,
        durable: scan.next,
        durable_position: position,
        high: position,
        buffer: Vec::new(),
        waiting: VecDeque::new(),
        unsynced: Vec::new(),
        written: 0,
        unsynced_bytes: 0,
        sync_at: None,
        crowded: false,
        failing: false,
        warned: false,
        spare: None,
    };
    writer.tail.advance(writer.durable);
    writer.count_bytes();
    Ok((writer, recovered))
}

/// The journal's lock, let go when dropped. Closing alone is not enough: a child that was forked a moment ago and has
/// not become its program yet holds the same lock.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It can fail only for a descriptor that is no file.
        let _ = self.0.unlock();
    }
}

/// Two writers would fork the chain.
fn lock(dir: &Path) -> Result<Lock, JournalError> {
    let path = dir.join("lock");
    let fail = |why: String| JournalError::Unavailable(format!("{}: {why}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| fail(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(fail("another caracald writes this journal; stop it first".into())),
    }
}

/// Overwrites a torn tail with zeros and makes what stands before it durable.
fn cut(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = vec![0u8; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
    file.write_all_at(&zeros, from)?;
    file.sync_data()
}

/// Under CPU pressure the sync's wake-up is what everybody waits for: ahead of the others.
const FIRST: libc::c_int = -10;
/// What the writer starts inherits its priority, and nobody waits for it.
const LAST: libc::c_int = 5;

/// Sets the calling thread's priority. To go ahead takes a right or a limit that allows it; without it nothing changes.
fn set_priority(nice: libc::c_int) {
    // SAFETY: setpriority takes plain numbers; 0 names the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

impl Writer {
    /// Works until the queue ends, or the journal goes to a successor.
    fn run(&mut self, queue: &Receiver<Message>) -> Option<Parting> {
        let mut parting = None;
        loop {
            match self.receive(queue) {
                Ok(first) => {
                    if self.crowded {
                        // Others are about to ask too, if they get a core: one sync for all of them. Nobody there, no wait.
                        std::thread::yield_now();
                    }
                    parting = self.group(first, queue);
                }
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            match parting.take().map(|parting| self.part(parting, queue)) {
                None | Some(None) => {}
                parted @ Some(Some(_)) => {
                    parting = parted.flatten();
                    break;
                }
            }
        }
        let _ = self.advance().and_then(|()| self.sync());
        if let Some(spare) = self.spare.take() {
            let _ = spare.join();
        }
        parting
    }

    /// Gives `parting` back once all is durable and nothing is kept. Otherwise says so, and goes on as before.
    fn part(&mut self, parting: Parting, queue: &Receiver<Message>) -> Option<Parting> {
        let until = monotonic_ns().saturating_add(u64::try_from(PARTS_WITHIN.as_nanos()).unwrap_or(0));
        // Whoever has kept a record is about to hand it over.
        while !self.failing && !parting.keep.is_empty() && monotonic_ns() < until {
            match queue.recv_timeout(Duration::from_millis(5)) {
                Ok(message) => drop(self.group(message, queue)),
                Err(_) => self.tick(),
            }
        }
        self.tick();
        if !self.failing && self.waiting.is_empty() && self.unsynced.is_empty() && parting.keep.is_empty() {
            return Some(parting);
        }
        let why = "records are still to be written".to_owned();
        let _ = parting.done.send(Err(JournalError::Unavailable(self.tail.failure().unwrap_or(why))));
        None
    }

    fn receive(&self, queue: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        let look = || match queue.try_recv() {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvTimeoutError::Disconnected)),
            Err(TryRecvError::Empty) => None,
        };
        let within = match self.sync_at {
            _ if self.failing => Some(RETRY),
            at => at.map(|at| Duration::from_nanos(at.saturating_sub(monotonic_ns()))),
        };
        look().or_else(|| self.bell.wait(within, look)).unwrap_or(Err(RecvTimeoutError::Timeout))
    }

    /// Takes `first` and all that is queued behind it, and writes it; up to a parting, which it gives back.
    fn group(&mut self, first: Message, queue: &Receiver<Message>) -> Option<Parting> {
        let mut parting = None;
        let mut bytes = 0;
        let mut flushes = Vec::new();
        let mut probes = Vec::new();
        let mut message = Some(first);
        while let Some(taken) = message {
            match taken {
                Message::Append { sealed, done, slot } => {
                    bytes += FRAME_BYTES + sealed.record_len();
                    self.waiting.push_back(Pending { sealed, sequence: 0, done, slot });
                }
                Message::Probe(done) => probes.push(done),
                Message::Flush(done) => flushes.push(done),
                Message::Release(sequence) => self.release(sequence),
                Message::Part(wanted) => parting = Some(wanted),
            }
            let more = bytes < MAX_GROUP_BYTES && parting.is_none();
            message = if more { queue.try_recv().ok() } else { None };
        }
        let result = match self.attempt(!flushes.is_empty()) {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(&error),
        };
        for done in flushes.into_iter().chain(probes) {
            let _ = done.send(result.clone());
        }
        parting
    }

    /// Nothing came: sync what is due, or try a failing disk again.
    fn tick(&mut self) {
        match self.attempt(true) {
            Ok(()) => drop(self.recovered()),
            Err(error) => drop(self.failed(&error)),
        }
    }

    /// Writes what waits and syncs what is due. After a failure it must also show that there is room for a record.
    fn attempt(&mut self, sync: bool) -> std::io::Result<()> {
        let short = self.options.segment_bytes.saturating_sub(self.position) < MAX_FRAME_BYTES as u64;
        if self.failing && short && self.unsynced.is_empty() {
            self.roll()?;
        }
        self.advance()?;
        if sync || self.failing { self.sync() } else { self.sync_if_due() }
    }

    /// Writes all that waits.
    fn advance(&mut self) -> std::io::Result<()> {
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
        Ok(())
    }

    fn sync_if_due(&mut self) -> std::io::Result<()> {
        let due = self.unsynced.iter().any(|pending| pending.done.is_some())
            || self.unsynced_bytes >= MAX_UNSYNCED_BYTES
            || self.sync_at.is_some_and(|at| monotonic_ns() >= at);
        if due { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> std::io::Result<()> {
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
    fn roll(&mut self) -> std::io::Result<()> {
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
        let (dir, bytes) = (self.dir.clone(), self.options.segment_bytes);
        // Ahead of its use and off this thread; if it fails, the next roll tries again and says so.
        self.spare = std::thread::Builder::new()
            .name("journal-spare".into())
            .spawn(move || {
                set_priority(LAST);
                drop(segment::prepare_spare(&dir, bytes));
            })
            .ok();
        Ok(())
    }

    /// Tells everybody who waits; keeps what was accepted without a wait, to be written again.
    fn failed(&mut self, error: &std::io::Error) -> Result<(), JournalError> {
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

    fn recovered(&mut self) -> Result<(), JournalError> {
        if self.failing {
            self.failing = false;
            self.tail.set_failure(None);
            tracing::info!(dir = %self.dir.display(), "the journal can be written again");
        }
        Ok(())
    }

    fn release(&mut self, sequence: u64) {
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

    fn count_bytes(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::write::tests::{paid, scribe};
    use crate::event::{Kind, Record};
    use crate::journal::Reader;

    struct Bench {
        dir: tempfile::TempDir,
        writer: Writer,
        send: std::sync::mpsc::Sender<Message>,
        queue: Receiver<Message>,
        scribe: (tempfile::TempDir, crate::event::Scribe),
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: 80 << 10, max_bytes: 1 << 20, ..Options::default() };
        let (tail, room) = (Arc::new(Tail::new(1 << 20)), Arc::new(Semaphore::new(64)));
        let (writer, _) = open(dir.path(), options, tail, room, Arc::default()).expect("a writer");
        #[expect(clippy::disallowed_methods, reason = "as the journal makes it; a few messages here")]
        let (send, queue) = std::sync::mpsc::channel();
        Bench { dir, writer, send, queue, scribe: scribe() }
    }

    impl Bench {
        /// Appends a call's record; gives the answer if one was waited for.
        fn append(&mut self, call: u128, wait: bool) -> Option<Result<Receipt, JournalError>> {
            let sealed = self.scribe.1.seal(&paid(Kind::Outcome, uuid::Uuid::from_u128(call))).expect("sealed");
            let (done, mut answer) = oneshot::channel();
            self.writer.group(Message::Append { sealed, done: wait.then_some(done), slot: None }, &self.queue);
            wait.then(|| answer.try_recv().expect("an answer at once"))
        }

        fn calls(&self) -> Vec<(u64, u128)> {
            let entries = Reader::of_files(self.dir.path(), 0).batch(1_000, 1 << 30).expect("readable");
            let call = |entry: &crate::journal::Entry| {
                let call = Record::parse(&entry.bytes).expect("a record").data.call.expect("a call");
                call.parse::<uuid::Uuid>().expect("an id").as_u128()
            };
            entries.iter().map(|entry| (entry.sequence, call(entry))).collect()
        }
    }

    #[test]
    fn a_failing_disk_leaves_neither_gap_nor_duplicate() {
        let mut bench = bench();
        assert_eq!(bench.append(1, true).expect("an answer").expect("durable").sequence, 0);
        assert!(bench.append(2, false).is_none());
        // A descriptor that cannot be written to stands for the disk that fails.
        let path = bench.writer.segments.back().expect("a segment").path.clone();
        let good = std::mem::replace(&mut bench.writer.file, File::open(&path).expect("opened to read"));
        assert!(matches!(bench.append(3, true), Some(Err(JournalError::Unavailable(_)))));
        assert!(bench.append(4, false).is_none());
        assert!(bench.writer.tail.failure().is_some());
        bench.writer.file = good;
        bench.writer.tick();
        assert_eq!(bench.writer.tail.failure(), None);
        assert_eq!(bench.append(5, true).expect("an answer").expect("durable").sequence, 3);
        assert_eq!(bench.calls(), [(0, 1), (1, 2), (2, 4), (3, 5)]);
        assert_eq!(bench.writer.room.available_permits(), 64 + 5, "each record gave its room back once");
        drop(bench.send);
        let scan = recover::scan(bench.dir.path(), Start::default()).expect("sound");
        assert_eq!((scan.next.sequence, scan.torn_end), (4, scan.position));
    }

    #[test]
    fn a_shorter_rewrite_leaves_nothing_stale() {
        let mut bench = bench();
        bench.append(1, true);
        // Written but not synced, and then told as failed.
        for call in 10..20 {
            let sealed = bench.scribe.1.seal(&paid(Kind::Intent, uuid::Uuid::from_u128(call))).expect("sealed");
            let (done, _) = oneshot::channel();
            bench.writer.waiting.push_back(Pending { sealed, sequence: 0, done: Some(done), slot: None });
        }
        bench.writer.advance().expect("written");
        let _ = bench.writer.failed(&std::io::Error::other("no sync"));
        bench.append(2, true);
        assert_eq!(bench.calls(), [(0, 1), (1, 2)]);
        let scan = recover::scan(bench.dir.path(), Start::default()).expect("sound");
        assert_eq!((scan.next.sequence, scan.torn_end), (2, scan.position));
    }

    #[test]
    fn a_record_that_nobody_waits_for_is_written_at_once_and_synced_later() {
        let mut bench = bench();
        bench.append(1, false);
        assert_eq!(bench.calls(), [(0, 1)]);
        assert_eq!(bench.writer.tail.next().sequence, 0);
        assert!(matches!(bench.writer.receive(&bench.queue), Err(RecvTimeoutError::Timeout)));
        bench.writer.tick();
        assert_eq!(bench.writer.tail.next().sequence, 1);
    }
}
