//! The provider's own error for a refusal: HTTP 400, the one status on which every client asks once and shows our sentence.

use super::{Dialect, Operation, Rpc};
use crate::clock::UnixNanos;
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
    let body = match limited {
        Some(seconds) => limited_body(dialect, refusal, id, seconds),
        None => body(dialect, refusal, id),
    };
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
        Some(Dialect::Rpc) => rpc(RPC_CODE, sentence, &Value::Null, &json!({ "reason": refusal.reason.code() })),
        None => json!({ "error": { "message": sentence, "code": refusal.reason.code(), "request_id": id } }),
    }
}

/// The provider's own 429, which may be asked again after `seconds`.
fn limited_body(dialect: Option<Dialect>, refusal: &Refusal, id: &str, seconds: u32) -> Value {
    let sentence = refusal.sentence.as_str();
    match dialect {
        Some(Dialect::OpenAi) => json!({ "error": {
            "message": sentence, "type": "requests", "param": null, "code": "rate_limit_exceeded"
        } }),
        Some(Dialect::Anthropic) => json!({
            "type": "error", "error": { "type": "rate_limit_error", "message": sentence }, "request_id": id
        }),
        // Google's clients look for the time in the error, not in the header (`google/rpc/error_details.proto`; a Duration is
        // written in seconds with an `s`).
        Some(Dialect::Google) => json!({ "error": {
            "code": 429, "message": sentence, "status": "RESOURCE_EXHAUSTED",
            "details": [{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s") }],
        } }),
        Some(Dialect::Aws | Dialect::Rpc) | None => body(dialect, refusal, id),
    }
}

/// The code of an error of the server's own: JSON-RPC leaves -32000 to -32099 to it, and MCP has taken some of these.
const RPC_CODE: i32 = -32_050;

/// JSON-RPC's own code of a failure inside of who answers.
const RPC_INTERNAL: i32 = -32_603;

fn rpc(code: i32, sentence: &str, id: &Value, data: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": sentence, "data": data } })
}

/// Where a refused call of a tool says in numbers what its text says in words. In `_meta`, since `structuredContent` has to be
/// of the tool's own schema and the TypeScript SDK throws where it is not.
const META: &str = "caracal/denial";

/// The answer to a JSON-RPC request that is refused, under HTTP 200, so that its client hands it to whoever called and asks no
/// second time. A call of a tool gets a result that is an error: clients give it to the model, which plans anew, while an error of
/// the protocol is raised past it (MCP 2025-11-25, server/tools, "Error Handling"). All else, and what failed rather than was
/// decided, is an error of the call.
#[must_use]
pub fn rpc_denial(refusal: &Refusal, asked: &Rpc, now: UnixNanos) -> Response<Bytes> {
    let id = asked.id.as_deref().and_then(|id| serde_json::from_str(id).ok()).unwrap_or(Value::Null);
    let data = rpc_data(refusal, now);
    let body = match (has_failed(refusal.reason), &asked.tool) {
        (true, _) => rpc(RPC_INTERNAL, &refusal.sentence, &id, &data),
        (false, None) => rpc(RPC_CODE, &refusal.sentence, &id, &data),
        (false, Some(_)) => json!({ "jsonrpc": "2.0", "id": id, "result": {
            "content": [{ "type": "text", "text": refusal.sentence }], "isError": true, "_meta": { META: data },
        } }),
    };
    let mut response = Response::new(Bytes::from(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    response
}

/// `reason`, and where they are known `budget` and `retry_after_ms`.
fn rpc_data(refusal: &Refusal, now: UnixNanos) -> Value {
    let mut data = json!({ "reason": refusal.reason.code() });
    let turns = refusal.limit.as_ref().and_then(|limit| limit.turns);
    let wait = match refusal.reason {
        Reason::RateLimited { seconds } => Some(u64::from(seconds) * 1_000),
        Reason::BudgetExceeded => turns.map(|at| at.0.saturating_sub(now.0).div_ceil(1_000_000)),
        _ => None,
    };
    if let Some(limit) = &refusal.limit {
        data["budget"] = json!(&*limit.budget);
    }
    if let Some(wait) = wait {
        data["retry_after_ms"] = json!(wait);
    }
    data
}

/// The reason is no decision about the call, but something on its way that did not work.
fn has_failed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::JournalUnavailable
            | Reason::ShuttingDown
            | Reason::TooManyConnections
            | Reason::UpstreamConnect
            | Reason::UpstreamResolve
            | Reason::UpstreamTls
            | Reason::UpstreamFailed
    )
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
    use crate::refusal::{Limit, Reason, Side, Stage};

    fn refusal() -> Refusal {
        Refusal {
            stage: Stage::Budget,
            side: Side::Us,
            reason: Reason::BudgetExceeded,
            sentence: "Caracal: \"it\" is\nspent.".to_owned(),
            limit: None,
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
    fn a_limit_says_when_to_ask_again_in_the_header_and_where_google_says_it() -> Result<(), serde_json::Error> {
        for (reason, seconds) in [(Reason::RateLimited { seconds: 3 }, 3), (Reason::TooManyBodies, 5)] {
            let refusal = Refusal { reason, ..refusal() };
            for dialect in [Dialect::Google, Dialect::OpenAi, Dialect::Anthropic, Dialect::Aws] {
                let response = denial(Some(dialect), &refusal, "req_1");
                assert_eq!(response.status(), 429);
                let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                assert_eq!(after, Some(seconds.to_string().as_str()));
                let body: Value = serde_json::from_slice(response.body())?;
                let wanted = json!([{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s"),
                }]);
                let details = body.pointer("/error/details");
                assert_eq!(details, (dialect == Dialect::Google).then_some(&wanted), "{dialect:?}");
                if dialect == Dialect::Google {
                    let error = (&body["error"]["code"], &body["error"]["status"]);
                    assert_eq!(error, (&json!(429), &json!("RESOURCE_EXHAUSTED")));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_refused_tool_is_a_result_that_the_model_reads_and_all_else_an_error() -> Result<(), serde_json::Error> {
        let limit = Limit { budget: "day".into(), turns: Some(UnixNanos(5_000_000_001)) };
        let spent = Refusal { limit: Some(limit), ..refusal() };
        let tool = Rpc { id: Some("7".into()), tool: Some("search".into()) };
        let list = Rpc { id: Some("\"a\"".into()), tool: None };
        let body = |refusal: &Refusal, asked: &Rpc| -> Result<Value, serde_json::Error> {
            let response = rpc_denial(refusal, asked, UnixNanos(2_000_000_000));
            assert_eq!(response.status(), 200);
            serde_json::from_slice(response.body())
        };
        let data = json!({ "reason": "budget_exceeded", "budget": "day", "retry_after_ms": 3_001 });
        let said = body(&spent, &tool)?;
        assert_eq!((&said["id"], &said["error"]), (&json!(7), &Value::Null));
        assert_eq!(said["result"]["isError"], json!(true));
        assert_eq!(said["result"]["content"][0], json!({ "type": "text", "text": spent.sentence }));
        assert_eq!(said["result"]["_meta"][META], data);
        assert_eq!(said["result"].get("structuredContent"), None, "it would have to be of the tool's own schema");
        let said = body(&spent, &list)?;
        assert_eq!((&said["id"], &said["error"]["code"]), (&json!("a"), &json!(RPC_CODE)));
        assert_eq!((&said["error"]["data"], &said["error"]["message"]), (&data, &json!(spent.sentence)));
        let failed = Refusal { reason: Reason::JournalUnavailable, ..refusal() };
        let said = body(&failed, &tool)?;
        assert_eq!(said["error"]["code"], json!(RPC_INTERNAL));
        assert_eq!(said["error"]["data"], json!({ "reason": "journal_unavailable" }));
        let often = Refusal { reason: Reason::RateLimited { seconds: 4 }, ..refusal() };
        assert_eq!(body(&often, &tool)?["result"]["_meta"][META]["retry_after_ms"], json!(4_000));
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
