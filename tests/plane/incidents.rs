//! Whoever may write to Kafka still cannot forge a host; and a writer that was replaced writes nothing more.

use crate::SUBJECT;
use crate::host::{Host, Message, leaf};
use crate::judge::stored;
use crate::plane::{PATIENCE, Plane, now, text};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use std::collections::BTreeMap;
use support::netns::until;
use support::report;

fn run(host: &mut Host, dice: &mut StdRng, size: usize) -> Vec<Vec<u8>> {
    let at = now("now").text;
    (0..size).map(|_| host.record(dice.random(), &at)).collect()
}

#[test]
fn a_copy_in_another_partition_is_no_record_of_a_second_log() {
    report::plain(SUBJECT, "a host's messages are taken from its own partition only", || {
        let plane = Plane::start(2);
        let mut dice = StdRng::seed_from_u64(8);
        let mut host = Host::new("copied");
        plane.caracald(&["hosts", "enrol", text(&plane.file("host.pub", &host.public_key()))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let records = run(&mut host, &mut dice, 10);
        let message = host.message(&records);
        runtime.block_on(message.send(&producer, &plane.topic));
        // As whoever may write to the topic copies it, signature and all.
        [0, 1].iter().for_each(|at| runtime.block_on(message.send_to(&producer, &plane.topic, *at)));
        let worker = plane.worker("ledger");
        plane.settled(10);
        until("the copy is an incident", PATIENCE, || plane.count("SELECT count(*) FROM incidents") > 0).expect("it");
        assert_eq!(codes(&plane), BTreeMap::from([("misplaced".into(), 1)]));
        let leaves: usize = stored(&plane).values().map(Vec::len).sum();
        assert_eq!(leaves, 10, "each record once, in one log");
        worker.stop();
    });
}

#[test]
fn what_is_no_hosts_chain_is_an_incident_and_can_be_sent_again() {
    report::plain(SUBJECT, "forged, unsigned and forked chains are incidents", || {
        let plane = Plane::start(1);
        let mut dice = StdRng::seed_from_u64(7);
        let (mut good, mut late, mut forger) = (Host::new("good"), Host::new("late"), Host::new("good"));
        plane.caracald(&["hosts", "enrol", text(&plane.file("good.pub", &good.public_key()))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let send = |message: &Message| runtime.block_on(message.send(&producer, &plane.topic));
        let worker = plane.worker("ledger");

        let first = run(&mut good, &mut dice, 10);
        send(&good.message(&first));
        // The same chain by somebody else's key; no signature; no records; another's records under its name.
        let forged = run(&mut forger, &mut dice, 3);
        send(&forger.message(&forged));
        let mut unsigned = good.message(&first);
        unsigned.headers.clear();
        send(&unsigned);
        send(&Message { payload: b"not records".to_vec(), ..good.message(&first) });
        send(&Message { payload: forger.message(&forged).payload, ..good.message(&first) });
        // A host that nobody enrolled yet.
        let early = run(&mut late, &mut dice, 5);
        send(&late.message(&early));
        let more = run(&mut good, &mut dice, 10);
        send(&good.message(&more));
        plane.settled(20);
        until("every incident is known", PATIENCE, || plane.count("SELECT count(*) FROM incidents") >= 5)
            .expect("incidents");
        assert_eq!(
            codes(&plane),
            BTreeMap::from([
                ("broken_chain".into(), 1),
                ("malformed".into(), 1),
                ("unknown_host".into(), 1),
                ("unsigned".into(), 1),
                ("wrong_signature".into(), 1)
            ])
        );
        assert_eq!(hashes(&stored(&plane)[&0]), good.leaves, "only what the host signed");

        // Enrolled, and sent again: behind the record that came meanwhile, which left a gap.
        plane.caracald(&["hosts", "enrol", text(&plane.file("late.pub", &late.public_key()))]);
        let more = run(&mut late, &mut dice, 2);
        send(&late.message(&more));
        plane.settled(20 + 1 + 2);
        let places = places(&plane);
        let place = places["unknown_host"].as_str();
        let shown = plane.caracald(&["dlq", "show", place]);
        assert!(shown.contains("\"host\":\"late\"") && shown.contains("caracal-head-sequence: 4"), "{shown}");
        let payload = String::from_utf8(late.message(&early).payload).expect("text");
        assert!(shown.contains(&payload.escape_debug().to_string()), "the message as it came\n{shown}");
        for wrong in [&["dlq", "show", "0/999"][..], &["dlq", "redrive", place, "0/999"], &["dlq", "redrive"]] {
            assert!(!plane.agrees(wrong), "{wrong:?}: there is no such message");
        }
        let topic = plane.count("SELECT next_offset FROM logs");
        // One by its place, and what is dead for good is dead again.
        let said = plane.caracald(&["dlq", "redrive", place, places["malformed"].as_str()]);
        assert!(said.contains("2 messages"), "{said}");
        plane.settled(20 + 1 + 2 + 5);
        until("both came", PATIENCE, || plane.count("SELECT next_offset FROM logs") == topic + 2).expect("two");
        assert_eq!(plane.count("SELECT count(*) FROM incidents WHERE code = 'malformed'"), 2);
        // All with a code: what the ledger has by now, it drops.
        plane.caracald(&["dlq", "redrive", "--code", "unknown_host"]);
        until("it came again", PATIENCE, || plane.count("SELECT next_offset FROM logs") == topic + 3).expect("one");
        let leaves = stored(&plane).remove(&0).expect("a log");
        let there = hashes(&leaves);
        for record in &late.leaves {
            assert_eq!(there.iter().filter(|leaf| *leaf == record).count(), 1, "each record of the late host once");
        }
        assert_eq!(kinds(&leaves, "gap"), 1);

        // A host that was set back tells another history: a leaf says so, and nothing more of it is taken.
        let mut twin = Host::new("good");
        std::mem::swap(&mut twin, &mut good);
        let (signer, honest) = (&twin, twin.leaves.clone());
        let mut other = Host::new("good");
        let history = run(&mut other, &mut dice, 3);
        send(&signer.message(&history));
        until("the fork is known", PATIENCE, || {
            plane.count("SELECT count(*) FROM incidents WHERE code = 'forked'") == 1
        })
        .expect("an incident");
        plane.settled(29);
        let leaves = stored(&plane).remove(&0).expect("a log");
        assert_eq!(kinds(&leaves, "fork"), 1);
        let there = hashes(&leaves);
        assert!(
            history.iter().all(|record| !leaves.contains(record)) && honest.iter().all(|record| there.contains(record))
        );
        let shown = plane.caracald(&["dlq", "list", "--json"]);
        assert!(shown.lines().any(|line| line.contains("\"code\":\"forked\"")), "{shown}");
        worker.stop();
    });
}

#[test]
fn a_writer_that_was_replaced_writes_nothing_more() {
    report::plain(SUBJECT, "a second writer is fenced", || {
        let plane = Plane::start(1);
        let mut dice = StdRng::seed_from_u64(8);
        let mut host = Host::new("h");
        plane.caracald(&["hosts", "enrol", text(&plane.file("h.pub", &host.public_key()))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let one = plane.worker("ledger");
        let records = run(&mut host, &mut dice, 5);
        let message = host.message(&records);
        runtime.block_on(message.send(&producer, &plane.topic));
        plane.settled(5);
        let fence = plane.count("SELECT fence FROM logs");
        // It hangs, longer than the group waits for it, and another takes the partition.
        one.signal(libc::SIGSTOP);
        let two = plane.worker("ledger");
        until("the other one takes over", PATIENCE, || plane.count("SELECT fence FROM logs") > fence)
            .expect("a take-over");
        let records = run(&mut host, &mut dice, 5);
        let message = host.message(&records);
        runtime.block_on(message.send(&producer, &plane.topic));
        plane.settled(10);
        one.signal(libc::SIGCONT);
        for _ in 0..5 {
            let records = run(&mut host, &mut dice, 5);
            let message = host.message(&records);
            runtime.block_on(message.send(&producer, &plane.topic));
        }
        plane.settled(35);
        assert_eq!(hashes(&stored(&plane)[&0]), host.leaves, "each record once, in order\n{}", plane.log());
        assert_eq!(
            plane.count("SELECT count(*) FROM checkpoints GROUP BY log"),
            plane.count("SELECT checkpoints FROM logs")
        );
        one.stop();
        two.stop();
    });
}

fn hashes(records: &[Vec<u8>]) -> Vec<[u8; 32]> {
    records.iter().map(|record| leaf(record)).collect()
}

fn codes(plane: &Plane) -> BTreeMap<String, u64> {
    let shown = plane.caracald(&["dlq", "list", "--json"]);
    let mut codes = BTreeMap::new();
    for line in shown.lines() {
        let letter: Value = serde_json::from_str(line).expect("a JSON line");
        *codes.entry(letter["code"].as_str().expect("a code").to_owned()).or_default() += 1;
    }
    codes
}

/// The first dead letter of each code: its place, as `dlq list` shows it.
fn places(plane: &Plane) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    for line in plane.caracald(&["dlq", "list", "--json"]).lines() {
        let letter: Value = serde_json::from_str(line).expect("a JSON line");
        let text = |name: &str| letter[name].as_str().expect("text").to_owned();
        places.entry(text("code")).or_insert(text("message"));
    }
    places
}

fn kinds(leaves: &[Vec<u8>], kind: &str) -> usize {
    let wanted = format!("caracal.{kind}.v1");
    let is = |leaf: &&Vec<u8>| serde_json::from_slice::<Value>(leaf).is_ok_and(|leaf| leaf["type"] == wanted.as_str());
    leaves.iter().filter(is).count()
}
