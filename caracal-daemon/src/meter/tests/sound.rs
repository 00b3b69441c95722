//! Random requests, and random bills of a provider that honours the caps that it was sent and the prices that it publishes:
//! none is above its hold, and each is made again from its record.

use super::providers::{answer, with};
use super::*;

/// What a provider is asked: built from numbers, so that a failure shrinks to small ones.
#[derive(Clone, Debug)]
struct Dice {
    kind: usize,
    text: usize,
    cap: Option<u64>,
    choices: u64,
    searches: u64,
    tier: usize,
    mark: usize,
    signed: bool,
    /// Of what was granted between the least and the most, thousandths.
    granted: u64,
    /// Of what the provider may use, thousandths: input, read, written, for long, output, reasoning.
    used: [u64; 6],
    priority: bool,
}

fn dice() -> impl Strategy<Value = Dice> {
    let text = prop_oneof![4 => 0usize..4_000, 1 => 190_000usize..300_000];
    let first = (0usize..8, text, prop::option::of(20u64..70_000), 1u64..4, 0u64..4);
    let second =
        (0usize..3, 0usize..3, any::<bool>(), 0u64..=1_000, prop::array::uniform6(0u64..=1_000), any::<bool>());
    (first, second).prop_map(|((kind, text, cap, choices, searches), (tier, mark, signed, granted, used, priority))| {
        Dice { kind, text, cap, choices, searches, tier, mark, signed, granted, used, priority }
    })
}

/// A request, and what its provider may bill beyond the text that it was sent.
struct Sent {
    provider: Provider,
    operation: Operation,
    path: &'static str,
    body: Value,
    /// Where the cap stands, what the model's own is, and its longest input.
    cap: &'static str,
    most_output: u64,
    context: u64,
    /// Passes over the input, and over the output.
    passes: (u64, u64),
    choices: u64,
}

