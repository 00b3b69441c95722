//! What a request to a host and path is, before its body is read. Exact paths only: anything else of a priced host is
//! unknown, and so refused unless a rule marks it free.

use super::provider::{BASES, fits};
use super::{Operation, Provider, Surface, bedrock};
use crate::policy::other_readings;
use crate::refusal::Reason;
use http::header::UPGRADE;
use http::{HeaderMap, Method};

/// Why a paid call is not metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmetered {
    /// Speech, by seconds, characters or audio tokens.
    Audio,
    /// Pictures, by size and quality.
    Images,
    /// Moving pictures, by seconds.
    Video,
    /// Sessions over a socket.
    Realtime,
    /// Work that ends hours later, of which the request tells nothing.
    Batch,
}

impl Unmetered {
    /// The reason of its refusal.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Unmetered::Audio => Reason::AudioUnmetered,
            Unmetered::Images => Reason::ImagesUnmetered,
            Unmetered::Video => Reason::VideoUnmetered,
            Unmetered::Realtime => Reason::RealtimeUnmetered,
            Unmetered::Batch => Reason::BatchUnmetered,
        }
    }

    /// Why, as a part of a sentence.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Unmetered::Audio => "audio is billed by other units than tokens of text",
            Unmetered::Images => "images are billed by size and quality",
            Unmetered::Video => "video is billed by its length",
            Unmetered::Realtime => "a realtime session is billed as it goes on, and its request tells nothing of it",
            Unmetered::Batch => "a batch is billed hours later, and its request tells nothing of what is in it",
        }
    }
}

/// A base of the operator's, by `[[provider]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The host, in lower case; a `*` stands for any part of one label.
    pub host: String,
    /// Whose prices and shape.
    pub provider: Provider,
    /// What stands before `/chat/completions`; none: the provider's own.
    pub base: Option<String>,
}

/// What this request is. `host` is in lower case, without port and trailing dot.
pub(crate) fn surface(extra: &[Extra], host: &str, method: &Method, path: &str, headers: &HeaderMap) -> Surface {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let known = match host {
        "api.openai.com" => Some(Provider::OpenAi),
        "api.anthropic.com" => Some(Provider::Anthropic),
        "generativelanguage.googleapis.com" => Some(Provider::Google),
        _ if is_bedrock(host) => Some(Provider::Bedrock),
        _ => None,
    };
    let mine = extra.iter().find(|extra| fits(&extra.host, host));
    let base = BASES.iter().find(|base| fits(base.host, host));
    let provider = known.or(mine.map(|extra| extra.provider)).or(base.map(|base| base.provider));
    // Only what can become a socket is one (RFC 6455, 4.1): any other request goes by its path, since a server may ignore the
    // header and answer (RFC 9110, 7.8). Nothing that is paid by its path is a GET.
    let socket = *method == Method::GET && asks_for_websocket(headers);
    match provider {
        None => unlisted(host, path, socket),
        Some(provider) if socket && is_realtime(path) => Surface::Unmetered(provider, Unmetered::Realtime),
        Some(provider) if socket => Surface::Websocket(provider),
        Some(Provider::OpenAi) if mine.is_none_or(|extra| extra.base.is_none()) => openai(method, path),
        Some(Provider::Anthropic) => anthropic(method, path),
        Some(Provider::Google) => google(method, path),
        Some(Provider::Bedrock) => aws(method, path),
        Some(Provider::Azure) if path.starts_with(DEPLOYMENTS) => deployment(method, path),
        Some(provider) => {
            let own = mine.map(|extra| extra.base.as_deref().unwrap_or(provider.usual_base()));
            let listed = base.map_or(&[][..], |base| base.bases);
            let rest = own.into_iter().chain(listed.iter().copied()).find_map(|base| path.strip_prefix(base));
            // Azure serves these beside its deployments and its base.
            let aside = path.strip_prefix("/openai").filter(|_| provider == Provider::Azure && rest.is_none());
            match aside.and_then(unmetered) {
                Some(why) => Surface::Unmetered(provider, why),
                None => compatible(provider, method, rest),
            }
        }
    }
}

/// Whether `Upgrade` names a WebSocket, alone or among others.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let names = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    names.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("websocket"))
}

