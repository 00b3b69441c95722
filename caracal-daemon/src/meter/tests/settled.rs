//! When the usage of a stream that goes on is final, by the word of its format: not before, and where there is no such word
//! never.

use super::running::{call, reader};
use super::*;
use crate::meter::frames;

fn event(json: Value) -> Vec<u8> {
    format!("event: x\ndata: {json}\n\n").into_bytes()
}

fn chat(usage: Value, choices: Value) -> Vec<u8> {
    event(json!({"choices": choices, "usage": usage}))
}

fn counted(output: u64) -> Value {
    json!({"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output})
}

fn delta(output: u64, stops: Value) -> Vec<u8> {
    event(json!({"type": "message_delta", "delta": {"stop_reason": stops}, "usage": {"output_tokens": output}}))
}

fn response(kind: &str, output: u64) -> Vec<u8> {
    let usage = json!({"input_tokens": 9, "output_tokens": output, "total_tokens": 9 + output});
    event(json!({"type": kind, "sequence_number": 1, "response": {"id": "r", "usage": usage}}))
}

fn gemini(output: u64) -> Vec<u8> {
    let usage = json!({"promptTokenCount": 9, "candidatesTokenCount": output, "totalTokenCount": 9 + output});
    event(json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage}))
}

fn converse(kind: &str, json: Value) -> Vec<u8> {
    frames::frame(kind, json.to_string().as_bytes())
}

fn metrics() -> Value {
    json!({"inputTokenCount": 9, "outputTokenCount": 5})
}

/// A piece of an invoke's stream.
fn piece(json: Value) -> Vec<u8> {
    use base64::Engine as _;
    let inner = base64::engine::general_purpose::STANDARD.encode(json.to_string());
    converse("chunk", json!({ "bytes": inner }))
}

/// Streams, and after how many of their events the usage is final.
fn streams() -> Vec<(Operation, Vec<Vec<u8>>, Option<usize>)> {
    use Operation::{Chat, Converse, Generate, Invoke, Messages, Responses};
    let text = || json!([{"index": 0, "delta": {"content": "a"}}]);
    let done = || b"data: [DONE]\n\n".to_vec();
    let start = || {
        let message = json!({"usage": {"input_tokens": 9, "output_tokens": 1}});
        event(json!({"type": "message_start", "message": message}))
    };
    let stop = || event(json!({"type": "message_stop"}));
    let usage = json!({"inputTokens": 9, "outputTokens": 5, "totalTokens": 14});
    vec![
        (Chat, vec![chat(Value::Null, text()), chat(counted(5), json!([])), done()], Some(2)),
        // Usage beside choices is a count so far, and so may be one that comes without them.
        (Chat, vec![chat(counted(1), text()), chat(Value::Null, json!([])), chat(counted(5), text()), done()], Some(4)),
        (
            Chat,
            vec![chat(counted(1), text()), chat(counted(3), json!([])), chat(counted(5), json!([])), done()],
            Some(4),
        ),
        (Chat, vec![chat(Value::Null, json!([])), chat(Value::Null, text()), done()], None),
        (Responses, vec![response("response.in_progress", 1), response("response.completed", 5)], Some(2)),
        (Responses, vec![response("response.in_progress", 1), response("response.incomplete", 5)], Some(2)),
        (Messages, vec![start(), delta(2, Value::Null), delta(5, json!("end_turn")), stop()], Some(3)),
        (Messages, vec![start(), delta(2, Value::Null), delta(5, Value::Null), stop()], Some(4)),
        // Each piece says that it stopped, and the next one tells more.
        (Generate, vec![gemini(1), gemini(5)], None),
        (Converse, vec![converse("messageStop", json!({})), converse("metadata", json!({ "usage": usage }))], Some(2)),
        (
            Invoke,
            vec![
                piece(json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}})),
                piece(
                    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
                ),
                piece(json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics()})),
            ],
            Some(2),
        ),
    ]
}

#[test]
fn usage_is_final_where_the_format_says_so_and_not_before() -> Outcome {
    for (number, (operation, events, want)) in streams().into_iter().enumerate() {
        let mut reader = reader(&call(operation)?)?;
        let mut at = None;
        for (count, event) in events.iter().enumerate() {
            reader.feed(Bytes::copy_from_slice(event));
            if let Some(reading) = reader.settled() {
                let output = reading.usage.map(|usage| usage.output);
                assert_eq!(output, Some(5), "stream {number} of {operation:?}: not its last count");
                at = at.or(Some(count + 1));
            }
        }
        assert_eq!(at, want, "stream {number} of {operation:?}");
    }
    // Another family's invoke: the counts beside its last piece, and none of its own.
    let path = "/model/amazon.nova-pro-v1%3A0/invoke-with-response-stream";
    let body = Bytes::from_static(b"{}");
    let nova = METER.read_at(Provider::Bedrock, Operation::Invoke, path, &HeaderMap::new(), &body)?;
    let mut reader = reader(&nova)?;
    reader.feed(piece(json!({"metadata": {"usage": {"inputTokens": 9, "outputTokens": 1}}})).into());
    assert_eq!(reader.settled(), None);
    reader.feed(piece(json!({"metadata": {}, "amazon-bedrock-invocationMetrics": metrics()})).into());
    assert_eq!(reader.settled().and_then(|reading| reading.usage).map(|usage| usage.output), Some(5));
    // A failure is no end of a paid stream.
    let call = call(Operation::Chat)?;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))]);
    let mut failed = call.reader(&call.edit(NanoUsd::MAX)?, StatusCode::BAD_REQUEST, &headers);
    failed.feed(chat(counted(5), json!([])).into());
    assert_eq!(failed.settled(), None);
    Ok(())
}
