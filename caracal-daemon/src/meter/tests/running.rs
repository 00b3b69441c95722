//! What a stream has cost so far, from below: for each dialect, at every event.

use super::*;
use crate::meter::frames;

pub(super) fn call(operation: Operation) -> Result<Call, Refusal> {
    let path = match operation {
        Operation::Generate => "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        Operation::Converse => "/model/amazon.nova-pro-v1%3A0/converse-stream",
        Operation::Invoke => "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke-with-response-stream",
        _ => "",
    };
    let (provider, body) = match operation {
        Operation::Messages => (
            Provider::Anthropic,
            r#"{"model":"claude-haiku-4-5","max_tokens":16,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#,
        ),
        Operation::Generate => {
            (Provider::Google, r#"{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":16}}"#)
        }
        Operation::Converse => (
            Provider::Bedrock,
            r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}],"inferenceConfig":{"maxTokens":16}}"#,
        ),
        Operation::Invoke => (
            Provider::Bedrock,
            r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#,
        ),
        _ => (
            Provider::OpenAi,
            r#"{"model":"gpt-5-mini","max_completion_tokens":16,"max_output_tokens":16,"stream":true,"messages":[],"input":"hi"}"#,
        ),
    };
    METER.read_at(provider, operation, path, &HeaderMap::new(), &Bytes::from_static(body.as_bytes()))
}

/// An event that delivers `text`, and one that brings as much of something that is not billed as it stands.
fn events(operation: Operation, text: &str) -> (Vec<u8>, Vec<u8>) {
    let sse = |json: Value| format!("event: x\ndata: {json}\n\n").into_bytes();
    let chunk = |json: Value| {
        use base64::Engine as _;
        let inner = base64::engine::general_purpose::STANDARD.encode(json.to_string());
        frames::frame("chunk", json!({ "bytes": inner }).to_string().as_bytes())
    };
    let messages = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
    let thinking = messages(json!({"type": "thinking_delta", "thinking": text}));
    match operation {
        Operation::Chat => (
            sse(json!({"id": text, "choices": [{"index": 0, "delta": {"content": text}}]})),
            sse(json!({"id": "x", "obfuscation": text, "choices": [{"index": 0, "delta": {}}]})),
        ),
        Operation::Responses => (
            sse(json!({"delta": text, "type": "response.function_call_arguments.delta", "sequence_number": 6})),
            sse(json!({"delta": text, "type": "response.reasoning_summary_text.delta", "sequence_number": 7})),
        ),
        Operation::Messages => {
            (sse(messages(json!({"type": "input_json_delta", "partial_json": text}))), sse(thinking))
        }
        Operation::Generate => (
            sse(json!({"candidates": [{"content": {"parts": [{"text": text}]}}]})),
            sse(json!({"candidates": [{"content": {"parts": [{"text": text, "thought": true}]}}]})),
        ),
        Operation::Converse => {
            let frame =
                |delta: Value| frames::frame("contentBlockDelta", json!({"delta": delta}).to_string().as_bytes());
            (frame(json!({"text": text})), frame(json!({"reasoningContent": {"text": text}})))
        }
        _ => (chunk(messages(json!({"type": "text_delta", "text": text}))), chunk(thinking)),
    }
}

pub(super) fn reader(call: &Call) -> Result<UsageReader, Refusal> {
    let aws = matches!(call.operation, Operation::Converse | Operation::Invoke);
    let kind = if aws { "application/vnd.amazon.eventstream" } else { "text/event-stream" };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    Ok(call.reader(&Edited { strip_usage: false, ..call.edit(NanoUsd::MAX)? }, StatusCode::OK, &headers))
}

