//! `[[provider]]`, `[[mcp]]` and `[[api]]`: hosts of the operator's that cost money, and the hosts that everybody's calls cost
//! money on.

use super::amount::parse_usd;
use super::hosts::HostPattern;
use super::problem::Found;
use super::rules::{AllowRule, Glob, RuleMode};
use crate::money::NanoUsd;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashSet};

/// Hosts whose calls cost money, each with every name below it: their bytes are always read. A `*` stands for any part of
/// one label.
pub const PRICED_HOSTS: [&str; 19] = [
    "api.openai.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "chatgpt.com",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.groq.com",
    "api.deepseek.com",
    "api.x.ai",
    "openrouter.ai",
    "api.together.xyz",
    "api.together.ai",
    "openai.azure.com",
    "services.ai.azure.com",
    "aiplatform.googleapis.com",
    "*-aiplatform.googleapis.com",
    "bedrock-runtime.*-*-*.amazonaws.com",
    "bedrock-runtime-fips.*-*-*.amazonaws.com",
    "bedrock-runtime.*-*-*.api.aws",
];

/// The priced host that the pattern could stand for.
#[must_use]
pub fn may_be_priced(pattern: &HostPattern) -> Option<&'static str> {
    PRICED_HOSTS.into_iter().find(|priced| covers(pattern, priced))
}

/// Whether `pattern` could stand for `priced` or a name below it.
fn covers(pattern: &HostPattern, priced: &str) -> bool {
    let labels: Vec<&str> = priced.split('.').rev().collect();
    let meets = |own: &str| own.split('.').rev().zip(&labels).all(|(own, label)| label_fits(label, own));
    match pattern {
        HostPattern::Any => true,
        HostPattern::Name(name) => name.split('.').count() >= labels.len() && meets(name),
        HostPattern::Suffix(suffix) => meets(suffix),
        HostPattern::Address(_) | HostPattern::Range(_) => pattern.to_string() == priced,
    }
}

fn label_fits(glob: &str, label: &str) -> bool {
    if glob == "*-*-*" {
        return label.matches('-').count() >= 2;
    }
    match glob.strip_prefix('*') {
        Some(tail) => label.ends_with(tail),
        None => glob == label,
    }
}

/// `[[provider]]`: a base that speaks a provider's shape.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// Its host: a name or an address.
    pub host: String,
    /// Whose shape it speaks and under whose name its prices stand: `openai`, `azure`, `ollama`, `vllm`, `other`, ...
    pub provider: String,
    /// What stands before `/chat/completions`. Default the provider's own, or `/v1`.
    pub base: Option<String>,
}

/// `[[mcp]]`: a server of tools, and what a call of each costs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpEntry {
    /// What records, budgets and policies call it: `[a-z0-9._-]{1,64}`. A tool is then `name/tool`.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Where it listens. Default every path.
    #[serde(default)]
    pub paths: Vec<Glob>,
    /// What a call of each tool costs; `*` stands for all others. A tool without a price is refused.
    #[serde(deserialize_with = "prices")]
    pub prices: BTreeMap<String, NanoUsd>,
}

/// `[[api]]`: paths of a host that cost money for each call or for each byte.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiEntry {
    /// What records, budgets and policies call it: `[a-z0-9._-]{1,64}`.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its paths. Default every path.
    #[serde(default)]
    pub paths: Vec<Glob>,
    /// For one call. Default nothing.
    #[serde(default, deserialize_with = "amount")]
    pub call: NanoUsd,
    /// For 1,048,576 bytes of a request's body. Default nothing.
    #[serde(default, deserialize_with = "amount")]
    pub sent_mib: NanoUsd,
    /// For 1,048,576 bytes of an answer's body. Default nothing.
    #[serde(default, deserialize_with = "amount")]
    pub received_mib: NanoUsd,
    /// The longest answer, bytes: what is held where answers cost by the byte.
    pub max_received_bytes: Option<u64>,
}

fn amount<'de, D: Deserializer<'de>>(from: D) -> Result<NanoUsd, D::Error> {
    let text = String::deserialize(from)?;
    parse_usd(&text).map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}")))
}

fn prices<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, NanoUsd>, D::Error> {
    let written = BTreeMap::<String, String>::deserialize(from)?;
    let read = |(tool, text): (String, String)| {
        parse_usd(&text).map(|nano| (tool, nano)).map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}")))
    };
    written.into_iter().map(read).collect()
}

fn host(text: &str, section: &'static str) -> Result<String, Found> {
    match text.parse::<HostPattern>() {
        Ok(HostPattern::Name(name)) => Ok(name),
        Ok(HostPattern::Address(address)) => Ok(address.to_string()),
        Ok(_) => Err(Found::new(0, section, format!("{text:?}: `host` is one name or one address"))),
        Err(why) => Err(Found::new(0, section, why)),
    }
}

