//! Usage as the providers report it, at every split and in every encoding, and what it costs.

use super::*;

const SSE: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

fn head(kind: &str, encoding: &str) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, value(kind))]);
    if !encoding.is_empty() {
        headers.insert(CONTENT_ENCODING, value(encoding));
    }
    headers
}

/// Reads an answer given in pieces; the agent must get it unchanged.
fn reading(
    call: &Call,
    status: u16,
    headers: &HeaderMap,
    pieces: &[&[u8]],
) -> Result<Reading, Box<dyn std::error::Error>> {
    let plain = Edited {
        body: None,
        edits: Vec::new(),
        max_tokens: None,
        hold: NanoUsd::ZERO,
        identity_answer: false,
        strip_usage: false,
    };
    let mut reader = call.reader(&plain, StatusCode::from_u16(status)?, headers);
    let mut got = Vec::new();
    for piece in pieces {
        got.extend_from_slice(&reader.feed(Bytes::copy_from_slice(piece)));
    }
    got.extend_from_slice(&reader.flush());
    assert_eq!(got, pieces.concat());
    Ok(reader.finish())
}

fn call(operation: Operation, model: &str, more: &str) -> Result<Call, Refusal> {
    read(operation, &format!(r#"{{"model":"{model}","max_tokens":9,"messages":[]{more}}}"#))
}

/// One answer, one usage, one price.
pub(super) fn charged(
    operation: Operation,
    model: &str,
    more: &str,
    kind: &str,
    answer: &str,
) -> Result<(Option<Usage>, Option<NanoUsd>), Box<dyn std::error::Error>> {
    let call = call(operation, model, more)?;
    let reading = reading(&call, 200, &head(kind, ""), &[answer.as_bytes()])?;
    let bill = call.bill(&reading);
    assert_eq!(repriced(&call, &reading)?, bill, "the record does not say what the bill was made of");
    Ok((reading.usage, bill))
}

/// The bill made again from the call's record and the price book that it names.
pub(super) fn repriced(call: &Call, reading: &Reading) -> Result<Option<NanoUsd>, Box<dyn std::error::Error>> {
    let record = record_of(call, reading)?;
    assert_eq!(PriceBook::parse("version='1'")?.reprice(&record), None, "another book");
    Ok(METER.book().reprice(&record))
}

/// The outcome's record, read back.
pub(super) fn record_of(
    call: &Call,
    reading: &Reading,
) -> Result<crate::event::record::Fields, Box<dyn std::error::Error>> {
    use crate::event::{Data, Detail, Draft, Kind, Record};
    let (_keys, scribe) = crate::event::write::tests::scribe();
    let data = Data {
        provider: Some(call.provider.name()),
        model: Some(call.model.clone()),
        settle: Some("settled"),
        usage: reading.usage,
        served: call.served(reading),
        price_book: Some(call.price_book.clone()),
        ..Data::default()
    };
    let draft =
        Draft { kind: Kind::Outcome, at: crate::clock::UnixNanos(0), data: data.into(), detail: Detail::default() };
    let mut bytes = Vec::new();
    scribe.seal(&draft)?.place(0, &[0; 32], &mut bytes);
    Ok(Record::parse(&bytes)?.data)
}

const CHAT: &str = concat!(
    "data: {\"id\":\"c\",\"model\":\"gpt-5-2025-08-07\",\"service_tier\":\"default\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a \\\"b\\n\"}}],\"usage\":null}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":500,\"total_tokens\":1500,",
    "\"prompt_tokens_details\":{\"cached_tokens\":600,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":300}}}\n\n",
    "data: [DONE]\n\n",
);

const RESPONSES: &str = concat!(
    "event: response.created\r\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\",\"usage\":null,\"output\":[]}}\r\n\r\n",
    "event: response.output_item.done\r\ndata: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"web_search_call\",\"action\":{\"type\":\"search\"}}}\r\n\r\n",
    "event: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"model\":\"gpt-6.1-sol\",\"service_tier\":\"priority\",\"output\":[",
    "{\"type\":\"web_search_call\",\"action\":{\"type\":\"search\",\"query\":\"q\"}},{\"type\":\"web_search_call\",\"action\":{\"type\":\"open_page\"}},{\"type\":\"message\",\"content\":[]}],",
    "\"usage\":{\"input_tokens\":10000,\"input_tokens_details\":{\"cached_tokens\":4000,\"cache_write_tokens\":5000},\"output_tokens\":200,\"output_tokens_details\":{\"reasoning_tokens\":64},\"total_tokens\":10200}}}\r\n\r\n",
);