#[test]
fn text_that_was_delivered_passes_a_hold_and_thoughts_and_blanks_do_not() -> Outcome {
    use Operation::{Chat, Converse, Generate, Invoke, Messages, Responses};
    for operation in [Chat, Responses, Messages, Generate, Converse, Invoke] {
        let call = call(operation)?;
        let hold = call.edit(NanoUsd::MAX)?.hold;
        let (delivers, other) = events(operation, &"x".repeat(1_280));
        let blank = events(operation, &" \u{e9}\n".repeat(1_280)).0;
        let mut reader = reader(&call)?;
        let (mut passed, mut count) = (false, 0u64);
        while !passed && count < 1_000 {
            for event in [&other, &blank, &delivers] {
                reader.feed(Bytes::copy_from_slice(event));
                let Some(reading) = reader.grown() else { continue };
                assert!(std::ptr::eq(event, &delivers), "{operation:?}: what does not count was counted");
                passed = call.least_bill(&reading) > hold;
                assert!(call.bill_beyond(&reading, hold) > hold);
            }
            count += 1;
        }
        // Ten tokens an event.
        let tokens = Usage { output: count * 10, ..Usage::default() };
        let before = Usage { output: (count - 1) * 10, ..Usage::default() };
        assert!(passed && call.charge(&tokens) > hold && call.charge(&before) <= hold, "{operation:?}: {count} events");
        let ending = reader.ending().ok_or("a plain stream")?;
        assert_eq!((ending.unfinished, ending.next), (0, if operation == Responses { 7 } else { 0 }));
    }
    Ok(())
}

#[test]
fn an_event_that_has_begun_is_known_at_every_byte() -> Outcome {
    for operation in [Operation::Messages, Operation::Converse] {
        let (event, _) = events(operation, "hello");
        let mut reader = reader(&call(operation)?)?;
        for _ in 0..2 {
            for (at, byte) in event.iter().enumerate() {
                reader.feed(Bytes::copy_from_slice(&[*byte]));
                let unfinished = reader.ending().ok_or("a plain stream")?.unfinished;
                assert_eq!(unfinished, (at + 1) % event.len(), "{operation:?} after {at}");
            }
        }
    }
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
    ]);
    let call = call(Operation::Messages)?;
    assert_eq!(call.reader(&call.edit(NanoUsd::MAX)?, StatusCode::OK, &headers).ending(), None);
    Ok(())
}

#[test]
fn counts_in_mid_stream_count() -> Outcome {
    let call = call(Operation::Generate)?;
    let hold = call.edit(NanoUsd::MAX)?.hold;
    let mut reader = reader(&call)?;
    let told = |output: u64| {
        let usage = json!({"promptTokenCount": 9, "candidatesTokenCount": output, "totalTokenCount": 9 + output});
        format!("data: {}\n\n", json!({"candidates": [], "usageMetadata": usage}))
    };
    reader.feed(told(1).into());
    let first = reader.grown().ok_or("counts were told")?;
    assert!(call.least_bill(&first) <= hold);
    reader.feed(told(100_000).into());
    assert!(call.least_bill(&reader.grown().ok_or("more was told")?) > hold);
    assert_eq!(reader.grown(), None, "nothing came since");
    Ok(())
}

proptest! {
    /// An honest stream never alarms: what it has cost at any byte is not more than it costs in the end.
    #[test]
    fn an_honest_stream_stays_below_its_bill(pieces in proptest::collection::vec("[a-z \\n\u{e9}]{1,40}", 1..40)) {
        let call = call(Operation::Messages).expect("a call");
        let mut reader = reader(&call).expect("a reader");
        let mut text = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n".to_owned();
        for piece in &pieces {
            let delta = json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}});
            text.push_str(&format!("data: {delta}\n\n"));
        }
        // A token has no more than 41 letters in the vocabularies that are in use.
        let tokens = pieces.iter().map(|piece| (piece.len() as u64).div_ceil(41)).sum::<u64>();
        let usage = Usage { input: 10, output: tokens, ..Usage::default() };
        for byte in text.bytes() {
            reader.feed(Bytes::copy_from_slice(&[byte]));
            if let Some(reading) = reader.grown() {
                prop_assert!(call.least_bill(&reading) <= call.charge(&usage));
            }
        }
    }
}