/// The hosts of the operator's entries, in lower case.
#[must_use]
pub fn own_hosts(config: &super::Config) -> Vec<String> {
    let hosts = config.provider.iter().map(|entry| &entry.host);
    let hosts =
        hosts.chain(config.mcp.iter().map(|entry| &entry.host)).chain(config.api.iter().map(|entry| &entry.host));
    let mut hosts: Vec<String> = hosts.filter_map(|text| host(text, "host").ok()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// What these sections must not say.
pub(super) fn check(config: &super::Config) -> Result<(), Found> {
    let mut names = HashSet::new();
    for entry in &config.provider {
        host(&entry.host, "provider")?;
        let known = crate::config::PROVIDERS.contains(&entry.provider.as_str());
        if !known {
            let message = format!("{:?}: write one of {}", entry.provider, crate::config::PROVIDERS.join(", "));
            return Err(Found::new(0, "provider", message));
        }
        if entry.base.as_deref().is_some_and(|base| !base.is_empty() && (!base.starts_with('/') || base.ends_with('/')))
        {
            return Err(Found::new(0, "provider", "`base` begins with / and does not end with one, such as \"/v1\""));
        }
    }
    let named = config.mcp.iter().map(|entry| ("mcp", &entry.name, &entry.host));
    for (section, name, on) in named.chain(config.api.iter().map(|entry| ("api", &entry.name, &entry.host))) {
        host(on, section)?;
        if !super::is_name(name) {
            return Err(Found::new(0, section, format!("{name:?}: a name is 1 to 64 of a-z, 0-9, . _ -")));
        }
        if !names.insert((section, name)) {
            return Err(Found::new(0, section, format!("{name:?} is there twice")));
        }
    }
    for entry in &config.api {
        if entry.received_mib.0 > 0 && entry.max_received_bytes.is_none() {
            let message = "answers that cost by the byte need `max_received_bytes`: nothing else bounds them";
            return Err(Found::new(0, "api", message));
        }
    }
    read_always(&config.allow, &own_hosts(config))
}

/// No rule may let an operator's own priced host pass unread.
fn read_always(allow: &[AllowRule], own: &[String]) -> Result<(), Found> {
    for rule in allow.iter().filter(|rule| rule.mode != RuleMode::Inspect) {
        let unread = rule.hosts.iter().find_map(|pattern| own.iter().find(|host| covers(pattern, host)));
        if let Some(host) = unread {
            let message =
                format!("`{}` would let calls to {host} pass unpriced; use `mode = \"inspect\"`", rule.mode.as_str());
            return Err(Found::new(rule.line, "mode", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn host(text: &str) -> HostPattern {
        text.parse().expect("a host")
    }

    #[test]
    fn what_may_stand_for_a_priced_host() {
        for pattern in [
            "*",
            "api.openai.com",
            "eu.api.openai.com",
            "*.openai.com",
            "*.com",
            "mine.openai.azure.com",
            "bedrock-runtime.us-east-1.amazonaws.com",
            "*.us-east-1.amazonaws.com",
            "*.amazonaws.com",
            "us-central1-aiplatform.googleapis.com",
        ] {
            assert!(may_be_priced(&host(pattern)).is_some(), "{pattern}");
        }
        for pattern in [
            "example.com",
            "notapi.openai.com",
            "s3.amazonaws.com",
            "*.s3.amazonaws.com",
            "storage.googleapis.com",
            "10.0.0.1",
        ] {
            assert!(may_be_priced(&host(pattern)).is_none(), "{pattern}");
        }
    }

    fn problem(text: &str) -> String {
        Config::parse(text, Path::new("x.toml")).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let good = "[[provider]]\nhost = \"llm.corp.example\"\nprovider = \"vllm\"\nbase = \"/serve/v1\"\n\
                    [[mcp]]\nname = \"files\"\nhost = \"mcp.example\"\nprices = { \"*\" = \"0 USD\", search = \"0.01 USD\" }\n\
                    [[api]]\nname = \"geo\"\nhost = \"geo.example\"\npaths = [\"/geocode\"]\ncall = \"0.005 USD\"\n";
        assert_eq!(problem(good), "");
        for (from, to, said) in [
            ("\"vllm\"", "\"acme\"", "write one of"),
            ("/serve/v1", "v1", "begins with /"),
            ("\"mcp.example\"", "\"*.example\"", "one name or one address"),
            ("\"0.01 USD\"", "\"0.01\"", "write an amount"),
            ("\"geo\"", "\"Geo\"", "a-z"),
            ("call =", "received_mib =", "max_received_bytes"),
        ] {
            let text = problem(&good.replace(from, to));
            assert!(text.contains(said), "{from} as {to}: {text:?}");
        }
        let unread = format!("{good}[[allow]]\nhosts = [\"mcp.example\"]\nmode = \"tls-passthrough\"\n");
        assert!(problem(&unread).contains("unpriced"), "{}", problem(&unread));
    }
}
