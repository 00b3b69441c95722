//! The provider's own error for a refusal: HTTP 400, the one status on which every client asks once and shows our sentence.

use super::{Dialect, Operation};
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

const REASON: HeaderName = HeaderName::from_static("x-caracal-reason");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The provider's own error for `refusal`: status, headers and body. `id` is the request id that SDKs show.
/// Without a dialect it is a 403 with a plain JSON body.
#[must_use]
pub fn denial(dialect: Option<Dialect>, refusal: &Refusal, id: &str) -> Response<Bytes> {
    let limited = match refusal.reason {
        Reason::RateLimited { seconds } => Some(seconds),
        // There is room again once others are on their way.
        Reason::TooManyBodies => Some(5),
        _ => None,
    };
    let status = match (limited, dialect) {
        (Some(_), _) => StatusCode::TOO_MANY_REQUESTS,
        (None, Some(_)) => StatusCode::BAD_REQUEST,
        (None, None) => StatusCode::FORBIDDEN,
    };
    let body = if limited.is_some() { limited_body(dialect, refusal, id) } else { body(dialect, refusal, id) };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    // Limits on how often and on how much at once are the refusals that are worth asking again.
    match limited {
        Some(seconds) => headers.insert(RETRY_AFTER, HeaderValue::from(seconds)),
        None => headers.insert(SHOULD_RETRY, HeaderValue::from_static("false")),
    };
    let id_header = match dialect {
        Some(Dialect::Anthropic) => HeaderName::from_static("request-id"),
        Some(Dialect::Aws) => {
            // The SDKs take the class of the error from here; a validation's they do not send again.
            let class = if limited.is_some() { "ThrottlingException" } else { "ValidationException" };
            headers.insert(ERROR_TYPE, HeaderValue::from_static(class));
            HeaderName::from_static("x-amzn-requestid")
        }
        _ => HeaderName::from_static("x-request-id"),
    };
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(id_header, id);
    }
    response
}

fn body(dialect: Option<Dialect>, refusal: &Refusal, id: &str) -> Value {
    let sentence = refusal.sentence.as_str();
    match dialect {
        Some(Dialect::OpenAi) => json!({ "error": openai(sentence) }),
        Some(Dialect::Anthropic) => json!({ "type": "error", "error": anthropic(sentence), "request_id": id }),
        Some(Dialect::Google) => {
            json!({ "error": { "code": 400, "message": sentence, "status": "FAILED_PRECONDITION" } })
        }
        Some(Dialect::Aws) => json!({ "message": sentence }),
        Some(Dialect::Rpc) => rpc(sentence, refusal.reason.code(), &Value::Null),
        None => json!({ "error": { "message": sentence, "code": refusal.reason.code(), "request_id": id } }),
    }
}

/// The provider's own 429.
fn limited_body(dialect: Option<Dialect>, refusal: &Refusal, id: &str) -> Value {
    let sentence = refusal.sentence.as_str();
    match dialect {
        Some(Dialect::OpenAi) => json!({ "error": {
            "message": sentence, "type": "requests", "param": null, "code": "rate_limit_exceeded"
        } }),
        Some(Dialect::Anthropic) => json!({
            "type": "error", "error": { "type": "rate_limit_error", "message": sentence }, "request_id": id
        }),
        Some(Dialect::Google) => {
            json!({ "error": { "code": 429, "message": sentence, "status": "RESOURCE_EXHAUSTED" } })
        }
        Some(Dialect::Aws | Dialect::Rpc) | None => body(dialect, refusal, id),
    }
}

/// The code of an error of the server's own: JSON-RPC leaves -32000 to -32099 to it, and MCP has taken some of these.
const RPC_CODE: i32 = -32_050;

fn rpc(sentence: &str, reason: &str, id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": RPC_CODE, "message": sentence, "data": { "reason": reason } } })
}

