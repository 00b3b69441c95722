//! Edits change what they name and not one byte more.

use super::*;

fn edited(operation: Operation, body: &str, min_output: u64) -> Result<(Call, Edited), Refusal> {
    let call = read(operation, body)?;
    let edited = call.edit(call.least(min_output))?;
    Ok((call, edited))
}

#[test]
fn a_cap_is_lowered_in_its_place() -> Outcome {
    let body = "{ \"model\" : \"claude-opus-4-8\",\n\t\"max_tokens\" :  64000 , \"messages\":[{\"role\":\"user\",\"content\":\"max_tokens\\u0022:64000\"}] }";
    let (call, edited) = edited(Operation::Messages, body, 4_096)?;
    assert_eq!(text_of(&edited), body.replace("  64000 ", "  4096 "));
    assert_eq!((edited.edits, edited.max_tokens, edited.hold), (vec!["clamp"], Some(4_096), call.least(4_096)));
    assert!(!edited.identity_answer);
    Ok(())
}

#[test]
fn a_cap_is_set_where_none_is() -> Outcome {
    let body = r#" {"model":"gpt-6.1-sol","input":"{hi}"}"#;
    let (_, response) = edited(Operation::Responses, body, 4_096)?;
    assert_eq!(text_of(&response), r#" {"max_output_tokens":4096,"model":"gpt-6.1-sol","input":"{hi}"}"#);
    let body = r#"{"model":"gpt-5","messages":[]}"#;
    let (_, chat) = edited(Operation::Chat, body, 5_000)?;
    assert_eq!(text_of(&chat), r#"{"max_completion_tokens":5000,"model":"gpt-5","messages":[]}"#);
    let body = r#"{"model":"gpt-5","max_tokens":null,"messages":[]}"#;
    let (_, null) = edited(Operation::Chat, body, 5_000)?;
    assert_eq!(text_of(&null), r#"{"model":"gpt-5","max_tokens":5000,"messages":[]}"#);
    let body = r#"{"model":"gpt-5","max_completion_tokens":null,"max_tokens":9000,"messages":[]}"#;
    let (_, both) = edited(Operation::Chat, body, 5_000)?;
    assert_eq!(text_of(&both), r#"{"model":"gpt-5","max_completion_tokens":null,"max_tokens":5000,"messages":[]}"#);
    let body = r#"{"model":"gpt-5","max_completion_tokens":8000,"max_tokens":9000,"messages":[]}"#;
    let (_, both) = edited(Operation::Chat, body, 8_500)?;
    assert_eq!(text_of(&both), r#"{"model":"gpt-5","max_completion_tokens":8000,"max_tokens":8500,"messages":[]}"#);
    Ok(())
}

#[test]
fn what_fits_is_left_alone() -> Outcome {
    for (operation, body, cap) in [
        (Operation::Messages, r#"{"model":"claude-opus-4-8","max_tokens":100,"messages":[]}"#, Some(100)),
        (Operation::Responses, r#"{"model":"gpt-6.1-sol","input":"hi"}"#, None),
        (Operation::Embeddings, r#"{"model":"text-embedding-3-small","input":"hi"}"#, None),
        (Operation::Chat, r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}"#, None),
    ] {
        let call = read(operation, body)?;
        let edited = call.edit(call.most())?;
        assert_eq!(
            (edited.body, edited.edits.len(), edited.max_tokens, edited.hold),
            (None, 0, cap, call.most()),
            "{body}"
        );
    }
    // Its own cap is below the least that a clamp leaves.
    let call = read(Operation::Messages, r#"{"model":"claude-opus-4-8","max_tokens":100,"messages":[]}"#)?;
    assert_eq!(call.least(4_096), call.most());
    assert!(call.edit(NanoUsd(call.least(16).0 - 1)).is_err());
    Ok(())
}

#[test]
fn a_thinking_budget_stays_below_the_cap() -> Outcome {
    let body = r#"{"model":"claude-haiku-4-5","max_tokens":32000,"thinking":{"type":"enabled","budget_tokens":31999},"messages":[]}"#;
    for min_output in [1, 16, 1_024, 4_096, 20_000] {
        let (_, edited) = edited(Operation::Messages, body, min_output)?;
        let sent: Value = serde_json::from_str(text_of(&edited))?;
        let number = |pointer: &str| sent.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let (cap, budget) = (number("/max_tokens"), number("/thinking/budget_tokens"));
        assert_eq!(cap, min_output.max(16) + 1_024);
        assert!((1_024..cap).contains(&budget), "{budget} of {cap}");
    }
    // The room beside the thinking stays.
    let body = r#"{"model":"claude-haiku-4-5","max_tokens":32000,"thinking":{"type":"enabled","budget_tokens":10000},"messages":[]}"#;
    let (_, lower) = edited(Operation::Messages, body, 8_000)?;
    assert_eq!(text_of(&lower), body.replace("32000", "9024").replace("10000", "4928"));
    // With interleaved thinking the budget is not a part of the cap.
    let body = r#"{"model":"claude-haiku-4-5","max_tokens":8000,"thinking":{"type":"enabled","budget_tokens":10000},"messages":[]}"#;
    let (_, lower) = edited(Operation::Messages, body, 4_096)?;
    assert_eq!(text_of(&lower), body.replace("8000", "4096"));
    Ok(())
}

#[test]
fn agentgateway_include_usage_is_asked_for_in_each_form() -> Outcome {
    for (before, after) in [
        (
            r#"{"model":"gpt-5","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"gpt-5","stream":true}"#,
        ),
        (
            r#"{"model":"gpt-5","stream":true,"stream_options":null}"#,
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"gpt-5","stream":true,"stream_options":{ }}"#,
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage": false}}"#,
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage": true}}"#,
        ),
        (
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":null}}"#,
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_obfuscation":false}}"#,
            r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}"#,
        ),
    ] {
        let edited = read(Operation::Chat, before)?.edit(NanoUsd::MAX)?;
        assert_eq!(
            (text_of(&edited), edited.edits.as_slice(), edited.identity_answer),
            (after, ["include_usage"].as_slice(), true)
        );
    }
    let edited = read(Operation::Chat, r#"{"model":"gpt-5","stream":false}"#)?.edit(NanoUsd::MAX)?;
    assert_eq!((edited.body, edited.identity_answer), (None, false));
    Ok(())
}

proptest! {
    #[test]
    fn the_hold_is_within_the_grant_and_the_rest_of_the_body_stays(cap in 1u64..200_000, granted in 0u64..3_000_000_000, min in 1u64..20_000, text in "[ -~é]{0,200}", stream: bool) {
        let body = json!({ "model": "gpt-5", "max_tokens": cap, "messages": [{ "role": "user", "content": text }], "stream": stream }).to_string();
        let call = read(Operation::Chat, &body).map_err(|refusal| TestCaseError::fail(refusal.sentence))?;
        prop_assert!(call.least(min) <= call.most());
        let granted = NanoUsd(granted);
        match call.edit(granted) {
            Err(_) => prop_assert!(granted < call.least(min)),
            Ok(edited) => {
                prop_assert!(edited.hold <= granted);
                let sent: Value = edited.body.as_ref().map_or_else(|| serde_json::from_str(&body), |body| serde_json::from_slice(body))?;
                let mut want: Value = serde_json::from_str(&body)?;
                if let Some(lower) = edited.max_tokens {
                    prop_assert!(lower <= cap && (granted < call.least(min) || lower >= min.min(cap)));
                    want["max_tokens"] = lower.into();
                }
                if stream {
                    want["stream_options"] = json!({ "include_usage": true });
                }
                prop_assert_eq!(sent, want);
            }
        }
    }
}

/// The first call of an agent as it is by default: its size, cap, tools and cache marks are those of real captures
/// (Claude Code 2.1.197, 48 KB; Codex 0.169.0, 68 KB), its words are not.
fn default_call(operation: Operation) -> String {
    let words = |bytes: usize| "word ".repeat(bytes / 5);
    let body = match operation {
        Operation::Messages => {
            let mark = json!({"type": "ephemeral"});
            let tool = |n: usize| json!({"name": format!("Tool{n}"), "description": words(3_000), "input_schema": {"type": "object"}});
            let system = |bytes| json!({"type": "text", "text": words(bytes), "cache_control": mark});
            json!({
                "model": "claude-opus-4-8", "max_tokens": 64_000, "stream": true, "thinking": {"type": "adaptive"},
                "system": [system(100), system(19_000)], "tools": (0..9).map(tool).collect::<Vec<_>>(),
                "messages": [{"role": "user", "content": [system(1_000)]}],
            })
        }
        _ => json!({
            "model": "gpt-6.1-sol", "stream": true, "store": false, "instructions": words(20_000),
            "tools": [{"type": "function", "name": "exec_command", "description": words(40_000), "parameters": {"type": "object"}}],
            "tool_choice": "auto", "parallel_tool_calls": true, "reasoning": {"effort": "medium"},
            "include": ["reasoning.encrypted_content"],
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": words(8_000)}]}],
        }),
    };
    body.to_string()
}

#[test]
fn the_starter_budget_holds_ten_clamped_default_calls_of_each_agent() -> Outcome {
    let starter = crate::config::Config::parse(crate::config::starter(), std::path::Path::new("starter.toml"))?;
    let daily = starter.budget.first().ok_or("a budget")?.limit;
    for (operation, bytes) in [(Operation::Messages, 47_000), (Operation::Responses, 67_000)] {
        let body = default_call(operation);
        assert!(body.len() >= bytes, "{operation:?}: {}", body.len());
        let call = read(operation, &body)?;
        let least = call.least(starter.clamp.min_output);
        assert!(daily.0 / least.0 >= 10, "{operation:?}: {least} of {daily}");
        // Clamping is needed for that: ten such calls as they are written do not fit.
        assert!(daily.0 / call.most().0 < 10, "{operation:?}: {}", call.most());
        assert_eq!(call.edit(least)?.edits, ["clamp"]);
    }
    Ok(())
}
