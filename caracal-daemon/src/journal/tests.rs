//! The journal as others use it: order, restarts, limits, a full disk; in files of their own cuts, flips and kills.

use super::*;
use crate::clock::UnixNanos;
use crate::event::Record;
use crate::event::write::tests::paid;
use std::path::Path;

mod damage;
mod issues;
mod kills;

const SEGMENT: u64 = 80 << 10;

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT,
        max_bytes: 64 * SEGMENT,
        room_within: Duration::from_secs(60),
        kept: 32,
        ..Options::default()
    }
}

fn open_with(dir: &Path, options: Options) -> Result<(Journal, Recovered), JournalError> {
    Journal::open(&dir.join("journal"), &dir.join("keys"), "h", options, &Clock::fixed(UnixNanos(5)))
}

fn open(dir: &Path) -> (Journal, Recovered) {
    open_with(dir, options()).expect("a journal")
}

fn intent(number: u128) -> Draft {
    paid(Kind::Intent, uuid::Uuid::from_u128(number))
}

fn read(dir: &Path) -> Vec<Entry> {
    Reader::of_files(&dir.join("journal"), 0).batch(usize::MAX, usize::MAX).expect("readable")
}

fn call(entry: &Entry) -> Option<u128> {
    let call = Record::parse(&entry.bytes).expect("a record").data.call?;
    Some(call.parse::<uuid::Uuid>().expect("an id").as_u128())
}

/// Every entry follows the one before it.
fn assert_chained(entries: &[Entry]) {
    let mut next = Start::default();
    for entry in entries {
        assert_eq!((entry.sequence, entry.prev), (next.sequence, next.prev));
        assert_eq!(entry.leaf, crate::event::leaf_hash(&entry.bytes));
        next = Start { sequence: entry.sequence + 1, prev: entry.leaf };
    }
}

#[tokio::test]
async fn records_come_back_in_order_across_segments_and_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..3u128 {
        let (journal, recovered) = open(dir.path());
        assert_eq!((recovered.next_sequence, recovered.torn_bytes), (round as u64 * 200, 0));
        for number in 0..100 {
            journal.append(intent(round * 200 + number)).await.expect("appended");
        }
        let waits = (100..200).map(|number| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.durable(intent(round * 200 + number)).await })
        });
        for wait in waits.collect::<Vec<_>>() {
            wait.await.expect("joined").expect("durable");
        }
    }
    let entries = read(dir.path());
    assert_chained(&entries);
    let mut calls: Vec<u128> = entries.iter().filter_map(call).collect();
    calls.sort_unstable();
    assert_eq!(calls, (0..600).collect::<Vec<_>>());
    assert!(segment::list(&dir.path().join("journal")).expect("listed").len() > 2);
}

#[tokio::test]
async fn an_empty_journal_goes_on_where_the_ledger_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = Start { sequence: 17, prev: [3; 32] };
    let (journal, recovered) = open_with(dir.path(), Options { start, ..options() }).expect("a journal");
    assert_eq!(recovered.next_sequence, 17);
    assert_eq!(journal.durable(intent(1)).await.expect("durable").sequence, 17);
    let entries = journal.reader(17).batch(10, 1 << 20).expect("readable");
    assert_eq!(entries[0].prev, [3; 32]);
    let second = open_with(dir.path(), options()).expect_err("one writer at a time");
    assert!(second.to_string().contains("another caracald"), "{second}");
}

#[tokio::test]
async fn an_intent_that_is_given_up_is_released() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(dir.path());
    let mut number = 0;
    // The writer may be quick: try until a wait is cut short.
    while tokio::time::timeout(Duration::ZERO, journal.durable(intent(number))).await.is_ok() {
        number += 1;
    }
    journal.flush().await.expect("flushed");
    let records: Vec<Record> =
        read(dir.path()).iter().map(|entry| Record::parse(&entry.bytes).expect("a record")).collect();
    let [.., sent, end] = &records[..] else { panic!("an intent and its end") };
    assert_eq!((sent.kind.as_str(), end.kind.as_str()), (Kind::Intent.code(), Kind::Outcome.code()));
    assert_eq!((&sent.data.call, end.data.settle.as_deref()), (&end.data.call, Some("released")));
    assert_eq!(records.len() as u128, number + 2);
}

#[tokio::test]
async fn the_limit_closes_and_the_ledgers_commit_opens() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open_with(dir.path(), Options { max_bytes: 2 * SEGMENT, ..options() }).expect("a journal");
    let mut accepted = Vec::new();
    let error = loop {
        match journal.durable(intent(accepted.len() as u128)).await {
            Ok(receipt) => accepted.push(receipt.sequence),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("limit"), "{error}");
    assert!(journal.probe().await.is_err());
    assert_eq!(journal.tail().bytes(), (2 * SEGMENT, 2 * SEGMENT));
    let mut reader = journal.reader(0);
    let entries = reader.batch(usize::MAX, usize::MAX).expect("readable");
    assert_eq!(entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), accepted);
    journal.release(entries.len() as u64);
    let next = journal.durable(intent(9_999)).await.expect("room again");
    assert_eq!(next.sequence, entries.len() as u64);
    assert!(matches!(journal.reader(0).batch(1, 1), Err(ReadError::Gone(0))));
    assert_eq!(reader.batch(10, 1 << 20).expect("readable").len(), 1);
}

/// A small file system of its own; needs root, as all of the product does.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> SmallDisk {
        let dir = tempfile::tempdir().expect("a directory");
        let size = format!("size={bytes}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(size.as_str()))
            .expect("a tmpfs (root?)");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let disk = SmallDisk::new(8 * SEGMENT);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1u8; 3 * SEGMENT as usize]).expect("ballast");
    let (journal, _) = open(disk.0.path());
    let mut accepted = Vec::new();
    let mut number = 0;
    let error = loop {
        match journal.durable(intent(number)).await {
            Ok(_) => accepted.push(number),
            Err(error) => break error,
        }
        number += 1;
    };
    assert!(error.to_string().contains("No space left"), "{error}");
    for _ in 0..5 {
        assert!(journal.durable(intent(70_000)).await.is_err());
        assert!(journal.append(intent(70_001)).await.is_err(), "only outcomes are kept");
    }
    // How a call ended is not forgotten because the disk is full.
    journal.append(paid(Kind::Outcome, uuid::Uuid::from_u128(80_000))).await.expect("kept");
    accepted.push(80_000);
    std::fs::remove_file(&ballast).expect("space");
    while journal.probe().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    journal.durable(intent(90_000)).await.expect("durable");
    accepted.push(90_000);
    let entries = read(disk.0.path());
    assert_chained(&entries);
    assert_eq!(entries.iter().filter_map(call).collect::<Vec<_>>(), accepted);
}
