//! Whose API a priced host speaks: the sellers by name, the hosts and bases that belong to them, and what of OpenAI's
//! shape each of them takes. Data only; a base that is not here comes from `[[provider]]` of the configuration.

/// Whose API it is, and under which name its prices stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google Gemini.
    Google,
    /// AWS Bedrock.
    Bedrock,
    /// Azure's deployments of OpenAI's models.
    Azure,
    /// Mistral.
    Mistral,
    /// Groq.
    Groq,
    /// DeepSeek.
    DeepSeek,
    /// xAI.
    Xai,
    /// OpenRouter.
    OpenRouter,
    /// Together.
    Together,
    /// Ollama.
    Ollama,
    /// vLLM.
    Vllm,
    /// Any other that speaks OpenAI's shape.
    Other,
    /// A tool server (MCP), by `[[mcp]]`.
    Mcp,
    /// A plain API, by `[[api]]`.
    Api,
}

/// What of OpenAI's chat shape a provider takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// The output caps that it enforces; the first is the one that is written where none stands.
    pub(crate) caps: &'static [&'static str],
    /// It knows `stream_options`; the others refuse the member or report usage anyway.
    pub(crate) stream_options: bool,
}

/// A host, and where its API begins.
pub(crate) struct Base {
    pub(crate) host: &'static str,
    pub(crate) provider: Provider,
    pub(crate) bases: &'static [&'static str],
}

const fn base(host: &'static str, provider: Provider, bases: &'static [&'static str]) -> Base {
    Base { host, provider, bases }
}

/// Hosts that speak OpenAI's shape. A `*` stands for any part of one label.
pub(crate) const BASES: &[Base] = &[
    base("api.mistral.ai", Provider::Mistral, &["/v1"]),
    base("codestral.mistral.ai", Provider::Mistral, &["/v1"]),
    base("api.groq.com", Provider::Groq, &["/openai/v1"]),
    base("api.deepseek.com", Provider::DeepSeek, &["/v1", ""]),
    base("api.x.ai", Provider::Xai, &["/v1"]),
    base("openrouter.ai", Provider::OpenRouter, &["/api/v1"]),
    base("api.together.xyz", Provider::Together, &["/v1"]),
    base("api.together.ai", Provider::Together, &["/v1"]),
    base("*.openai.azure.com", Provider::Azure, &["/openai/v1"]),
    base("*.cognitiveservices.azure.com", Provider::Azure, &["/openai/v1"]),
    base("*.services.ai.azure.com", Provider::Azure, &["/openai/v1"]),
];

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 16] = [
        Provider::OpenAi,
        Provider::Anthropic,
        Provider::Google,
        Provider::Bedrock,
        Provider::Azure,
        Provider::Mistral,
        Provider::Groq,
        Provider::DeepSeek,
        Provider::Xai,
        Provider::OpenRouter,
        Provider::Together,
        Provider::Ollama,
        Provider::Vllm,
        Provider::Other,
        Provider::Mcp,
        Provider::Api,
    ];

    /// The name that records, budgets and policies use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Provider::OpenAi => "openai",
            Provider::Anthropic => "anthropic",
            Provider::Google => "google",
            Provider::Bedrock => "bedrock",
            Provider::Azure => "azure",
            Provider::Mistral => "mistral",
            Provider::Groq => "groq",
            Provider::DeepSeek => "deepseek",
            Provider::Xai => "xai",
            Provider::OpenRouter => "openrouter",
            Provider::Together => "together",
            Provider::Ollama => "ollama",
            Provider::Vllm => "vllm",
            Provider::Other => "other",
            Provider::Mcp => "mcp",
            Provider::Api => "api",
        }
    }

    /// The provider of this name, for configuration.
    #[must_use]
    pub fn named(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// What of OpenAI's shape it takes. A cap that a provider does not know would bound nothing, so only those count that
    /// its reference names.
    pub(crate) fn habits(self) -> Habits {
        let (caps, stream_options): (&[&str], bool) = match self {
            Provider::Mistral => (&["max_tokens"], false),
            Provider::DeepSeek | Provider::Together | Provider::Ollama | Provider::Google | Provider::Other => {
                (&["max_tokens"], true)
            }
            Provider::OpenRouter | Provider::Vllm => (&["max_tokens", "max_completion_tokens"], true),
            _ => (&["max_completion_tokens", "max_tokens"], true),
        };
        Habits { caps, stream_options }
    }

    /// Where the API begins on a host of the operator's, unless the configuration says otherwise.
    pub(crate) fn usual_base(self) -> &'static str {
        BASES.iter().find(|base| base.provider == self).and_then(|base| base.bases.first().copied()).unwrap_or("/v1")
    }
}

/// Whether `host` fits `pattern`, in which a `*` stands for any part of one label.
pub(crate) fn fits(pattern: &str, host: &str) -> bool {
    let (mut left, mut right) = (pattern.split('.'), host.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(glob), Some(label)) if !label.is_empty() && label_fits(glob, label) => {}
            _ => return false,
        }
    }
}

fn label_fits(glob: &str, label: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == label };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = label.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else { return false };
    for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
        let Some((_, after)) = text.split_once(piece) else { return false };
        text = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for provider in Provider::ALL {
            assert_eq!(Provider::named(provider.name()), Some(provider));
        }
    }

    #[test]
    fn a_star_stays_within_its_label() {
        assert!(fits("bedrock-runtime.*-*-*.amazonaws.com", "bedrock-runtime.us-east-1.amazonaws.com"));
        assert!(!fits("bedrock-runtime.*-*-*.amazonaws.com", "bedrock-runtime.s3.amazonaws.com"));
        assert!(fits("*.openai.azure.com", "mine.openai.azure.com"));
        for host in ["openai.azure.com", ".openai.azure.com", "a.b.openai.azure.com", "mine.openai.azure.com.evil"] {
            assert!(!fits("*.openai.azure.com", host), "{host}");
        }
    }
}
