//! What other gateways priced wrongly or not at all, tried here: each test carries the number of the report that it is about.
//! Where a report has amounts, they are its own.
//! The trackers, at github.com: `litellm` BerriAI/litellm, `bifrost` maximhq/bifrost, `envoy` envoyproxy/ai-gateway,
//! `librechat` danny-avila/LibreChat, `deeix` DEEIX-AI/DEEIX-Chat.

use super::answers::{charged, usage};
use super::providers::{answer, with};
use super::*;
use crate::meter::frames::frame;

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";
const AWS: &str = "application/vnd.amazon.eventstream";

fn nano(operation: Operation, model: &str, kind: &str, told: &str) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    Ok(charged(operation, model, "", kind, told)?.1.map(|bill| bill.0))
}

/// A book of one model with these prices.
fn own(rates: &str) -> Result<Meter, BookError> {
    let entry = "version='mine'\n[[model]]\nprovider='openai'\nnames=['own']\noperations=['chat']\nsource='x'\nmax_input=200000\nmax_output=16000\n";
    Ok(Meter::new(PriceBook::parse(&format!("{entry}rates=[{{tier='standard',{rates}}}]\n"))?, []))
}

fn chat(cached: u64, prompt: u64, output: u64) -> String {
    json!({"usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached}}})
    .to_string()
}

fn stream(last: &str) -> String {
    let last = last.replacen('{', "{\"choices\":[],", 1);
    format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}],\"usage\":null}}\n\ndata: {last}\n\ndata: [DONE]\n\n"
    )
}

#[test]
fn litellm_5443_9812_11364_cached_tokens_cost_their_own_price() -> Outcome {
    // 1000 x 2500 + 9000 x 1250 + 10 x 10000 of gpt-4o, not 10000 x 2500.
    assert_eq!(nano(Operation::Chat, "gpt-4o", JSON, &chat(9_000, 10_000, 10))?, Some(13_850_000));
    // Anthropic's cached tokens are not in its input tokens: 5 x 3000 + 20000 x 300 + 1000 x 3750 + 50 x 15000.
    let told = r#"{"usage":{"input_tokens":5,"cache_read_input_tokens":20000,"cache_creation_input_tokens":1000,"output_tokens":50}}"#;
    assert_eq!(nano(Operation::Messages, "claude-sonnet-4-5", JSON, told)?, Some(10_515_000));
    Ok(())
}

#[test]
fn litellm_11789_a_stream_costs_what_the_whole_answer_costs() -> Outcome {
    // Seven times too much there, because the stream forgot what was cached.
    let whole = nano(Operation::Chat, "gpt-5-mini", JSON, &chat(7_168, 7_200, 50))?;
    assert_eq!(whole, Some(32 * 250 + 7_168 * 25 + 50 * 2_000));
    assert_eq!(nano(Operation::Chat, "gpt-5-mini", SSE, &stream(&chat(7_168, 7_200, 50)))?, whole);
    Ok(())
}

