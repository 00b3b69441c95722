//! The provider's own error for a refusal: HTTP 400, the one status on which every client asks once and shows our sentence.

use super::{Operation, Provider};
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

const REASON: HeaderName = HeaderName::from_static("x-caracal-reason");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The provider's own error for `refusal`: status, headers and body. `id` is the request id that SDKs show.
/// Without a provider it is a 403 with a plain JSON body.
#[must_use]
pub fn denial(provider: Option<Provider>, refusal: &Refusal, id: &str) -> Response<Bytes> {
    let limited = match refusal.reason {
        Reason::RateLimited { seconds } => Some(seconds),
        _ => None,
    };
    let status = match (limited, provider) {
        (Some(_), _) => StatusCode::TOO_MANY_REQUESTS,
        (None, Some(_)) => StatusCode::BAD_REQUEST,
        (None, None) => StatusCode::FORBIDDEN,
    };
    let body = if limited.is_some() { limited_body(provider, refusal, id) } else { body(provider, refusal, id) };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    // A limit on how often is the one refusal that is worth asking again.
    match limited {
        Some(seconds) => headers.insert(RETRY_AFTER, HeaderValue::from(seconds)),
        None => headers.insert(SHOULD_RETRY, HeaderValue::from_static("false")),
    };
    let id_header = match provider {
        Some(Provider::Anthropic) => HeaderName::from_static("request-id"),
        _ => HeaderName::from_static("x-request-id"),
    };
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(id_header, id);
    }
    response
}

fn body(provider: Option<Provider>, refusal: &Refusal, id: &str) -> Value {
    let sentence = refusal.sentence.as_str();
    match provider {
        Some(Provider::OpenAi) => json!({ "error": openai(sentence) }),
        Some(Provider::Anthropic) => json!({ "type": "error", "error": anthropic(sentence), "request_id": id }),
        Some(Provider::Google) => {
            json!({ "error": { "code": 400, "message": sentence, "status": "FAILED_PRECONDITION" } })
        }
        None => json!({ "error": { "message": sentence, "code": refusal.reason.code(), "request_id": id } }),
    }
}

/// The provider's own 429.
fn limited_body(provider: Option<Provider>, refusal: &Refusal, id: &str) -> Value {
    let sentence = refusal.sentence.as_str();
    match provider {
        Some(Provider::OpenAi) => json!({ "error": {
            "message": sentence, "type": "requests", "param": null, "code": "rate_limit_exceeded"
        } }),
        Some(Provider::Anthropic) => json!({
            "type": "error", "error": { "type": "rate_limit_error", "message": sentence }, "request_id": id
        }),
        Some(Provider::Google) => {
            json!({ "error": { "code": 429, "message": sentence, "status": "RESOURCE_EXHAUSTED" } })
        }
        None => body(None, refusal, id),
    }
}

fn openai(sentence: &str) -> Value {
    json!({ "message": sentence, "type": "invalid_request_error", "param": null, "code": "invalid_prompt" })
}

fn anthropic(sentence: &str) -> Value {
    json!({ "type": "invalid_request_error", "message": sentence })
}

/// The bytes that end an event stream with the provider's own error; a clean end of the body must follow, never a reset.
/// `sequence` is the number after the last event's, for responses. Starts with a blank line, so that it also ends an
/// event that was cut.
#[must_use]
pub fn stream_error(operation: Operation, refusal: &Refusal, id: &str, sequence: u64) -> Bytes {
    let sentence = refusal.sentence.as_str();
    let text = match operation {
        Operation::Chat | Operation::Embeddings => format!("\n\ndata: {}\n\n", json!({ "error": openai(sentence) })),
        Operation::Responses => {
            let response = json!({
                "id": id, "object": "response", "status": "failed", "output": [], "usage": null,
                "error": { "code": "invalid_prompt", "message": sentence },
            });
            let event = json!({ "type": "response.failed", "sequence_number": sequence, "response": response });
            format!("\n\nevent: response.failed\ndata: {event}\n\n")
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

    fn parsed(provider: Option<Provider>) -> Result<(Response<Bytes>, Value), serde_json::Error> {
        let response = denial(provider, &refusal(), "req_1");
        let body = serde_json::from_slice(response.body())?;
        Ok((response, body))
    }

    #[test]
    fn each_denial_is_the_providers_own_error() -> Result<(), serde_json::Error> {
        let sentence = refusal().sentence;
        for (provider, at, kind, code) in [
            (Provider::OpenAi, "x-request-id", "/error/type", "/error/code"),
            (Provider::Anthropic, "request-id", "/error/type", "/type"),
            (Provider::Google, "x-request-id", "/error/status", "/error/code"),
        ] {
            let (response, body) = parsed(Some(provider))?;
            assert_eq!(response.status(), 400);
            assert_eq!(body.pointer("/error/message"), Some(&json!(sentence)));
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-caracal-reason"), Some("budget_exceeded"));
            assert_eq!(header("x-should-retry"), Some("false"));
            assert_eq!(header("content-type"), Some("application/json"));
            assert_eq!(header(at), Some("req_1"));
            let (kind, code) = (body.pointer(kind), body.pointer(code));
            match provider {
                Provider::OpenAi => {
                    assert_eq!((kind, code), (Some(&json!("invalid_request_error")), Some(&json!("invalid_prompt"))))
                }
                Provider::Anthropic => {
                    assert_eq!((kind, code), (Some(&json!("invalid_request_error")), Some(&json!("error"))))
                }
                Provider::Google => assert_eq!((kind, code), (Some(&json!("FAILED_PRECONDITION")), Some(&json!(400)))),
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
