//! LiteLLM's table of models (`model_prices_and_context_window.json`), foreign text: takes it, gives a listing. Leaves out
//! models that a book cannot name or whose bounds the table does not state. Where the table says less than a bill can
//! hold, it takes the dearest.

use super::decimal::{compare, per_million, plain};
use super::{Listed, ListedRates, Listing};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};

/// LiteLLM's table: dollars per single token as JSON numbers, one field a price. Takes chat and embedding models whose
/// bounds it states, of the providers that a book can name.
pub(super) fn read(text: &str) -> Result<Listing, serde_json::Error> {
    let table: BTreeMap<String, HashMap<String, Box<RawValue>>> = serde_json::from_str(text)?;
    let models = table.into_iter().filter_map(|(name, fields)| model(name, &Fields(fields))).collect();
    Ok(Listing { version: String::new(), models })
}

struct Fields(HashMap<String, Box<RawValue>>);

impl Fields {
    fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.0.get(key)?.get()).ok()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.get().parse().ok()
    }

    /// A price per single unit as one per 1,000,000.
    fn price(&self, key: &str) -> Option<String> {
        per_million(self.0.get(key)?.get())
    }
}

fn model(name: String, fields: &Fields) -> Option<Listed> {
    let provider = fields.text("litellm_provider").filter(|known| known == "openai" || known == "anthropic")?;
    let mode = fields.text("mode")?;
    let operations: &[&str] = match (provider.as_str(), mode.as_str()) {
        ("openai", "chat") => &["chat", "responses"],
        ("openai", "responses") => &["responses"],
        ("openai", "embedding") => &["embeddings"],
        ("anthropic", "chat") => &["messages"],
        _ => return None,
    };
    // Models that bill by other units, or by work that the request does not show.
    if fields.0.keys().any(|key| key.contains("cost_per_audio"))
        || ["search", "deep-research"].iter().any(|part| name.contains(part))
    {
        return None;
    }
    let mut lengths: Vec<u64> = fields.0.keys().filter_map(|key| above(key)).collect();
    lengths.push(0);
    lengths.sort_unstable();
    lengths.dedup();
    let mut rates: Vec<ListedRates> = Vec::new();
    for tier in ["standard", "flex", "priority", "ultrafast"] {
        rates.extend(lengths.iter().filter_map(|&above| rates_of(fields, tier, above)));
    }
    let factors: HashMap<String, Box<RawValue>> = fields
        .0
        .get("provider_specific_entry")
        .and_then(|value| serde_json::from_str(value.get()).ok())
        .unwrap_or_default();
    let factor = |key: &str| factors.get(key).map(|number| plain(number.get()));
    let searches: Option<HashMap<String, Box<RawValue>>> =
        fields.0.get("search_context_cost_per_query").and_then(|value| serde_json::from_str(value.get()).ok());
    // The dearest size of context: a request may ask for any.
    let web_search =
        searches.and_then(|sizes| sizes.values().filter_map(|price| per_million(price.get())).max_by(compare));
    let max_output = fields.number("max_output_tokens").unwrap_or(0);
    (rates.first().is_some_and(|first| first.tier == "standard" && first.above == 0)
        && (max_output > 0 || mode == "embedding"))
        .then_some(())?;
    Some(Listed {
        provider,
        names: vec![name],
        hosts: Vec::new(),
        operations: operations.iter().map(|&one| one.to_owned()).collect(),
        source: fields.text("source").unwrap_or_else(|| "LiteLLM's table".to_owned()),
        max_input: fields.number("max_input_tokens")?,
        max_output: if mode == "embedding" { 0 } else { max_output },
        web_search,
        geo_us: factor("us"),
        fast: factor("fast"),
        rates,
    })
}

/// From which length on the price of this key holds.
fn above(key: &str) -> Option<u64> {
    let thousands = key.strip_prefix("input_cost_per_token_above_")?.split_once("k_tokens")?.0;
    thousands.parse::<u64>().ok()?.checked_mul(1_000)
}

fn rates_of(fields: &Fields, tier: &str, above: u64) -> Option<ListedRates> {
    let length = if above == 0 { String::new() } else { format!("_above_{}k_tokens", above / 1_000) };
    let suffix = if tier == "standard" { String::new() } else { format!("_{tier}") };
    let price = |name: &str| fields.price(&format!("{name}{length}{suffix}"));
    let cache_write = price("cache_creation_input_token_cost");
    let long = |of: &dyn Fn(&str) -> Option<String>| {
        ["1hr", "12hr"]
            .iter()
            .filter_map(|kept| of(&format!("cache_creation_input_token_cost_above_{kept}")))
            .max_by(compare)
    };
    // Where the table has no price for long writes at this place, the dearer of what it has.
    let cache_write_long = long(&price)
        .or_else(|| long(&|name| fields.price(name)).into_iter().chain(cache_write.clone()).max_by(compare));
    Some(ListedRates {
        tier: tier.to_owned(),
        above,
        input: price("input_cost_per_token")?,
        cache_read: price("cache_read_input_token_cost"),
        cache_write,
        cache_write_long,
        output: price("output_cost_per_token")?,
    })
}
