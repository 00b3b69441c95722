//! What the ledger and the view should hold, computed from what Kafka holds and the hosts wrote, and what they do hold.
//! Keeps hashes, not records: a million of them are to fit.

use crate::host::{Charged, Host, hex, leaf, sha256};
use crate::plane::{PATIENCE, Plane};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};

pub(crate) type Hash = [u8; 32];

/// The verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Records that hosts wrote and no log has.
    pub(crate) lost: u64,
    /// Leaves that a log has twice, or that no host wrote.
    pub(crate) doubled: u64,
    /// Checkpoints that were ever signed, with another root than the model has at their size.
    pub(crate) forks: u64,
    /// Each log's root is that of the model, and the checkpoint over it says the same.
    pub(crate) roots_equal: bool,
    /// The view in Redis has what the hosts charged, to the nano-USD.
    pub(crate) redis_equal: bool,
}

impl Verdict {
    pub(crate) const SOUND: Verdict = Verdict { lost: 0, doubled: 0, forks: 0, roots_equal: true, redis_equal: true };
}

/// A checkpoint that was signed: its log, its size, its root.
pub(crate) type Signed = (i32, u64, Hash);

/// Looks at everything. `signed` are checkpoints that are not in the database any more.
pub(crate) fn judge(plane: &Plane, hosts: &[Host], signed: &[Signed]) -> Verdict {
    let (mut seen, mut doubled) = (HashSet::new(), 0);
    let wrote: HashSet<Hash> = hosts.iter().flat_map(|host| host.leaves.iter().copied()).collect();
    each_leaf(plane, |_, record| {
        let hash = leaf(record);
        doubled += u64::from(!seen.insert(hash) || !wrote.contains(&hash));
    });
    let lost = wrote.iter().filter(|hash| !seen.contains(*hash)).count() as u64;
    let (mut roots_equal, mut forks) = (true, 0);
    for partition in 0..plane.partitions {
        let model = model(plane, partition);
        assert!(!model.is_empty(), "partition {partition} has no record: a verdict over it says nothing");
        let all = (model.len() as u64, root(&model));
        let checkpoints = checkpoints(plane, partition);
        roots_equal &= root_of(plane, partition) == (all.0, hex(&all.1));
        roots_equal &= checkpoints.last().map_or((0, root(&[])), |(_, size, root)| (*size, *root)) == all;
        let mut signed: Vec<Signed> = signed.iter().filter(|(log, ..)| *log == partition).copied().collect();
        signed.extend(checkpoints);
        forks += contradictions(&model, signed);
    }
    Verdict { lost, doubled, forks, roots_equal, redis_equal: charges(plane) == charged(hosts) }
}

/// How many of these are not of a tree that the model passes through.
fn contradictions(model: &[Hash], mut signed: Vec<Signed>) -> u64 {
    signed.sort_unstable();
    let (mut forks, mut passed, mut heights) = (0, 0, Vec::new());
    for (_, size, root) in signed {
        // The complete subtrees at the right edge: what is left of a binary counter's carries.
        while passed < size && passed < model.len() as u64 {
            let (mut hash, mut height) = (model[passed as usize], 0);
            while heights.last().is_some_and(|(last, _)| *last == height) {
                let (_, left): (u32, Hash) = heights.pop().expect("a subtree");
                (hash, height) = (sha256(&[&[1], &left, &hash]), height + 1);
            }
            heights.push((height, hash));
            passed += 1;
        }
        let folded = heights.iter().rev().map(|(_, hash)| *hash).reduce(|right, left| sha256(&[&[1], &left, &right]));
        forks += u64::from(passed != size || folded.unwrap_or_else(|| sha256(&[])) != root);
    }
    forks
}

