//! Providers that speak OpenAI's shape: where each has its API, and in which of its words it tells the usage.

use super::bill::Tokens;
use serde_json::{Value, json};

/// Hosts, what may stand before a call, and who it is.
const PLACES: &[(&str, &[&str], &str)] = &[
    ("api.openai.com", &["/v1"], "openai"),
    ("api.mistral.ai", &["/v1"], "mistral"),
    ("api.groq.com", &["/openai/v1"], "groq"),
    ("api.deepseek.com", &["/v1", ""], "deepseek"),
    ("api.x.ai", &["/v1"], "xai"),
    ("openrouter.ai", &["/api/v1"], "openrouter"),
    ("api.together.xyz", &["/v1"], "together"),
    ("mine.openai.azure.com", &["/openai/v1"], "azure"),
    ("ollama.example", &["/v1"], "ollama"),
    ("llm.example", &["/serve/v1"], "vllm"),
];
const DEPLOYMENTS: &str = "/openai/deployments/";

/// Whose call it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The provider.
    pub provider: &'static str,
    /// The model, where the path names it.
    pub model: Option<String>,
}

/// Whether `host` has such an API.
#[must_use]
pub fn is_host(host: &str) -> bool {
    PLACES.iter().any(|(known, ..)| *known == host)
}

/// Whose API `host` has, and the path behind its base. `None` for any other host or base.
#[must_use]
pub fn place(host: &str, path: &str) -> Option<(Whose, String)> {
    let (_, bases, provider) = PLACES.iter().find(|(known, ..)| *known == host)?;
    if let Some(deployed) = path.strip_prefix(DEPLOYMENTS).filter(|_| *provider == "azure") {
        let (name, call) = deployed.split_once('/')?;
        return Some((Whose { provider, model: Some(name.to_owned()) }, format!("/{call}")));
    }
    let call = bases.iter().find_map(|base| path.strip_prefix(base)).filter(|call| call.starts_with('/'))?;
    Some((Whose { provider, model: None }, call.to_owned()))
}

impl Whose {
    /// A stream tells its usage to who did not ask for it, too.
    #[must_use]
    pub fn always_tells(&self) -> bool {
        matches!(self.provider, "mistral" | "openrouter")
    }

    /// A stream's usage stands in the chunk that says why it stopped, and not in one of its own.
    #[must_use]
    pub fn tells_at_the_stop(&self) -> bool {
        self.provider == "mistral"
    }

    /// `usage` of a chat completion.
    #[must_use]
    pub fn usage(&self, tokens: &Tokens) -> Value {
        let input = tokens.input + tokens.cache_read;
        let mut out = json!({
            "prompt_tokens": input, "completion_tokens": tokens.output, "total_tokens": input + tokens.output,
        });
        match self.provider {
            "deepseek" => {
                out["prompt_cache_hit_tokens"] = json!(tokens.cache_read);
                out["prompt_cache_miss_tokens"] = json!(tokens.input);
            }
            "ollama" | "vllm" => return out,
            _ => out["prompt_tokens_details"] = json!({"cached_tokens": tokens.cache_read, "audio_tokens": 0}),
        }
        out["completion_tokens_details"] = json!({"reasoning_tokens": tokens.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0});
        match self.provider {
            // Reasoning stands in the total alone.
            "xai" => out["completion_tokens"] = json!(tokens.output - tokens.reasoning),
            "openrouter" => out["cost"] = json!(0.000_1),
            _ => {}
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stands_behind_its_base() {
        let whose = |provider| Whose { provider, model: None };
        let chat = || "/chat/completions".to_owned();
        assert_eq!(place("api.groq.com", "/openai/v1/chat/completions"), Some((whose("groq"), chat())));
        assert_eq!(place("api.deepseek.com", "/chat/completions"), Some((whose("deepseek"), chat())));
        assert_eq!(place("api.groq.com", "/v1/chat/completions"), None);
        assert_eq!(place("example.com", "/v1/chat/completions"), None);
        let azure = place("mine.openai.azure.com", "/openai/deployments/mine/chat/completions");
        assert_eq!(azure, Some((Whose { provider: "azure", model: Some("mine".into()) }, chat())));
        assert_eq!(
            place("mine.openai.azure.com", "/openai/v1/responses").map(|(_, call)| call),
            Some("/responses".into())
        );
    }
}