const MESSAGES: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-opus-4-8\",\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":3000,",
    "\"cache_read_input_tokens\":2000,\"cache_creation\":{\"ephemeral_5m_input_tokens\":1000,\"ephemeral_1h_input_tokens\":2000},\"output_tokens\":1,\"service_tier\":\"standard\",\"inference_geo\":\"global\"}}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":40}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

pub(super) fn usage(
    input: u64,
    cache_read: u64,
    cache_write_5m: u64,
    cache_write_1h: u64,
    output: u64,
    reasoning: u64,
    web_searches: u64,
) -> Usage {
    Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning, web_searches, ..Usage::default() }
}

/// The first event's count of the output is of before there was any: without a later one the bill is not known.
#[test]
fn a_stream_of_messages_that_ends_without_its_last_usage_tells_none() -> Outcome {
    let last = ",\"usage\":{\"output_tokens\":40}";
    assert!(MESSAGES.contains(last));
    let body = MESSAGES.replace(last, "");
    assert_eq!(charged(Operation::Messages, "claude-opus-4-8", "", SSE, &body)?, (None, None));
    Ok(())
}

#[test]
fn streams_are_read_and_priced() -> Outcome {
    // 400 x 1250 + 600 x 125 + 500 x 10000
    assert_eq!(
        charged(Operation::Chat, "gpt-5", r#","stream":true"#, SSE, CHAT)?,
        (Some(usage(400, 600, 0, 0, 500, 300, 0)), Some(NanoUsd(5_575_000)))
    );
    // Served as priority: 1000 x 4000 + 4000 x 200 + 5000 x 5000 + 200 x 20000, and one search at 10,000,000.
    assert_eq!(
        charged(Operation::Responses, "gpt-6.1-sol", "", SSE, RESPONSES)?,
        (Some(usage(1_000, 4_000, 5_000, 0, 200, 64, 1)), Some(NanoUsd(43_800_000)))
    );
    // 10 x 5000 + 2000 x 500 + 1000 x 6250 + 2000 x 10000 + 40 x 25000
    assert_eq!(
        charged(Operation::Messages, "claude-opus-4-8", "", SSE, MESSAGES)?,
        (Some(usage(10, 2_000, 1_000, 2_000, 40, 0, 0)), Some(NanoUsd(28_300_000)))
    );
    Ok(())
}

#[test]
fn any_split_and_encoding_reads_alike() -> Outcome {
    for (operation, model, answer) in [
        (Operation::Chat, "gpt-5", CHAT),
        (Operation::Responses, "gpt-6.1-sol", RESPONSES),
        (Operation::Messages, "claude-opus-4-8", MESSAGES),
    ] {
        let call = call(operation, model, "")?;
        let want = reading(&call, 200, &head(SSE, ""), &[answer.as_bytes()])?;
        assert!(want.usage.is_some());
        for at in 0..answer.len() {
            let (one, two) = answer.as_bytes().split_at(at);
            assert_eq!(reading(&call, 200, &head(SSE, ""), &[one, two])?, want, "{operation:?} split at {at}");
        }
        for (encoding, bytes) in encoded(answer.as_bytes())? {
            let pieces: Vec<&[u8]> = bytes.chunks(7).collect();
            assert_eq!(reading(&call, 200, &head(SSE, encoding), &pieces)?, want, "{operation:?} as {encoding}");
        }
        let singly: Vec<&[u8]> = answer.as_bytes().chunks(1).collect();
        assert_eq!(reading(&call, 200, &head(SSE, ""), &singly)?, want);
    }
    Ok(())
}

fn encoded(plain: &[u8]) -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain)?;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(plain)?;
    let mut br = Vec::new();
    brotli::BrotliCompress(&mut &*plain, &mut br, &brotli::enc::BrotliEncoderParams::default())?;
    Ok(vec![("gzip", gzip.finish()?), ("deflate", zlib.finish()?), ("br", br), ("zstd", zstd::encode_all(plain, 3)?)])
}

