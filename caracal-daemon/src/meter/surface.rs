//! What a request to a host and path is, before its body is read. Exact paths only: anything else of a priced host is
//! unknown, and so refused unless a rule marks it free.

use super::{Operation, Provider, Surface};
use http::header::UPGRADE;
use http::{HeaderMap, Method};
use std::collections::HashMap;

/// What this request is. `host` is in lower case, without port and trailing dot.
pub(crate) fn surface(
    extra: &HashMap<String, Provider>,
    host: &str,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Surface {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let known = match host {
        "api.openai.com" => Some(Provider::OpenAi),
        "api.anthropic.com" => Some(Provider::Anthropic),
        "generativelanguage.googleapis.com" => Some(Provider::Google),
        _ => extra.get(host).copied(),
    };
    match known {
        Some(provider) if headers.contains_key(UPGRADE) => Surface::Websocket(provider),
        Some(Provider::OpenAi) => openai(method, path),
        Some(Provider::Anthropic) => anthropic(method, path),
        Some(Provider::Google) => google(method, path),
        None => unlisted(host, path, headers),
    }
}

/// Paid surfaces on hosts whose prices are not known here.
fn unlisted(host: &str, path: &str, headers: &HeaderMap) -> Surface {
    // Regional hosts bill an uplift of their own.
    if host.ends_with(".api.openai.com") {
        return Surface::Unknown(Provider::OpenAi);
    }
    // A subscription's model calls; the rest of that host costs nothing.
    if host == "chatgpt.com" && path.starts_with("/backend-api/codex/") && path.contains("responses") {
        return if headers.contains_key(UPGRADE) {
            Surface::Websocket(Provider::OpenAi)
        } else {
            Surface::Unknown(Provider::OpenAi)
        };
    }
    Surface::Unpriced
}

fn reads(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// A path below `prefix` with one further plain segment.
fn below(path: &str, prefix: &str) -> bool {
    let segment = path.strip_prefix(prefix);
    segment.is_some_and(|name| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    })
}

fn openai(method: &Method, path: &str) -> Surface {
    let free = match path {
        "/" | "/v1/models" => reads(method),
        // Counts tokens, checks content, takes traces: none is billed.
        "/v1/responses/input_tokens" | "/v1/moderations" | "/v1/traces/ingest" => *method == Method::POST,
        _ => reads(method) && below(path, "/v1/models/"),
    };
    let paid = match path {
        "/v1/chat/completions" => Some(Operation::Chat),
        "/v1/responses" => Some(Operation::Responses),
        "/v1/embeddings" => Some(Operation::Embeddings),
        _ => None,
    };
    decide(Provider::OpenAi, method, free, paid)
}

fn anthropic(method: &Method, path: &str) -> Surface {
    let free = match path {
        "/" | "/api/hello" | "/v1/models" | "/mcp-registry/v0/servers" => reads(method),
        "/api/claude_code/policy_limits"
        | "/api/claude_code/settings"
        | "/api/claude_cli/bootstrap"
        | "/api/claude_code_penguin_mode" => reads(method),
        "/api/claude_code/organizations/metrics_enabled" | "/api/oauth/profile" | "/api/oauth/account/settings" => {
            reads(method)
        }
        "/v1/messages/count_tokens" => *method == Method::POST,
        "/api/event_logging/batch" | "/api/event_logging/v2/batch" | "/api/claude_code/metrics" => {
            *method == Method::POST
        }
        _ => {
            (reads(method) && below(path, "/v1/models/")) || (*method == Method::POST && below(path, "/api/eval/sdk-"))
        }
    };
    let paid = (path == "/v1/messages").then_some(Operation::Messages);
    decide(Provider::Anthropic, method, free, paid)
}

fn google(method: &Method, path: &str) -> Surface {
    let free = reads(method) && matches!(path, "/" | "/v1/models" | "/v1beta/models");
    decide(Provider::Google, method, free, None)
}

fn decide(provider: Provider, method: &Method, free: bool, paid: Option<Operation>) -> Surface {
    match paid {
        _ if free => Surface::Free(provider),
        Some(operation) if *method == Method::POST => Surface::Paid(provider, operation),
        _ => Surface::Unknown(provider),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(host: &str, method: &Method, path: &str) -> Surface {
        let extra = HashMap::from([("llm.example.com".to_owned(), Provider::OpenAi)]);
        surface(&extra, host, method, path, &HeaderMap::new())
    }

    #[test]
    fn paid_calls_are_known_by_exact_path_and_method() {
        use Operation::{Chat, Embeddings, Messages, Responses};
        use Provider::{Anthropic, Google, OpenAi};
        for (host, path, want) in [
            ("api.openai.com", "/v1/chat/completions", Surface::Paid(OpenAi, Chat)),
            ("api.openai.com", "/v1/responses", Surface::Paid(OpenAi, Responses)),
            ("api.openai.com", "/v1/embeddings", Surface::Paid(OpenAi, Embeddings)),
            ("llm.example.com", "/v1/chat/completions", Surface::Paid(OpenAi, Chat)),
            ("api.anthropic.com", "/v1/messages?beta=true", Surface::Paid(Anthropic, Messages)),
            ("api.anthropic.com", "/v1/messages/count_tokens?beta=true", Surface::Free(Anthropic)),
            ("api.anthropic.com", "/v1/messages/batches", Surface::Unknown(Anthropic)),
            ("api.openai.com", "/v1/responses/compact", Surface::Unknown(OpenAi)),
            ("api.openai.com", "/v1/batches", Surface::Unknown(OpenAi)),
            ("api.openai.com", "//v1/responses", Surface::Unknown(OpenAi)),
            ("api.openai.com", "/v1/responses/", Surface::Unknown(OpenAi)),
            ("api.openai.com", "/v1/models/../responses", Surface::Unknown(OpenAi)),
            ("api.openai.com", "/V1/responses", Surface::Unknown(OpenAi)),
            ("eu.api.openai.com", "/v1/responses", Surface::Unknown(OpenAi)),
            ("generativelanguage.googleapis.com", "/v1beta/models/x:generateContent", Surface::Unknown(Google)),
            ("chatgpt.com", "/backend-api/codex/responses", Surface::Unknown(OpenAi)),
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
        for path in ["/v1/responses", "/v1/realtime?model=gpt-realtime", "/v1/models"] {
            let is = surface(&HashMap::new(), "api.openai.com", &Method::GET, path, &headers);
            assert_eq!(is, Surface::Websocket(Provider::OpenAi), "{path}");
        }
        let is = surface(&HashMap::new(), "chatgpt.com", &Method::GET, "/backend-api/codex/responses", &headers);
        assert_eq!(is, Surface::Websocket(Provider::OpenAi));
    }
}
