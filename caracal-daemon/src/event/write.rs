//! Takes a [`Draft`]; gives the exact bytes of its record, but for the place that the journal assigns.
//!
//! The chain fields stand first at a fixed offset, so that the writer thread only copies; all else is made, and the
//! detail sealed, on the caller's thread. Long free text is cut; budget windows never are, since money hangs on them.

use super::seal::{DetailKeys, SealError};
use super::{Data, Detail, Draft, Hash, Kind, Usage, WindowKey};
use crate::clock::UnixNanos;
use base64::Engine as _;
use rand::RngCore as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// The longest record, bytes: the length prefix of a C2SP entry bundle has 16 bits.
pub const MAX_RECORD_BYTES: usize = 65_535;
/// The version that `caracalschema` carries. 2 added the terms that a call was served on, 3 corrections: who does not know
/// them would sum wrongly. Older ones are read for ever.
pub const SCHEMA: u8 = 3;

const BEFORE_SCHEMA: &[u8] = br#"{"specversion":"1.0","caracalschema":"#;
const BEFORE_SEQUENCE: &[u8] = br#","sequence":""#;
const BEFORE_PREV: &[u8] = br#"","caracalprev":""#;
const AFTER_PREV: &[u8] = br#"","#;
const SEQUENCE_DIGITS: usize = 20;
const PREV_DIGITS: usize = 64;
/// Bytes of a record before what [`Scribe::seal`] made.
pub(crate) const PLACE_BYTES: usize = BEFORE_SCHEMA.len()
    + 1
    + BEFORE_SEQUENCE.len()
    + SEQUENCE_DIGITS
    + BEFORE_PREV.len()
    + PREV_DIGITS
    + AFTER_PREV.len();
const MAX_SEALED_BYTES: usize = MAX_RECORD_BYTES - PLACE_BYTES;

// Room of one field's escaped text, bytes. All of them together stay below MAX_RECORD_BYTES.
const ROOM_NAME: usize = 256;
const ROOM_TEXT: usize = 4_096;
const ROOM_LIST: usize = 8_192;
const ROOM_WINDOWS: usize = 24_576;

/// A record that only waits for its sequence number and the hash of the record before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Length of the whole record, bytes.
    #[must_use]
    pub fn record_len(&self) -> usize {
        PLACE_BYTES + self.0.len()
    }

    /// How many equal events the record stands for. For a record that was sealed without a count, once.
    pub(crate) fn set_count(&mut self, count: u64) {
        if count > 1 && self.0.ends_with(b"}}") {
            self.0.truncate(self.0.len() - 2);
            // What is counted has a decision at least, so a comma is right.
            let _ = write!(self.0, ",\"caracal.count\":{count}}}}}");
        }
    }

    /// The record's id.
    pub(crate) fn id(&self) -> Option<&str> {
        id_in(&self.0)
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        let rest = self.0.strip_prefix(br#""type":""#).and_then(|rest| rest.strip_prefix(kind.code().as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b"\""))
    }

    /// The record without its place.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`Sealed::bytes`] gave.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Sealed> {
        (bytes.len() <= MAX_SEALED_BYTES && id_in(&bytes).is_some() && bytes.ends_with(b"}}")).then_some(Sealed(bytes))
    }

    /// Appends the record's bytes to `out`.
    pub fn place(&self, sequence: u64, prev: &Hash, out: &mut Vec<u8>) {
        place(SCHEMA, sequence, prev, out);
        out.extend_from_slice(&self.0);
    }
}

/// Writes the beginning of a record: its version, which has one digit, and its place.
pub(crate) fn place(schema: u8, sequence: u64, prev: &Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(BEFORE_SCHEMA);
    out.push(b'0' + schema);
    out.extend_from_slice(BEFORE_SEQUENCE);
    let _ = write!(out, "{sequence:020}");
    out.extend_from_slice(BEFORE_PREV);
    let mut digits = [0u8; PREV_DIGITS];
    let _ = hex::encode_to_slice(prev, &mut digits);
    out.extend_from_slice(&digits);
    out.extend_from_slice(AFTER_PREV);
}

