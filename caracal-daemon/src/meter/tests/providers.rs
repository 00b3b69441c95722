//! Gemini, Bedrock and the providers that speak OpenAI's shape: bounds, clamps, usage, charges. Amounts by hand.

use super::*;
use crate::meter::frames::frame;
use base64::Engine as _;

const PRO: &str = "/v1beta/models/gemini-2.5-pro:generateContent";
const PRO_STREAM: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
const HAIKU: &str = "/model/global.anthropic.claude-haiku-4-5-20251001-v1%3A0";
const NOVA: &str = "/model/amazon.nova-pro-v1%3A0";

fn at(provider: Provider, operation: Operation, path: &str, body: &str) -> Result<Call, Refusal> {
    with(provider, operation, path, &[], body)
}

pub(super) fn with(
    provider: Provider,
    operation: Operation,
    path: &str,
    heads: &[(&'static str, &'static str)],
    body: &str,
) -> Result<Call, Refusal> {
    let headers =
        heads.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
    let body = Bytes::copy_from_slice(body.as_bytes());
    METER.read_at(provider, operation, path, &HeaderMap::from_iter(headers), &body)
}

fn gemini(body: &str) -> Result<Call, Refusal> {
    at(Provider::Google, Operation::Generate, PRO, body)
}

fn why<T>(read: Result<T, Refusal>) -> Option<Reason> {
    read.err().map(|refusal| refusal.reason)
}

pub(super) fn answer(call: &Call, kind: &'static str, pieces: &[&[u8]]) -> Result<Reading, Refusal> {
    let edited = call.edit(NanoUsd::MAX)?;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let mut reader = call.reader(&edited, StatusCode::OK, &headers);
    for piece in pieces {
        let _ = reader.feed(Bytes::copy_from_slice(piece));
    }
    Ok(reader.finish())
}

