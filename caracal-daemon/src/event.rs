//! What leaves the box: records. Takes what a stage observed, gives the exact bytes of a leaf.
//!
//! A record is a CloudEvents 1.0 JSON object; usage fields carry OpenTelemetry GenAI names, ours are `caracal.*`.
//! Names of places and people (host, path, user, refused names) are in the sealed detail only.
//! Never holds prompt text, header values, userinfo or query values.

mod lanes;
pub mod record;
pub mod seal;
pub mod write;

pub use record::{Record, RecordError};
pub use seal::{DetailKeys, SealError};
pub use write::{MAX_RECORD_BYTES, SCHEMA, Scribe, Sealed};

use crate::clock::UnixNanos;
use crate::money::NanoUsd;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// The RFC 6962 leaf hash of a record: SHA-256 over a zero byte and the record's exact bytes.
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0u8]);
    hasher.update(record);
    hasher.finalize().into()
}

/// The leaf hashes of records, as [`leaf_hash`] gives them one by one.
#[must_use]
pub fn leaf_hashes(records: &[&[u8]]) -> Vec<Hash> {
    lanes::hash_all(0, records)
}

/// The RFC 6962 hashes of the nodes above each two of `children`; one that is left over has none.
#[must_use]
pub fn node_hashes(children: &[Hash]) -> Vec<Hash> {
    let pairs: Vec<&[u8]> = children.as_chunks::<2>().0.iter().map(|pair| pair.as_flattened()).collect();
    lanes::hash_all(1, &pairs)
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A decision about something that costs nothing: a connection, a name, an unpaid request.
    Decision,
    /// A paid call is about to be sent: its hold. Durable before the first byte goes upstream.
    Intent,
    /// How a paid call ended: its charge.
    Outcome,
    /// A charge is put right, by an operator: how much it goes up or down.
    Correction,
    /// Refusals that the kernel made.
    KernelDenial,
    /// What was spent has reached a part of a limit.
    BudgetWarning,
    /// The daemon started, adopted, stopped, reloaded; a cgroup was attached or released.
    Lifecycle,
    /// The host is there, and what the kernel counted so far: a host that falls silent, or records less than it counts, shows.
    Heartbeat,
}

impl Kind {
    /// The CloudEvents `type`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Kind::Decision => "caracal.decision.v1",
            Kind::Intent => "caracal.intent.v1",
            Kind::Outcome => "caracal.outcome.v1",
            Kind::Correction => "caracal.correction.v1",
            Kind::KernelDenial => "caracal.kernel_denial.v1",
            Kind::BudgetWarning => "caracal.budget_warning.v1",
            Kind::Lifecycle => "caracal.lifecycle.v1",
            Kind::Heartbeat => "caracal.heartbeat.v1",
        }
    }
}

/// One budget window that a hold was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct WindowKey {
    /// The budget's name.
    pub budget: Arc<str>,
    /// What the budget is divided by, resolved: an agent's name, a model, or empty.
    pub scope: Arc<str>,
    /// The window, such as `day/2026-11-24` or `total`.
    pub window: Arc<str>,
}

/// What a call used, as disjoint buckets: tokens, or calls and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input tokens neither read from nor written to a cache.
    pub input: u64,
    /// Input tokens read from a cache.
    pub cache_read: u64,
    /// Input tokens written to a cache for five minutes.
    pub cache_write_5m: u64,
    /// Input tokens written to a cache for one hour.
    pub cache_write_1h: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// The part of `output` that was reasoning.
    pub reasoning: u64,
    /// Calls of a server-side web search tool.
    pub web_searches: u64,
    /// Calls that have a price by themselves: of a tool, of a plain API.
    pub calls: u64,
    /// Bytes of the request's body, where they have a price.
    pub sent: u64,
    /// Bytes of the answer's body, where they have a price.
    pub received: u64,
}

impl Usage {
    /// Input and output tokens together.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let input = [self.cache_read, self.cache_write_5m, self.cache_write_1h, self.output];
        input.into_iter().fold(self.input, u64::saturating_add)
    }
}

/// How near a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    /// The part of the limit that was reached, percent.
    pub percent: u8,
    /// The limit.
    pub limit: NanoUsd,
    /// What is spent.
    pub spent: NanoUsd,
}

/// The terms that a call was served on, as far as its price depends on them. With the usage, the models and the price book
/// that the record names they make its bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The model that answered, as reported.
    pub model: Option<Arc<str>>,
    /// The service tier.
    pub tier: &'static str,
    /// Processed in the US, at an uplift.
    pub geo_us: bool,
    /// Processed at the dearer speed.
    pub fast: bool,
    /// The prices were those of inputs above this many tokens; 0 for the usual ones.
    pub input_above: u64,
}