/// The answer to a JSON-RPC request of this `id` (JSON): an error of the call, under HTTP 200, so that its client hands it to
/// whoever called and asks no second time.
#[must_use]
pub fn rpc_denial(refusal: &Refusal, id: &str) -> Response<Bytes> {
    let id = serde_json::from_str(id).unwrap_or(Value::Null);
    let mut response = Response::new(Bytes::from(rpc(&refusal.sentence, refusal.reason.code(), &id).to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    response
}

fn openai(sentence: &str) -> Value {
    json!({ "message": sentence, "type": "invalid_request_error", "param": null, "code": "invalid_prompt" })
}

fn anthropic(sentence: &str) -> Value {
    json!({ "type": "invalid_request_error", "message": sentence })
}

/// The event that a response fails with.
fn failed(sentence: &str, id: &str, sequence: u64) -> Value {
    let response = json!({
        "id": id, "object": "response", "status": "failed", "output": [], "usage": null,
        "error": { "code": "invalid_prompt", "message": sentence },
    });
    json!({ "type": "response.failed", "sequence_number": sequence, "response": response })
}

/// The message that answers a refused `response.create` on a WebSocket.
#[must_use]
pub fn socket_denial(refusal: &Refusal) -> Bytes {
    json!({ "type": "error", "status": 400, "error": openai(&refusal.sentence) }).to_string().into()
}

/// The message that ends a response on a WebSocket.
#[must_use]
pub fn socket_failure(refusal: &Refusal, id: &str, sequence: u64) -> Bytes {
    failed(&refusal.sentence, id, sequence).to_string().into()
}

/// The bytes that end an event stream with the provider's own error; a clean end of the body must follow, never a reset.
/// `sequence` is the number after the last event's, for responses. Starts with a blank line, so that it also ends an
/// event that was cut.
#[must_use]
pub fn stream_error(operation: Operation, refusal: &Refusal, id: &str, sequence: u64) -> Bytes {
    let sentence = refusal.sentence.as_str();
    let text = match operation {
        Operation::Chat | Operation::Embeddings | Operation::EmbedContent => {
            format!("\n\ndata: {}\n\n", json!({ "error": openai(sentence) }))
        }
        Operation::Responses => {
            format!("\n\nevent: response.failed\ndata: {}\n\n", failed(sentence, id, sequence))
        }
        Operation::Tool | Operation::Call => String::new(),
        Operation::Generate => format!("\n\ndata: {}\n\n", body(Some(Dialect::Google), refusal, id)),
        // An exception frame of an event stream.
        Operation::Invoke | Operation::Converse => {
            return super::frames::exception("validationException", &body(Some(Dialect::Aws), refusal, id).to_string());
        }
        Operation::Messages => {
            let event = json!({ "type": "error", "error": anthropic(sentence), "request_id": id });
            format!("\n\nevent: error\ndata: {event}\n\n")
        }
    };
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{Reason, Side, Stage};

    fn refusal() -> Refusal {
        Refusal {
            stage: Stage::Budget,
            side: Side::Us,
            reason: Reason::BudgetExceeded,
            sentence: "Caracal: \"it\" is\nspent.".to_owned(),
        }
    }

    fn parsed(dialect: Option<Dialect>) -> Result<(Response<Bytes>, Value), serde_json::Error> {
        let response = denial(dialect, &refusal(), "req_1");
        let body = serde_json::from_slice(response.body())?;
        Ok((response, body))
    }

    #[test]
    fn each_denial_is_the_providers_own_error() -> Result<(), serde_json::Error> {
        let sentence = refusal().sentence;
        for (dialect, at, kind, code) in [
            (Dialect::OpenAi, "x-request-id", "/error/type", "/error/code"),
            (Dialect::Anthropic, "request-id", "/error/type", "/type"),
            (Dialect::Google, "x-request-id", "/error/status", "/error/code"),
            (Dialect::Aws, "x-amzn-requestid", "", ""),
        ] {
            let (response, body) = parsed(Some(dialect))?;
            assert_eq!(response.status(), 400);
            let message = if dialect == Dialect::Aws { "/message" } else { "/error/message" };
            assert_eq!(body.pointer(message), Some(&json!(sentence)));
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-caracal-reason"), Some("budget_exceeded"));
            assert_eq!(header("x-should-retry"), Some("false"));
            assert_eq!(header("content-type"), Some("application/json"));
            assert_eq!(header(at), Some("req_1"));
            let (kind, code) = (body.pointer(kind), body.pointer(code));
            match dialect {
                Dialect::OpenAi => {
                    assert_eq!((kind, code), (Some(&json!("invalid_request_error")), Some(&json!("invalid_prompt"))))
                }
                Dialect::Anthropic => {
                    assert_eq!((kind, code), (Some(&json!("invalid_request_error")), Some(&json!("error"))))
                }
                Dialect::Rpc => {}
                Dialect::Aws => assert_eq!(header("x-amzn-errortype"), Some("ValidationException")),
                Dialect::Google => assert_eq!((kind, code), (Some(&json!("FAILED_PRECONDITION")), Some(&json!(400)))),
            }
        }
        let (response, body) = parsed(None)?;
        assert_eq!((response.status().as_u16(), body.pointer("/error/code")), (403, Some(&json!("budget_exceeded"))));
        Ok(())
    }

    #[test]
    fn a_stream_ends_with_the_providers_own_event() -> Result<(), Box<dyn std::error::Error>> {
        for (operation, event, pointer) in [
            (Operation::Chat, None, "/error/message"),
            (Operation::Responses, Some("response.failed"), "/response/error/message"),
            (Operation::Messages, Some("error"), "/error/message"),
        ] {
            let bytes = stream_error(operation, &refusal(), "id_1", 7);
            let text = std::str::from_utf8(&bytes)?;
            assert!(text.starts_with("\n\n") && text.ends_with("\n\n"));
            assert_eq!(text.lines().find_map(|line| line.strip_prefix("event: ")), event);
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            assert_eq!(data.len(), 1, "the sentence's line end is escaped");
            let json: Value = serde_json::from_str(data.first().unwrap_or(&""))?;
            assert_eq!(json.pointer(pointer), Some(&json!(refusal().sentence)));
            assert!(event.is_none() || json.pointer("/type") == event.map(Value::from).as_ref());
        }
        Ok(())
    }
}
