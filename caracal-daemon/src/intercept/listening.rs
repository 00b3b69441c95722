//! Tools over MCP's older transport (HTTP with SSE): an agent opens a stream, posts its messages to the place that the stream's
//! first event names, and waits for the answers on the stream. It does not hand on what a POST is answered, so a refused call
//! gets its answer over the stream too, and its POST what the server would have said: that it was taken.
//! Source: <https://modelcontextprotocol.io/specification/2024-11-05/basic/transports>.
//!
//! Where no stream is known (it is compressed, belongs to another data path, or two are of one place) the POST has the answer.

use crate::http::body::Download;
use crate::http::listeners::Endpoint;
use crate::http::refuse::REASON;
use crate::http::told::Told;
use crate::intercept::session::{Answer, Asked, Session};
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};

const EVENTS: &str = "text/event-stream";

/// The answer to whoever listens to a server of tools. We may say something on a stream of events that passes as it is.
pub(crate) fn opened(session: &Session, asked: &Asked, answer: Answer) -> Answer {
    if asked.method != Method::GET || answer.status() != StatusCode::OK || !is_open(answer.headers()) {
        return answer;
    }
    let Ok(place) = asked.path.parse() else { return answer };
    let from = endpoint(session, asked, place);
    answer.map(|body| match body {
        Download::Stream(body) => {
            Download::Told(Box::new(Told::new(body, from, session.origin.stack.listeners.clone())))
        }
        other => other,
    })
}

/// Keeps where a message was posted. Who takes a stream as the answer to it speaks the newer transport, and reads its answer.
pub(crate) fn posted(session: &Session, asked: &Asked, parts: &Parts) {
    if asked.method == Method::POST
        && !has(&parts.headers, &ACCEPT, EVENTS)
        && let Some(place) = parts.uri.path_and_query()
    {
        asked.posted.get_or_init(|| endpoint(session, asked, place.clone()));
    }
}

/// Says `answer`, which is a message of JSON-RPC, on the stream where it is waited for, and gives what the POST is answered
/// then. `None` where it has to be the POST's own answer: no stream takes it, nobody waits for it, or the server may still
/// answer itself.
pub(crate) fn said(
    session: &Session,
    asked: &Asked,
    refusal: &Refusal,
    answer: &Response<Bytes>,
) -> Option<Response<Bytes>> {
    let endpoint = asked.posted.get()?;
    asked.rpc.get()?.id.as_ref()?;
    if refusal.reason == Reason::UpstreamFailed {
        return None;
    }
    // JSON of one line: a line end in a text is escaped.
    let message = [b"event: message\ndata: ", &answer.body()[..], b"\n\n"].concat();
    if !session.origin.stack.listeners.say(endpoint, message.into()) {
        return None;
    }
    let mut accepted = Response::new(Bytes::from_static(b"Accepted"));
    *accepted.status_mut() = StatusCode::ACCEPTED;
    let headers = accepted.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    Some(accepted)
}

/// A stream of events to which more can be added: in no coding, and of no length that was said.
fn is_open(headers: &HeaderMap) -> bool {
    let coded = headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity");
    has(headers, &CONTENT_TYPE, EVENTS) && !coded && !headers.contains_key(CONTENT_LENGTH)
}

fn endpoint(session: &Session, asked: &Asked, place: PathAndQuery) -> Endpoint {
    let (tls, target) = (session.expected.tls, &asked.target);
    Endpoint { agent: session.origin.agent.cgroup, tls, host: target.host.clone(), port: target.port, place }
}

/// Whether one of the media types of this header is `kind`.
fn has(headers: &HeaderMap, name: &HeaderName, kind: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut kinds =
        values.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.any(|one| one.eq_ignore_ascii_case(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_added_to_what_is_compressed_or_has_a_length() {
        for (lines, open) in [
            (&[(CONTENT_TYPE, "text/event-stream")][..], true),
            (&[(CONTENT_TYPE, "Text/Event-Stream; charset=utf-8"), (CONTENT_ENCODING, "identity")], true),
            (&[(CONTENT_TYPE, "text/event-stream"), (CONTENT_ENCODING, "gzip")], false),
            (&[(CONTENT_TYPE, "text/event-stream"), (CONTENT_ENCODING, "identity, br")], false),
            (&[(CONTENT_TYPE, "text/event-stream"), (CONTENT_LENGTH, "40")], false),
            (&[(CONTENT_TYPE, "application/json")], false),
            (&[], false),
        ] {
            let headers = lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            assert_eq!(is_open(&headers), open, "{lines:?}");
        }
    }
}
