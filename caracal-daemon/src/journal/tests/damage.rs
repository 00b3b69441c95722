//! Bytes that are not what was written: a torn tail is cut off, everything else refuses to start.

use super::*;
use crate::journal::segment::HEADER_BYTES;
use std::os::unix::fs::FileExt as _;

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
