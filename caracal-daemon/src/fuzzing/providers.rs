//! Calls of Gemini and Bedrock, and of tools: the request as the agent wrote it, the answer as the provider sent it.

use super::choice;
use crate::meter::{Meter, Operation, PriceBook, Provider, Reading};
use crate::money::NanoUsd;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::LazyLock;

const CALLS: [(Provider, Operation, &str); 8] = [
    (Provider::Google, Operation::Generate, "/v1beta/models/gemini-2.5-pro:generateContent"),
    (Provider::Google, Operation::Generate, "/v1beta/models/gemini-2.5-pro:streamGenerateContent"),
    (Provider::Google, Operation::EmbedContent, "/v1beta/models/gemini-embedding-001:batchEmbedContents"),
    (Provider::Bedrock, Operation::Converse, "/model/amazon.nova-pro-v1%3A0/converse"),
    (Provider::Bedrock, Operation::Converse, "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/converse-stream"),
    (Provider::Bedrock, Operation::Invoke, "/model/amazon.nova-pro-v1%3A0/invoke-with-response-stream"),
    (Provider::Bedrock, Operation::Invoke, "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke"),
    (Provider::Mistral, Operation::Chat, "/v1/chat/completions"),
];

static METER: LazyLock<Meter> =
    LazyLock::new(|| Meter::new(PriceBook::built_in().expect("the built-in prices"), []).with_body_limit(1 << 20));

fn signed() -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("AWS4-HMAC-SHA256 x"))])
}

/// A request whose path names its model. What goes upstream is one JSON object and costs at most what was granted; a signed
/// body goes as it came.
pub fn provider_request(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let (provider, operation, path) = CALLS[how & 7];
    let headers = if how & 8 == 0 { HeaderMap::new() } else { signed() };
    let body = Bytes::copy_from_slice(bytes);
    let Ok(call) = METER.read_at(provider, operation, path, &headers, &body) else { return };
    let (most, least) = (call.most(), call.least(1));
    assert!(least <= most, "{least} > {most}");
    for granted in [NanoUsd::MAX, most, NanoUsd(least.0 + (most.0 - least.0) / 2), least, NanoUsd(0)] {
        let Ok(edited) = call.edit(granted) else {
            assert!(granted < least, "{granted} was granted, and {least} is enough");
            continue;
        };
        assert!(edited.hold <= granted.min(most));
        let Some(sent) = &edited.body else { continue };
        assert!(how & 8 == 0, "a signed body was edited");
        let again =
            METER.read_at(provider, operation, path, &HeaderMap::new(), sent).expect("the edited call is a call");
        let second = again.edit(NanoUsd::MAX).expect("a call");
        assert_eq!(second.max_tokens.or(edited.max_tokens), edited.max_tokens, "the cap written is the one read");
    }
}

/// An answer in any framing. Cut into other pieces it reads the same, and the agent gets every byte.
pub fn provider_answer(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let (piece, bytes) = choice(bytes);
    let (provider, operation, path) = CALLS[how & 7];
    let body = Bytes::from_static(br#"{"model":"mistral-large-latest","max_tokens":9}"#);
    let body = if provider == Provider::Mistral { body } else { Bytes::from_static(b"{}") };
    let call = METER
        .read_at(provider, operation, path, &signed(), &body)
        .or_else(|_| METER.read_at(provider, operation, path, &signed(), &Bytes::from_static(br#"{"max_tokens":9}"#)));
    let Ok(call) = call else { return };
    let edited = call.edit(NanoUsd::MAX).expect("a call");
    let kinds = ["application/json", "text/event-stream", "application/vnd.amazon.eventstream", "text/plain"];
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kinds[how >> 3 & 3]))]);
    let read = |piece: usize| -> (Vec<u8>, Reading) {
        let mut reader = call.reader(&edited, StatusCode::OK, &headers);
        let mut given = Vec::new();
        for part in bytes.chunks(piece.max(1)) {
            given.extend_from_slice(&reader.feed(Bytes::copy_from_slice(part)));
        }
        given.extend_from_slice(&reader.flush());
        (given, reader.finish())
    };
    let (given, reading) = read(usize::MAX);
    assert_eq!(given, bytes);
    assert_eq!((given, reading.clone()), read(piece), "it depends on the segments");
    assert_eq!(call.bill(&reading).is_some(), reading.usage.is_some());
}

/// What goes to a server of tools: a tool that is found is a text of the body's, and one body has at most one.
pub fn tool_call(bytes: &[u8]) {
    let Ok(asked) = METER.tool_call(&HeaderMap::new(), &Bytes::copy_from_slice(bytes)) else { return };
    let value: serde_json::Value = serde_json::from_slice(bytes).expect("what is read is JSON");
    let list = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    let mut calls = list.iter().filter(|message| message["method"] == "tools/call");
    let tool = calls.next().map(|call| call["params"]["name"].as_str().expect("a name").to_owned());
    assert_eq!((asked.tool, calls.next()), (tool, None));
}