/// Calls `each` with the log and the bytes of every leaf, in the order of the log.
pub(crate) fn each_leaf(plane: &Plane, mut each: impl FnMut(i32, &[u8])) {
    plane.each_row("SELECT log, encode(data, 'hex') FROM events ORDER BY log, first", |row| {
        let (log, data) = row.split_once('|').expect("two columns");
        let nibble = |digit: u8| char::from(digit).to_digit(16).expect("hex") as u8;
        let data: Vec<u8> = data.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect();
        let log = log.parse().expect("a number");
        let mut rest = data.as_slice();
        // The form of an entry bundle: each record with its length before it.
        while let [high, low, more @ ..] = rest {
            let (record, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            each(log, record);
            rest = behind;
        }
    });
}

/// The records of each log, in the order of their leaves.
pub(crate) fn stored(plane: &Plane) -> BTreeMap<i32, Vec<Vec<u8>>> {
    let mut logs: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    each_leaf(plane, |log, record| logs.entry(log).or_default().push(record.to_vec()));
    logs
}

/// The leaf hashes of the records of a partition in its order, each once.
fn model(plane: &Plane, partition: i32) -> Vec<Hash> {
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
    let (mut leaves, mut seen, mut next) = (Vec::new(), HashSet::new(), low);
    while next < high {
        let message = consumer.poll(PATIENCE).expect("a message").expect("a good one");
        next = message.offset() + 1;
        let raw: Vec<&RawValue> = serde_json::from_slice(message.payload().expect("a payload")).expect("records");
        for record in raw {
            let hash = leaf(record.get().as_bytes());
            if seen.insert(hash) {
                leaves.push(hash);
            }
        }
    }
    leaves
}

/// RFC 6962, 2.1, word by word.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            sha256(&[&[1], &root(left), &root(right)])
        }
    }
}

pub(crate) fn root_of(plane: &Plane, log: i32) -> (u64, String) {
    let rows = plane.query(&format!("SELECT size, encode(root, 'hex') FROM logs WHERE log = {log}"));
    let (size, root) = rows.first().and_then(|row| row.split_once('|')).expect("a log");
    (size.parse().expect("a size"), root.to_owned())
}

/// What every checkpoint of a log says, smallest first, after its ECDSA line was held against the log's public key.
pub(crate) fn checkpoints(plane: &Plane, log: i32) -> Vec<Signed> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let sql = format!(
        "SELECT replace(encode(convert_to(note, 'UTF8'), 'base64'), E'\\n', '') FROM checkpoints WHERE log = {log} ORDER BY size"
    );
    let notes = plane.query(&sql);
    if notes.is_empty() {
        // Nothing of it is signed yet, or any more.
        return Vec::new();
    }
    let keys = plane.log_keys(log);
    let key = keys.lines().find_map(|line| {
        let key = STANDARD.decode(line.splitn(3, '+').nth(2)?).ok()?;
        (key.first() == Some(&2) && line.contains("/ledger+")).then(|| key[1 + 26..].to_vec())
    });
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        key.expect("a P-256 key"),
    );
    let read = |note: &String| {
        let note = String::from_utf8(STANDARD.decode(note).expect("base64")).expect("a note");
        let (text, lines) = note.split_once("\n\n").expect("signatures");
        let signed = lines.lines().any(|line| {
            let signature = STANDARD.decode(line.rsplit(' ').next().unwrap_or_default()).unwrap_or_default();
            signature.len() > 4 && key.verify(format!("{text}\n").as_bytes(), &signature[4..]).is_ok()
        });
        assert!(signed, "no line of the checkpoint is by the log's key:\n{note}");
        let lines: Vec<&str> = text.lines().collect();
        let root = STANDARD.decode(lines[2]).expect("a root");
        (log, lines[1].parse().expect("a size"), root.try_into().expect("32 bytes"))
    };
    notes.iter().map(read).collect()
}

/// Sums of what hosts charged.
fn charged(hosts: &[Host]) -> BTreeMap<Charged, u64> {
    let mut sums = BTreeMap::new();
    for (key, cost) in hosts.iter().flat_map(|host| &host.charges) {
        *sums.entry(key.clone()).or_default() += *cost;
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
