//! Takes a refusal; gives the answer that the agent sees. Our sentence stands first, the code in `x-caracal-reason`.

use crate::clock::UnixNanos;
use crate::meter::{self, Dialect, Rpc, Surface};
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

/// Carries the reason's code.
pub const REASON: HeaderName = HeaderName::from_static("x-caracal-reason");
/// Tells the SDKs that asking again changes nothing.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Seconds after which a journal or a restart is likely to be back.
const BACK_SOON: HeaderValue = HeaderValue::from_static("5");

/// The answer for `refusal` of a request that is `surface`. `rpc` is what a JSON-RPC request asks for, and the time.
#[must_use]
pub fn answer(refusal: &Refusal, surface: &Surface, rpc: Option<(&Rpc, UnixNanos)>) -> Response<Bytes> {
    if let Some((asked, now)) = rpc {
        return meter::rpc_denial(refusal, asked, now);
    }
    match *surface {
        Surface::Paid(provider, operation) => native(refusal, Dialect::of(provider, Some(operation))),
        Surface::Unmetered(provider, _) => native(refusal, Dialect::of(provider, None)),
        // The provider's own shape, so that the client prints the sentence; 403, on which agents go on without the optional.
        Surface::Free(provider) | Surface::Unknown(provider) if is_decision(refusal.reason) => {
            let mut answer = native(refusal, Dialect::of(provider, None));
            *answer.status_mut() = StatusCode::FORBIDDEN;
            answer
        }
        Surface::Websocket(_) => {
            let mut answer = plain(refusal, StatusCode::UPGRADE_REQUIRED);
            // RFC 9110 15.5.22: a 426 says what to go on with.
            answer.headers_mut().insert(http::header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
            answer
        }
        // A call that costs money is refused with 400, here as elsewhere.
        Surface::Priced(ref entry)
            if is_decision(refusal.reason) || status(refusal.reason) == StatusCode::BAD_REQUEST =>
        {
            native(refusal, Dialect::of(entry.provider, None))
        }
        Surface::Priced(_) | Surface::Unpriced | Surface::Free(_) | Surface::Unknown(_) => {
            plain(refusal, status(refusal.reason))
        }
    }
}

fn native(refusal: &Refusal, dialect: Dialect) -> Response<Bytes> {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let mut answer = meter::denial(Some(dialect), refusal, &id);
    answer.headers_mut().insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    answer
}

fn plain(refusal: &Refusal, status: StatusCode) -> Response<Bytes> {
    let error =
        serde_json::json!({ "message": refusal.sentence, "type": "caracal_refusal", "code": refusal.reason.code() });
    let mut text = serde_json::json!({ "error": error }).to_string();
    text.push('\n');
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    if let Reason::RateLimited { seconds } = refusal.reason {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    } else if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, BACK_SOON);
    } else {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    answer
}

/// The status of a refusal on a host without a price.
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::AmbiguousRequest | Reason::HeadInvalid | Reason::EncodingUnknown => StatusCode::BAD_REQUEST,
        Reason::HostMismatch => StatusCode::MISDIRECTED_REQUEST,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::JournalUnavailable | Reason::ShuttingDown | Reason::TooManyBodies | Reason::TooManyConnections => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Reason::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Reason::UpstreamConnect => StatusCode::GATEWAY_TIMEOUT,
        Reason::UpstreamResolve | Reason::UpstreamTls | Reason::UpstreamFailed => StatusCode::BAD_GATEWAY,
        Reason::WebsocketUnmetered => StatusCode::UPGRADE_REQUIRED,
        Reason::BudgetExceeded
        | Reason::BudgetWaitTimeout
        | Reason::HostNotAllowed
        | Reason::PolicyDenied
        | Reason::PriceUnknown
        | Reason::PrivateAddress
        | Reason::ProtocolUnknown
        | Reason::PathUnknown
        | Reason::Unbounded
        | Reason::AudioUnmetered
        | Reason::ImagesUnmetered
        | Reason::VideoUnmetered
        | Reason::RealtimeUnmetered
        | Reason::BatchUnmetered
        | Reason::TlsAgent
        | Reason::UnknownFlow => StatusCode::FORBIDDEN,
    }
}

/// The reason is a decision about the request, not a failure on its way.
fn is_decision(reason: Reason) -> bool {
    status(reason) == StatusCode::FORBIDDEN
}
