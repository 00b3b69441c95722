//! Which request is what.

use super::*;

fn of(host: &str, method: &Method, path: &str) -> Surface {
    let extra = [Extra { host: "llm.example.com".to_owned(), provider: Provider::OpenAi, base: None }];
    surface(&extra, host, method, path, &HeaderMap::new())
}

#[test]
fn paid_calls_are_known_by_exact_path_and_method() {
    use Operation::{Chat, Embeddings, Generate, Messages, Responses};
    use Provider::{Anthropic, Google, OpenAi};
    for (host, path, want) in [
        ("api.openai.com", "/v1/chat/completions", Surface::Paid(OpenAi, Chat)),
        ("api.openai.com", "/v1/responses", Surface::Paid(OpenAi, Responses)),
        ("api.openai.com", "/v1/embeddings", Surface::Paid(OpenAi, Embeddings)),
        ("llm.example.com", "/v1/chat/completions", Surface::Paid(OpenAi, Chat)),
        ("api.anthropic.com", "/v1/messages?beta=true", Surface::Paid(Anthropic, Messages)),
        ("api.anthropic.com", "/v1/messages/count_tokens?beta=true", Surface::Free(Anthropic)),
        ("api.anthropic.com", "/v1/messages/batches", Surface::Unmetered(Anthropic, Unmetered::Batch)),
        ("api.openai.com", "/v1/responses/compact", Surface::Unknown(OpenAi)),
        ("api.openai.com", "/v1/batches", Surface::Unmetered(OpenAi, Unmetered::Batch)),
        ("api.openai.com", "/v1/audio/speech", Surface::Unmetered(OpenAi, Unmetered::Audio)),
        ("api.openai.com", "/v1/images/edits", Surface::Unmetered(OpenAi, Unmetered::Images)),
        ("api.openai.com", "//v1/responses", Surface::Unknown(OpenAi)),
        ("api.openai.com", "/v1/responses/", Surface::Unknown(OpenAi)),
        ("api.openai.com", "/v1/models/../responses", Surface::Unknown(OpenAi)),
        ("api.openai.com", "/V1/responses", Surface::Unknown(OpenAi)),
        ("eu.api.openai.com", "/v1/responses", Surface::Unknown(OpenAi)),
        ("generativelanguage.googleapis.com", "/v1beta/models/x:generateContent", Surface::Paid(Google, Generate)),
        ("chatgpt.com", "/backend-api/codex/responses", Surface::Unknown(OpenAi)),
        ("chatgpt.com", "/backend-api/codex/%72esponses", Surface::Unknown(OpenAi)),
        ("chatgpt.com", "/backend-api//codex/responses", Surface::Unknown(OpenAi)),
        ("chatgpt.com", "/backend-api/x/../codex/responses/compact", Surface::Unknown(OpenAi)),
        ("chatgpt.com", "/backend-api/plugins", Surface::Unpriced),
        ("example.com", "/v1/responses", Surface::Unpriced),
    ] {
        assert_eq!(of(host, &Method::POST, path), want, "{host}{path}");
    }
    assert_eq!(of("api.openai.com", &Method::GET, "/v1/responses"), Surface::Unknown(OpenAi));
}

#[test]
fn side_paths_of_the_agents_are_free() {
    for (method, path) in [
        (Method::HEAD, "/"),
        (Method::GET, "/api/hello"),
        (Method::GET, "/api/claude_code/policy_limits"),
        (Method::GET, "/api/claude_code/settings"),
        (Method::GET, "/api/claude_cli/bootstrap"),
        (Method::GET, "/mcp-registry/v0/servers?limit=100"),
        (Method::GET, "/api/claude_code/organizations/metrics_enabled"),
        (Method::POST, "/api/eval/sdk-zAZezfDKGoZuXXKe"),
        (Method::POST, "/api/event_logging/v2/batch"),
    ] {
        assert_eq!(of("api.anthropic.com", &method, path), Surface::Free(Provider::Anthropic), "{path}");
    }
    assert_eq!(of("api.openai.com", &Method::GET, "/v1/models?client_version=1"), Surface::Free(Provider::OpenAi));
    assert_eq!(of("api.openai.com", &Method::GET, "/v1/models/gpt-5"), Surface::Free(Provider::OpenAi));
    assert_eq!(of("api.openai.com", &Method::POST, "/v1/traces/ingest"), Surface::Free(Provider::OpenAi));
}

