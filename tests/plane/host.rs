//! A host as the bus sees it: a chain of records and signed heads. Nothing of it is caracald's code.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// SHA-256.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    digest(&SHA256, &parts.concat()).as_ref().try_into().expect("32 bytes")
}

/// The hash of a leaf (RFC 6962, 2.1).
pub(crate) fn leaf(record: &[u8]) -> [u8; 32] {
    sha256(&[&[0], record])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A message for the bus.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Message {
    /// Sends it and waits for the acknowledgment, however long Kafka is away. Gives its offset.
    pub(crate) async fn send(&self, producer: &FutureProducer, topic: &str) -> i64 {
        let headers = self.headers();
        let record = FutureRecord::to(topic).key(&self.key).payload(&self.payload).headers(headers);
        producer.send(record, Duration::from_secs(600)).await.expect("acknowledged").offset
    }

    /// The same, into a partition that is said.
    pub(crate) async fn send_to(&self, producer: &FutureProducer, topic: &str, partition: i32) {
        let record = FutureRecord::to(topic).partition(partition).key(&self.key).payload(&self.payload);
        let sent = producer.send(record.headers(self.headers()), Duration::from_secs(600)).await;
        assert_eq!(sent.expect("acknowledged").partition, partition);
    }

    /// Gives it to the client at once; what comes back waits for the acknowledgment.
    pub(crate) fn hand_over(&self, producer: &FutureProducer, topic: &str) -> impl Future<Output = i64> + use<> {
        let record = FutureRecord::to(topic).key(&self.key).payload(&self.payload).headers(self.headers());
        let delivered = producer.send_result(record).map_err(|(error, _)| error).expect("room in the client's queue");
        async move { delivered.await.expect("the client lives").expect("acknowledged").offset }
    }

    fn headers(&self) -> OwnedHeaders {
        self.headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }
}

/// A charge that a host's record tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Charged {
    pub(crate) host: String,
    pub(crate) agent: String,
    pub(crate) model: String,
    pub(crate) day: String,
}

/// A host that is played.
pub(crate) struct Host {
    pub(crate) id: String,
    key: EcdsaKeyPair,
    next: u64,
    prev: [u8; 32],
    /// A paid call whose outcome is to come: its id, its hold.
    open: Vec<(String, u64)>,
    /// The leaf hashes of everything it wrote, in order.
    pub(crate) leaves: Vec<[u8; 32]>,
    /// The time in its records' ids, Unix milliseconds.
    pub(crate) ms: u64,
    /// What was charged, nano-USD.
    pub(crate) charges: BTreeMap<Charged, u64>,
}

impl Host {
    pub(crate) fn new(id: &str) -> Host {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let (next, prev, ms) = (0, [0; 32], 0x019a_b000_0000);
        Host { id: id.into(), key, next, prev, open: Vec::new(), leaves: Vec::new(), ms, charges: BTreeMap::new() }
    }

    /// Its public key, as `caracald ledger keys` prints one (c2sp.org/signed-note, type 0x02).
    pub(crate) fn public_key(&self) -> String {
        let spki: PublicKeyX509Der<'_> = self.key.public_key().as_der().expect("DER");
        let id = &sha256(&[spki.as_ref()])[..4];
        format!("caracal/{}/host+{}+{}\n", self.id, hex(id), STANDARD.encode([&[2], spki.as_ref()].concat()))
    }

    /// The next record: a decision, an intent, or the outcome of a call, by the number of `dice`.
    pub(crate) fn record(&mut self, dice: u64, now: &str) -> Vec<u8> {
        let agent = format!("agent-{}", dice % 3);
        let (kind, data) = match (dice % 4, self.open.pop()) {
            (0 | 1, Some((call, hold))) => {
                let cost = dice % hold;
                // Whose call it was, the intent said.
                let (agent, model) = of_call(&call);
                let charged = Charged { host: self.id.clone(), agent, model: model.clone(), day: now[..10].into() };
                *self.charges.entry(charged).or_default() += cost;
                let data = format!(
                    r#""caracal.call":"{call}","gen_ai.provider.name":"openai","gen_ai.request.model":"{model}","caracal.cost.nano_usd":{cost},"caracal.settle":"settled","caracal.usage.uncached_input_tokens":{},"gen_ai.usage.output_tokens":7,"caracal.terms.tier":"standard""#,
                    dice % 1000
                );
                ("outcome", data)
            }
            (2, open) => {
                self.open.extend(open);
                let model = format!("model-{}", dice % 2);
                let call = format!("{}|{agent}|{model}|{}", self.id, self.next);
                let hold = 1 + dice % 1_000_000_000;
                self.open.push((call.clone(), hold));
                let data = format!(
                    r#""caracal.agent":"{agent}","caracal.call":"{call}","gen_ai.provider.name":"openai","gen_ai.request.model":"{model}","caracal.hold.nano_usd":{hold},"caracal.windows":[{{"budget":"b","scope":"","window":"total"}}]"#
                );
                ("intent", data)
            }
            (_, open) => {
                self.open.extend(open);
                (
                    "decision",
                    format!(r#""caracal.agent":"{agent}","caracal.decision":"allow","caracal.action":"request""#),
                )
            }
        };
        self.chained(kind, &data, now)
    }

    /// A decision about a request with a very long path: a record of this many bytes, and some.
    pub(crate) fn long(&mut self, bytes: usize, now: &str) -> Vec<u8> {
        let path = "p".repeat(bytes);
        let data = format!(
            r#""caracal.agent":"agent-0","caracal.decision":"allow","caracal.action":"request","url.path":"/{path}""#
        );
        self.chained("decision", &data, now)
    }

    /// The record that comes next in the chain.
    fn chained(&mut self, kind: &str, data: &str, now: &str) -> Vec<u8> {
        // A UUIDv7: the ledger reads only its first 48 bits. No two hosts write the same one.
        let own = self.id.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let (time, own) = ((self.ms >> 16, self.ms & 0xffff), ((own >> 12) & 0xfff, own & 0xfff));
        let id = format!("{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}", time.0, time.1, own.0, own.1, self.next);
        let record = format!(
            r#"{{"specversion":"1.0","caracalschema":2,"sequence":"{:020}","caracalprev":"{}","type":"caracal.{kind}.v1","id":"{id}","source":"/caracal/{}","time":"{now}","datacontenttype":"application/json","data":{{{data}}}}}"#,
            self.next,
            hex(&self.prev),
            self.id
        )
        .into_bytes();
        self.prev = leaf(&record);
        self.next += 1;
        self.leaves.push(self.prev);
        record
    }

    /// The message of records that follow each other; its head is signed by this host.
    pub(crate) fn message(&self, records: &[Vec<u8>]) -> Message {
        let last = records.last().expect("a record");
        let sequence: u64 = std::str::from_utf8(&last[51..71]).expect("digits").parse().expect("a number");
        let head = leaf(last);
        let text = format!("caracal chain head v1\n{}\n{sequence}\n{}\n", self.id, hex(&head));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("signed");
        Message {
            key: self.id.clone(),
            payload: [b"[", records.join(&b','.to_owned()).as_slice(), b"]"].concat(),
            headers: vec![
                ("content-type", "application/cloudevents-batch+json".into()),
                ("caracal-head-sequence", sequence.to_string()),
                ("caracal-head-leaf", hex(&head)),
                ("caracal-head-signature", STANDARD.encode(signature)),
            ],
        }
    }
}

fn of_call(call: &str) -> (String, String) {
    let parts: Vec<&str> = call.split('|').collect();
    (parts[1].into(), parts[2].into())
}
