//! The journal as others use it: cuts at every byte, flips, a full disk, kills, limits.

use super::segment::HEADER_BYTES;
use super::*;
use crate::clock::UnixNanos;
use crate::event::Record;
use crate::event::write::tests::paid;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

mod issues;

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

/// A journal of `count` records, each durable before the next; its one segment's path and bytes.
async fn sample(dir: &Path, count: u128) -> (PathBuf, Vec<u8>) {
    let (journal, _) = open(dir);
    for number in 0..count {
        journal.durable(intent(number)).await.expect("durable");
    }
    drop(journal);
    let path = dir.join("journal").join(format!("{:020}.seg", 0));
    let bytes = std::fs::read(&path).expect("the segment");
    (path, bytes)
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
async fn a_cut_at_any_byte_leaves_the_longest_good_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, bytes) = sample(dir.path(), 3).await;
    let mut ends = vec![HEADER_BYTES as usize];
    while let frame::Parsed::Frame(frame) = frame::parse(&bytes[ends[ends.len() - 1]..]) {
        ends.push(ends[ends.len() - 1] + frame.len());
    }
    assert_eq!(ends.len(), 4);
    for cut in HEADER_BYTES as usize..=ends[3] {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        std::fs::write(&path, &torn).expect("written");
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
        let scan = recover::scan(&dir.path().join("journal"), Start::default()).expect("a torn tail is no damage");
        assert_eq!(scan.next.sequence, whole, "cut at {cut}");
        if cut % 101 == 0 {
            let (journal, recovered) = open(dir.path());
            assert_eq!(recovered.next_sequence, whole);
            journal.durable(intent(99)).await.expect("durable");
            drop(journal);
            let entries = read(dir.path());
            assert_chained(&entries);
            let reported = u64::from(recovered.torn_bytes > 0);
            assert_eq!(entries.len() as u64, whole + 1 + reported, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_flip_before_the_last_record_refuses_to_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, bytes) = sample(dir.path(), 3).await;
    let mut last = HEADER_BYTES as usize;
    for _ in 0..2 {
        let frame::Parsed::Frame(frame) = frame::parse(&bytes[last..]) else { panic!("a frame") };
        last += frame.len();
    }
    for at in 0..last {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).expect("written");
        let error = recover::scan(&dir.path().join("journal"), Start::default()).expect_err("damage");
        assert!(matches!(error, JournalError::Corrupt(_)), "byte {at}: {error}");
    }
}

#[tokio::test]
async fn a_missing_tail_that_was_signed_or_in_the_ledger_refuses_to_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, bytes) = sample(dir.path(), 3).await;
    let entries = read(dir.path());
    let journal_dir = dir.path().join("journal");
    let frame::Parsed::Frame(first) = frame::parse(&bytes[HEADER_BYTES as usize..]) else { panic!("a frame") };
    let mut cut = bytes.clone();
    cut[HEADER_BYTES as usize + first.len()..].fill(0);
    std::fs::write(&path, &cut).expect("written");
    let ledger = Start { sequence: 2, prev: entries[1].leaf };
    let behind = open_with(dir.path(), Options { start: ledger, ..options() }).expect_err("behind the ledger");
    assert!(behind.to_string().contains("the ledger holds record 1"), "{behind}");
    head::store(&journal_dir, &SignedHead { sequence: 2, leaf: entries[2].leaf, signature: vec![1] }).expect("stored");
    let missing = open_with(dir.path(), options()).expect_err("a signed record is missing");
    assert!(missing.to_string().contains("signed head names record 2"), "{missing}");
    std::fs::write(&path, &bytes).expect("written");
    open(dir.path());
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

const CHILD: &str = "CARACAL_TEST_JOURNAL_CHILD";