#[test]
fn usage_that_was_not_reported_is_not_guessed() -> Outcome {
    for (operation, model, answer) in [
        (Operation::Chat, "gpt-5", CHAT),
        (Operation::Responses, "gpt-6.1-sol", RESPONSES),
        (Operation::Messages, "claude-opus-4-8", MESSAGES),
    ] {
        let call = call(operation, model, "")?;
        let whole = reading(&call, 200, &head(SSE, ""), &[answer.as_bytes()])?;
        for at in 0..answer.len() {
            let cut = answer.as_bytes().get(..at).unwrap_or_default();
            let read = reading(&call, 200, &head(SSE, ""), &[cut])?;
            assert!(read.usage.is_none() || read == whole, "{operation:?} cut at {at}: {read:?}");
            assert_eq!(read.failure, None);
        }
    }
    let call = call(Operation::Chat, "gpt-5", "")?;
    for (kind, encoding, body) in [
        (JSON, "", r#"{"usage":{"prompt_tokens":5,"completion_tokens":7},"service_tier":"pri"#),
        (JSON, "", r#"{"usage":{"prompt_tokens":5,"completion_tokens":7"#),
        (JSON, "x-new", r#"{"usage":{"prompt_tokens":5,"completion_tokens":7}}"#),
        (JSON, "gzip", "not gzip"),
        (JSON, "", ""),
        (
            JSON,
            "",
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":6}}}"#,
        ),
    ] {
        let read = reading(&call, 200, &head(kind, encoding), &[body.as_bytes()])?;
        assert_eq!((read.usage, call.bill(&read)), (None, None), "{body}");
    }
    Ok(())
}

#[test]
fn a_refusal_before_any_work_costs_nothing() -> Outcome {
    let call = call(Operation::Messages, "claude-opus-4-8", "")?;
    for status in [400, 401, 429, 500, 529] {
        let read =
            reading(&call, status, &head(JSON, ""), &[br#"{"type":"error","error":{"type":"x","message":"usage"}}"#])?;
        assert_eq!((call.failed(&read), read.usage), (Some(Failed::Unbilled), None), "{status}");
    }
    let read = reading(&call, 500, &head(JSON, ""), &[br#"{"usage":{"input_tokens":5,"output_tokens":7}}"#])?;
    assert_eq!(
        (call.failed(&read), read.usage.map(|usage| usage.output)),
        (None, Some(7)),
        "an error with usage is billed"
    );
    assert_eq!(reading(&call, 200, &head(JSON, ""), &[b"{}"])?.failure, None);
    Ok(())
}

#[test]
fn litellm_9812_cached_tokens() -> Outcome {
    // gpt-5: 15,616 prompt tokens, 14,080 of them cached, 96 out: 1536 x 1250 + 14080 x 125 + 96 x 10000.
    let body = r#"{"model":"gpt-5","usage":{"prompt_tokens":15616,"completion_tokens":96,"prompt_tokens_details":{"cached_tokens":14080}}}"#;
    assert_eq!(charged(Operation::Chat, "gpt-5", "", JSON, body)?.1, Some(NanoUsd(4_640_000)));
    Ok(())
}

#[test]
fn bifrost_3451_cache_writes_have_prices_of_their_own() -> Outcome {
    // Without a breakdown a write is of five minutes: 3 x 1000 + 100 x 1250 + 7 x 5000.
    let body = r#"{"usage":{"input_tokens":3,"cache_creation_input_tokens":100,"cache_read_input_tokens":0,"output_tokens":7}}"#;
    assert_eq!(charged(Operation::Messages, "claude-haiku-4-5", "", JSON, body)?.1, Some(NanoUsd(163_000)));
    // Asked for one hour, it is of one hour: 100 x 2000.
    let more = r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#;
    assert_eq!(charged(Operation::Messages, "claude-haiku-4-5", more, JSON, body)?.1, Some(NanoUsd(238_000)));
    Ok(())
}

#[test]
fn bifrost_1872_a_model_without_a_cache_price_is_not_free() -> Outcome {
    // gpt-4: $30 and $60, no price for cached input: 100 x 30000 + 1 x 60000.
    let book = PriceBook::parse(
        "version='1'\n[[model]]\nprovider='openai'\nnames=['m']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\nrates=[{tier='standard',input='30',output='60'}]\n",
    )?;
    let call = Meter::new(book, []).read(
        Provider::OpenAi,
        Operation::Chat,
        &HeaderMap::new(),
        &Bytes::from_static(br#"{"model":"m"}"#),
    )?;
    assert_eq!(call.charge(&usage(0, 100, 0, 0, 1, 0, 0)), NanoUsd(3_060_000));
    Ok(())
}

#[test]
fn charges_follow_what_the_answer_reports() -> Outcome {
    let body = |more: &str| format!(r#"{{"usage":{{"prompt_tokens":1000,"completion_tokens":100}}{more}}}"#);
    // gpt-5: 1000 x 1250 + 100 x 10000; priority twice, flex half of it.
    for (asked, more, want) in [
        ("", "", 2_250_000u64),
        ("", r#","service_tier":"priority""#, 4_500_000),
        ("", r#","service_tier":"flex""#, 1_125_000),
        (r#","service_tier":"priority""#, r#","service_tier":"default""#, 2_250_000),
        (r#","service_tier":"priority""#, "", 4_500_000),
        // Another model answered: gpt-5-mini at 250 and 2000.
        ("", r#","model":"gpt-5-mini-2025-08-07""#, 450_000),
        ("", r#","model":"gpt-5-2099-01-01""#, 2_250_000),
    ] {
        assert_eq!(
            charged(Operation::Chat, "gpt-5", asked, JSON, &body(more))?.1,
            Some(NanoUsd(want)),
            "{asked} {more}"
        );
    }
    // claude-opus-4-8: 1000 x 5000 + 100 x 25000 = 7,500,000; in the US x 1.1, fast x 2.
    let body = |more: &str| format!(r#"{{"usage":{{"input_tokens":1000,"output_tokens":100{more}}}}}"#);
    for (asked, more, want) in [
        ("", "", 7_500_000u64),
        ("", r#","inference_geo":"us""#, 8_250_000),
        (r#","inference_geo":"us""#, "", 8_250_000),
        (r#","inference_geo":"us""#, r#","inference_geo":"global""#, 7_500_000),
        (r#","speed":"fast""#, "", 15_000_000),
        (r#","speed":"fast""#, r#","speed":"standard""#, 7_500_000),
        ("", r#","service_tier":"priority""#, 7_500_000),
        ("", r#","server_tool_use":{"web_search_requests":3}"#, 37_500_000),
    ] {
        assert_eq!(
            charged(Operation::Messages, "claude-opus-4-8", asked, JSON, &body(more))?.1,
            Some(NanoUsd(want)),
            "{asked} {more}"
        );
    }
    Ok(())
}

#[test]
fn long_inputs_and_small_prices_are_exact() -> Outcome {
    // gpt-6.1-sol with 272,001 input tokens: x 4000 + 10 x 15000.
    let body = r#"{"usage":{"input_tokens":272001,"output_tokens":10},"service_tier":"default"}"#;
    assert_eq!(charged(Operation::Responses, "gpt-6.1-sol", "", JSON, body)?.1, Some(NanoUsd(1_088_154_000)));
    // claude-haiku-5-5 counts cached tokens toward 100,000: 1 x 500 + 100000 x 50 + 1 x 2500.
    let body = r#"{"usage":{"input_tokens":1,"cache_read_input_tokens":100000,"output_tokens":1}}"#;
    assert_eq!(charged(Operation::Messages, "claude-haiku-5-5", "", JSON, body)?.1, Some(NanoUsd(5_003_000)));
    // Ten tokens at $0.02 per million: 200 nano-USD, which micro-USD would lose.
    let body = r#"{"object":"list","data":[{"embedding":[0.1,-0.2]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":10,"total_tokens":10}}"#;
    assert_eq!(
        charged(Operation::Embeddings, "text-embedding-3-small", "", JSON, body)?,
        (Some(usage(10, 0, 0, 0, 0, 0, 0)), Some(NanoUsd(200)))
    );
    // Twelve-hour writes by the provider's breakdown: 1000 x 5000 + 500 x 2500 + 1 x 10000.
    let body = r#"{"usage":{"input_tokens":1500,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":1500,"cache_write_tokens_details":{"ttl_30m_tokens":500,"ttl_12h_tokens":1000}},"output_tokens":1}}"#;
    assert_eq!(charged(Operation::Responses, "gpt-6.1-sol", "", JSON, body)?.1, Some(NanoUsd(6_260_000)));
    Ok(())
}

#[test]
fn envoy_2563_a_completed_event_of_any_length_is_read_in_little_memory() -> Outcome {
    // The final event repeats instructions and tools: far longer than any line buffer.
    let long = RESPONSES.replace(
        "\"id\":\"r\",\"model\"",
        &format!("\"id\":\"r\",\"instructions\":\"{}\",\"model\"", "x\\n".repeat(500_000)),
    );
    let call = call(Operation::Responses, "gpt-6.1-sol", "")?;
    let pieces: Vec<&[u8]> = long.as_bytes().chunks(16_384).collect();
    assert_eq!(reading(&call, 200, &head(SSE, ""), &pieces)?.usage, Some(usage(1_000, 4_000, 5_000, 0, 200, 64, 1)));
    Ok(())
}

#[test]
fn a_stream_that_we_asked_for_usage_hides_it_and_reads_it() -> Outcome {
    let call = read(Operation::Chat, r#"{"model":"gpt-5","stream":true,"messages":[]}"#)?;
    let edited = call.edit(NanoUsd::MAX)?;
    let mut reader = call.reader(&edited, StatusCode::OK, &head(SSE, ""));
    assert!(reader.edits_answer());
    let mut got = Vec::new();
    for piece in CHAT.as_bytes().chunks(5) {
        got.extend_from_slice(&reader.feed(Bytes::copy_from_slice(piece)));
    }
    got.extend_from_slice(&reader.flush());
    let got = String::from_utf8(got)?;
    assert!(!got.contains("usage") && got.ends_with("data: [DONE]\n\n") && got.matches("data:").count() == 3, "{got}");
    assert_eq!(reader.finish().usage, Some(usage(400, 600, 0, 0, 500, 300, 0)));
    let reader = call.reader(&edited, StatusCode::OK, &head(SSE, "gzip"));
    assert!(!reader.edits_answer(), "an upstream that compresses in spite of us is passed as it is");
    Ok(())
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), encoding in prop_oneof![Just(""), Just("gzip"), Just("br"), Just("zstd"), Just("deflate")], stream: bool) {
        let call = call(Operation::Chat, "gpt-5", "").map_err(|refusal| TestCaseError::fail(refusal.sentence))?;
        let headers = head(if stream { SSE } else { JSON }, encoding);
        let read = reading(&call, 200, &headers, &bytes.chunks(11).collect::<Vec<_>>()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(read.failure, None);
    }

    #[test]
    fn a_reported_bill_within_the_caps_is_within_the_hold(input in 0u64..3_000, cached in 0u64..3_000, written in 0u64..3_000, output in 0u64..=1_000, tier in prop_oneof![Just("default"), Just("priority"), Just("flex")]) {
        let body = format!(r#"{{"model":"gpt-6.1-sol","input":"{}","max_output_tokens":1000}}"#, "x".repeat(7_000));
        let call = read(Operation::Responses, &body).map_err(|refusal| TestCaseError::fail(refusal.sentence))?;
        let answer = json!({ "service_tier": tier, "usage": { "input_tokens": input + cached + written, "output_tokens": output, "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": written } } });
        let read = reading(&call, 200, &head(JSON, ""), &[answer.to_string().as_bytes()]).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(call.bill(&read).is_some_and(|bill| bill <= call.most()));
    }
}
