//! The one thread that writes. Takes what is queued; gives places, syncs, and answers.

mod disk;
mod lock;
#[cfg(test)]
mod tests;

use super::bell::Bell;
use super::frame::{FRAME_BYTES, MAX_FRAME_BYTES};
use super::kept::{Keep, Slot};
use super::recover::{self, Recovered};
use super::relay::{Relay, Waiter as Answer};
use super::segment::{self, HEADER_BYTES, Segment};
use super::successor::{self, Successor};
use super::{JournalError, Options, Start, Tail};
use crate::clock::monotonic_ns;
use crate::event::Sealed;
use lock::Lock;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
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
    let lock = lock::lock(dir)?;
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
        if !probes.is_empty() {
            self.touch();
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
}