/// The sequence number and the previous leaf hash of a record, if it begins as every record does.
#[must_use]
pub fn read_place(record: &[u8]) -> Option<(u64, Hash)> {
    read_schema(record)?;
    let rest = record.get(BEFORE_SCHEMA.len() + 1..)?.strip_prefix(BEFORE_SEQUENCE)?;
    let (digits, rest) = rest.split_first_chunk::<SEQUENCE_DIGITS>()?;
    let rest = rest.strip_prefix(BEFORE_PREV)?;
    let (prev, rest) = rest.split_first_chunk::<PREV_DIGITS>()?;
    rest.strip_prefix(AFTER_PREV)?;
    Some((decimal(digits)?, lower_hex(prev)?))
}

/// The version of a record that begins as every record does.
pub(crate) fn read_schema(record: &[u8]) -> Option<u64> {
    let schema = record.strip_prefix(BEFORE_SCHEMA)?.first()?;
    (b'1'..=b'0' + SCHEMA).contains(schema).then(|| u64::from(schema - b'0'))
}

fn decimal(digits: &[u8; SEQUENCE_DIGITS]) -> Option<u64> {
    let wrong = digits.iter().fold(false, |wrong, digit| wrong | !digit.is_ascii_digit());
    // Half of them always fit.
    let ([high, low], []) = digits.as_chunks::<10>() else { return None };
    let [high, low] = [high, low].map(|half| half.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit & 0xf)));
    let sum = high.checked_mul(10_000_000_000)?.checked_add(low)?;
    (!wrong).then_some(sum)
}

