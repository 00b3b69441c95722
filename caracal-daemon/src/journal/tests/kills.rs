//! `kill -9`, over and over: this test program starts itself again as the one that writes, and is told what was taken.

use super::*;
use std::io::{BufRead as _, Read as _, Write as _};

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
            .args(["journal::tests::kills::kill_nine_loses_no_acknowledged_record", "--exact", "--nocapture"])
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
                "journal::tests::kills::kill_nine_loses_nothing_that_was_taken_and_doubles_nothing",
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
