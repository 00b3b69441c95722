//! Which calls are priced, which are refused, and the bounds of those that are.

use super::*;

fn responses(more: &str) -> String {
    format!(r#"{{"model":"gpt-6.1-sol","input":[{{"role":"user","content":"hi"}}],"service_tier":"default"{more}}}"#)
}

fn chat(more: &str) -> String {
    format!(r#"{{"model":"gpt-5","messages":[{{"role":"user","content":"hi"}}]{more}}}"#)
}

fn messages(more: &str) -> String {
    format!(r#"{{"model":"claude-opus-4-8","max_tokens":64000,"messages":[{{"role":"user","content":"hi"}}]{more}}}"#)
}

fn content(operation: Operation, part: &str) -> String {
    match operation {
        Operation::Responses => format!(r#"{{"model":"gpt-6.1-sol","input":[{{"role":"user","content":[{part}]}}]}}"#),
        Operation::Messages => {
            format!(r#"{{"model":"claude-opus-4-8","max_tokens":9,"messages":[{{"role":"user","content":[{part}]}}]}}"#)
        }
        _ => format!(r#"{{"model":"gpt-5","messages":[{{"role":"user","content":[{part}]}}]}}"#),
    }
}

#[test]
fn bills_without_a_bound_are_refused() {
    use Operation::{Chat, Messages, Responses};
    let bodies = [
        (Responses, responses(r#","previous_response_id":"resp_1""#)),
        (Responses, responses(r#","conversation":{"id":"c"}"#)),
        (Responses, responses(r#","conversation":"c""#)),
        (Responses, responses(r#","prompt":{"id":"p"}"#)),
        (Responses, responses(r#","background":true"#)),
        (Responses, responses(r#","reasoning":{"mode":"pro"}"#)),
        (Responses, responses(r#","tools":[{"type":"code_interpreter","container":{"type":"auto"}}]"#)),
        (Responses, responses(r#","tools":[{"type":"file_search","vector_store_ids":["v"]}]"#)),
        (Responses, responses(r#","tools":[{"type":"mcp","server_url":"https://x"}]"#)),
        (Responses, responses(r#","tools":[{"type":"image_generation"}]"#)),
        (Responses, responses(r#","tools":[{"type":"computer_use_preview"}]"#)),
        (Responses, responses(r#","tools":[{"type":"shell","environment":{"type":"container_auto"}}]"#)),
        (Responses, responses(r#","tools":[{"type":"namespace","name":"n","tools":[{"type":"mcp"}]}]"#)),
        (Responses, responses(r#","tools":[{"name":"untyped"}]"#)),
        (Responses, r#"{"model":"gpt-6.1-sol","input":[{"type":"item_reference","id":"x"}]}"#.to_owned()),
        (Responses, r#"{"model":"gpt-6.1-sol","input":[{"id":"x"}]}"#.to_owned()),
        (Responses, r#"{"model":"gpt-6.1-sol","input":[{"type":null,"id":"x","role":"assistant"}]}"#.to_owned()),
        (Responses, content(Responses, r#"{"type":"input_video","video_url":"https://x"}"#)),
        (
            Responses,
            r#"{"model":"gpt-6.1-sol","input":[{"type":"additional_tools","tools":[{"type":"mcp"}]}]}"#.to_owned(),
        ),
        (Responses, content(Responses, r#"{"type":"input_image","image_url":"https://x/y.png"}"#)),
        (Responses, content(Responses, r#"{"type":"input_image","file_id":"file_1"}"#)),
        (Responses, content(Responses, r#"{"type":"input_image"}"#)),
        (Responses, content(Responses, r#"{"type":"input_file","file_url":"https://x"}"#)),
        (Responses, content(Responses, r#"{"type":"input_audio","input_audio":{"data":"AA"}}"#)),
        (Chat, chat(r#","modalities":["text","audio"],"audio":{"voice":"a"}"#)),
        (Chat, chat(r#","prediction":{"type":"content","content":"x"}"#)),
        (Chat, chat(r#","web_search_options":{}"#)),
        (Chat, chat(r#","best_of":2"#)),
        (Chat, chat(r#","tools":[{"type":"web_search"}]"#)),
        (Chat, content(Chat, r#"{"type":"image_url","image_url":{"url":"http://x"}}"#)),
        (Chat, content(Chat, r#"{"type":"file","file":{"file_id":"f"}}"#)),
        (Chat, content(Chat, r#"{"type":"input_audio","input_audio":{"data":"AA","format":"wav"}}"#)),
        (Chat, r#"{"model":"gpt-5","messages":[{"role":"assistant","audio":{"id":"a"}}]}"#.to_owned()),
        (Chat, content(Chat, r#"{"type":"document_url","document_url":"https://x"}"#)),
        (Chat, content(Chat, r#"{"type":"video_url","video_url":{"url":"https://x"}}"#)),
        (Chat, content(Chat, r#"{"video_url":{"url":"https://x"}}"#)),
        (Messages, messages(r#","mcp_servers":[{"url":"https://x"}]"#)),
        (Messages, messages(r#","container":"c""#)),
        (Messages, messages(r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#)),
        (Messages, messages(r#","tools":[{"type":"web_search_20250305","name":"web_search","max_uses":1000}]"#)),
        (Messages, messages(r#","tools":[{"type":"web_search_20260209","name":"web_search","max_uses":1}]"#)),
        (Messages, messages(r#","tools":[{"type":"web_fetch_20250910","name":"web_fetch","max_uses":1}]"#)),
        (Messages, messages(r#","tools":[{"type":"code_execution_20250825","name":"x"}]"#)),
        (Messages, messages(r#","tools":[{"type":"mcp_toolset","mcp_server_name":"x"}]"#)),
        (Messages, content(Messages, r#"{"type":"image","source":{"type":"url","url":"https://x"}}"#)),
        (Messages, content(Messages, r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#)),
        (Messages, content(Messages, r#"{"type":"container_upload","file_id":"f"}"#)),
        (
            Messages,
            content(
                Messages,
                r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}"#,
            ),
        ),
        (Messages, r#"{"model":"claude-haiku-4-5","max_tokens":9,"speed":"fast","messages":[]}"#.to_owned()),
    ];
    for (operation, body) in bodies {
        assert_eq!(reason(operation, &body), Some(Reason::Unbounded), "{body}");
    }
}

/// OpenAI keeps the items of answers and finds them again by their ids: what such an item brings is not in the request.
#[test]
fn what_is_found_by_its_id_is_held_for_as_the_whole_context() -> Outcome {
    let hold = |item: &str| {
        let body = format!(r#"{{"model":"gpt-6.1-sol","max_output_tokens":16,"input":[{item}]}}"#);
        read(Operation::Responses, &body).map(|call| call.most())
    };
    let small = hold(r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"x"}"#)?;
    for item in [
        r#"{"type":"reasoning","id":"rs_1","summary":[]}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":null}"#,
        r#"{"type":"web_search_call","id":"ws_1","status":"completed"}"#,
        r#"{"type":"image_generation_call","id":"ig_1"}"#,
        r#"{"type":"something_new","id":"x"}"#,
    ] {
        assert!(hold(item)?.0 > 100 * small.0, "{item}: {}", hold(item)?);
    }
    for item in [
        r#"{"type":"function_call","id":"fc_1","name":"f","arguments":"{}","call_id":"1"}"#,
        r#"{"type":"message","id":"m_1","role":"assistant","content":[{"type":"output_text","text":"x"}]}"#,
        r#"{"type":"web_search_call","status":"completed"}"#,
    ] {
        assert!(hold(item)?.0 < 10 * small.0, "{item}: {}", hold(item)?);
    }
    Ok(())
}

#[test]
fn ordinary_calls_are_read() {
    use Operation::{Chat, Embeddings, Messages, Responses};
    let bodies = [
        (Responses, responses(r#","previous_response_id":null,"conversation":null,"background":false,"store":true,"prompt":null,"tools":[]"#)),
        (Responses, responses(r#","tools":[{"type":"function","name":"f","parameters":{"properties":{"file_id":{"type":"string"},"image_url":{"type":"string"}}}},{"type":"custom","name":"c"},{"type":"local_shell"},{"type":"web_search","external_web_access":false},{"type":"namespace","name":"n","tools":[{"type":"function","name":"g"}]}]"#)),
        (Responses, content(Responses, r#"{"type":"input_text","text":"x"},{"type":"input_image","image_url":"data:image/png;base64,AAAA"},{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,AA"}"#)),
        (Responses, r#"{"model":"gpt-6.1-sol","input":"hi"}"#.to_owned()),
        (Responses, r#"{"model":"gpt-6.1-sol","input":[{"type":"reasoning","encrypted_content":"x","summary":[]},{"type":"function_call","name":"f","arguments":"{}","call_id":"1"},{"type":"function_call_output","call_id":"1","output":"x"},{"type":"compaction_trigger"}]}"#.to_owned()),
        (Responses, r#"{"model":"gpt-6.1-sol","input":[{"role":"user","content":"x"},{"type":"message","id":"m","role":"assistant","content":[{"type":"output_text","text":"x"},{"type":"refusal","refusal":"x"}]}]}"#.to_owned()),
        (Chat, chat(r#","n":2,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"response_format":{"type":"json_object"},"audio":null,"prediction":null"#)),
        (Chat, content(Chat, r#"{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"high"}}"#)),
        (Messages, messages(r#","tools":[{"name":"a","input_schema":{"properties":{"source":{"type":"url"}}}},{"type":"bash_20250124","name":"bash"},{"type":"web_search_20250305","name":"web_search","max_uses":2}],"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"mcp_servers":[],"service_tier":"auto""#)),
        (Messages, content(Messages, r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},{"type":"tool_use","id":"t","name":"n","input":{"source":{"type":"url"},"file_id":"x"}},{"type":"search_result","source":"https://x","title":"t","content":[{"type":"text","text":"x"}]}"#)),
        (Embeddings, r#"{"model":"text-embedding-3-small","input":["a","b"]}"#.to_owned()),
        (Embeddings, r#"{"model":"text-embedding-3-small","input":[[1,2,3]]}"#.to_owned()),
    ];
    for (operation, body) in bodies {
        assert_eq!(read(operation, &body).err(), None, "{body}");
    }
}

#[test]
fn bodies_with_two_readings_are_refused() {
    use Operation::{Chat, Messages};
    for (operation, body) in [
        (Chat, r#"{"model":"gpt-5","max_tokens":1,"max_tokens":9}"#),
        (Chat, r#"{"model":"gpt-5","messages":[{"role":"user","role":"user"}]}"#),
        (Chat, r#"{"model":"gpt-5","max_tokens":1e9}"#),
        (Chat, r#"{"model":"gpt-5","max_tokens":-1}"#),
        (Chat, r#"{"model":"gpt-5","max_tokens":"9"}"#),
        (Chat, r#"{"model":"gpt-5","max_tokens":1.5}"#),
        (Chat, r#"{"model":"gpt-5","n":1000000}"#),
        (Chat, r#"{"model":"gpt-5","stream":"yes"}"#),
        (Chat, r#"{"model":"gpt-5"} {}"#),
        (Chat, r#"[{"model":"gpt-5"}]"#),
        (Chat, r#""gpt-5""#),
        (Chat, "model=gpt-5"),
        (Chat, ""),
        (Messages, r#"{"model":"claude-opus-4-8","messages":[]}"#),
        (Messages, r#"{"model":"claude-opus-4-8","max_tokens":9,"messages":[{"content":[1]}]}"#),
    ] {
        assert_eq!(reason(operation, body), Some(Reason::AmbiguousRequest), "{body}");
    }
    let latin = Bytes::from_static(b"{\"model\":\"\xff\"}");
    let read = meter().map(|meter| meter.read(Provider::OpenAi, Chat, &HeaderMap::new(), &latin).err());
    assert!(matches!(read, Ok(Some(refusal)) if refusal.reason == Reason::AmbiguousRequest));
    assert_eq!(reason(Chat, &chat(r#","service_tier":"turbo""#)), Some(Reason::PriceUnknown));
}

/// Input tokens that the bound counts for a body of this text.
fn tokens(body: &str) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX) + 2_048
}

#[test]
fn the_bound_of_a_plain_call() -> Outcome {
    let body = chat(r#","max_tokens":1000,"service_tier":"default""#);
    // gpt-5: $1.25 and $10 per million.
    assert_eq!(read(Operation::Chat, &body)?.most(), NanoUsd(tokens(&body) * 1_250 + 1_000 * 10_000));
    let body = chat(r#","max_completion_tokens":1000,"max_tokens":10,"n":3,"service_tier":"default""#);
    assert_eq!(
        read(Operation::Chat, &body)?.most(),
        NanoUsd(tokens(&body) * 1_250 + 3_000 * 10_000),
        "the larger alias, three answers"
    );
    let body = chat(r#","service_tier":"default""#);
    assert_eq!(
        read(Operation::Chat, &body)?.most(),
        NanoUsd(tokens(&body) * 1_250 + 128_000 * 10_000),
        "litellm: no cap is the model's maximum"
    );
    let body = chat(r#","max_tokens":1000"#);
    assert_eq!(
        read(Operation::Chat, &body)?.most(),
        NanoUsd(tokens(&body) * 2_500 + 1_000 * 20_000),
        "auto may be priority"
    );
    let body = chat(r#","max_tokens":1000,"service_tier":"flex""#);
    assert_eq!(read(Operation::Chat, &body)?.most(), NanoUsd(tokens(&body) * 625 + 1_000 * 5_000));
    Ok(())
}

#[test]
fn litellm_40002_long_input_and_dear_caches_are_in_the_bound() -> Outcome {
    let long = "x".repeat(300_000);
    let body = responses(&format!(r#","instructions":"{long}","max_output_tokens":100"#));
    // gpt-6.1-sol above 272k: cache write $5, output $15.
    assert_eq!(read(Operation::Responses, &body)?.most(), NanoUsd(tokens(&body) * 5_000 + 100 * 15_000));
    let body = responses(r#","max_output_tokens":100,"prompt_cache_options":{"ttl":"12h"}"#);
    assert_eq!(
        read(Operation::Responses, &body)?.most(),
        NanoUsd(tokens(&body) * 5_000 + 100 * 10_000),
        "a cache of twelve hours"
    );
    let anthropic = |system: &str| {
        format!(
            r#"{{"model":"claude-opus-4-8","max_tokens":100,"inference_geo":"global","system":[{{"type":"text","text":"x"{system}}}],"messages":[]}}"#
        )
    };
    for (system, rate) in [
        ("", 5_000),
        (r#","cache_control":{"type":"ephemeral"}"#, 6_250),
        (r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#, 10_000),
    ] {
        let body = anthropic(system);
        assert_eq!(read(Operation::Messages, &body)?.most(), NanoUsd(tokens(&body) * rate + 100 * 25_000), "{system}");
    }
    let body = r#"{"model":"claude-opus-4-8","max_tokens":100,"speed":"fast","messages":[]}"#;
    assert_eq!(
        read(Operation::Messages, body)?.most(),
        NanoUsd((tokens(body) * 5_000 + 100 * 25_000) * 22 / 10),
        "fast, and perhaps in the US"
    );
    Ok(())
}

#[test]
fn images_count_by_rule_and_not_by_bytes() -> Outcome {
    let data = "A".repeat(1 << 20);
    let image = format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#);
    let body = content(Operation::Messages, &image);
    let text = tokens(&body) - (1 << 20) - 2;
    let want = (text + 6_400) * 5_000 + 9 * 25_000;
    assert_eq!(read(Operation::Messages, &body)?.most(), NanoUsd((want * 11).div_ceil(10)));
    let body = content(
        Operation::Messages,
        r#"{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AA"}}"#,
    );
    assert_eq!(
        read(Operation::Messages, &body)?.most(),
        NanoUsd((1_000_000 * 5_000 + 9 * 25_000) * 11 / 10),
        "a PDF may fill the context"
    );
    let blind = PriceBook::parse(
        "version='1'\n[[model]]\nprovider='openai'\nnames=['gpt-5']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\nrates=[{tier='standard',input='30',output='60'}]\n",
    )?;
    let image = content(Operation::Chat, r#"{"type":"image_url","image_url":{"url":"data:,x"}}"#);
    let read = Meter::new(blind, []).read(Provider::OpenAi, Operation::Chat, &HeaderMap::new(), &image.into());
    assert_eq!(read.err().map(|refusal| refusal.reason), Some(Reason::Unbounded), "a model without a rule for images");
    Ok(())
}

#[test]
fn web_searches_are_bounded_by_their_cap() -> Outcome {
    let body = responses(r#","max_output_tokens":100,"max_tool_calls":1,"tools":[{"type":"web_search"}]"#);
    let first = tokens(&body) + 1_024;
    // Two passes; the second reads what the search found (128,000) and the output. One search at $0.01.
    let input = first + first + 128_000 + 100;
    assert!(input <= 272_000);
    assert_eq!(read(Operation::Responses, &body)?.most(), NanoUsd(input * 2_500 + 100 * 10_000 + 10_000_000));
    let open = read(Operation::Responses, &responses(r#","tools":[{"type":"web_search"}]"#))?;
    let edited = open.edit(open.least(4_096))?;
    assert!(text_of(&edited).contains("\"max_tool_calls\":1,") && edited.edits == ["clamp"], "{}", text_of(&edited));
    assert!(edited.hold <= open.least(4_096));
    Ok(())
}

/// What Codex 0.169 and Claude Code 2.1 send, shortened: the members and their kinds are all there.
#[test]
fn the_agents_default_calls_are_read_and_cheap_enough_to_hold() -> Outcome {
    let codex = json!({
        "model": "gpt-6.1-sol", "stream": true, "store": false, "tool_choice": "auto", "parallel_tool_calls": false,
        "reasoning": { "effort": "low", "context": "all_turns" }, "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k", "text": { "verbosity": "low" }, "client_metadata": { "session_id": "s" },
        "input": [
            { "type": "additional_tools", "id": "at_1", "role": "developer", "tools": [
                { "type": "namespace", "name": "functions", "description": "", "tools": [
                    { "type": "custom", "name": "apply_patch", "description": "d".repeat(30_000), "format": { "type": "grammar", "syntax": "lark", "definition": "x" } },
                    { "type": "function", "name": "exec_command", "description": "d", "strict": false, "parameters": { "type": "object" } },
                ] },
            ] },
            { "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": "You are Codex".repeat(2_500) }] },
            { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "say hi" }] },
        ],
    });
    let call = read(Operation::Responses, &codex.to_string())?;
    assert!(call.least(MIN_OUTPUT) < NanoUsd(500_000_000), "{}", call.least(MIN_OUTPUT));
    let claude = json!({
        "model": "claude-opus-4-8", "max_tokens": 64_000, "stream": true, "thinking": { "type": "adaptive" },
        "context_management": { "edits": [{ "type": "clear_thinking_20251015", "keep": "all" }] },
        "output_config": { "effort": "high" }, "metadata": { "user_id": "u" },
        "system": [{ "type": "text", "text": "x".repeat(30_000), "cache_control": { "type": "ephemeral" } }],
        "tools": [{ "name": "Bash", "description": "d".repeat(30_000), "input_schema": { "type": "object" } }],
        "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "say hi", "cache_control": { "type": "ephemeral" } }] },
            { "role": "system", "content": "Available agent types" },
        ],
    });
    let call = read(Operation::Messages, &claude.to_string())?;
    assert!(call.least(MIN_OUTPUT) < NanoUsd(700_000_000), "{}", call.least(MIN_OUTPUT));
    Ok(())
}

proptest! {
    #[test]
    fn any_body_is_read_without_a_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ ]{0,80}") {
        for operation in [Operation::Chat, Operation::Responses, Operation::Embeddings, Operation::Messages] {
            let _ = read(operation, &body);
        }
    }
}
