//! What one message on the shared bus is: records of one host that follow each other, and the head of the host's chain
//! at the last of them, signed with the host's key. Takes records and a head; gives a message; and back.
//!
//! The payload is a JSON array of the records (CloudEvents batched mode, `application/cloudevents-batch+json`), so that
//! others can read the topic; each element's exact bytes are a leaf. Each record names the hash of the one before it, so the
//! one signature covers them all: whoever may write to the topic still cannot add a record to a host's chain.

use crate::event::write::{MAX_RECORD_BYTES, plain_length, read_place};
use crate::event::{Hash, leaf_hash};
use crate::journal::{Entry, SignedHead, head};
use crate::ledger::note::Verifier;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

/// The payload's content type (CloudEvents, Kafka binding).
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json";
/// Names of the message's headers.
pub const HEADERS: [&str; 4] = ["content-type", SEQUENCE, LEAF, SIGNATURE];
const SEQUENCE: &str = "caracal-head-sequence";
const LEAF: &str = "caracal-head-leaf";
const SIGNATURE: &str = "caracal-head-signature";

/// Records that one message holds at most.
pub const MAX_RECORDS: usize = 4_096;
/// Bytes of records that one message holds, about: below the broker's default limit of 1 MiB with the longest record.
pub const MAX_BYTES: usize = 512 << 10;
/// The longest payload that is read, bytes.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// Records of one host, and the signed head of its chain at the last of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRun {
    /// The host's id: the message's key.
    pub host: String,
    /// In order, each the successor of the one before. Never empty.
    pub records: Vec<Entry>,
    /// The head at the last record.
    pub head: SignedHead,
}

/// Why a message is no run of a host's chain. It is an incident, not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not the form of a message.
    #[error("it is not a batch of records: {0}")]
    Malformed(&'static str),
    /// No signed head.
    #[error("it carries no signed head of the host's chain")]
    Unsigned,
    /// A host that is not enrolled.
    #[error("the host is not enrolled: `caracald hosts enrol`")]
    UnknownHost,
    /// Signed by somebody else, or something else was signed.
    #[error("the signature is not the host's")]
    WrongSignature,
    /// Its records do not follow each other, or do not end at the head.
    #[error("its records do not make the chain that the head is of")]
    BrokenChain,
    /// It lies where no message of the host's belongs: a copy, which another log would take a second time.
    #[error("it is in a partition that is not the host's")]
    Misplaced,
    /// The host told another history before.
    #[error("it contradicts what the host published before")]
    Forked,
}

impl Unfit {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Unfit::Malformed(_) => "malformed",
            Unfit::Unsigned => "unsigned",
            Unfit::UnknownHost => "unknown_host",
            Unfit::WrongSignature => "wrong_signature",
            Unfit::BrokenChain => "broken_chain",
            Unfit::Misplaced => "misplaced",
            Unfit::Forked => "forked",
        }
    }
}

/// The partition of all of a host's messages, of `count`: librdkafka's default for a message with a key
/// (`consistent_random`: CRC-32 of the key).
#[must_use]
pub fn partition_of(host: &str, count: u32) -> u32 {
    crc32fast::hash(host.as_bytes()).checked_rem(count).unwrap_or(0)
}

/// The payload of a message.
#[must_use]
pub fn payload(records: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.iter().map(|record| record.bytes.len() + 1).sum::<usize>() + 1);
    for record in records {
        out.push(if out.is_empty() { b'[' } else { b',' });
        out.extend_from_slice(&record.bytes);
    }
    out.push(b']');
    out
}

/// The headers of a message, in the order of [`HEADERS`].
#[must_use]
pub fn headers(head: &SignedHead) -> [String; 4] {
    [CONTENT_TYPE.to_owned(), head.sequence.to_string(), hex::encode(head.leaf), STANDARD.encode(&head.signature)]
}