fn sent(dice: &Dice) -> Sent {
    let text = "x".repeat(dice.text);
    let ttl = if dice.mark == 2 { "1h" } else { "5m" };
    let tier = [None, Some("flex"), Some("priority")][dice.tier];
    let openai = |model: &str| json!({ "model": model, "messages": [{"role": "user", "content": text}] });
    let base = Sent {
        provider: Provider::OpenAi,
        operation: Operation::Chat,
        path: "",
        body: Value::Null,
        cap: "/max_completion_tokens",
        most_output: 128_000,
        context: 272_000,
        passes: (1, 1),
        choices: 1,
    };
    match dice.kind {
        0 => {
            let mut body = openai("gpt-5");
            body["n"] = dice.choices.into();
            tier.into_iter().for_each(|tier| body["service_tier"] = tier.into());
            dice.cap.into_iter().for_each(|cap| body["max_completion_tokens"] = cap.into());
            Sent { body, choices: dice.choices, ..base }
        }
        1 => {
            let mut body = json!({ "model": "gpt-6.1-sol", "input": text });
            tier.into_iter().for_each(|tier| body["service_tier"] = tier.into());
            dice.cap.into_iter().for_each(|cap| body["max_output_tokens"] = cap.into());
            let context = 1_050_000;
            Sent { operation: Operation::Responses, body, cap: "/max_output_tokens", context, ..base }
        }
        2 | 5 => {
            let mut body =
                json!({ "max_tokens": dice.cap.unwrap_or(9_000), "messages": [{"role": "user", "content": text}] });
            if dice.mark > 0 {
                body["system"] =
                    json!([{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": ttl}}]);
            }
            let (most_output, context) = (64_000, 200_000);
            if dice.kind == 5 {
                let path = "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke";
                let (provider, operation) = (Provider::Bedrock, Operation::Invoke);
                return Sent { provider, operation, path, body, cap: "/max_tokens", most_output, context, ..base };
            }
            body["model"] = "claude-sonnet-4-5".into();
            if dice.searches > 0 {
                body["tools"] = json!([{"type": "web_search_20250305", "name": "s", "max_uses": dice.searches}]);
            }
            let (provider, operation, passes) = (Provider::Anthropic, Operation::Messages, 1 + dice.searches);
            Sent {
                provider,
                operation,
                body,
                cap: "/max_tokens",
                most_output,
                context,
                passes: (passes, passes),
                ..base
            }
        }
        3 => {
            let mut body = json!({ "contents": [{"parts": [{"text": text}]}], "generationConfig": {"candidateCount": dice.choices} });
            tier.into_iter().for_each(|tier| body["serviceTier"] = tier.into());
            dice.cap.into_iter().for_each(|cap| body["generationConfig"]["maxOutputTokens"] = cap.into());
            let passes = if dice.searches > 0 { 2 } else { 1 };
            if passes == 2 {
                body["tools"] = json!([{"googleSearch": {}}]);
            }
            let (provider, operation) = (Provider::Google, Operation::Generate);
            let path = "/v1beta/models/gemini-2.5-pro:generateContent";
            let (cap, most_output, context) = ("/generationConfig/maxOutputTokens", 65_536, 1_048_576);
            let (passes, choices) = ((passes, passes), dice.choices);
            Sent { provider, operation, path, body, cap, most_output, context, passes, choices }
        }
        4 => {
            let mut body = json!({ "messages": [{"role": "user", "content": [{"text": text}]}] });
            if dice.mark > 0 {
                body["system"] = json!([{"cachePoint": {"type": "default", "ttl": ttl}}]);
            }
            dice.cap.into_iter().for_each(|cap| body["inferenceConfig"] = json!({"maxTokens": cap}));
            let path = "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/converse";
            let (provider, operation, cap) = (Provider::Bedrock, Operation::Converse, "/inferenceConfig/maxTokens");
            Sent { provider, operation, path, body, cap, most_output: 64_000, context: 200_000, ..base }
        }
        6 => {
            let body = json!({ "messages": [{"content": [{"text": text}]}], "inferenceConfig": {"maxTokens": dice.cap.unwrap_or(5_000)} });
            let (provider, operation, cap) = (Provider::Bedrock, Operation::Invoke, "/inferenceConfig/maxTokens");
            let path = "/model/amazon.nova-pro-v1%3A0/invoke";
            Sent { provider, operation, path, body, cap, most_output: 10_000, context: 300_000, ..base }
        }
        _ => {
            let mut body = openai("mistral-large-latest");
            dice.cap.into_iter().for_each(|cap| body["max_tokens"] = cap.into());
            let (most_output, context) = (262_144, 262_144);
            Sent { provider: Provider::Mistral, body, cap: "/max_tokens", most_output, context, ..base }
        }
    }
}

/// The answer of a provider that was sent `body` and honours its cap.
fn honest(sent: &Sent, body: &Value, length: usize, dice: &Dice) -> String {
    let part = |of: u64, thousandths: u64| of * thousandths / 1_000;
    let [input, read, written, long, output, reasoning] = dice.used;
    // A token is at least a byte; some hundred are the provider's own words.
    let first = (length as u64 + 500).min(sent.context);
    let whole = first + (sent.passes.0 - 1) * sent.context;
    let all = part(whole, input);
    let read = part(all, read);
    let cap = body.pointer(sent.cap).and_then(Value::as_u64).unwrap_or(sent.most_output);
    let output = part(cap * sent.choices * sent.passes.1, output);
    let reasoning = part(output, reasoning);
    let marked = dice.mark > 0;
    let written = if marked { part(all - read, written) } else { 0 };
    let long = if dice.mark == 2 { part(written, long) } else { 0 };
    let plain = all - read - written;
    let tier = match (dice.tier, dice.priority) {
        (0, false) => "default",
        (1, _) => "flex",
        _ => "priority",
    };
    let answer = match (sent.provider, sent.operation) {
        (Provider::Google, _) => json!({
            "candidates": (0..sent.choices).map(|_| json!({"finishReason": "STOP", "groundingMetadata":
                {"webSearchQueries": vec!["q"; usize::from(sent.passes.0 > 1)]}})).collect::<Vec<_>>(),
            "usageMetadata": {"promptTokenCount": all, "cachedContentTokenCount": read, "candidatesTokenCount": output - reasoning,
                "thoughtsTokenCount": reasoning, "totalTokenCount": all + output},
        }),
        (Provider::Bedrock, Operation::Converse) => json!({"usage": {"inputTokens": plain, "outputTokens": output,
            "totalTokens": all + output, "cacheReadInputTokens": read, "cacheWriteInputTokens": written,
            "cacheDetails": [{"ttl": "1h", "inputTokens": long}, {"ttl": "5m", "inputTokens": written - long}]}}),
        (Provider::Bedrock, _) if sent.path.contains("nova") => {
            json!({"amazon-bedrock-invocationMetrics": {"inputTokenCount": all, "outputTokenCount": output}})
        }
        (Provider::Anthropic | Provider::Bedrock, _) => {
            json!({"usage": {"input_tokens": plain, "output_tokens": output,
            "cache_read_input_tokens": read, "cache_creation_input_tokens": written, "cache_creation":
            {"ephemeral_5m_input_tokens": written - long, "ephemeral_1h_input_tokens": long},
            "server_tool_use": {"web_search_requests": sent.passes.0 - 1}}})
        }
        (Provider::OpenAi, operation) => {
            let names = if operation == Operation::Chat { ["prompt", "completion"] } else { ["input", "output"] };
            let named = |name: &str| format!("{name}_tokens");
            json!({"service_tier": tier, "usage": {named(names[0]): all, named(names[1]): output, "total_tokens": all + output,
                format!("{}_tokens_details", names[0]): {"cached_tokens": read},
                format!("{}_tokens_details", names[1]): {"reasoning_tokens": reasoning}}})
        }
        // Reasoning stands in the total alone.
        _ => {
            json!({"usage": {"prompt_tokens": all, "completion_tokens": output - reasoning, "total_tokens": all + output}})
        }
    };
    answer.to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_honest_bill_is_above_its_hold_and_each_is_made_again(dice in dice()) {
        let failed = |refusal: Refusal| TestCaseError::fail(refusal.sentence);
        let sent = sent(&dice);
        let body = sent.body.to_string();
        let heads: &[(&str, &str)] = if dice.signed { &[("authorization", "AWS4-HMAC-SHA256 x")] } else { &[] };
        let call = match with(sent.provider, sent.operation, sent.path, heads, &body) {
            Ok(call) => call,
            // A tier that the book has no price for.
            Err(refusal) => { prop_assert!(dice.tier > 0, "{}", refusal.sentence); return Ok(()) }
        };
        let (least, most) = (call.least(1_000), call.most());
        prop_assert!(least <= most && (!dice.signed || least == most));
        let granted = NanoUsd(least.0 + (most.0 - least.0) / 1_000 * dice.granted);
        let edited = call.edit(granted).map_err(failed)?;
        prop_assert!(edited.hold <= granted);
        let upstream = edited.body.as_ref().map_or(body.as_bytes(), |body| body.as_ref());
        let value: Value = serde_json::from_slice(upstream)?;
        let told = honest(&sent, &value, upstream.len(), &dice);
        let reading = answer(&call, "application/json", &[told.as_bytes()]).map_err(failed)?;
        let bill = call.bill(&reading).ok_or_else(|| TestCaseError::fail(format!("no usage in {told}")))?;
        prop_assert!(bill <= edited.hold, "{bill} of {} for {told}", edited.hold);
        let again = answers::repriced(&call, &reading).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(again, Some(bill));
    }
}

#[test]
fn a_beta_that_lets_more_in_is_held_for_what_it_lets_in() -> Outcome {
    // Claude Code sends `context-1m` with each call. Above 200,000 tokens in, the whole request costs twice as much.
    for (text, input) in [(400_000, 400_000), (1_400_000, 1_000_000)] {
        let talk = json!([{"role": "user", "content": "x".repeat(text)}]);
        let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 1_000, "messages": talk}).to_string();
        let call = read(Operation::Messages, &body).map_err(|refusal| refusal.sentence)?;
        let bill = call.charge(&Usage { input, output: 1_000, ..Usage::default() });
        assert!(bill.0 > 2_000_000_000 && bill <= call.most(), "{bill} billed, {} held", call.most());
    }
    Ok(())
}
