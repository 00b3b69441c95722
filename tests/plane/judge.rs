//! What the ledger and the view should hold, computed from what Kafka holds and the hosts wrote, and what they do hold.

use crate::host::{Charged, Host, hex, leaf, sha256};
use crate::plane::{PATIENCE, Plane};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Records that hosts wrote and no log has.
    pub(crate) lost: u64,
    /// Leaves that a log has twice, or that no host wrote.
    pub(crate) doubled: u64,
    /// Each log's root is that of the model, and the checkpoint over it says the same.
    pub(crate) roots_equal: bool,
    /// The view in Redis has what the hosts charged, to the nano-USD.
    pub(crate) redis_equal: bool,
}

impl Verdict {
    pub(crate) const SOUND: Verdict = Verdict { lost: 0, doubled: 0, roots_equal: true, redis_equal: true };
}

/// Looks at everything.
pub(crate) fn judge(plane: &Plane, hosts: &[Host]) -> Verdict {
    let stored = stored(plane);
    let (mut seen, mut doubled) = (HashSet::new(), 0);
    let wrote: HashSet<&[u8]> = hosts.iter().flat_map(|host| host.records.iter().map(Vec::as_slice)).collect();
    for record in stored.values().flatten() {
        doubled += u64::from(!seen.insert(record.as_slice()) || !wrote.contains(record.as_slice()));
    }
    let lost = wrote.iter().filter(|record| !seen.contains(*record)).count() as u64;
    let roots_equal = (0..plane.partitions).all(|partition| {
        let model: Vec<[u8; 32]> = model(plane, partition).iter().map(|record| leaf(record)).collect();
        root_of(plane, partition) == (model.len() as u64, hex(&root(&model)))
            && signed_root(plane, partition) == (model.len() as u64, root(&model))
    });
    Verdict { lost, doubled, roots_equal, redis_equal: charges(plane) == charged(hosts) }
}

/// The records of each log, in the order of their leaves.
pub(crate) fn stored(plane: &Plane) -> BTreeMap<i32, Vec<Vec<u8>>> {
    let mut logs: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    for row in plane.query("SELECT log, encode(data, 'hex') FROM events ORDER BY log, first") {
        let (log, data) = row.split_once('|').expect("two columns");
        let data: Vec<u8> = data
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
            .collect();
        logs.entry(log.parse().expect("a number")).or_default().extend(bundle(&data));
    }
    logs
}

/// The records of an entry bundle: each with its length before it.
pub(crate) fn bundle(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let [high, low, more @ ..] = rest {
        let (record, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        records.push(record.to_vec());
        rest = behind;
    }
    records
}

/// The records of a partition in its order, each once.
fn model(plane: &Plane, partition: i32) -> Vec<Vec<u8>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &plane.kafka)
        .set("group.id", "judge")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let (low, high) = consumer.fetch_watermarks(&plane.topic, partition, PATIENCE).expect("watermarks");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&plane.topic, partition, Offset::Offset(low)).expect("a place");
    consumer.assign(&from).expect("assigned");
    let (mut records, mut seen, mut next) = (Vec::new(), HashSet::new(), low);
    while next < high {
        let message = consumer.poll(PATIENCE).expect("a message").expect("a good one");
        next = message.offset() + 1;
        let raw: Vec<&RawValue> = serde_json::from_slice(message.payload().expect("a payload")).expect("records");
        for record in raw {
            if seen.insert(record.get().to_owned()) {
                records.push(record.get().as_bytes().to_vec());
            }
        }
    }
    records
}

/// RFC 6962, 2.1, word by word.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            sha256(&[&[1], &root(left), &root(right)])
        }
    }
}

fn root_of(plane: &Plane, log: i32) -> (u64, String) {
    let rows = plane.query(&format!("SELECT size, encode(root, 'hex') FROM logs WHERE log = {log}"));
    let (size, root) = rows.first().and_then(|row| row.split_once('|')).expect("a log");
    (size.parse().expect("a size"), root.to_owned())
}

/// What the log's largest checkpoint says, after its ECDSA line was held against the log's public key.
fn signed_root(plane: &Plane, log: i32) -> (u64, [u8; 32]) {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let rows = plane.query(&format!(
        "SELECT encode(convert_to(note, 'UTF8'), 'base64') FROM checkpoints WHERE log = {log} ORDER BY size DESC LIMIT 1"
    ));
    if rows.is_empty() {
        // No host's records are in this partition.
        return (0, root(&[]));
    }
    let note = String::from_utf8(STANDARD.decode(rows.concat()).expect("base64")).expect("a note");
    let (text, lines) = note.split_once("\n\n").expect("signatures");
    let keys = plane.log_keys(log);
    let key = keys.lines().find_map(|line| {
        let key = STANDARD.decode(line.splitn(3, '+').nth(2)?).ok()?;
        (key.first() == Some(&2) && line.contains("/ledger+")).then(|| key[1 + 26..].to_vec())
    });
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        key.expect("a P-256 key"),
    );
    let signed = lines.lines().any(|line| {
        let signature = STANDARD.decode(line.rsplit(' ').next().unwrap_or_default()).unwrap_or_default();
        signature.len() > 4 && key.verify(format!("{text}\n").as_bytes(), &signature[4..]).is_ok()
    });
    assert!(signed, "no line of the checkpoint is by the log's key:\n{note}");
    let lines: Vec<&str> = text.lines().collect();
    let root = STANDARD.decode(lines[2]).expect("a root");
    (lines[1].parse().expect("a size"), root.try_into().expect("32 bytes"))
}

/// Sums of what hosts charged.
fn charged(hosts: &[Host]) -> BTreeMap<Charged, u64> {
    let mut sums = BTreeMap::new();
    for (key, cost) in hosts.iter().flat_map(|host| &host.charges) {
        *sums.entry(key.clone()).or_default() += cost;
    }
    sums.retain(|_, cost| *cost > 0);
    sums
}

/// The same, as Redis has it.
pub(crate) fn charges(plane: &Plane) -> BTreeMap<Charged, u64> {
    let mut sums = BTreeMap::new();
    for key in plane.redis(&["--raw", "KEYS", "*:spend:day:*"]) {
        let day = key.rsplit(':').next().expect("a day").to_owned();
        let fields = plane.redis(&["--raw", "HGETALL", &key]);
        let fields: HashMap<&String, &String> = fields.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect();
        for (field, value) in fields {
            let field: Value = serde_json::from_str(field).expect("a field");
            if field[4] == "nano" {
                let part = |at: usize| field[at].as_str().expect("text").to_owned();
                let key = Charged { host: part(0), agent: part(1), model: part(3), day: day.clone() };
                *sums.entry(key).or_default() += value.parse::<u64>().expect("an integer");
            }
        }
    }
    sums
}