/// Writes for ever and says on standard output what was acknowledged.
async fn child(dir: &Path) -> ! {
    let (journal, recovered) = open(dir);
    let base = u128::from(recovered.next_sequence) << 32;
    let tasks = (0..8u128).map(|lane| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for step in 0..u128::MAX {
                let number = base + (step << 4) + lane;
                journal.append(paid(Kind::Outcome, uuid::Uuid::from_u128(1))).await.expect("appended");
                let receipt = journal.durable(intent(number)).await.expect("durable");
                let mut line = format!("ack {} {number}\n", receipt.sequence).into_bytes();
                line.insert(0, b'\n');
                std::io::stdout().write_all(&line).expect("the parent reads");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("joined");
    }
    unreachable!("it writes until it is killed")
}

#[tokio::test]
async fn kill_nine_loses_no_acknowledged_record() {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = std::collections::BTreeMap::new();
    for round in 0..8u64 {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["journal::tests::kill_nine_loses_no_acknowledged_record", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("its output"));
        let wanted = 20 + rand::random::<u64>() % 60 + round;
        let mut line = String::new();
        let mut seen = 0;
        while seen < wanted && out.read_line(&mut line).expect("readable") > 0 {
            seen += u64::from(line.starts_with("ack "));
            take(&line, &mut acknowledged);
            line.clear();
        }
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("readable");
        // A line without its end may be half a number.
        let whole = rest.rfind('\n').map_or("", |end| &rest[..=end]);
        whole.lines().for_each(|line| take(line, &mut acknowledged));
        assert!(seen >= wanted, "the child died by itself after {seen} acknowledgements");
    }
    let (journal, _) = open(dir.path());
    drop(journal);
    let entries = read(dir.path());
    assert_chained(&entries);
    for (sequence, number) in &acknowledged {
        let entry = entries.get(*sequence as usize).expect("an acknowledged record is missing");
        assert_eq!(call(entry), Some(*number));
    }
}

fn take(line: &str, acknowledged: &mut std::collections::BTreeMap<u64, u128>) {
    let mut words = line.split_whitespace();
    if words.next() == Some("ack")
        && let (Some(sequence), Some(number)) = (words.next(), words.next())
    {
        acknowledged.insert(sequence.parse().expect("a number"), number.parse().expect("a number"));
    }
}

const TAKER: &str = "CARACAL_TEST_JOURNAL_TAKER";

/// Appends without waiting, and counts, for ever; says on standard output what was taken.
async fn taker(dir: &Path) -> ! {
    let (journal, _) = open(dir);
    let say = |line: String| std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("the parent reads");
    let base = u128::from(std::process::id()) << 64;
    let tasks = (0..4u128).map(|lane| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for step in 0..u128::MAX {
                let number = base + (step << 4) + lane;
                let draft = paid(Kind::Outcome, uuid::Uuid::from_u128(number));
                if lane % 2 == 0 {
                    journal.append(draft).await.expect("appended");
                    say(format!("took {number} 1"));
                } else {
                    let mut counted = journal.count(&draft).expect("counted");
                    for count in 1..=1 + step % 7 {
                        assert!(counted.add());
                        say(format!("took {number} {count}"));
                        tokio::task::yield_now().await;
                    }
                    journal.append_counted(counted).await.map_err(|(error, _)| error).expect("appended");
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("joined");
    }
    unreachable!("it writes until it is killed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_loses_nothing_that_was_taken_and_doubles_nothing() {
    if let Some(dir) = std::env::var_os(TAKER) {
        taker(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut taken = std::collections::BTreeMap::<u128, u64>::new();
    for _ in 0..12 {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args([
                "journal::tests::kill_nine_loses_nothing_that_was_taken_and_doubles_nothing",
                "--exact",
                "--nocapture",
            ])
            .env(TAKER, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("its output"));
        let wanted = 20 + rand::random::<u64>() % 80;
        let mut text = String::new();
        for _ in 0..wanted * 2 {
            out.read_line(&mut text).expect("readable");
        }
        child.kill().expect("killed");
        child.wait().expect("reaped");
        out.read_to_string(&mut text).expect("readable");
        // A line without its end may be half a number.
        for line in text.rfind('\n').map_or("", |end| &text[..=end]).lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("took") {
                let mut number = || words.next().and_then(|word| word.parse::<u128>().ok()).expect("a number");
                let (call, count) = (number(), number() as u64);
                taken.entry(call).and_modify(|most| *most = count.max(*most)).or_insert(count);
            }
        }
    }
    let (journal, _) = open(dir.path());
    drop(journal);
    let entries = read(dir.path());
    assert_chained(&entries);
    let mut found = std::collections::BTreeMap::new();
    for entry in &entries {
        let data = Record::parse(&entry.bytes).expect("a record").data;
        let Some(call) = data.call else { continue };
        let call = call.parse::<uuid::Uuid>().expect("an id").as_u128();
        assert_eq!(found.insert(call, data.count.unwrap_or(1)), None, "call {call} is there twice");
    }
    assert!(taken.len() > 100, "{}", taken.len());
    for (call, count) in &taken {
        let there = found.get(call).copied().unwrap_or(0);
        // One more may have been taken and not been said.
        assert!((*count..=count + 1).contains(&there), "call {call}: taken {count} times, {there} are recorded");
    }
}

#[tokio::test]
async fn a_reader_never_sees_what_is_not_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) =
        open_with(dir.path(), Options { sync_within: Duration::from_secs(3_600), ..options() }).expect("a journal");
    journal.append(intent(1)).await.expect("appended");
    journal.probe().await.expect("alive");
    let mut reader = journal.reader(0);
    assert_eq!(reader.batch(10, 1 << 20).expect("readable").len(), 0);
    assert_eq!(read(dir.path()).len(), 1, "it is written all the same");
    journal.flush().await.expect("flushed");
    assert!(reader.wait(Duration::from_secs(60)));
    assert_eq!(reader.batch(10, 1 << 20).expect("readable").len(), 1);
    let file = std::fs::File::options().write(true).open(dir.path().join("journal").join(format!("{:020}.seg", 0)));
    file.expect("the segment").write_all_at(&[0; 8], HEADER_BYTES).expect("written");
    assert!(matches!(journal.reader(0).batch(10, 1 << 20), Err(ReadError::Damaged { sequence: 0, .. })));
}