/// Reads a message. `header` gives a header's value by its name. Nothing is checked yet but the form.
///
/// # Errors
/// `Malformed` or `Unsigned`.
pub fn read<'m>(
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
    header: impl Fn(&str) -> Option<&'m [u8]>,
) -> Result<SignedRun, Unfit> {
    let host = key.and_then(|key| std::str::from_utf8(key).ok()).filter(|host| is_host_id(host));
    let host = host.ok_or(Unfit::Malformed("its key is no host id"))?.to_owned();
    let payload = payload.ok_or(Unfit::Malformed("it is empty"))?;
    if payload.len() > MAX_PAYLOAD {
        return Err(Unfit::Malformed("it is too long"));
    }
    let text = |name: &str| header(name).and_then(|value| std::str::from_utf8(value).ok());
    let head = read_head(text(SEQUENCE), text(LEAF), text(SIGNATURE)).ok_or(Unfit::Unsigned)?;
    let raw: Vec<&RawValue> =
        serde_json::from_slice(payload).map_err(|_| Unfit::Malformed("its payload is no JSON array"))?;
    if raw.is_empty() || raw.len() > MAX_RECORDS {
        return Err(Unfit::Malformed("it has no record, or too many"));
    }
    let records = raw.into_iter().map(|record| entry(record.get().as_bytes())).collect::<Option<Vec<_>>>();
    let records = records.ok_or(Unfit::Malformed("an element is no record"))?;
    Ok(SignedRun { host, records, head })
}

impl SignedRun {
    /// Holds the run against the host's public key.
    ///
    /// # Errors
    /// `BrokenChain` or `WrongSignature`.
    pub fn check(&self, key: &Verifier) -> Result<(), Unfit> {
        let follow = |pair: &[Entry]| match pair {
            [one, next] => next.prev == one.leaf && one.sequence.checked_add(1) == Some(next.sequence),
            _ => false,
        };
        let ends =
            self.records.last().is_some_and(|last| (last.sequence, last.leaf) == (self.head.sequence, self.head.leaf));
        let source = crate::event::write::source(&self.host);
        let its = |record: &Entry| source_of(&record.bytes) == Some(source.as_str());
        if !ends || !self.records.windows(2).all(follow) || !self.records.iter().all(its) {
            return Err(Unfit::BrokenChain);
        }
        let signed = head::signed_bytes(&self.host, self.head.sequence, &self.head.leaf);
        if key.verify(&signed, &self.head.signature) { Ok(()) } else { Err(Unfit::WrongSignature) }
    }
}

