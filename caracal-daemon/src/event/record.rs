//! Takes a record's bytes; gives its fields. Refuses a version it does not know and bytes that are no record.
//! Fields without a name here are kept in `more`, so that a reader shows what a later writer wrote.

use super::write::read_place;
use super::{Hash, SCHEMA, Served, Usage, WindowKey};
use crate::clock::UnixNanos;
use crate::money::NanoUsd;
use serde_json::Value;
use std::collections::BTreeMap;

/// Every service tier, by the name that records use.
const TIERS: [&str; 4] = ["standard", "flex", "priority", "ultrafast"];

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the JSON of a record.
    #[error("not a record: {0}")]
    Malformed(String),
    /// Written by a newer version.
    #[error("the record has schema {0}; this caracald reads up to {SCHEMA}, use a newer one")]
    Version(u64),
}

/// A record, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The event's id: a UUIDv7.
    pub id: String,
    /// Who wrote it: `/caracal/<host id>`.
    pub source: String,
    /// What happened, as [`super::Kind::code`] spells it.
    pub kind: String,
    /// When.
    pub at: UnixNanos,
    /// Its place on its host.
    pub sequence: u64,
    /// The leaf hash of the record before it on its host.
    pub prev: Hash,
    /// Whose key seals the detail.
    pub subject: Option<String>,
    /// The sealed detail, base64; [`super::DetailKeys::open_detail`] opens it.
    pub sealed: Option<String>,
    /// The plain part.
    pub data: Fields,
    /// Attributes that have no name here.
    pub more: BTreeMap<String, Value>,
}

/// The plain part of a record as read back; see [`super::Data`] for what each field says.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field is documented where it is written, in event::Data")]
pub struct Fields {
    #[serde(rename = "caracal.agent", skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(rename = "caracal.decision", skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    #[serde(rename = "caracal.reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(rename = "caracal.stage", skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(rename = "caracal.action", skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(rename = "caracal.policies", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    #[serde(rename = "caracal.policy_set", skip_serializing_if = "Option::is_none")]
    pub policy_set: Option<String>,
    #[serde(rename = "caracal.call", skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    #[serde(rename = "caracal.count", skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(rename = "gen_ai.provider.name", skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(rename = "gen_ai.operation.name", skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(rename = "gen_ai.request.model", skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(rename = "gen_ai.request.max_tokens", skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(rename = "caracal.edits", skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<String>,
    #[serde(rename = "caracal.hold.nano_usd", skip_serializing_if = "Option::is_none")]
    pub hold: Option<NanoUsd>,
    #[serde(rename = "caracal.cost.nano_usd", skip_serializing_if = "Option::is_none")]
    pub cost: Option<NanoUsd>,
    #[serde(rename = "caracal.settle", skip_serializing_if = "Option::is_none")]
    pub settle: Option<String>,
    #[serde(rename = "caracal.windows", skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowKey>,
    #[serde(rename = "caracal.correction.nano_usd", skip_serializing_if = "Option::is_none")]
    pub correction: Option<i64>,
    #[serde(rename = "caracal.correction.sequence", skip_serializing_if = "Option::is_none")]
    pub corrects: Option<u64>,
    #[serde(rename = "caracal.correction.charged_at", skip_serializing_if = "Option::is_none")]
    pub charged_at: Option<String>,
    #[serde(rename = "caracal.budget.percent", skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    #[serde(rename = "caracal.budget.limit_nano_usd", skip_serializing_if = "Option::is_none")]
    pub limit: Option<NanoUsd>,
    #[serde(rename = "caracal.budget.spent_nano_usd", skip_serializing_if = "Option::is_none")]
    pub spent: Option<NanoUsd>,
    #[serde(rename = "gen_ai.usage.input_tokens", skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    #[serde(rename = "gen_ai.usage.output_tokens", skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    #[serde(rename = "gen_ai.usage.cache_read.input_tokens", skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    #[serde(rename = "gen_ai.usage.cache_creation.input_tokens", skip_serializing_if = "Option::is_none")]
    pub cache_creation_tokens: Option<u64>,
    #[serde(rename = "gen_ai.usage.reasoning.output_tokens", skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    #[serde(rename = "caracal.usage.uncached_input_tokens", skip_serializing_if = "Option::is_none")]
    pub uncached_tokens: Option<u64>,
    #[serde(rename = "caracal.usage.cache_write_5m_tokens", skip_serializing_if = "Option::is_none")]
    pub cache_write_5m_tokens: Option<u64>,
    #[serde(rename = "caracal.usage.cache_write_1h_tokens", skip_serializing_if = "Option::is_none")]
    pub cache_write_1h_tokens: Option<u64>,
    #[serde(rename = "caracal.usage.web_searches", skip_serializing_if = "Option::is_none")]
    pub web_searches: Option<u64>,
    #[serde(rename = "caracal.usage.calls", skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    #[serde(rename = "caracal.usage.sent_bytes", skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    #[serde(rename = "caracal.usage.received_bytes", skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    #[serde(rename = "gen_ai.response.model", skip_serializing_if = "Option::is_none")]
    pub response_model: Option<String>,
    #[serde(rename = "caracal.terms.tier", skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(rename = "caracal.terms.geo_us", skip_serializing_if = "Option::is_none")]
    pub geo_us: Option<u64>,
    #[serde(rename = "caracal.terms.fast", skip_serializing_if = "Option::is_none")]
    pub fast: Option<u64>,
    #[serde(rename = "caracal.terms.input_above", skip_serializing_if = "Option::is_none")]
    pub input_above: Option<u64>,
    #[serde(rename = "caracal.price_book", skip_serializing_if = "Option::is_none")]
    pub price_book: Option<String>,
    #[serde(rename = "caracal.price_assumed", skip_serializing_if = "Option::is_none")]
    pub price_assumed: Option<u64>,
    #[serde(rename = "caracal.price_entry", skip_serializing_if = "Option::is_none")]
    pub price_entry: Option<String>,
    #[serde(rename = "http.response.status_code", skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(rename = "caracal.cgroup", skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(rename = "caracal.comm", skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    #[serde(rename = "caracal.netns_cookie", skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    #[serde(rename = "caracal.bytes.sent", skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(rename = "caracal.bytes.received", skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    #[serde(rename = "caracal.message", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(rename = "caracal.kernel.redirected", skip_serializing_if = "Option::is_none")]
    pub kernel_redirected: Option<u64>,
    #[serde(rename = "caracal.kernel.refused", skip_serializing_if = "Option::is_none")]
    pub kernel_refused: Option<u64>,
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Fields {
    /// The usage as disjoint buckets, if the record carries one.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Some(Usage {
            input: self.uncached_tokens?,
            cache_read: self.cache_read_tokens.unwrap_or(0),
            cache_write_5m: self.cache_write_5m_tokens.unwrap_or(0),
            cache_write_1h: self.cache_write_1h_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            reasoning: self.reasoning_tokens.unwrap_or(0),
            web_searches: self.web_searches.unwrap_or(0),
            calls: self.calls.unwrap_or(0),
            sent: self.sent.unwrap_or(0),
            received: self.received.unwrap_or(0),
        })
    }

    /// The terms that the call was served on, if the record carries them: none before schema 2 does.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        Some(Served {
            model: self.response_model.as_deref().map(Into::into),
            tier: TIERS.into_iter().find(|tier| Some(*tier) == self.tier.as_deref())?,
            geo_us: self.geo_us == Some(1),
            fast: self.fast == Some(1),
            input_above: self.input_above.unwrap_or(0),
        })
    }
}

