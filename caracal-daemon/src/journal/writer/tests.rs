//! A writer without its thread: a failing disk, rewrites, and what nobody waits for.

use super::*;
use crate::event::write::tests::{paid, scribe};
use crate::event::{Kind, Record};
use crate::journal::{Reader, Receipt};

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
