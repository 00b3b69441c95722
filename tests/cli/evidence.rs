//! The record: a torn tail is repaired, an edited ledger is found out, a receipt stands on its own.

use crate::{RULES, UNSOUND, case, fails};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use support::daemon::{Daemon, caracald};

fn traffic(daemon: &Daemon<'_>) {
    for _ in 0..3 {
        let _ran = daemon.run("curl").args(["-sS", "-o", "/dev/null", "https://example.com/hello"]).ran().ok();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_torn_tail_of_the_journal_is_repaired() {
    case("corrupt journal tail", RULES, |_, daemon| {
        daemon.restart();
        traffic(daemon);
        let before = daemon
            .records_when(|records| records.iter().filter(|record| record.kind.contains("decision")).count() >= 3)
            .len();
        daemon.kill();
        let journal = daemon.state().join("data/journal");
        let mut segments = files(&journal);
        segments.sort();
        let last =
            segments.iter().rfind(|path| path.metadata().is_ok_and(|file| file.len() > 4_096)).expect("a segment");
        // A write that power cut short: bytes that are no record where the next record would begin.
        let bytes = std::fs::read(last).expect("the segment");
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let mut file = std::fs::File::options().write(true).open(last).expect("the segment");
        file.seek(SeekFrom::Start(end as u64)).expect("its end");
        file.write_all(&[0, 0, 1, 44, 0xde, 0xad, 0xbe, 0xef, 0x7b]).expect("half a record");
        daemon.restart();
        assert!(daemon.records().len() >= before, "records were lost");
        traffic(daemon);
        let _ran = daemon.verify();
        daemon.stop();
    });
}

#[test]
fn a_ledger_edited_by_hand_is_found_out() {
    case("ledger edited by hand", RULES, |_, daemon| {
        daemon.restart();
        traffic(daemon);
        let _records = daemon
            .records_when(|records| records.iter().filter(|record| record.kind.contains("decision")).count() >= 3);
        daemon.stop();
        let _ran = daemon.verify();
        // An orderly stop leaves the ledger in one file.
        let log = daemon.state().join("data/ledger.sqlite-wal");
        assert!(log.metadata().map_or(true, |log| log.len() == 0), "the write-ahead log is not merged");
        let old = b"caracal.decision.v1";
        let mut edited = 0;
        for path in files(&daemon.state()).into_iter().filter(|path| path.to_string_lossy().contains("ledger")) {
            let mut bytes = std::fs::read(&path).expect("the ledger");
            if let Some(at) = bytes.windows(old.len()).position(|window| window == old) {
                bytes[at + old.len() - 1] = b'7';
                std::fs::write(&path, bytes).expect("the ledger");
                edited += 1;
            }
        }
        assert!(edited > 0, "no record stands in the ledger's files: {:?}", files(&daemon.state()));
        fails(daemon.command(&["ledger", "verify"]).ran(), UNSOUND, &[]);
    });
}

#[test]
fn a_receipt_is_checked_without_the_ledger() {
    case("a receipt", RULES, |scene, daemon| {
        daemon.restart();
        traffic(daemon);
        let _verified = daemon.caught_up();
        let ran = daemon.command(&["events", "--json", "--limit", "5"]).ran().ok();
        let line: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().expect("a record")).expect("JSON");
        let record = if line["record"].is_object() { &line["record"] } else { &line };
        let id = record["id"].as_str().expect("an id").to_owned();
        let receipt = scene.net.files().join("receipt.json");
        let path = receipt.display().to_string();
        let proven = daemon.command(&["ledger", "prove", &id]).ran().ok();
        if !receipt.exists() {
            std::fs::write(&receipt, &proven.stdout).expect("the receipt");
        }
        let keys = scene.file("keys", &daemon.command(&["ledger", "keys"]).ran().ok().stdout).display().to_string();
        // With the public key alone: no ledger, no journal, no configuration.
        let check =
            || scene.agent(caracald()).args(["ledger", "verify", "--receipt", &path, "--public-key", &keys]).ran();
        let _ran = check().ok();
        let text = std::fs::read_to_string(&receipt).expect("the receipt");
        let at = text.len() / 2;
        let mut forged = text.into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        std::fs::write(&receipt, forged).expect("the receipt");
        fails(check(), UNSOUND, &[]);
        daemon.stop();
    });
}