#[derive(serde::Deserialize)]
struct Envelope {
    caracalschema: u64,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    caracalsubject: Option<String>,
    caracaldetail: Option<String>,
    #[serde(default)]
    data: Fields,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// When it has another schema version, or is no record.
    pub fn parse(bytes: &[u8]) -> Result<Record, RecordError> {
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| RecordError::Malformed(error.to_string()))?;
        if !(1..=u64::from(SCHEMA)).contains(&envelope.caracalschema) {
            return Err(RecordError::Version(envelope.caracalschema));
        }
        let (sequence, prev) =
            read_place(bytes).ok_or_else(|| RecordError::Malformed("no sequence and chain".into()))?;
        let at: jiff::Timestamp =
            envelope.time.parse().map_err(|error: jiff::Error| RecordError::Malformed(error.to_string()))?;
        let mut more = envelope.more;
        for known in ["specversion", "sequence", "caracalprev", "datacontenttype"] {
            more.remove(known);
        }
        Ok(Record {
            id: envelope.id,
            source: envelope.source,
            kind: envelope.kind,
            at: UnixNanos(u64::try_from(at.as_nanosecond()).unwrap_or(0)),
            sequence,
            prev,
            subject: envelope.caracalsubject,
            sealed: envelope.caracaldetail,
            data: envelope.data,
            more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(schema: u64, rest: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","caracalschema":{schema},"sequence":"{:020}","caracalprev":"{}",{rest}}}"#,
            3,
            "0".repeat(64)
        )
    }

    #[test]
    fn unknown_fields_are_kept() {
        let rest = r#""type":"caracal.decision.v1","id":"x","source":"/caracal/h","time":"2026-01-01T00:00:00Z","later":1,"data":{"caracal.new":[2]}"#;
        let record = Record::parse(text(1, rest).as_bytes()).expect("a record");
        assert_eq!(record.more.get("later"), Some(&Value::from(1)));
        assert_eq!(record.data.more.get("caracal.new"), Some(&serde_json::json!([2])));
        assert_eq!(record.more.len(), 1);
        // What an older version wrote is read for ever; what a newer one writes, never.
        assert_eq!(Record::parse(text(2, rest).as_bytes()).expect("a record"), record);
        for unknown in [0, 4, 10] {
            let read = Record::parse(text(unknown, rest).as_bytes());
            assert!(matches!(read, Err(RecordError::Version(version)) if version == unknown));
            assert_eq!(read_place(text(unknown, rest).as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::parse(&bytes);
        }
    }
}