#[test]
fn gemini_is_bounded_by_its_cap_and_its_longer_rate() -> Outcome {
    let call = gemini(r#"{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":100}}"#)?;
    // 83 bytes and 2,048 of Google's own, at 1.25 a million; 100 tokens at 10.
    let bytes = 83 + 2_048;
    assert_eq!(call.most(), NanoUsd(bytes * 1_250 + 100 * 10_000));
    let image = r#"{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}],"generationConfig":{"maxOutputTokens":1}}"#;
    // The longest input there is, at the price of inputs above 200,000 tokens.
    assert_eq!(gemini(image)?.most(), NanoUsd(1_048_576 * 2_500 + 15_000));
    let two = r#"{"contents":[],"generationConfig":{"candidateCount":2,"maxOutputTokens":100}}"#;
    assert_eq!(gemini(two)?.most(), NanoUsd((two.len() as u64 + 2_048) * 1_250 + 200 * 10_000));
    let search = r#"{"contents":[],"tools":[{"googleSearch":{}}],"generationConfig":{"maxOutputTokens":100}}"#;
    // The first pass, a whole context for what the search brings, two answers, a grounded prompt; a tool's description.
    let input = search.len() as u64 + 2_048 + 1_024 + 1_048_576;
    assert_eq!(gemini(search)?.most(), NanoUsd(input * 2_500 + 200 * 15_000 + 35_000_000));
    Ok(())
}

#[test]
fn gemini_is_clamped_where_its_cap_stands_or_would() -> Outcome {
    for (body, want) in [
        (r#"{"contents":[]}"#, r#"{"generationConfig":{"maxOutputTokens":5000},"contents":[]}"#),
        (r#"{}"#, r#"{"generationConfig":{"maxOutputTokens":5000}}"#),
        (r#"{"generationConfig":null}"#, r#"{"generationConfig":{"maxOutputTokens":5000}}"#),
        (r#"{"generationConfig":{ }}"#, r#"{"generationConfig":{"maxOutputTokens":5000 }}"#),
        (
            r#"{"generation_config":{"temperature":1}}"#,
            r#"{"generation_config":{"maxOutputTokens":5000,"temperature":1}}"#,
        ),
        (r#"{"generationConfig":{"max_output_tokens":9000}}"#, r#"{"generationConfig":{"max_output_tokens":5000}}"#),
    ] {
        let call = gemini(body)?;
        let edited = call.edit(call.bound(5_000, 0))?;
        assert_eq!(text_of(&edited), want);
        assert_eq!(gemini(want)?.shape.cap(), Some(5_000), "{want}");
    }
    Ok(())
}

#[test]
fn gemini_with_two_readings_or_without_a_bound_is_refused() {
    for (body, reason) in [
        (r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":2}}"#, Reason::AmbiguousRequest),
        (r#"{"generationConfig":{},"generation_config":{}}"#, Reason::AmbiguousRequest),
        (r#"{"generationConfig":{"maxOutputTokens":"5"}}"#, Reason::AmbiguousRequest),
        (r#"{"model":"models/gemini-2.5-flash","contents":[]}"#, Reason::AmbiguousRequest),
        (r#"{"cachedContent":"cachedContents/x"}"#, Reason::Unbounded),
        (r#"{"contents":[{"parts":[{"fileData":{"fileUri":"x"}}]}]}"#, Reason::Unbounded),
        (r#"{"contents":{"parts":{"file_data":{"fileUri":"x"}}}}"#, Reason::Unbounded),
        (r#"{"contents":[{"parts":[{"inline_data":{"mime_type":"audio/wav","data":"A"}}]}]}"#, Reason::Unbounded),
        (
            r#"{"contents":[{"parts":[{"functionResponse":{"parts":[{"fileData":{"fileUri":"x"}}]}}]}]}"#,
            Reason::Unbounded,
        ),
        (r#"{"generationConfig":{"responseModalities":["IMAGE"]}}"#, Reason::Unbounded),
        (r#"{"tools":[{"codeExecution":{}}]}"#, Reason::Unbounded),
        (r#"{"tools":[{"url_context":{}}]}"#, Reason::Unbounded),
        (r#"{"tools":{"googleMaps":{}}}"#, Reason::Unbounded),
        (r#"{"serviceTier":"fastest"}"#, Reason::PriceUnknown),
    ] {
        assert_eq!(why(gemini(body)), Some(reason), "{body}");
    }
    let unknown = at(Provider::Google, Operation::Generate, "/v1/models/gemini-9:generateContent", "{}");
    assert_eq!(why(unknown), Some(Reason::PriceUnknown));
    let newer = "/v1beta/models/gemini-3.5-flash:generateContent";
    let search = at(Provider::Google, Operation::Generate, newer, r#"{"tools":[{"google_search":{}}]}"#);
    assert_eq!(why(search), Some(Reason::Unbounded), "billed for each query, and nothing bounds them");
}

const EMBED: &str = "/v1beta/models/gemini-embedding-001:embedContent";
const EMBED_MANY: &str = "/v1beta/models/gemini-embedding-001:batchEmbedContents";

#[test]
fn geminis_embeddings_are_bounded_by_their_bytes_and_charged_their_prompt() -> Outcome {
    let one = r#"{"content":{"parts":[{"text":"hello"}]},"taskType":"RETRIEVAL_QUERY","outputDimensionality":768}"#;
    let long = format!(r#"{{"content":{{"parts":[{{"text":"{}"}}]}}}}"#, "x".repeat(5_000));
    let part = r#"{"model":"models/gemini-embedding-001","content":{"parts":[{"text":"hello"}]}}"#;
    let many = format!(r#"{{"requests":[{part},{part}]}}"#);
    for (path, body) in [(EMBED, one), (EMBED, long.as_str()), (EMBED_MANY, many.as_str())] {
        let call = at(Provider::Google, Operation::EmbedContent, path, body)?;
        // Each byte and 2,048 tokens of Google's own, at 0.15 a million; many inputs are longer than one may be.
        assert_eq!(call.most(), NanoUsd((body.len() as u64 + 2_048) * 150));
        assert_eq!((call.least(4_096), call.ceiling()), (call.most(), 0));
        let edited = call.edit(call.most())?;
        assert_eq!((edited.body, edited.max_tokens), (None, None));
        let said = br#"{"embedding":{"values":[0.1,-0.2]},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7}}"#;
        let read = answer(&call, "application/json", &[said])?;
        assert_eq!(call.bill(&read), Some(NanoUsd(7 * 150)));
        // An answer that does not say costs its hold.
        let read = answer(&call, "application/json", &[br#"{"embeddings":[{"values":[0.1]}]}"#])?;
        assert_eq!((call.bill(&read), call.failed(&read)), (None, None));
    }
    Ok(())
}

#[test]
fn geminis_embeddings_of_what_is_no_text_or_of_two_models_are_refused() {
    let image = r#"{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}"#;
    let pdf = r#"{"content":{"parts":[{"inlineData":{"mimeType":"application/pdf","data":"AAAA"}}]}}"#;
    let file = r#"{"content":{"parts":[{"fileData":{"fileUri":"x"}}]}}"#;
    let other = r#"{"model":"models/gemini-embedding-2","content":{"parts":[]}}"#;
    let many = |request: &str| format!(r#"{{"requests":[{{"content":{{"parts":[]}}}},{request}]}}"#);
    for (body, reason) in [
        (image, Reason::Unbounded),
        (pdf, Reason::Unbounded),
        (file, Reason::Unbounded),
        (other, Reason::AmbiguousRequest),
    ] {
        assert_eq!(why(at(Provider::Google, Operation::EmbedContent, EMBED, body)), Some(reason), "{body}");
        let body = many(body);
        assert_eq!(why(at(Provider::Google, Operation::EmbedContent, EMBED_MANY, &body)), Some(reason), "{body}");
    }
}

const USED: &str = r#""usageMetadata":{"promptTokenCount":1000,"cachedContentTokenCount":600,"candidatesTokenCount":50,"thoughtsTokenCount":30,"toolUsePromptTokenCount":20,"totalTokenCount":1100},"modelVersion":"gemini-2.5-pro""#;

/// 420 x 1250 + 600 x 125 + 80 x 10000.
const COST: NanoUsd = NanoUsd(525_000 + 75_000 + 800_000);

#[test]
fn gemini_tells_its_usage_in_three_framings() -> Outcome {
    let first = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":1000,"totalTokenCount":1000}}"#;
    let last = format!(r#"{{"candidates":[{{"finishReason":"STOP"}}],{USED}}}"#);
    let events = format!("data: {first}\r\n\r\ndata: {last}\r\n\r\n");
    let array = format!("[{first}\n,\r\n{last}\n]");
    let want = Usage { input: 420, cache_read: 600, output: 80, reasoning: 30, ..Usage::default() };
    for (path, kind, text) in [
        (PRO, "application/json; charset=UTF-8", &last),
        (PRO_STREAM, "text/event-stream", &events),
        (PRO_STREAM, "application/json; charset=UTF-8", &array),
    ] {
        let call = at(Provider::Google, Operation::Generate, path, "{}")?;
        for cut in 0..=text.len() {
            let (one, two) = text.as_bytes().split_at(cut);
            let reading = answer(&call, kind, &[one, two])?;
            assert_eq!(reading.usage, Some(want), "{kind}, split at {cut}");
            assert_eq!(call.bill(&reading), Some(COST));
            // Cut off there, it is either final or unknown; never the usage of a part.
            let cut_off = answer(&call, kind, &[one])?;
            assert!(cut_off.usage.is_none_or(|usage| usage == want), "{kind}, cut at {cut}");
        }
    }
    Ok(())
}

#[test]
fn gemini_with_a_part_that_is_not_known_tells_no_usage() -> Outcome {
    let call = gemini("{}")?;
    let more = format!(r#"{{{}}}"#, USED.replace("1100", "1101"));
    assert_eq!(answer(&call, "application/json", &[more.as_bytes()])?.usage, None);
    let two = at(Provider::Google, Operation::Generate, PRO_STREAM, r#"{"generationConfig":{"candidateCount":2}}"#)?;
    let one = format!("data: {{\"candidates\":[{{\"finishReason\":\"STOP\"}}],{USED}}}\n\n");
    assert_eq!(answer(&two, "text/event-stream", &[one.as_bytes()])?.usage, None, "one of two has stopped");
    assert!(answer(&two, "text/event-stream", &[one.as_bytes(), one.as_bytes()])?.usage.is_some());
    let grounded = format!(
        r#"{{"candidates":[{{"groundingMetadata":{{"webSearchQueries":["a","b"]}},"finishReason":"STOP"}}],{USED}}}"#
    );
    let reading = answer(&call, "application/json", &[grounded.as_bytes()])?;
    assert_eq!(call.bill(&reading), Some(NanoUsd(COST.0 + 35_000_000)), "two queries, one grounded prompt");
    Ok(())
}

#[test]
fn a_signed_body_is_never_edited() -> Outcome {
    let body = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;
    let path = format!("{HAIKU}/converse");
    let read = |heads| with(Provider::Bedrock, Operation::Converse, &path, heads, body);
    let signed = read(&[("authorization", "AWS4-HMAC-SHA256 Credential=x")])?;
    assert_eq!(signed.least(1), signed.most());
    // The model's most, since no cap can be written: 64,000 at 5 a million; the input at 1.
    assert_eq!(signed.most(), NanoUsd((body.len() as u64 + 2_048) * 1_000 + 64_000 * 5_000));
    let edited = signed.edit(signed.most())?;
    assert!(edited.body.is_none() && edited.edits.is_empty());
    assert_eq!(why(signed.edit(NanoUsd(signed.most().0 - 1))), Some(Reason::BudgetExceeded));
    // With a bearer key nothing is signed.
    let open = read(&[("authorization", "Bearer x")])?;
    let edited = open.edit(open.bound(5_000, 0))?;
    assert_eq!(
        text_of(&edited),
        r#"{"inferenceConfig":{"maxTokens":5000},"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#
    );
    for head in ["x-amz-content-sha256", "content-digest", "content-md5", "signature-input"] {
        let call = with(Provider::OpenAi, Operation::Chat, "", &[(head, "x")], r#"{"model":"gpt-5","stream":true}"#)?;
        assert!(call.edit(NanoUsd::MAX)?.body.is_none(), "{head}");
        assert_eq!(call.least(1), call.most(), "{head}");
    }
    Ok(())
}

#[test]
fn bedrock_without_a_bound_is_refused() {
    let converse = |body: &str| at(Provider::Bedrock, Operation::Converse, &format!("{HAIKU}/converse"), body);
    for body in [
        r#"{"guardrailConfig":{"guardrailIdentifier":"x"}}"#,
        r#"{"promptVariables":{"a":{"text":"b"}}}"#,
        r#"{"performanceConfig":{"latency":"optimized"}}"#,
        r#"{"additionalModelRequestFields":{"max_tokens":99999}}"#,
        r#"{"messages":[{"content":[{"image":{"source":{"s3Location":{"uri":"s3://x"}}}}]}]}"#,
        r#"{"messages":[{"content":[{"toolResult":{"content":[{"video":{"source":{"bytes":"AA"}}}]}}]}]}"#,
        r#"{"messages":[{"content":[{"guardContent":{"text":{"text":"x"}}}]}]}"#,
        r#"{"toolConfig":{"tools":[{"systemTool":{"name":"nova_grounding"}}]}}"#,
        r#"{"serviceTier":{"type":"priority"}}"#,
    ] {
        assert_eq!(why(converse(body)), Some(Reason::Unbounded), "{body}");
    }
    let grounding = r#"{"messages":[],"toolConfig":{"tools":[{"systemTool":{"name":"nova_grounding"}}]}}"#;
    assert_eq!(
        why(at(Provider::Bedrock, Operation::Invoke, &format!("{NOVA}/invoke"), grounding)),
        Some(Reason::Unbounded)
    );
    let head = [("x-amzn-bedrock-guardrailidentifier", "g")];
    let guarded = with(Provider::Bedrock, Operation::Invoke, &format!("{NOVA}/invoke"), &head, "{}");
    assert_eq!(why(guarded), Some(Reason::Unbounded));
    assert_eq!(why(at(Provider::Bedrock, Operation::Converse, "/model/x/converse", "{}")), Some(Reason::PriceUnknown));
}

const METADATA: &str = r#"{"metrics":{"latencyMs":1},"usage":{"inputTokens":100,"outputTokens":20,"totalTokens":470,"cacheReadInputTokens":50,"cacheWriteInputTokens":300,"cacheDetails":[{"ttl":"1h","inputTokens":200},{"inputTokens":100,"ttl":"5m"}]}}"#;

/// 100 x 1000 + 50 x 100 + 100 x 1250 + 200 x 2000 + 20 x 5000.
const CONVERSED: NanoUsd = NanoUsd(100_000 + 5_000 + 125_000 + 400_000 + 100_000);

#[test]
fn converse_tells_its_usage_whole_and_in_frames() -> Outcome {
    let body = r#"{"system":[{"cachePoint":{"type":"default","ttl":"1h"}}],"inferenceConfig":{"maxTokens":9}}"#;
    let call = at(Provider::Bedrock, Operation::Converse, &format!("{HAIKU}/converse"), body)?;
    // Written for an hour, all of it: 2 a million.
    assert_eq!(call.most(), NanoUsd((body.len() as u64 + 2_048) * 2_000 + 9 * 5_000));
    let reading = answer(&call, "application/json", &[METADATA.as_bytes()])?;
    assert_eq!(call.bill(&reading), Some(CONVERSED));
    let call = at(Provider::Bedrock, Operation::Converse, &format!("{HAIKU}/converse-stream"), body)?;
    let stream = [
        frame("messageStart", br#"{"role":"assistant","p":"ab"}"#),
        frame("contentBlockDelta", br#"{"delta":{"text":"{\"usage\":{\"inputTokens\":1}}"}}"#),
        frame("messageStop", br#"{"stopReason":"end_turn"}"#),
        frame("metadata", METADATA.as_bytes()),
    ]
    .concat();
    for cut in 0..=stream.len() {
        let (one, two) = stream.split_at(cut);
        let reading = answer(&call, "application/vnd.amazon.eventstream", &[one, two])?;
        assert_eq!(call.bill(&reading), Some(CONVERSED), "split at {cut}");
        if cut < stream.len() {
            assert_eq!(answer(&call, "application/vnd.amazon.eventstream", &[one])?.usage, None, "cut at {cut}");
            // One wrong bit anywhere: nothing of the stream is believed.
            let mut wrong = stream.clone();
            wrong.iter_mut().skip(cut).take(1).for_each(|byte| *byte ^= 4);
            assert_eq!(answer(&call, "application/vnd.amazon.eventstream", &[&wrong])?.usage, None, "bit of {cut}");
        }
    }
    Ok(())
}

#[test]
fn litellm_35958_an_invoke_streams_its_models_own_words() -> Outcome {
    let chunk = |json: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(json);
        frame("chunk", format!(r#"{{"bytes":"{text}","p":"abcd"}}"#).as_bytes())
    };
    let body = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":50,"messages":[]}"#;
    let call = at(Provider::Bedrock, Operation::Invoke, &format!("{HAIKU}/invoke-with-response-stream"), body)?;
    assert_eq!(call.most(), NanoUsd((body.len() as u64 + 2_048) * 1_000 + 50 * 5_000));
    let stream = [
        chunk(r#"{"type":"message_start","message":{"model":"claude-haiku-4-5-20251001","usage":{"input_tokens":100,"cache_read_input_tokens":50,"output_tokens":1}}}"#),
        chunk(r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":20}}"#),
        chunk(r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":100,"outputTokenCount":20}}"#),
    ]
    .concat();
    let reading = answer(&call, "application/vnd.amazon.eventstream", &[&stream])?;
    // 100 x 1000 + 50 x 100 + 20 x 5000.
    assert_eq!(call.bill(&reading), Some(NanoUsd(205_000)));
    // Another family: the counts of the last chunk.
    let call = at(Provider::Bedrock, Operation::Invoke, &format!("{NOVA}/invoke-with-response-stream"), "{}")?;
    let last =
        chunk(r#"{"metadata":{},"amazon-bedrock-invocationMetrics":{"inputTokenCount":1000,"outputTokenCount":10}}"#);
    let stream = [chunk(r#"{"contentBlockDelta":{"delta":{"text":"x"}}}"#), last].concat();
    let reading = answer(&call, "application/vnd.amazon.eventstream", &[&stream])?;
    assert_eq!(call.bill(&reading), Some(NanoUsd(1_000 * 800 + 10 * 3_200)));
    Ok(())
}

#[test]
fn an_invoke_of_another_family_is_read_off_the_head() -> Outcome {
    let call = at(
        Provider::Bedrock,
        Operation::Invoke,
        &format!("{NOVA}/invoke"),
        r#"{"inferenceConfig":{"maxTokens":20000}}"#,
    )?;
    // The longest input, and a cap above what the book calls the most.
    assert_eq!(call.most(), NanoUsd(300_000 * 800 + 20_000 * 3_200));
    assert_eq!(call.least(1), call.most(), "no cap is written in words that it may not know");
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (http::HeaderName::from_static("x-amzn-bedrock-input-token-count"), HeaderValue::from_static("7")),
        (http::HeaderName::from_static("x-amzn-bedrock-output-token-count"), HeaderValue::from_static("3")),
    ]);
    let mut reader = call.reader(&call.edit(NanoUsd::MAX)?, StatusCode::OK, &headers);
    let _ = reader.feed(Bytes::from_static(br#"{"output":{}}"#));
    assert_eq!(call.bill(&reader.finish()), Some(NanoUsd(7 * 800 + 3 * 3_200)));
    Ok(())
}

#[test]
fn a_cap_that_a_provider_does_not_know_bounds_nothing() -> Outcome {
    let body = r#"{"model":"mistral-large-latest","max_completion_tokens":5,"messages":[]}"#;
    let call = at(Provider::Mistral, Operation::Chat, "/v1/chat/completions", body)?;
    assert_eq!(call.ceiling(), 262_144);
    let edited = call.edit(call.bound(5_000, 0))?;
    assert!(text_of(&edited).starts_with(r#"{"max_tokens":5000,"model""#), "{}", text_of(&edited));
    // And it may be obeyed all the same.
    let body = r#"{"model":"mistral-large-latest","max_completion_tokens":50000,"messages":[]}"#;
    let call = at(Provider::Mistral, Operation::Chat, "/v1/chat/completions", body)?;
    assert_eq!(call.least(4_096), call.bound(50_000, 0));
    // It refuses members that it does not know, and tells usage unasked.
    let stream = r#"{"model":"mistral-large-latest","stream":true,"messages":[]}"#;
    let call = at(Provider::Mistral, Operation::Chat, "/v1/chat/completions", stream)?;
    assert!(call.edit(NanoUsd::MAX)?.body.is_none());
    Ok(())
}

#[test]
fn reasoning_that_only_the_total_counts_is_charged() -> Outcome {
    let call = at(Provider::Xai, Operation::Chat, "", r#"{"model":"grok-4.3","messages":[]}"#)?;
    let told = r#"{"model":"grok-4.3","choices":[],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":142,"completion_tokens_details":{"reasoning_tokens":101}}}"#;
    let usage = answer(&call, "application/json", &[told.as_bytes()])?.usage.ok_or("no usage")?;
    assert_eq!((usage.input, usage.output, usage.reasoning), (32, 110, 101));
    let hit = r#"{"choices":[],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":41,"prompt_cache_hit_tokens":20,"prompt_cache_miss_tokens":12}}"#;
    let usage = answer(&call, "application/json", &[hit.as_bytes()])?.usage.ok_or("no usage")?;
    assert_eq!((usage.input, usage.cache_read), (12, 20));
    Ok(())
}

#[test]
fn what_the_compatible_add_of_their_own_is_refused() {
    for more in [
        r#""extra_body":{"google":{"cached_content":"cachedContents/x"}}"#,
        r#""search_parameters":{}"#,
        r#""search_parameters":{"mode":"auto"}"#,
        r#""plugins":[{"id":"web"}]"#,
        r#""models":["a","b"]"#,
        r#""data_sources":[{"type":"azure_search"}]"#,
        r#""enable_search":true"#,
    ] {
        let body = format!(r#"{{"model":"grok-4.3","messages":[],{more}}}"#);
        assert_eq!(why(at(Provider::Xai, Operation::Chat, "", &body)), Some(Reason::Unbounded), "{more}");
    }
}

#[test]
fn a_deployment_is_priced_by_its_own_name_and_a_star_by_none() -> Outcome {
    let entry = |provider: &str, name: &str| {
        format!(
            "[[model]]\nprovider='{provider}'\nnames=['{name}']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\n\
             rates=[{{tier='standard',input='1',output='1'}}]\n"
        )
    };
    let book = format!("version='1'\n{}{}", entry("azure", "mine"), entry("vllm", "*"));
    let meter = Meter::new(PriceBook::parse(&book)?, []);
    let read = |provider, path: &str, model: &str| {
        let body = Bytes::from(format!(r#"{{"model":"{model}","messages":[]}}"#));
        meter.read_at(provider, Operation::Chat, path, &HeaderMap::new(), &body)
    };
    let call = read(Provider::Azure, "/openai/deployments/mine/chat/completions", "gpt-5")?;
    assert_eq!(&*call.model, "mine");
    assert_eq!(why(read(Provider::Azure, "/openai/v1/chat/completions", "gpt-5")), Some(Reason::PriceUnknown));
    let call = read(Provider::Vllm, "/v1/chat/completions", "any/model")?;
    assert_eq!((&*call.model, &*call.priced_as()), ("any/model", "*"));
    Ok(())
}

#[test]
fn what_the_configuration_prices_is_held_and_charged_by_the_call_and_the_byte() -> Outcome {
    let text = "[[mcp]]\nname='desk'\nhost='mcp.example'\npaths=['/mcp']\nprices={search='0.01 USD','*'='0 USD'}\n\
                [[api]]\nname='geo'\nhost='geo.example'\ncall='0.005 USD'\nsent_mib='1 USD'\n\
                [[api]]\nname='files'\nhost='geo.example'\npaths=['/x']\nreceived_mib='1 USD'\nmax_received_bytes=2097152\n\
                [[api]]\nname='speech'\nhost='api.openai.com'\npaths=['/v1/audio/*', '/v1/chat/*']\ncall='0.1 USD'\n";
    let config = crate::config::Config::parse(text, std::path::Path::new("x.toml"))?;
    let meter = meter()?;
    meter.replace_own(Own::of(&config));
    let at = |host: &str, path: &str| meter.surface(host, &http::Method::POST, path, &HeaderMap::new());
    let entry = |host: &str, path: &str| match at(host, path) {
        Surface::Priced(entry) => Ok(entry),
        other => Err(format!("{host}{path}: {other:?}")),
    };
    let desk = entry("mcp.example", "/mcp?session=1")?;
    assert_eq!(at("mcp.example", "/other"), Surface::Unknown(Provider::Mcp), "a host with prices has no other paths");
    assert_eq!(&*entry("api.openai.com", "/v1/audio/speech")?.name, "speech");
    let chat = at("api.openai.com", "/v1/chat/completions");
    assert_eq!(chat, Surface::Paid(Provider::OpenAi, Operation::Chat), "tokens are metered, whatever an entry says");
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let search = meter.fixed(&desk, Some("search"), &body)?;
    assert_eq!(
        (search.most(), search.least(1), &*search.model),
        (NanoUsd(10_000_000), NanoUsd(10_000_000), "desk/search")
    );
    assert_eq!((search.tool(), meter.fixed(&desk, Some("other"), &body)?.model.as_ref()), ("search", "desk/other"));
    let reading = answer(&search, "application/json", &[b"{}"])?;
    let record = answers::record_of(&search, &reading)?;
    assert_eq!(meter.own_book().reprice(&record), Some(NanoUsd(10_000_000)), "a tool's charge is made again");
    // A tool without a price of its own goes by its server's.
    let others = crate::event::record::Fields { model: Some("desk/other".into()), ..record };
    assert_eq!(meter.own_book().reprice(&others), Some(NanoUsd::ZERO));
    assert!(!search.is_free() && meter.fixed(&desk, Some("other"), &body)?.is_free());
    let geo = entry("geo.example", "/")?;
    // Half a cent, and a dollar for the one MiB that is sent.
    let call = meter.fixed(&geo, None, &body)?;
    assert_eq!(call.most(), NanoUsd(1_005_000_000));
    let reading = answer(&call, "text/plain", &[b"anything"])?;
    assert_eq!(call.bill(&reading), Some(call.most()));
    assert_eq!(call.served(&reading).map(|served| served.tier), Some("standard"));
    let files = config.api.get(1).ok_or("no api")?;
    assert_eq!(files.max_received_bytes, Some(2 << 20));
    let only = Own::of(&crate::config::Config { api: vec![files.clone()], ..crate::config::Config::default() });
    meter.replace_own(only);
    let call = meter.fixed(&*entry("geo.example", "/x")?, None, &Bytes::new())?;
    assert_eq!((call.most(), call.costs_by_answer()), (NanoUsd(2_000_000_000), true));
    let reading = answer(&call, "text/plain", &[&[0; 1 << 19], &[0; 1 << 19]])?;
    assert_eq!(call.bill(&reading), Some(NanoUsd(1_000_000_000)));
    assert_eq!(meter.own_book().reprice(&answers::record_of(&call, &reading)?), call.bill(&reading));
    Ok(())
}