/// A hash in hex digits, none of them a capital: all digits in the same way, so that the compiler takes many at once.
fn lower_hex(digits: &[u8; PREV_DIGITS]) -> Option<Hash> {
    let (mut wrong, mut values) = (false, [0_u8; PREV_DIGITS]);
    for (value, digit) in values.iter_mut().zip(digits) {
        let is_letter = matches!(digit, b'a'..=b'f');
        wrong |= !is_letter & !digit.is_ascii_digit();
        *value = (digit & 0xf) + if is_letter { 9 } else { 0 };
    }
    let mut hash = [0_u8; 32];
    for (byte, [high, low]) in hash.iter_mut().zip(values.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
    (!wrong).then_some(hash)
}

/// A record's id, read without reading the record.
#[must_use]
pub(crate) fn event_id(record: &[u8]) -> Option<&str> {
    id_in(record.get(PLACE_BYTES..)?)
}

/// The id in what stands behind a record's place.
fn id_in(rest: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = br#","id":""#;
    let near = rest.get(..rest.len().min(160))?;
    // Behind the type, as ours have it: found without a search, since an audit asks for each.
    let kind = near.strip_prefix(br#""type":""#).and_then(|kind| kind.iter().position(|byte| *byte == b'"'));
    let behind_type = kind.map(|end| br#""type":""#.len() + end + 1);
    let at = behind_type.filter(|at| near.get(*at..).is_some_and(|rest| rest.starts_with(BEFORE)));
    let found = || near.windows(BEFORE.len()).position(|window| window == BEFORE);
    let at = at.or_else(found)? + BEFORE.len();
    std::str::from_utf8(rest.get(at..at + uuid::fmt::Hyphenated::LENGTH)?).ok()
}

/// Makes records for one host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scribe {
    source: Arc<str>,
    keys: Arc<DetailKeys>,
}

impl Scribe {
    /// A scribe of the host `host_id`, with detail keys in the directory `keys`, which is made if need be.
    ///
    /// # Errors
    /// When the directory cannot be made, or others than its owner may read it.
    pub fn open(host_id: &str, keys: &Path) -> Result<Scribe, SealError> {
        Ok(Scribe { source: source(host_id).into(), keys: Arc::new(DetailKeys::open(keys)?) })
    }

    /// The CloudEvents `source` of this host's records.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The keys of the sealed details.
    #[must_use]
    pub fn keys(&self) -> &Arc<DetailKeys> {
        &self.keys
    }

    /// Makes all of the record that does not depend on its place.
    ///
    /// # Errors
    /// When the detail cannot be sealed, or the windows of a hold are longer than a record can carry.
    pub fn seal(&self, draft: &Draft) -> Result<Sealed, SealError> {
        // An outcome with one budget has 1.3 KB.
        let mut out = Vec::with_capacity(1_792);
        let id = new_id(draft);
        let mut id_text = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let id_text: &str = id.hyphenated().encode_lower(&mut id_text);
        out.extend_from_slice(br#""type":""#);
        out.extend_from_slice(draft.kind.code().as_bytes());
        out.extend_from_slice(br#"","id":""#);
        out.extend_from_slice(id_text.as_bytes());
        out.extend_from_slice(br#"","source":"#);
        string(&mut out, &self.source, ROOM_NAME);
        out.extend_from_slice(br#","time":""#);
        time(&mut out, draft.at.0);
        out.extend_from_slice(br#"","datacontenttype":"application/json""#);
        if draft.detail != Detail::default() {
            let subject = draft.data.agent.as_deref().unwrap_or(super::seal::HOST_SUBJECT);
            let sealed = self.keys.seal(subject, id_text.as_bytes(), &detail(&draft.detail))?;
            out.extend_from_slice(br#","caracalsubject":"#);
            string(&mut out, subject, ROOM_NAME);
            out.extend_from_slice(br#","caracaldetail":""#);
            out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(sealed).as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(br#","data":{"#);
        data(&mut out, &draft.data)?;
        out.extend_from_slice(b"}}");
        if out.len() > MAX_SEALED_BYTES {
            return Err(SealError::TooLong(out.len()));
        }
        Ok(Sealed(out))
    }
}

/// The CloudEvents `source` of a host's records.
#[must_use]
pub fn source(host_id: &str) -> String {
    format!("/caracal/{host_id}")
}

/// A UUIDv7 (RFC 9562) of the event's time and ten random bytes.
fn new_id(draft: &Draft) -> uuid::Uuid {
    let mut random = [0u8; 10];
    rand::rng().fill_bytes(&mut random);
    uuid::Builder::from_unix_timestamp_millis(draft.at.0 / 1_000_000, &random).into_uuid()
}

/// RFC 3339 with nanoseconds, in UTC.
pub(crate) fn time(out: &mut Vec<u8>, nanos: u64) {
    // A u64 of nanoseconds ends in the year 2554, well inside the range of a timestamp.
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    let _ = write!(out, "{at:.9}");
}

/// Writes `text` as a JSON string of at most `room` escaped bytes between the quotes. What does not fit is cut.
pub(crate) fn string(out: &mut Vec<u8>, text: &str, room: usize) {
    out.push(b'"');
    let end = out.len() + room;
    if text.len() <= room && text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        for character in text.chars() {
            let before = out.len();
            escape(out, character);
            if out.len() > end {
                out.truncate(before);
                break;
            }
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        low if low < '\u{20}' => {
            let _ = write!(out, "\\u{:04x}", u32::from(low));
        }
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Writes the members of one JSON object and keeps the commas right.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Members<'_> {
    fn key(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: Option<&str>, room: usize) {
        if let Some(value) = value {
            self.key(name);
            string(self.out, value, room);
        }
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(name);
            let _ = write!(self.out, "{value}");
        }
    }

    /// A number of nano-USD that may be below zero.
    fn change(&mut self, name: &str, value: i64) {
        self.key(name);
        let _ = write!(self.out, "{value}");
    }

    /// RFC 3339, UTC.
    fn moment(&mut self, name: &str, at: UnixNanos) {
        self.key(name);
        self.out.push(b'"');
        time(self.out, at.0);
        self.out.push(b'"');
    }

    fn list<'t>(&mut self, name: &str, values: impl Iterator<Item = &'t str>) {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return;
        }
        self.key(name);
        self.out.push(b'[');
        let end = self.out.len() + ROOM_LIST;
        let mut first = true;
        for value in values {
            if self.out.len() + ROOM_NAME > end {
                break;
            }
            if !first {
                self.out.push(b',');
            }
            first = false;
            string(self.out, value, ROOM_NAME);
        }
        self.out.push(b']');
    }
}

fn data(out: &mut Vec<u8>, data: &Data) -> Result<(), SealError> {
    let mut to = Members { out, first: true };
    to.text("caracal.agent", data.agent.as_deref(), ROOM_NAME);
    to.text("caracal.decision", data.decision, ROOM_NAME);
    to.text("caracal.reason", data.reason, ROOM_NAME);
    to.text("caracal.stage", data.stage, ROOM_NAME);
    to.text("caracal.action", data.action, ROOM_NAME);
    to.list("caracal.policies", data.policies.iter().map(|id| &**id));
    to.text("caracal.policy_set", data.policy_set.as_deref(), ROOM_NAME);
    if let Some(call) = &data.call {
        let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
        to.text("caracal.call", Some(call.hyphenated().encode_lower(&mut text)), ROOM_NAME);
    }
    to.number("caracal.count", data.count);
    to.text("gen_ai.provider.name", data.provider, ROOM_NAME);
    to.text("gen_ai.operation.name", data.operation, ROOM_NAME);
    to.text("gen_ai.request.model", data.model.as_deref(), ROOM_NAME);
    to.number("gen_ai.request.max_tokens", data.max_tokens);
    to.list("caracal.edits", data.edits.iter().copied());
    to.number("caracal.hold.nano_usd", data.hold.map(|hold| hold.0));
    to.number("caracal.cost.nano_usd", data.cost.map(|cost| cost.0));
    to.text("caracal.settle", data.settle, ROOM_NAME);
    windows(&mut to, &data.windows)?;
    if let Some(correction) = &data.correction {
        to.change("caracal.correction.nano_usd", correction.nano);
        to.number("caracal.correction.sequence", Some(correction.sequence));
        to.moment("caracal.correction.charged_at", correction.charged_at);
    }
    if let Some(near) = &data.near {
        to.number("caracal.budget.percent", Some(u64::from(near.percent)));
        to.number("caracal.budget.limit_nano_usd", Some(near.limit.0));
        to.number("caracal.budget.spent_nano_usd", Some(near.spent.0));
    }
    if let Some(used) = &data.usage {
        usage(&mut to, used);
    }
    if let Some(terms) = &data.served {
        to.text("gen_ai.response.model", terms.model.as_deref(), ROOM_NAME);
        to.text("caracal.terms.tier", Some(terms.tier), ROOM_NAME);
        to.number("caracal.terms.geo_us", terms.geo_us.then_some(1));
        to.number("caracal.terms.fast", terms.fast.then_some(1));
        to.number("caracal.terms.input_above", Some(terms.input_above).filter(|above| *above > 0));
    }
    to.text("caracal.price_book", data.price_book.as_deref(), ROOM_NAME);
    to.text("caracal.price_entry", data.price_entry.as_deref(), ROOM_NAME);
    to.number("http.response.status_code", data.status.map(u64::from));
    to.number("caracal.cgroup", data.cgroup);
    to.number("process.pid", data.pid.map(u64::from));
    to.text("caracal.comm", data.comm.as_deref(), ROOM_NAME);
    to.number("caracal.bytes.sent", data.bytes_sent);
    to.number("caracal.bytes.received", data.bytes_received);
    to.text("caracal.message", data.message.as_deref(), ROOM_TEXT);
    to.number("caracal.kernel.redirected", data.kernel.map(|kernel| kernel.redirected));
    to.number("caracal.kernel.refused", data.kernel.map(|kernel| kernel.refused));
    Ok(())
}

fn windows(to: &mut Members<'_>, windows: &[WindowKey]) -> Result<(), SealError> {
    if windows.is_empty() {
        return Ok(());
    }
    to.key("caracal.windows");
    let start = to.out.len();
    to.out.push(b'[');
    for (index, window) in windows.iter().enumerate() {
        if index > 0 {
            to.out.push(b',');
        }
        let mut member = Members { out: &mut *to.out, first: true };
        member.out.push(b'{');
        member.text("budget", Some(&window.budget), usize::MAX / 2);
        member.text("scope", Some(&window.scope), usize::MAX / 2);
        member.text("window", Some(&window.window), usize::MAX / 2);
        member.out.push(b'}');
        if to.out.len() - start > ROOM_WINDOWS {
            return Err(SealError::TooLong(to.out.len()));
        }
    }
    to.out.push(b']');
    Ok(())
}

/// Our disjoint buckets, and the sums that OpenTelemetry's names stand for (its input count includes the cached part).
fn usage(to: &mut Members<'_>, used: &Usage) {
    let written = used.cache_write_5m.saturating_add(used.cache_write_1h);
    let input = used.input.saturating_add(used.cache_read).saturating_add(written);
    to.number("gen_ai.usage.input_tokens", Some(input));
    to.number("gen_ai.usage.output_tokens", Some(used.output));
    to.number("gen_ai.usage.cache_read.input_tokens", Some(used.cache_read));
    to.number("gen_ai.usage.cache_creation.input_tokens", Some(written));
    to.number("gen_ai.usage.reasoning.output_tokens", Some(used.reasoning));
    to.number("caracal.usage.uncached_input_tokens", Some(used.input));
    to.number("caracal.usage.cache_write_5m_tokens", Some(used.cache_write_5m));
    to.number("caracal.usage.cache_write_1h_tokens", Some(used.cache_write_1h));
    to.number("caracal.usage.web_searches", Some(used.web_searches));
    let fixed = |count: u64| Some(count).filter(|_| used.calls > 0);
    to.number("caracal.usage.calls", fixed(used.calls));
    to.number("caracal.usage.sent_bytes", fixed(used.sent));
    to.number("caracal.usage.received_bytes", fixed(used.received));
}

fn detail(detail: &Detail) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(b'{');
    let mut to = Members { out: &mut out, first: true };
    to.text("host", detail.host.as_deref(), ROOM_NAME * 2);
    to.number("port", detail.port.map(u64::from));
    to.text("path", detail.path.as_deref(), ROOM_TEXT);
    to.text("method", detail.method.as_deref(), ROOM_NAME);
    to.number("uid", detail.uid.map(u64::from));
    to.text("sentence", detail.sentence.as_deref(), ROOM_TEXT);
    to.text("note", detail.note.as_deref(), ROOM_TEXT);
    to.number("asked_by", detail.asked_by.map(u64::from));
    out.push(b'}');
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::UnixNanos;
    use crate::event::{Kind, Record, Served};
    use crate::money::NanoUsd;
    use proptest::prelude::*;

    pub(crate) fn scribe() -> (tempfile::TempDir, Scribe) {
        let dir = tempfile::tempdir().expect("a directory");
        let scribe = Scribe::open("host-1", &dir.path().join("keys")).expect("a scribe");
        (dir, scribe)
    }

    pub(crate) fn paid(kind: Kind, call: uuid::Uuid) -> Draft {
        Draft {
            kind,
            at: UnixNanos(1_790_000_000_123_456_789),
            data: Data {
                agent: Some("coder".into()),
                call: Some(call),
                provider: Some("openai"),
                operation: Some("responses"),
                model: Some("gpt-5".into()),
                max_tokens: Some(4_096),
                edits: vec!["clamp"],
                hold: Some(NanoUsd(5_000)),
                cost: (kind == Kind::Outcome).then_some(NanoUsd(1_234)),
                settle: (kind == Kind::Outcome).then_some("settled"),
                windows: vec![WindowKey {
                    budget: "team".into(),
                    scope: "coder".into(),
                    window: "day/2026-11-24".into(),
                }],
                usage: (kind == Kind::Outcome).then_some(Usage {
                    input: 10,
                    cache_read: 20,
                    cache_write_5m: 30,
                    cache_write_1h: 40,
                    output: 50,
                    reasoning: 5,
                    web_searches: 1,
                    ..Usage::default()
                }),
                served: (kind == Kind::Outcome).then(|| Served {
                    model: Some("gpt-5-2025-08-07".into()),
                    tier: "priority",
                    geo_us: true,
                    fast: false,
                    input_above: 200_000,
                }),
                ..Data::default()
            },
            detail: Detail {
                host: Some("api.openai.com".into()),
                port: Some(443),
                uid: Some(1000),
                ..Detail::default()
            },
        }
    }

    #[test]
    fn a_record_reads_back() {
        let (_dir, scribe) = scribe();
        let draft = paid(Kind::Outcome, uuid::Uuid::from_u128(7));
        let mut bytes = Vec::new();
        scribe.seal(&draft).expect("sealed").place(42, &[9; 32], &mut bytes);
        assert_eq!(read_place(&bytes), Some((42, [9; 32])));
        let record = Record::parse(&bytes).expect("a record");
        assert_eq!(record.sequence, 42);
        assert_eq!(record.prev, [9; 32]);
        assert_eq!(record.at, draft.at);
        assert_eq!(record.data.usage(), draft.data.usage);
        assert_eq!(record.data.served(), draft.data.served);
        assert_eq!(record.data.windows, draft.data.windows);
        assert_eq!(record.data.cost, draft.data.cost);
        assert_eq!(record.data.input_tokens, Some(100));
        assert_eq!(scribe.keys().open_detail(&record), Some(draft.detail));
        assert!(!bytes.windows(14).any(|part| part == b"api.openai.com"), "the host stands in the clear");
    }

    #[test]
    fn the_names_are_those_of_the_standards() {
        let (_dir, scribe) = scribe();
        let mut bytes = Vec::new();
        scribe.seal(&paid(Kind::Outcome, uuid::Uuid::nil())).expect("sealed").place(0, &[0; 32], &mut bytes);
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        for name in value.as_object().expect("an object").keys() {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name} is no CloudEvents attribute name");
        }
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["source"], "/caracal/host-1");
        assert_eq!(value["time"], "2026-09-21T14:13:20.123456789Z");
        assert_eq!(value["data"]["gen_ai.usage.input_tokens"], 100);
        assert_eq!(value["data"]["gen_ai.usage.cache_creation.input_tokens"], 70);
    }

    #[test]
    fn a_place_is_twenty_digits_and_a_hash_in_small_letters() {
        let mut bytes = Vec::new();
        place(SCHEMA, u64::MAX, &[0xaf; 32], &mut bytes);
        assert_eq!(read_place(&bytes), Some((u64::MAX, [0xaf; 32])));
        let sequence = BEFORE_SCHEMA.len() + 1 + BEFORE_SEQUENCE.len();
        let prev = sequence + SEQUENCE_DIGITS + BEFORE_PREV.len();
        let places = (sequence..sequence + SEQUENCE_DIGITS).chain(prev..prev + PREV_DIGITS);
        for at in places {
            for byte in 0..=255_u8 {
                let mut odd = bytes.clone();
                odd[at] = byte;
                let good = byte.is_ascii_digit() || at >= prev && (b'a'..=b'f').contains(&byte);
                // One more than can be counted.
                let fits = at >= prev || odd[sequence..sequence + SEQUENCE_DIGITS] <= b"18446744073709551615"[..];
                assert_eq!(read_place(&odd).is_some(), good && fits, "{at} {byte}");
            }
        }
    }

    #[test]
    fn windows_are_never_cut() {
        let (_dir, scribe) = scribe();
        let mut draft = paid(Kind::Intent, uuid::Uuid::nil());
        draft.data.windows =
            vec![WindowKey { budget: "b".repeat(30_000).into(), scope: "".into(), window: "total".into() }];
        assert!(matches!(scribe.seal(&draft), Err(SealError::TooLong(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn long_and_odd_text_never_fails(texts in proptest::collection::vec("\\PC*|[\\x00-\\x1f\"\\\\]{0,9000}", 8), times in 1usize..3000) {
            let (_dir, scribe) = scribe();
            let long = |index: usize| texts[index].repeat(times.min(70_000 / texts[index].len().max(1) + 1));
            let draft = Draft {
                kind: Kind::Decision,
                at: UnixNanos(1),
                data: Data {
                    agent: Some("a".into()), model: Some(long(0).into()), comm: Some(long(1)), message: Some(long(2)),
                    policies: (0..300).map(|_| long(3).into()).collect(), price_book: Some(long(4).into()), ..Data::default()
                },
                detail: Detail { host: Some(long(5)), path: Some(long(6)), sentence: Some(long(7)), ..Detail::default() },
            };
            let sealed = scribe.seal(&draft).expect("sealed");
            let mut bytes = Vec::new();
            sealed.place(u64::MAX, &[255; 32], &mut bytes);
            prop_assert!(bytes.len() <= MAX_RECORD_BYTES);
            prop_assert_eq!(bytes.len(), sealed.record_len());
            let record = Record::parse(&bytes).expect("a record");
            let message = record.data.message.clone().unwrap_or_default();
            prop_assert!(draft.data.message.clone().unwrap_or_default().starts_with(&message));
        }
    }
}
