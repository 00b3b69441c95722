//! Whose a row of LiteLLM's table is: which provider of a book, under which name its API takes the model, and for which
//! calls. Names the reason where a row's price is not the price of that name.

use super::litellm::{Fields, Table};

/// A row's place in a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) provider: &'static str,
    /// As requests name it.
    pub(super) name: String,
}

/// LiteLLM's name of a provider, ours, and what the table puts before a model's name.
const SELLERS: &[(&str, &str, &str)] = &[
    ("openai", "openai", ""),
    ("anthropic", "anthropic", ""),
    ("gemini", "google", "gemini/"),
    ("bedrock", "bedrock", ""),
    ("bedrock_converse", "bedrock", ""),
    ("mistral", "mistral", "mistral/"),
    ("codestral", "mistral", "codestral/"),
    ("groq", "groq", "groq/"),
    ("deepseek", "deepseek", "deepseek/"),
    ("xai", "xai", "xai/"),
    ("together_ai", "together", "together_ai/"),
];

/// Ours, but the table's price is not what a call costs.
const UNSOUND: &[(&str, &str)] = &[
    ("azure", "a deployment's price is in its contract, and its name says nothing of the model"),
    ("azure_ai", "a deployment's price is in its contract, and its name says nothing of the model"),
    ("azure_text", "a deployment's price is in its contract, and its name says nothing of the model"),
    ("openrouter", "what it costs depends on where OpenRouter sends the call"),
    ("ollama", "your own server's prices are yours to write"),
    ("ollama_chat", "your own server's prices are yours to write"),
    ("hosted_vllm", "your own server's prices are yours to write"),
];

/// The place of the row `name` of LiteLLM's `provider`.
pub(super) fn named(name: &str, provider: &str) -> Result<Named, String> {
    if let Some((_, why)) = UNSOUND.iter().find(|(known, _)| *known == provider) {
        return Err((*why).to_owned());
    }
    let Some((_, ours, before)) = SELLERS.iter().find(|(known, ..)| *known == provider) else {
        return Err(format!("a price book has no provider {provider:?}"));
    };
    let bare = name.strip_prefix(before).unwrap_or(name);
    match *ours {
        "bedrock" if bare.contains('/') => Err("it is the price of one region, or of a commitment".to_owned()),
        "together" if bare == name => Err("it is a size class and no model's name".to_owned()),
        // Sizes and qualities of pictures stand before their models' names.
        "openai" | "anthropic" | "xai" if bare.contains('/') => Err("it is no model's name".to_owned()),
        _ => Ok(Named { provider: ours, name: bare.to_owned() }),
    }
}

/// Which calls of ours a mode of the table's is; `None`: none that is metered.
pub(super) fn operations(provider: &str, mode: &str) -> Option<&'static [&'static str]> {
    Some(match (provider, mode) {
        ("openai", "chat") => &["chat", "responses"],
        ("openai", "responses") => &["responses"],
        ("anthropic", "chat") => &["messages"],
        ("google", "chat") => &["generate_content"],
        ("google", "embedding") => &["embed_content"],
        ("bedrock", "chat") => &["converse", "invoke"],
        ("bedrock", _) => return None,
        (_, "chat") => &["chat"],
        (_, "embedding") => &["embeddings"],
        _ => return None,
    })
}

/// Whether the table's price of a search is that of one in a request of this model's.
pub(super) fn bills_by_search(named: &Named) -> bool {
    match named.provider {
        "openai" | "anthropic" => true,
        // From Gemini 3 on each query of a grounded prompt is billed, and nothing limits them.
        "google" => named.name.starts_with("gemini-2"),
        _ => false,
    }
}

/// Geographies of Bedrock's profiles, which have prices of their own.
const GEOGRAPHIES: &[&str] = &["global", "us", "eu", "apac", "jp", "au", "ca", "in", "sa"];

/// The regions of the US, where a bare name costs what the profile `us.` does.
const IN_THE_US: [&str; 2] = ["*bedrock-runtime.us-*", "*bedrock-runtime-fips.us-*"];

/// For calls to which hosts the price of this name holds; none: to all. On Bedrock a model's bare name is served in the region
/// that is asked; the table has one row for it, and rows for regions and geographies beside it.
pub(super) fn hosts(named: &Named, fields: &Fields, table: &Table) -> Result<Vec<String>, String> {
    let is_bare = |name: &str| {
        !GEOGRAPHIES.iter().any(|place| name.strip_prefix(place).is_some_and(|rest| rest.starts_with('.')))
    };
    if named.provider != "bedrock" || !is_bare(&named.name) {
        return Ok(Vec::new());
    }
    let price = |fields: &Fields| ["input_cost_per_token", "output_cost_per_token"].map(|key| fields.price(key));
    let own = price(fields);
    let profile = |place: &str| table.get(&format!("{place}.{}", named.name)).map(price);
    // That price, where there is one, is the global endpoint's; a region's costs more.
    if profile("global").is_some_and(|global| global == own) {
        return Err("it is the price of the global endpoint, and a region's own costs more".to_owned());
    }
    let regional = table.iter().filter(|(name, _)| {
        let region = name.starts_with("bedrock/") && !name.contains("-commitment/") && !name.contains("/us-gov-");
        region && name.rsplit('/').next() == Some(&*named.name)
    });
    let profiles: Vec<_> = GEOGRAPHIES.iter().filter_map(|place| Some((*place, profile(place)?))).collect();
    let mut others = profiles.iter().map(|(_, price)| price.clone()).chain(regional.map(|(_, fields)| price(fields)));
    if others.any(|other| other != own) {
        return Err("what it costs depends on the region".to_owned());
    }
    // What it costs elsewhere, nothing says.
    let us_alone = matches!(profiles[..], [("us", _)]);
    Ok(if us_alone { IN_THE_US.map(str::to_owned).to_vec() } else { Vec::new() })
}