#[test]
fn litellm_40006_40016_31282_prices_of_the_operators_own_count_each_token_once() -> Outcome {
    let meter = own("input='2',cache_read='0.5',cache_write='3',output='8'")?;
    let body = Bytes::from_static(br#"{"model":"own"}"#);
    let call = meter.read(Provider::OpenAi, Operation::Chat, &HeaderMap::new(), &body)?;
    let told = r#"{"usage":{"prompt_tokens":100,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30}}}"#;
    // 10 x 2000 + 60 x 500 + 30 x 3000 + 10 x 8000.
    assert_eq!(call.bill(&answer(&call, JSON, &[told.as_bytes()])?), Some(NanoUsd(220_000)));
    Ok(())
}

#[test]
fn bifrost_904_3451_caches_of_anthropic_at_their_own_prices() -> Outcome {
    // Nearly all read from the cache: $0.34 and not $1.68. 400 x 3000 + 1000000 x 300 ... of claude-sonnet-5 at 2, 0.2, 10.
    let told = r#"{"usage":{"input_tokens":400,"cache_read_input_tokens":800000,"cache_creation_input_tokens":40000,"output_tokens":7920}}"#;
    let want = 400 * 2_000 + 800_000 * 200 + 40_000 * 2_500 + 7_920 * 10_000;
    assert_eq!(nano(Operation::Messages, "claude-sonnet-5", JSON, told)?, Some(want));
    Ok(())
}

#[test]
fn bifrost_3357_a_write_for_an_hour_is_not_priced_as_one_for_five_minutes() -> Outcome {
    let told = r#"{"usage":{"input_tokens":0,"cache_creation_input_tokens":100000,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":100000},"output_tokens":1}}"#;
    // 100000 x 6000 + 15000; at the price of five minutes it would be 375,015,000.
    assert_eq!(nano(Operation::Messages, "claude-sonnet-4-5", JSON, told)?, Some(600_015_000));
    Ok(())
}

#[test]
fn bifrost_1872_without_a_price_for_the_cache_the_tokens_cost_input() -> Outcome {
    let meter = own("input='30',output='60'")?;
    let body = Bytes::from_static(br#"{"model":"own"}"#);
    let call = meter.read(Provider::OpenAi, Operation::Chat, &HeaderMap::new(), &body)?;
    assert_eq!(call.bill(&answer(&call, JSON, &[chat(100, 100, 1).as_bytes()])?), Some(NanoUsd(3_060_000)));
    Ok(())
}

#[test]
fn bifrost_5243_3559_litellm_20615_a_price_of_another_unit_is_refused() -> Outcome {
    // Dollars a token where dollars a million are meant, and the other way round.
    for rates in [
        "input='0.00000125',output='0.00001'",
        "input='1.25',cache_read='0.000000125',output='10'",
        "input='1250000',output='10000000'",
        "input='1.25',output='100000'",
    ] {
        let refused = own(rates).err().ok_or(rates)?.to_string();
        assert!(refused.contains("1,000,000 tokens") && refused.contains("\"own\""), "{refused}");
    }
    for rates in ["input='0',output='0'", "input='0.001',output='600'", "input='150',output='600'"] {
        assert!(own(rates).is_ok(), "{rates}");
    }
    // A million tokens cost what the book says, and not a hundredth or a hundredfold of it.
    assert_eq!(nano(Operation::Chat, "gpt-4.1", JSON, &chat(0, 1_000_000, 0))?, Some(2_000_000_000));
    Ok(())
}

#[test]
fn litellm_40002_one_request_cannot_be_held_below_its_bill() -> Outcome {
    // A long input at the dearest price: $3.05 were spent of a cap of $2.50 by one request.
    let text = "x".repeat(300_000);
    let body =
        json!({"model": "gpt-6.1-sol", "input": text, "max_output_tokens": 1000, "service_tier": "auto"}).to_string();
    let call = read(Operation::Responses, &body)?;
    let told =
        json!({"service_tier": "priority", "usage": {"input_tokens": 300_000, "output_tokens": 1000}}).to_string();
    let bill = call.bill(&answer(&call, JSON, &[told.as_bytes()])?).ok_or("no bill")?;
    assert_eq!(bill, NanoUsd(300_000 * 8_000 + 1_000 * 30_000));
    assert!(call.least(1_000) >= bill && call.most() >= bill, "{} {}", call.least(1_000), call.most());
    Ok(())
}

#[test]
fn envoy_1786_a_usage_of_null_is_not_nothing() -> Outcome {
    for (kind, told) in [
        (JSON, r#"{"choices":[],"usage":null}"#.to_owned()),
        (JSON, r#"{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":null}}"#.to_owned()),
        (SSE, "data: {\"choices\":[],\"usage\":null}\n\ndata: [DONE]\n\n".to_owned()),
    ] {
        // Not known is charged in full; it is never nought.
        assert_eq!(nano(Operation::Chat, "gpt-5", kind, &told)?, None, "{told}");
    }
    Ok(())
}

fn bedrock_stream() -> Result<(Call, Vec<u8>, Vec<u8>), Refusal> {
    let path = "/model/global.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse-stream";
    let body = r#"{"messages":[],"inferenceConfig":{"maxTokens":64}}"#;
    let call = with(Provider::Bedrock, Operation::Converse, path, &[("authorization", "AWS4-HMAC-SHA256 x")], body)?;
    let text = frame("contentBlockDelta", br#"{"delta":{"text":"a"}}"#);
    let last = frame("metadata", br#"{"usage":{"inputTokens":10,"outputTokens":20,"totalTokens":30}}"#);
    Ok((call, text, last))
}

#[test]
fn litellm_35958_37558_a_cancelled_bedrock_stream_is_not_free() -> Outcome {
    let (call, text, last) = bedrock_stream()?;
    let whole = [text.clone(), text, last].concat();
    assert_eq!(call.bill(&answer(&call, AWS, &[&whole])?), Some(NanoUsd(10 * 1_000 + 20 * 5_000)));
    for cut in 0..whole.len() {
        let reading = answer(&call, AWS, &[whole.get(..cut).unwrap_or_default()])?;
        // No usage and no refusal: the hold is the charge.
        assert_eq!((call.bill(&reading), reading.failure), (None, None), "cut at {cut}");
    }
    Ok(())
}

#[test]
fn litellm_13245_half_of_a_whole_answer_is_not_its_input_alone() -> Outcome {
    let path = "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/converse";
    let body = r#"{"messages":[],"inferenceConfig":{"maxTokens":64}}"#;
    let call = with(Provider::Bedrock, Operation::Converse, path, &[], body)?;
    let told = r#"{"output":{},"usage":{"inputTokens":10,"outputTokens":20,"totalTokens":30},"stopReason":"end_turn"}"#;
    for cut in 0..told.len() {
        let reading = answer(&call, JSON, &[told.as_bytes().get(..cut).unwrap_or_default()])?;
        assert_eq!(call.bill(&reading), None, "cut at {cut}");
    }
    assert!(call.bill(&answer(&call, JSON, &[told.as_bytes()])?).is_some());
    Ok(())
}

#[test]
fn litellm_6633_every_form_of_include_usage_is_metered() -> Outcome {
    for options in ["", r#","stream_options":{"include_usage":false}"#, r#","stream_options":{"include_usage":true}"#] {
        let call = read(Operation::Chat, &format!(r#"{{"model":"gpt-5","stream":true,"messages":[]{options}}}"#))?;
        let edited = call.edit(NanoUsd::MAX)?;
        let asked = edited.body.as_ref().map_or(options, |body| std::str::from_utf8(body).unwrap_or_default());
        assert!(asked.contains(r#""include_usage":true"#), "{asked}");
        assert!(call.bill(&answer(&call, SSE, &[stream(&chat(0, 10, 5)).as_bytes()])?).is_some());
    }
    Ok(())
}

#[test]
fn litellm_37924_a_gemini_stream_has_a_price() -> Outcome {
    let path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
    let call = with(Provider::Google, Operation::Generate, path, &[], "{}")?;
    let first = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":1000}}"#;
    let last = r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1000,"candidatesTokenCount":70,"thoughtsTokenCount":30,"totalTokenCount":1100}}"#;
    for (kind, told) in [(SSE, format!("data: {first}\n\ndata: {last}\n\n")), (JSON, format!("[{first},\n{last}]"))] {
        assert_eq!(call.bill(&answer(&call, kind, &[told.as_bytes()])?), Some(NanoUsd(2_250_000)), "{kind}");
    }
    Ok(())
}

#[test]
fn litellm_36426_each_end_of_a_response_tells_its_usage() -> Outcome {
    for end in ["completed", "incomplete", "failed"] {
        let told = format!(
            "event: response.{end}\ndata: {{\"type\":\"response.{end}\",\"response\":{{\"status\":\"{end}\",\"output\":[],\"usage\":{{\"input_tokens\":10,\"output_tokens\":5}}}}}}\n\n"
        );
        let (used, bill) = charged(Operation::Responses, "gpt-5", "", SSE, &told)?;
        assert_eq!((used, bill), (Some(usage(10, 0, 0, 0, 5, 0, 0)), Some(NanoUsd(62_500))), "{end}");
    }
    Ok(())
}

#[test]
fn envoy_1754_2115_usage_that_stands_in_the_last_delta_alone_is_read() -> Outcome {
    // message_start says nothing of the cache that the last event has.
    let told = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":0,\"output_tokens\":1}}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":",
        "{\"input_tokens\":4522,\"cache_creation_input_tokens\":4511,\"output_tokens\":5}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let (used, bill) = charged(Operation::Messages, "claude-haiku-4-5", "", SSE, told)?;
    assert_eq!(used, Some(usage(4_522, 0, 4_511, 0, 5, 0, 0)));
    assert_eq!(bill, Some(NanoUsd(4_522 * 1_000 + 4_511 * 1_250 + 5 * 5_000)));
    Ok(())
}

#[test]
fn litellm_37056_what_is_billed_by_the_second_is_refused() {
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"] {
        let is = METER.surface("api.openai.com", &http::Method::POST, path, &HeaderMap::new());
        assert_eq!(is, Surface::Unmetered(Provider::OpenAi, Unmetered::Audio), "{path}");
    }
}

#[test]
fn litellm_40010_a_websocket_is_never_of_an_unknown_model_and_free() {
    let headers = HeaderMap::from_iter([(http::header::UPGRADE, HeaderValue::from_static("websocket"))]);
    for (host, path) in [("api.openai.com", "/v1/realtime"), ("generativelanguage.googleapis.com", "/ws/x")] {
        let is = METER.surface(host, &http::Method::GET, path, &headers);
        assert!(
            matches!(is, Surface::Websocket(_) | Surface::Unmetered(_, Unmetered::Realtime)),
            "{host}{path}: {is:?}"
        );
    }
}

#[test]
fn litellm_10973_what_costs_nothing_needs_no_money() {
    let is = METER.surface("api.openai.com", &http::Method::GET, "/v1/models", &HeaderMap::new());
    assert_eq!(is, Surface::Free(Provider::OpenAi));
    let count = "/v1beta/models/gemini-2.5-pro:countTokens";
    let is = METER.surface("generativelanguage.googleapis.com", &http::Method::POST, count, &HeaderMap::new());
    assert_eq!(is, Surface::Free(Provider::Google));
}

#[test]
fn litellm_11083_who_pays_is_not_what_a_header_or_body_says() -> Outcome {
    let plain = r#"{"model":"gpt-5","messages":[],"max_completion_tokens":9}"#;
    let named = r#"{"model":"gpt-5","user":"somebody-else","metadata":{"user_id":"x"},"messages":[],"max_completion_tokens":9}"#;
    let heads = [("x-litellm-end-user-id", "somebody-else"), ("openai-organization", "theirs")];
    let one = with(Provider::OpenAi, Operation::Chat, "", &[], plain)?;
    let two = with(Provider::OpenAi, Operation::Chat, "", &heads, named)?;
    // The same budget scope but for the agent, which is a cgroup and stands in no byte of the request.
    assert_eq!((one.provider, one.priced_as()), (two.provider, two.priced_as()));
    assert!(two.most() >= one.most());
    Ok(())
}

#[test]
fn librechat_14489_deeix_660_tools_that_cost_are_held_and_charged() -> Outcome {
    let text = "[[mcp]]\nname='desk'\nhost='mcp.example'\npaths=['/mcp']\nprices={search='0.01 USD','*'='0.5 USD'}\n";
    let config = crate::config::Config::parse(text, std::path::Path::new("x.toml"))?;
    let meter = meter()?;
    meter.replace_own(Own::of(&config));
    let Surface::Priced(desk) = meter.surface("mcp.example", &http::Method::POST, "/mcp", &HeaderMap::new()) else {
        return Err("a server of tools with prices is a priced surface".into());
    };
    for (tool, cost) in [("search", 10_000_000), ("a_tool_that_came_later", 500_000_000)] {
        let call = meter.fixed(&desk, Some(tool), &Bytes::new())?;
        assert_eq!(call.most(), NanoUsd(cost));
        assert_eq!(call.bill(&answer(&call, JSON, &[b"{}"])?), Some(NanoUsd(cost)), "{tool}");
    }
    Ok(())
}

#[test]
fn litellm_10379_counts_that_no_integer_holds_are_not_small_ones() -> Outcome {
    for count in ["18446744073709551615", "18446744073709551616", "1e30", "-1"] {
        let told = format!(r#"{{"usage":{{"prompt_tokens":{count},"completion_tokens":5}}}}"#);
        let bill = nano(Operation::Chat, "gpt-5", JSON, &told)?;
        // Either not known, and the hold is charged, or more than any hold.
        assert!(bill.is_none_or(|bill| bill > 1_000_000_000_000_000), "{count}: {bill:?}");
    }
    Ok(())
}