/// A session of speech: OpenAI's path, at whoever speaks its shape, and Gemini's method.
fn is_realtime(path: &str) -> bool {
    path.split('/').any(|part| part == "realtime") || path.ends_with("BidiGenerateContent")
}

/// `bedrock-runtime` in a commercial region, directly or by an endpoint of a private network.
fn is_bedrock(host: &str) -> bool {
    const HOSTS: [&str; 4] = [
        "bedrock-runtime.*-*-*.amazonaws.com",
        "bedrock-runtime-fips.*-*-*.amazonaws.com",
        "bedrock-runtime.*-*-*.api.aws",
        "*.bedrock-runtime.*-*-*.vpce.amazonaws.com",
    ];
    !host.contains("-gov-") && HOSTS.iter().any(|pattern| fits(pattern, host))
}

/// Paid surfaces on hosts whose prices are not known here: refused unless a rule says otherwise.
const UNPRICED: &[(&str, Provider)] = &[
    ("bedrock-runtime.*.amazonaws.com", Provider::Bedrock),
    ("bedrock-runtime-fips.*.amazonaws.com", Provider::Bedrock),
    ("bedrock-runtime.*.amazonaws.com.cn", Provider::Bedrock),
    ("bedrock-agent-runtime.*.amazonaws.com", Provider::Bedrock),
    ("bedrock-mantle.*.api.aws", Provider::Bedrock),
    ("aiplatform.googleapis.com", Provider::Google),
    ("*-aiplatform.googleapis.com", Provider::Google),
    ("aiplatform.*.rep.googleapis.com", Provider::Google),
    ("*.api.x.ai", Provider::Xai),
    // Regional hosts bill an uplift of their own.
    ("*.api.openai.com", Provider::OpenAi),
];

/// Hosts that are not priced, and those that would be if their prices were known.
fn unlisted(host: &str, path: &str, socket: bool) -> Surface {
    if let Some((_, provider)) = UNPRICED.iter().find(|(pattern, _)| fits(pattern, host)) {
        return Surface::Unknown(*provider);
    }
    // A subscription's model calls; the rest of that host costs nothing.
    let call = |path: &str| path.starts_with("/backend-api/codex/") && path.contains("responses");
    if host == "chatgpt.com" && (call(path) || other_readings(path).iter().any(|reading| call(reading))) {
        return if socket { Surface::Websocket(Provider::OpenAi) } else { Surface::Unknown(Provider::OpenAi) };
    }
    Surface::Unpriced
}

const DEPLOYMENTS: &str = "/openai/deployments/";

/// The model that the path names, where it is the path that does; `None` for an id that has two readings.
pub(crate) fn model_in(operation: Operation, path: &str) -> Option<String> {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    match operation {
        Operation::Generate | Operation::EmbedContent => {
            let (_, last) = path.rsplit_once('/')?;
            last.rsplit_once(':').map(|(model, _)| model.to_owned())
        }
        Operation::Invoke | Operation::Converse => {
            let id = path.strip_prefix("/model/")?.split('/').next()?;
            Some(bedrock::model(&unescaped(id)?).to_owned())
        }
        _ => path.strip_prefix(DEPLOYMENTS)?.split('/').next().map(str::to_owned),
    }
}