#[test]
fn litellm_40010_a_websocket_is_never_unmetered() {
    let headers = HeaderMap::from_iter([(UPGRADE, http::HeaderValue::from_static("websocket"))]);
    for path in ["/v1/responses", "/v1/realtime_x", "/v1/models"] {
        let is = surface(&[], "api.openai.com", &Method::GET, path, &headers);
        assert_eq!(is, Surface::Websocket(Provider::OpenAi), "{path}");
    }
    const LIVE: &str = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?key=x";
    for (host, path, provider) in [
        ("api.openai.com", "/v1/realtime?model=gpt-realtime", Provider::OpenAi),
        ("mine.openai.azure.com", "/openai/realtime?deployment=d", Provider::Azure),
        ("api.x.ai", "/v1/realtime", Provider::Xai),
        ("generativelanguage.googleapis.com", LIVE, Provider::Google),
    ] {
        let is = surface(&[], host, &Method::GET, path, &headers);
        assert_eq!(is, Surface::Unmetered(provider, Unmetered::Realtime), "{host}{path}");
    }
    let is = surface(&[], "chatgpt.com", &Method::GET, "/backend-api/codex/responses", &headers);
    assert_eq!(is, Surface::Websocket(Provider::OpenAi));
}

#[test]
fn a_header_never_takes_a_paid_call_away() {
    const GOOGLE: &str = "generativelanguage.googleapis.com";
    const AWS: &str = "bedrock-runtime.us-east-1.amazonaws.com";
    for name in ["websocket", "WebSocket, x", "x", "h2c", ""] {
        let headers = HeaderMap::from_iter([(UPGRADE, http::HeaderValue::from_static(name))]);
        for (host, path) in [
            ("api.openai.com", "/v1/responses"),
            ("api.openai.com", "/v1/chat/completions"),
            ("api.anthropic.com", "/v1/messages"),
            (GOOGLE, "/v1beta/models/gemini-2.5-pro:generateContent"),
            (AWS, "/model/us.amazon.nova-pro-v1:0/converse"),
            ("mine.openai.azure.com", "/openai/deployments/realtime/chat/completions"),
            ("api.mistral.ai", "/v1/chat/completions"),
            ("openrouter.ai", "/api/v1/chat/completions"),
        ] {
            let is = surface(&[], host, &Method::POST, path, &headers);
            assert!(matches!(is, Surface::Paid(..)), "{name:?} {host}{path}: {is:?}");
        }
        let is = surface(&[], "chatgpt.com", &Method::POST, "/backend-api/codex/responses", &headers);
        assert_eq!(is, Surface::Unknown(Provider::OpenAi));
    }
}

