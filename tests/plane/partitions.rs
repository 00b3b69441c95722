//! Logs that outgrow a partition of `events` (2^24 leaves), in the middle of a commit and between two. Sixteen million records
//! are not written for it: the logs begin as trees of as many equal leaves, whose hashes follow from one, and whose records
//! are nowhere. So an audit from leaf 0 on is not to be had here; each record that was written is asked for, and the root is held
//! against a model.

use crate::SUBJECT;
use crate::host::{Host, hex, leaf, sha256};
use crate::judge::{Hash, checkpoints, root_of, stored};
use crate::plane::{Plane, now, text};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use support::report;
use support::served::Served;

/// Leaves of a partition.
const PARTITION: u64 = 1 << 24;
/// Leaves below the boundary where a log begins: a whole tile.
const ROOM: u64 = 256;

/// A tree of leaves, as RFC 6962 has it: the complete subtrees from left to right, with their heights.
struct Model {
    size: u64,
    subtrees: Vec<(u32, Hash)>,
}

impl Model {
    /// `size` times the same leaf.
    fn filled(size: u64) -> Model {
        let subtrees = (0..64).rev().filter(|bit| size >> bit & 1 == 1).map(|bit| (bit, filler(bit))).collect();
        Model { size, subtrees }
    }

    fn append(&mut self, leaf: Hash) {
        let (mut height, mut hash) = (0, leaf);
        while let Some((_, left)) = self.subtrees.pop_if(|(last, _)| *last == height) {
            (height, hash) = (height + 1, sha256(&[&[1], &left, &hash]));
        }
        self.subtrees.push((height, hash));
        self.size += 1;
    }

    fn root(&self) -> Hash {
        let hashes = self.subtrees.iter().rev().map(|(_, hash)| *hash);
        hashes.reduce(|right, left| sha256(&[&[1], &left, &right])).unwrap_or_else(|| sha256(&[]))
    }

    /// The hashes of each level that fill no tile, while all leaves are the same.
    fn edges(&self) -> String {
        let mut edges = String::new();
        for level in (0..).take_while(|level| self.size >> (8 * level) > 0) {
            let hash = hex(&filler(8 * level));
            let width = (self.size >> (8 * level) & 255) as usize;
            let comma = if level == 0 { "" } else { "," };
            write!(edges, "{comma}\"\\\\\\\\x{}\"", hash.repeat(width)).expect("text");
        }
        format!("{{{edges}}}")
    }
}

/// The hash over 2^height leaves that are all the same.
fn filler(height: u32) -> Hash {
    (0..height).fold(leaf(b"filler"), |hash, _| sha256(&[&[1], &hash, &hash]))
}

#[test]
fn a_log_outgrows_a_partition() {
    report::case(SUBJECT, "a log crosses the partitions of its table", || {
        let plane = Plane::start(2);
        // The CRC-32 of its id chooses a host's partition, and so its log.
        let mut hosts = ["host-4", "host-0"].map(Host::new);
        let keys: String = hosts.iter().map(Host::public_key).collect();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        let mut models = [PARTITION - ROOM, 2 * PARTITION - ROOM].map(Model::filled);
        for (log, model) in models.iter().enumerate() {
            plane.query(&format!(
                "INSERT INTO logs VALUES ({log}, 'caracal/test-{log}/ledger', {}, '\\x{}', E'{}', 0, '{}', {log}, 0, 0, 0)",
                model.size,
                hex(&model.root()),
                model.edges(),
                plane.topic
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (producer, mut dice, at) = (plane.producer(), StdRng::seed_from_u64(24), now("now").text);
        let mut total: u64 = models.iter().map(|model| model.size).sum();
        let worker = plane.worker("ledger");
        // The first log crosses within a message. The second has its second partition by then, as it would have, and crosses
        // between two commits.
        for (log, sizes) in [(0, [200, 100, 300]), (1, [ROOM, 1, 70])] {
            for size in sizes {
                let host = &mut hosts[log];
                let from = host.leaves.len();
                let records: Vec<_> = (0..size).map(|_| host.record(dice.random(), &at)).collect();
                let message = host.message(&records);
                runtime.block_on(message.send(&producer, &plane.topic));
                host.leaves[from..].iter().for_each(|leaf| models[log].append(*leaf));
                total += size;
                plane.settled(total);
            }
        }
        worker.stop();

        assert_eq!(plane.query("SELECT code, host, what FROM incidents"), Vec::<String>::new(), "{}", plane.log());
        let split = plane.query("SELECT tableoid::regclass, log, sum(count) FROM events GROUP BY 1, 2 ORDER BY 1, 2");
        assert_eq!(split, ["events_0|0|256", "events_1|0|344", "events_1|1|256", "events_2|1|71"]);
        let wrote = stored(&plane);
        for (log, (host, model)) in (0_i32..).zip(hosts.iter().zip(&models)) {
            let leaves: Vec<Hash> = wrote[&log].iter().map(|record| leaf(record)).collect();
            assert_eq!(leaves, host.leaves, "log {log} has its host's records, in order");
            assert_eq!(root_of(&plane, log), (model.size, hex(&model.root())), "log {log}");
            assert_eq!(checkpoints(&plane, log).last(), Some(&(log, model.size, model.root())), "log {log}");
        }
        asked(&plane, &models);
        served(&plane, &wrote[&0]);
        // A partition that was made later is guarded as the first is.
        for sql in ["TRUNCATE events_1", "DELETE FROM events_2", "UPDATE events SET count = 1 WHERE first >= 16777216"]
        {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plane.query(sql)));
            assert!(done.is_err(), "{sql}");
        }
        Map::from_iter([("records".into(), json!(hosts.iter().map(|host| host.leaves.len()).sum::<usize>()))])
    });
}

/// `ledger query` reads both sides of each boundary.
fn asked(plane: &Plane, models: &[Model; 2]) {
    let said = plane.caracald(&["ledger", "query", "--fleet", "--json"]);
    let mut places = BTreeSet::new();
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        places.insert((line["log"].to_string(), line["index"].as_u64().expect("an index")));
    }
    let logs: BTreeSet<String> = places.iter().map(|(log, _)| log.clone()).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    let wanted: BTreeSet<(String, u64)> = logs
        .into_iter()
        .zip([PARTITION - ROOM, 2 * PARTITION - ROOM].iter().zip(models))
        .flat_map(|(log, (from, model))| (*from..model.size).map(move |at| (log.clone(), at)))
        .collect();
    assert_eq!(places, wanted, "each leaf that was written");
}

/// The bundles beside the boundary, as auditors fetch them.
fn served(plane: &Plane, records: &[Vec<u8>]) {
    let served = Served::start(&plane.config(), &["--fleet"]);
    let port = served.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    // Leaves 16,776,960 to 16,777,215 are bundle 65,535; the boundary begins the next one.
    for (bundle, records) in [("x065/535", &records[..256]), ("x065/536", &records[256..512])] {
        let body = crate::usage::fetched(port, &format!("/test-0/tile/entries/{bundle}"));
        let wanted: Vec<u8> = records
            .iter()
            .flat_map(|record| [&u16::try_from(record.len()).expect("short").to_be_bytes()[..], record].concat())
            .collect();
        assert!(body == wanted, "bundle {bundle}: {} bytes of {}", body.len(), wanted.len());
    }
}