/// An id with `%3A` and `%2F` resolved, and nothing else to resolve.
fn unescaped(id: &str) -> Option<String> {
    let text = id.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/");
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte));
    (plain && !text.contains("..")).then_some(text)
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
    if let Some(why) = path.strip_prefix("/v1").and_then(unmetered) {
        return Surface::Unmetered(Provider::OpenAi, why);
    }
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
    if path == "/v1/messages/batches" || path.starts_with("/v1/messages/batches/") {
        return Surface::Unmetered(Provider::Anthropic, Unmetered::Batch);
    }
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
    let version = ["/v1beta", "/v1", "/v1alpha"].into_iter().find_map(|version| path.strip_prefix(version));
    let Some(rest) = version.filter(|rest| rest.starts_with('/')) else {
        return decide(Provider::Google, method, reads(method) && path == "/", None);
    };
    if let Some(rest) = rest.strip_prefix("/openai") {
        return compatible(Provider::Google, method, Some(rest));
    }
    let call = rest.strip_prefix("/models/").and_then(|call| call.rsplit_once(':'));
    let call = call.filter(|(model, _)| below(model, "") && !model.contains(':')).map(|(_, call)| call);
    let free = match call {
        Some(call) => *method == Method::POST && call == "countTokens",
        None => reads(method) && (rest == "/models" || (below(rest, "/models/") && !rest.contains(':'))),
    };
    match call {
        Some("batchGenerateContent" | "asyncBatchEmbedContent") => {
            return Surface::Unmetered(Provider::Google, Unmetered::Batch);
        }
        Some("predict" | "predictLongRunning") => return Surface::Unmetered(Provider::Google, Unmetered::Images),
        Some("bidiGenerateContent") => return Surface::Unmetered(Provider::Google, Unmetered::Realtime),
        _ => {}
    }
    let paid = match call {
        Some("generateContent" | "streamGenerateContent") => Some(Operation::Generate),
        Some("embedContent" | "batchEmbedContents") => Some(Operation::EmbedContent),
        _ => None,
    };
    decide(Provider::Google, method, free, paid)
}

fn aws(method: &Method, path: &str) -> Surface {
    if let Some(rest) = path.strip_prefix("/openai/v1") {
        return compatible(Provider::Bedrock, method, Some(rest));
    }
    let call = path.strip_prefix("/model/").and_then(|rest| rest.split_once('/'));
    let call = call.filter(|(id, _)| unescaped(id).is_some_and(|id| !id.is_empty())).map(|(_, call)| call);
    match call {
        Some("invoke-with-bidirectional-stream") => {
            return Surface::Unmetered(Provider::Bedrock, Unmetered::Realtime);
        }
        _ if path.starts_with("/async-invoke") => return Surface::Unmetered(Provider::Bedrock, Unmetered::Batch),
        _ => {}
    }
    let paid = match call {
        Some("invoke" | "invoke-with-response-stream") => Some(Operation::Invoke),
        Some("converse" | "converse-stream") => Some(Operation::Converse),
        _ => None,
    };
    decide(Provider::Bedrock, method, *method == Method::POST && call == Some("count-tokens"), paid)
}

/// A deployment of Azure's: its name in the path stands for the model.
fn deployment(method: &Method, path: &str) -> Surface {
    let call = path.strip_prefix(DEPLOYMENTS).and_then(|rest| rest.split_once('/'));
    let call = call.filter(|(name, _)| below(name, "")).map(|(_, call)| format!("/{call}"));
    compatible(Provider::Azure, method, call.as_deref())
}

/// OpenAI's shape at another base; `rest` is the path behind it.
fn compatible(provider: Provider, method: &Method, rest: Option<&str>) -> Surface {
    let Some(rest) = rest else { return Surface::Unknown(provider) };
    if let Some(why) = unmetered(rest) {
        return Surface::Unmetered(provider, why);
    }
    let free = reads(method) && (rest == "/models" || below(rest, "/models/"));
    let paid = match rest {
        "/chat/completions" => Some(Operation::Chat),
        "/embeddings" => Some(Operation::Embeddings),
        "/responses" if matches!(provider, Provider::Azure | Provider::OpenAi) => Some(Operation::Responses),
        _ => None,
    };
    decide(provider, method, free, paid)
}

/// Calls that are billed by other units than tokens of text, by the path behind the base.
fn unmetered(rest: &str) -> Option<Unmetered> {
    let first = rest.strip_prefix('/')?.split('/').next()?;
    Some(match first {
        "audio" => Unmetered::Audio,
        "images" => Unmetered::Images,
        "videos" => Unmetered::Video,
        "realtime" => Unmetered::Realtime,
        "batches" | "batch" => Unmetered::Batch,
        _ => return None,
    })
}

fn decide(provider: Provider, method: &Method, free: bool, paid: Option<Operation>) -> Surface {
    match paid {
        _ if free => Surface::Free(provider),
        Some(operation) if *method == Method::POST => Surface::Paid(provider, operation),
        _ => Surface::Unknown(provider),
    }
}

#[cfg(test)]
mod tests;