#[test]
fn gemini_bedrock_and_the_compatible_are_known() {
    use Operation::{Chat, Converse, EmbedContent, Embeddings, Generate, Invoke, Responses};
    use Provider::{Azure, Bedrock, DeepSeek, Google, Groq, Mistral, OpenRouter, Together, Xai};
    const GOOGLE: &str = "generativelanguage.googleapis.com";
    const AWS: &str = "bedrock-runtime.us-east-1.amazonaws.com";
    for (host, path, want) in [
        (GOOGLE, "/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse", Surface::Paid(Google, Generate)),
        (GOOGLE, "/v1beta/models/gemini-2.5-pro:countTokens", Surface::Free(Google)),
        (GOOGLE, "/v1beta/models/gemini-embedding-001:batchEmbedContents", Surface::Paid(Google, EmbedContent)),
        (GOOGLE, "/v1beta/openai/chat/completions", Surface::Paid(Google, Chat)),
        (GOOGLE, "/v1beta/models/x%3AgenerateContent", Surface::Unknown(Google)),
        (GOOGLE, "/v1beta/models/../models/x:generateContent", Surface::Unknown(Google)),
        (GOOGLE, "/v1beta/tunedModels/x:generateContent", Surface::Unknown(Google)),
        (GOOGLE, "/v1beta/cachedContents", Surface::Unknown(Google)),
        (GOOGLE, "/upload/v1beta/files", Surface::Unknown(Google)),
        (GOOGLE, "/v1beta/models/x:batchGenerateContent", Surface::Unmetered(Google, Unmetered::Batch)),
        (GOOGLE, "/v1beta/models/imagen-4:predict", Surface::Unmetered(Google, Unmetered::Images)),
        ("us-central1-aiplatform.googleapis.com", "/v1/projects/p", Surface::Unknown(Google)),
        (AWS, "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke", Surface::Paid(Bedrock, Invoke)),
        (AWS, "/model/us.amazon.nova-pro-v1:0/invoke-with-response-stream", Surface::Paid(Bedrock, Invoke)),
        (AWS, "/model/us.amazon.nova-pro-v1:0/converse", Surface::Paid(Bedrock, Converse)),
        (AWS, "/model/us.amazon.nova-pro-v1:0/converse-stream", Surface::Paid(Bedrock, Converse)),
        (AWS, "/model/x/count-tokens", Surface::Free(Bedrock)),
        (AWS, "/model/x%252Fy/converse", Surface::Unknown(Bedrock)),
        (AWS, "/openai/v1/chat/completions", Surface::Paid(Bedrock, Chat)),
        (AWS, "/async-invoke", Surface::Unmetered(Bedrock, Unmetered::Batch)),
        ("bedrock-runtime.us-gov-west-1.amazonaws.com", "/model/x/converse", Surface::Unknown(Bedrock)),
        ("bedrock-agent-runtime.us-east-1.amazonaws.com", "/agents", Surface::Unknown(Bedrock)),
        ("s3.us-east-1.amazonaws.com", "/model/x/converse", Surface::Unpriced),
        ("mine.openai.azure.com", "/openai/deployments/d/chat/completions?api-version=1", Surface::Paid(Azure, Chat)),
        (
            "mine.openai.azure.com",
            "/openai/deployments/d/images/generations",
            Surface::Unmetered(Azure, Unmetered::Images),
        ),
        ("mine.openai.azure.com", "/openai/batches", Surface::Unmetered(Azure, Unmetered::Batch)),
        ("mine.openai.azure.com", "/openai/realtime", Surface::Unmetered(Azure, Unmetered::Realtime)),
        ("mine.openai.azure.com", "/openai/files", Surface::Unknown(Azure)),
        ("mine.openai.azure.com", "/openai/deployments/../d/chat/completions", Surface::Unknown(Azure)),
        ("mine.openai.azure.com", "/openai/v1/responses", Surface::Paid(Azure, Responses)),
        ("api.mistral.ai", "/v1/chat/completions", Surface::Paid(Mistral, Chat)),
        ("api.mistral.ai", "/v1/ocr", Surface::Unknown(Mistral)),
        ("api.groq.com", "/openai/v1/chat/completions", Surface::Paid(Groq, Chat)),
        ("api.groq.com", "/openai/v1/audio/transcriptions", Surface::Unmetered(Groq, Unmetered::Audio)),
        ("api.deepseek.com", "/chat/completions", Surface::Paid(DeepSeek, Chat)),
        ("api.deepseek.com", "/anthropic/v1/messages", Surface::Unknown(DeepSeek)),
        ("api.x.ai", "/v1/chat/completions", Surface::Paid(Xai, Chat)),
        ("openrouter.ai", "/api/v1/chat/completions", Surface::Paid(OpenRouter, Chat)),
        ("api.together.xyz", "/v1/embeddings", Surface::Paid(Together, Embeddings)),
    ] {
        assert_eq!(of(host, &Method::POST, path), want, "{host}{path}");
    }
    assert_eq!(of("api.mistral.ai", &Method::GET, "/v1/models"), Surface::Free(Mistral));
}

#[test]
fn an_operators_own_base_is_where_it_says() {
    let extra = [
        Extra { host: "llm.corp.example".into(), provider: Provider::Vllm, base: Some("/serve/v1".into()) },
        Extra { host: "127.0.0.1".into(), provider: Provider::Ollama, base: None },
    ];
    let of = |host: &str, path: &str| surface(&extra, host, &Method::POST, path, &HeaderMap::new());
    assert_eq!(of("llm.corp.example", "/serve/v1/chat/completions"), Surface::Paid(Provider::Vllm, Operation::Chat));
    assert_eq!(of("llm.corp.example", "/v1/chat/completions"), Surface::Unknown(Provider::Vllm));
    assert_eq!(of("127.0.0.1", "/v1/chat/completions"), Surface::Paid(Provider::Ollama, Operation::Chat));
    assert_eq!(of("127.0.0.1", "/api/chat"), Surface::Unknown(Provider::Ollama));
}

#[test]
fn a_path_names_the_model() {
    let model = |operation, path: &str| model_in(operation, path);
    assert_eq!(
        model(Operation::Generate, "/v1beta/models/gemini-2.5-pro:generateContent").as_deref(),
        Some("gemini-2.5-pro")
    );
    assert_eq!(model(Operation::Converse, "/model/a.b-v1%3A0/converse").as_deref(), Some("a.b-v1:0"));
    let profile = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.a.b-v1%3A0/invoke";
    assert_eq!(model(Operation::Invoke, profile).as_deref(), Some("us.a.b-v1:0"));
    assert_eq!(model(Operation::Invoke, "/model/a%2e%2e/invoke"), None);
    assert_eq!(model(Operation::Chat, "/openai/deployments/mine/chat/completions").as_deref(), Some("mine"));
    assert_eq!(model(Operation::Chat, "/v1/chat/completions"), None);
}
