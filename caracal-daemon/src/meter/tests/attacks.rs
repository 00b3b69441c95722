//! Paths, heads and parameters by which a call could cost another price than is read, or not say what it costs.

use super::*;

/// Of a path that an upstream may take for another one, every reading has the price, or it has none.
#[test]
fn a_dear_path_is_not_dressed_up_as_a_cheap_one() -> Outcome {
    let text = "[[api]]\nname='pictures'\nhost='api.openai.com'\npaths=['/v1/images/*']\ncall='0.04 USD'\n\
                [[api]]\nname='rest'\nhost='api.mistral.ai'\ncall='0.01 USD'\n\
                [[api]]\nname='cheap'\nhost='geo.example'\npaths=['/cheap/*']\ncall='0.001 USD'\n\
                [[api]]\nname='dear'\nhost='geo.example'\npaths=['/dear*']\ncall='1 USD'\n";
    let meter = meter()?;
    meter.replace_own(Own::of(&crate::config::Config::parse(text, std::path::Path::new("x.toml"))?));
    let at = |host: &str, path: &str| match meter.surface(host, &http::Method::POST, path, &HeaderMap::new()) {
        Surface::Priced(entry) => entry.name.to_string(),
        other => format!("{other:?}"),
    };
    for (host, path, want) in [
        ("api.openai.com", "/v1/images/edits", "pictures"),
        ("api.openai.com", "/v1/images/a%20b", "pictures"),
        ("api.openai.com", "/v1/images/../images/edits", "pictures"),
        ("api.openai.com", "/v1/images/../responses", "Unmetered(OpenAi, Images)"),
        ("api.openai.com", "/v1/images/%2e%2e/responses", "Unmetered(OpenAi, Images)"),
        ("api.openai.com", "/v1/images/..%2fchat/completions", "Unmetered(OpenAi, Images)"),
        ("api.mistral.ai", "/v1/ocr", "rest"),
        ("api.mistral.ai", "/v1/x/../chat/completions", "Unknown(Mistral)"),
        ("api.mistral.ai", "//v1/chat/completions", "Unknown(Mistral)"),
        ("geo.example", "/cheap/x", "cheap"),
        ("geo.example", "/cheap/../dear", "Unknown(Api)"),
        ("geo.example", "/cheap/..;/dear", "Unknown(Api)"),
    ] {
        assert_eq!(at(host, path), want, "{host}{path}");
    }
    Ok(())
}

/// Heads and parameters by which a call could cost another price than is read, or not say what it costs.
#[test]
fn what_hides_or_changes_a_price_beside_the_body_is_refused() -> Outcome {
    let meter = meter()?;
    let read = |provider, operation, place: &str, body: &'static str, heads: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in heads {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let read = meter.read_at(provider, operation, place, &headers, &Bytes::from_static(body.as_bytes()));
        read.err().map(|refusal| refusal.reason)
    };
    const GEMINI: &str = "/v1beta/models/gemini-2.5-flash:generateContent";
    const ASK: &str = r#"{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":9}}"#;
    let gemini = |query: &str, heads: &[(&'static str, &'static str)]| {
        read(Provider::Google, Operation::Generate, &format!("{GEMINI}{query}"), ASK, heads)
    };
    for query in ["", "?key=x", "?alt=sse&key=x&%24alt=json", "?%66ields=a"] {
        let want = query.contains('%').then_some(Reason::Unbounded);
        assert_eq!(gemini(query, &[]), want, "{query}");
    }
    for query in ["?fields=candidates,usageMetadata.promptTokenCount", "?$fields=x", "?key=x&$httpHeaders=x", "?fields"]
    {
        assert_eq!(gemini(query, &[]), Some(Reason::Unbounded), "{query}");
    }
    assert_eq!(gemini("", &[("x-goog-fieldmask", "candidates")]), Some(Reason::Unbounded));
    const CHAT: &str = r#"{"model":"gemini-2.5-flash","max_tokens":9,"messages":[]}"#;
    let chat = "/v1beta/openai/chat/completions?fields=choices,usage.prompt_tokens";
    assert_eq!(read(Provider::Google, Operation::Chat, chat, CHAT, &[]), Some(Reason::Unbounded));
    const NOVA: &str = r#"{"messages":[],"inferenceConfig":{"maxTokens":9}}"#;
    let nova = |heads: &[(&'static str, &'static str)]| {
        read(Provider::Bedrock, Operation::Invoke, "/model/amazon.nova-pro-v1:0/invoke", NOVA, heads)
    };
    const LATENCY: &str = "x-amzn-bedrock-performanceconfig-latency";
    const TIER: &str = "x-amzn-bedrock-service-tier";
    assert_eq!(nova(&[(LATENCY, "standard")]), None);
    assert_eq!(nova(&[(LATENCY, "standard"), (LATENCY, "optimized")]), Some(Reason::Unbounded));
    assert_eq!(nova(&[(TIER, "default"), (TIER, "priority")]), Some(Reason::AmbiguousRequest));
    // A template of OpenRouter's that may name another model.
    let preset = r#"{"model":"openai/gpt-5","max_tokens":9,"messages":[],"preset":"mine"}"#;
    let place = "/api/v1/chat/completions";
    assert_eq!(read(Provider::OpenRouter, Operation::Chat, place, preset, &[]), Some(Reason::Unbounded));
    Ok(())
}