/// How a charge is put right. The record that charged it stays as it is; the windows, agent and model are the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// What is added to the charge, nano-USD. All corrections of a charge together leave at least nothing of it.
    pub nano: i64,
    /// The sequence number, on its host, of the outcome that charged it.
    pub sequence: u64,
    /// When it was charged: the correction counts in the same day's spend.
    pub charged_at: UnixNanos,
}

/// The plain part of a record. Fields that are `None` or empty are left out of the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// The agent's name.
    pub agent: Option<Arc<str>>,
    /// `allow` or `deny`.
    pub decision: Option<&'static str>,
    /// A reason code of `refusal::Reason` or `caracal_common::denial::Why`, or of the settle.
    pub reason: Option<&'static str>,
    /// The stage or kernel hook that decided.
    pub stage: Option<&'static str>,
    /// The action decided: `connect`, `resolve`, `request`, `llm`, `tool`.
    pub action: Option<&'static str>,
    /// Ids of the deciding policies.
    pub policies: Vec<Arc<str>>,
    /// The hash of the policy set in force, hex.
    pub policy_set: Option<Arc<str>>,
    /// The call that intent and outcome share: a UUIDv7.
    pub call: Option<uuid::Uuid>,
    /// How many equal events this record stands for, if more than one.
    pub count: Option<u64>,
    /// `openai`, `anthropic`, ...; `mcp` and `api` for what the configuration prices.
    pub provider: Option<&'static str>,
    /// `chat`, `embeddings`, `responses`, `messages`, `generate_content`, `converse`, `invoke`, `execute_tool`, `call`.
    pub operation: Option<&'static str>,
    /// The model that the request names.
    pub model: Option<Arc<str>>,
    /// The output cap that was sent upstream, tokens.
    pub max_tokens: Option<u64>,
    /// The edits made to the request: `clamp`, `include_usage`, `websocket_extensions`, `body_decoded`.
    pub edits: Vec<&'static str>,
    /// The hold.
    pub hold: Option<NanoUsd>,
    /// The charge.
    pub cost: Option<NanoUsd>,
    /// How the hold ended: `settled`, `charged_max`, `released`.
    pub settle: Option<&'static str>,
    /// The windows that the hold was taken from.
    pub windows: Vec<WindowKey>,
    /// Tokens as the provider reported them.
    pub usage: Option<Usage>,
    /// The terms that `cost` goes by, where it goes by `usage`.
    pub served: Option<Served>,
    /// For a correction: what of which charge.
    pub correction: Option<Correction>,
    /// For a warning: how near the limit is.
    pub near: Option<Near>,
    /// The price book's version and hash.
    pub price_book: Option<Arc<str>>,
    /// The price is a guess on the dear side, as the price book says.
    pub price_assumed: bool,
    /// For a bill above its hold: the hash of the entry whose price cannot be right.
    pub price_entry: Option<Arc<str>>,
    /// HTTP status of the answer.
    pub status: Option<u16>,
    /// Cgroup id of the process.
    pub cgroup: Option<u64>,
    /// Process id.
    pub pid: Option<u32>,
    /// Task name.
    pub comm: Option<String>,
    /// Cookie of the socket's network namespace (`SO_NETNS_COOKIE`, socket(7)).
    pub netns: Option<u64>,
    /// Bytes from the agent.
    pub bytes_sent: Option<u64>,
    /// Bytes to the agent; of a stream, until its usage was final.
    pub bytes_received: Option<u64>,
    /// For lifecycle records: what happened.
    pub message: Option<String>,
    /// For heartbeats: connections that the kernel sent to the daemon, and refusals that it made, since its counters were
    /// made.
    pub kernel: Option<KernelCounts>,
}

/// What the kernel counted on this host, over all agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KernelCounts {
    /// Connections and queries that were sent to the daemon.
    pub redirected: u64,
    /// Refusals.
    pub refused: u64,
}

/// The sealed part of a record: what names a person or a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Detail {
    /// Host name or address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The sentence that the agent was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// Why, in the words of whoever asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The user id of whoever asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<u32>,
}

/// A record before the journal gives it its place: everything but sequence and chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What happened.
    pub kind: Kind,
    /// When.
    pub at: UnixNanos,
    /// The plain part: boxed, because a draft is handed on from stage to stage.
    pub data: Box<Data>,
    /// The sealed part.
    pub detail: Detail,
}
