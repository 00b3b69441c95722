//! Every "no" that caracald says, as one value.

use crate::clock::UnixNanos;
use std::sync::Arc;

/// The stage that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Redirect and identity.
    Capture,
    /// Names.
    Dns,
    /// Either side's TLS.
    Tls,
    /// Heads and bodies.
    Http,
    /// Cedar.
    Policy,
    /// Reading calls and usage.
    Meter,
    /// Holds.
    Budget,
    /// Durable records.
    Journal,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The agent sent something that cannot be accepted.
    Agent,
    /// The upstream failed.
    Upstream,
    /// We, or our configuration.
    Us,
}

/// Why. A closed set: the code of each is stable and is the same in the answer, the log, the counter and the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// More than one reading of the head or body is possible.
    AmbiguousRequest,
    /// A hold does not fit what is left of a budget.
    BudgetExceeded,
    /// The body is larger than what is read for pricing.
    BodyTooLarge,
    /// The body did not come in time.
    BodyTimeout,
    /// No open hold was settled in time for this one to fit.
    BudgetWaitTimeout,
    /// An encoding that is not read.
    EncodingUnknown,
    /// The head is larger than the limit, or malformed.
    HeadInvalid,
    /// The name has no rule.
    HostNotAllowed,
    /// Host or `:authority` and the TLS server name differ.
    HostMismatch,
    /// The journal cannot be written.
    JournalUnavailable,
    /// The policy forbids it, or nothing permits it.
    PolicyDenied,
    /// A model without a price.
    PriceUnknown,
    /// A private, loopback, link-local or metadata address that no rule names.
    PrivateAddress,
    /// Bytes that are neither TLS nor HTTP, and no rule for them.
    ProtocolUnknown,
    /// A path of a priced host that is neither metered nor marked free.
    PathUnknown,
    /// A request whose cost has no upper bound.
    Unbounded,
    /// Shutting down, or the lease could not be kept.
    ShuttingDown,
    /// TLS with the agent failed; most often it does not trust the local CA.
    TlsAgent,
    /// No room to read one more body before it is priced.
    TooManyBodies,
    /// Too many connections of this agent.
    TooManyConnections,
    /// Requests or tokens come faster than a limit allows; there is room again after this many seconds.
    RateLimited {
        /// Seconds, at least one.
        seconds: u32,
    },
    /// No flow is known for this connection.
    UnknownFlow,
    /// The upstream could not be reached.
    UpstreamConnect,
    /// The upstream's name does not resolve.
    UpstreamResolve,
    /// The upstream's certificate was not accepted.
    UpstreamTls,
    /// The upstream broke off or spoke nonsense.
    UpstreamFailed,
    /// A WebSocket to a priced host, which is not metered.
    WebsocketUnmetered,
    /// Speech, which is not billed by tokens of text.
    AudioUnmetered,
    /// Pictures, which are not billed by tokens of text.
    ImagesUnmetered,
    /// Moving pictures, which are not billed by tokens of text.
    VideoUnmetered,
    /// A session that is billed as it goes on.
    RealtimeUnmetered,
    /// Work that is billed hours later.
    BatchUnmetered,
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Reason::AmbiguousRequest => "ambiguous_request",
            Reason::BudgetExceeded => "budget_exceeded",
            Reason::BodyTooLarge => "body_too_large",
            Reason::BodyTimeout => "body_timeout",
            Reason::BudgetWaitTimeout => "budget_wait_timeout",
            Reason::EncodingUnknown => "encoding_unknown",
            Reason::HeadInvalid => "head_invalid",
            Reason::HostNotAllowed => "host_not_allowed",
            Reason::HostMismatch => "host_mismatch",
            Reason::JournalUnavailable => "journal_unavailable",
            Reason::PolicyDenied => "policy_denied",
            Reason::PriceUnknown => "price_unknown",
            Reason::PrivateAddress => "private_address",
            Reason::ProtocolUnknown => "protocol_unknown",
            Reason::PathUnknown => "path_unknown",
            Reason::Unbounded => "unbounded",
            Reason::ShuttingDown => "shutting_down",
            Reason::TlsAgent => "tls_agent",
            Reason::TooManyBodies => "too_many_bodies",
            Reason::TooManyConnections => "too_many_connections",
            Reason::RateLimited { .. } => "rate_limited",
            Reason::UnknownFlow => "unknown_flow",
            Reason::UpstreamConnect => "upstream_connect",
            Reason::UpstreamResolve => "upstream_resolve",
            Reason::UpstreamTls => "upstream_tls",
            Reason::UpstreamFailed => "upstream_failed",
            Reason::WebsocketUnmetered => "websocket_unmetered",
            Reason::AudioUnmetered => "audio_unmetered",
            Reason::ImagesUnmetered => "images_unmetered",
            Reason::VideoUnmetered => "video_unmetered",
            Reason::RealtimeUnmetered => "realtime_unmetered",
            Reason::BatchUnmetered => "batch_unmetered",
        }
    }
}

/// One refusal: where, whose fault, why, and the sentence that a person reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// The stage that refused.
    pub stage: Stage,
    /// Whose fault it is.
    pub side: Side,
    /// Why.
    pub reason: Reason,
    /// What happened and what to do about it, in one or two sentences that begin with `Caracal`.
    pub sentence: String,
    /// The budget that the call does not fit, if that is why.
    pub limit: Option<Limit>,
}

/// A budget that a call does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name.
    pub budget: Arc<str>,
    /// When its window turns; `None`: never.
    pub turns: Option<UnixNanos>,
}