/// The CloudEvents source of a record, read without reading the record.
#[must_use]
pub fn source_of(record: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = br#","source":""#;
    let near = record.get(crate::event::write::PLACE_BYTES..)?;
    let near = near.get(..near.len().min(320))?;
    let found = || near.windows(BEFORE.len()).position(|window| window == BEFORE);
    let at = behind_id(near).map_or_else(found, Some)? + BEFORE.len();
    let rest = near.get(at..)?;
    let end = plain_length(rest).or_else(|| rest.iter().position(|byte| *byte == b'"'))?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// Where the source of a record stands that begins as ours do, with its type and its id: found without a search, since an
/// audit asks for each.
fn behind_id(near: &[u8]) -> Option<usize> {
    const AFTER: &[u8] = br#"","source":""#;
    let kind = near.strip_prefix(br#""type":""#)?;
    let rest = kind.get(plain_length(kind)?..)?.strip_prefix(br#"","id":""#)?;
    let (id, rest) = rest.split_at_checked(uuid::fmt::Hyphenated::LENGTH)?;
    let plain = id.iter().fold(true, |plain, byte| plain & (byte.is_ascii_hexdigit() | (*byte == b'-')));
    (plain && rest.starts_with(AFTER)).then(|| near.len() - rest.len() + 1)
}

/// Whether this can be a host's id: it stands in key names.
#[must_use]
pub fn is_host_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"+/\\\"".contains(&byte))
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    if bytes.len() > MAX_RECORD_BYTES {
        return None;
    }
    let (sequence, prev) = read_place(bytes)?;
    Some(Entry { sequence, prev, leaf: leaf_hash(bytes), bytes: bytes.to_vec() })
}

fn read_head(sequence: Option<&str>, leaf: Option<&str>, signature: Option<&str>) -> Option<SignedHead> {
    let sequence = sequence?.parse().ok()?;
    let mut hash: Hash = [0; 32];
    hex::decode_to_slice(leaf?, &mut hash).ok()?;
    Some(SignedHead { sequence, leaf: hash, signature: STANDARD.decode(signature?).ok()? })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keeper::ledger_key::LedgerKey;
    use proptest::prelude::*;

    /// A host with a key, which makes records.
    pub(crate) struct Host {
        pub(crate) id: String,
        pub(crate) key: LedgerKey,
        pub(crate) next: u64,
        pub(crate) prev: Hash,
        _dir: tempfile::TempDir,
    }

    impl Host {
        pub(crate) fn new(id: &str) -> Host {
            let dir = tempfile::tempdir().expect("a directory");
            let key = LedgerKey::open(dir.path(), id).expect("keys");
            Host { id: id.to_owned(), key, next: 0, prev: [0; 32], _dir: dir }
        }

        /// The next record with this text in it.
        pub(crate) fn record(&mut self, text: &str) -> Entry {
            let mut bytes = Vec::new();
            crate::event::write::place(2, self.next, &self.prev, &mut bytes);
            let id = uuid::Uuid::from_u128(u128::from(self.next) << 80 | 7 << 76);
            bytes.extend_from_slice(
                format!(
                    r#""type":"caracal.decision.v1","id":"{id}","source":"/caracal/{}","time":"2026-11-24T10:00:00Z","data":{{"caracal.message":"{text}"}}}}"#,
                    self.id
                )
                .as_bytes(),
            );
            let leaf = leaf_hash(&bytes);
            let entry = Entry { sequence: self.next, prev: self.prev, leaf, bytes };
            self.next += 1;
            self.prev = leaf;
            entry
        }

        pub(crate) fn sign(&self, records: Vec<Entry>) -> SignedRun {
            let last = records.last().expect("a record");
            let signature = self.key.sign_any_head(last.sequence, &last.leaf);
            let head = SignedHead { sequence: last.sequence, leaf: last.leaf, signature };
            SignedRun { host: self.id.clone(), records, head }
        }

        pub(crate) fn run(&mut self, count: usize) -> SignedRun {
            let records = (0..count).map(|_| self.record("x")).collect();
            self.sign(records)
        }
    }

    fn over_the_wire(run: &SignedRun) -> Result<SignedRun, Unfit> {
        let values = headers(&run.head);
        let header = |name: &str| HEADERS.iter().position(|known| *known == name).map(|at| values[at].as_bytes());
        read(Some(run.host.as_bytes()), Some(&payload(&run.records)), header)
    }

    #[test]
    fn a_run_comes_back_byte_by_byte() {
        let mut host = Host::new("h-1");
        let run = host.run(5);
        let back = over_the_wire(&run).expect("a run");
        assert_eq!(back, run);
        back.check(host.key.host_verifier()).expect("its chain, signed");
    }

    #[test]
    fn nobody_else_can_write_a_hosts_chain() {
        let mut host = Host::new("h-1");
        let stranger = Host::new("h-1");
        let run = host.run(4);
        assert_eq!(run.check(stranger.key.host_verifier()), Err(Unfit::WrongSignature));
        // A record more than was signed, one less, another one, another host's, an old signature.
        let mut more = run.clone();
        more.records.push(host.record("more"));
        assert_eq!(more.check(host.key.host_verifier()), Err(Unfit::BrokenChain));
        let mut less = run.clone();
        less.records.pop();
        assert_eq!(less.check(host.key.host_verifier()), Err(Unfit::BrokenChain));
        let mut other = run.clone();
        other.records.remove(1);
        assert_eq!(other.check(host.key.host_verifier()), Err(Unfit::BrokenChain));
        let mut forged = stranger.sign(run.records.clone());
        assert_eq!(forged.check(host.key.host_verifier()), Err(Unfit::WrongSignature));
        forged.head.signature.clear();
        assert_eq!(forged.check(host.key.host_verifier()), Err(Unfit::WrongSignature));
        let mut named = run;
        named.host = "h-2".into();
        assert_eq!(named.check(host.key.host_verifier()), Err(Unfit::BrokenChain));
    }

    #[test]
    fn what_is_no_message_has_a_code() {
        let mut host = Host::new("h");
        let run = host.run(2);
        let payload = payload(&run.records);
        let none = |_: &str| None;
        assert_eq!(read(Some(b"h"), Some(&payload), none), Err(Unfit::Unsigned));
        for (key, payload) in
            [(None, Some(&payload[..])), (Some(&b"a/b"[..]), Some(&payload[..])), (Some(&b"h"[..]), None)]
        {
            assert_eq!(read(key, payload, none).map_err(|why| why.code()), Err("malformed"));
        }
        let values = headers(&run.head);
        let header = |name: &str| HEADERS.iter().position(|known| *known == name).map(|at| values[at].as_bytes());
        for payload in [&b"[]"[..], b"[1]", b"{}", b"[", b"[{\"specversion\":\"1.0\"}]"] {
            assert_eq!(read(Some(b"h"), Some(payload), header).map_err(|why| why.code()), Err("malformed"));
        }
    }

    #[test]
    fn a_source_is_found_where_ours_have_it_and_elsewhere() {
        let record = Host::new("h-1").record("x").bytes;
        assert_eq!(source_of(&record), Some("/caracal/h-1"));
        let text = String::from_utf8(record).expect("text");
        // The first one counts, wherever it is.
        let other = text.replace(r#","id":"#, r#","source":"/caracal/a","id":"#);
        assert_eq!(source_of(other.as_bytes()), Some("/caracal/a"));
        let (before, after) = text.split_once(r#""id":""#).expect("an id");
        let (id, rest) = after.split_at(36);
        let hidden = format!(r#"{before}"id":"{}","source":"b"{}"{rest}"#, &id[..4], &id[20..]);
        assert_eq!(source_of(hidden.as_bytes()), Some("b"));
        assert_eq!(source_of(text.replace("source", "sauce").as_bytes()), None);
    }

    proptest! {
        /// Whatever is wrong with a record, its source is the one that a search finds.
        #[test]
        fn a_source_is_the_one_that_a_search_finds(
            edits in proptest::collection::vec((0..100_usize, any::<prop::sample::Index>()), 0..6),
        ) {
            const BYTES: &[u8] = b"\"\\,:a\x1f\xc3";
            const BEFORE: &[u8] = br#","source":""#;
            let mut near =
                br#""type":"caracal.decision.v1","id":"019ab000-0000-7000-8000-000000000000","source":"/caracal/h-1","time":"2026-11-24T10:00:00Z","data":{"caracal.agent":"a","source":"b"}}"#.to_vec();
            for (at, with) in edits {
                near.get_mut(at).into_iter().for_each(|byte| *byte = BYTES[with.index(BYTES.len())]);
            }
            let at = near.windows(BEFORE.len()).position(|window| window == BEFORE);
            let searched = at.and_then(|at| near[at + BEFORE.len()..].split(|byte| *byte == b'"').next());
            let mut record = Vec::new();
            crate::event::write::place(2, 1, &[0; 32], &mut record);
            record.extend_from_slice(&near);
            prop_assert_eq!(source_of(&record), searched.and_then(|source| std::str::from_utf8(source).ok()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..300), key in ".{0,9}") {
            let values = ["x".to_owned(), "1".to_owned(), "00".repeat(32), "AA==".to_owned()];
            let header = |name: &str| HEADERS.iter().position(|known| *known == name).map(|at| values[at].as_bytes());
            let _ = read(Some(key.as_bytes()), Some(&payload), header);
        }
    }
}
