//! LiteLLM's table of models (`model_prices_and_context_window.json`), foreign text: takes it, gives a listing. What a book
//! cannot name, whose bounds the table does not state, or that bills by other units is listed with the reason. Where the
//! table says less than a bill can hold, it takes the dearest.

use super::decimal::{compare, per_million, plain};
use super::sellers::{self, Named};
use super::{Listed, ListedRates, Listing, NotImported};
use crate::meter::PriceBook;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};

/// The longest input that a beta of Anthropic's lets in, tokens, where the table has prices for more than its usual one.
const LONG_CONTEXT: u64 = 1_000_000;

/// LiteLLM's table: dollars per single token as JSON numbers, one field a price.
pub(super) fn read(text: &str) -> Result<Listing, serde_json::Error> {
    let table: BTreeMap<String, HashMap<String, Box<RawValue>>> = serde_json::from_str(text)?;
    let table: Table = table.into_iter().map(|(name, fields)| (name, Fields(fields))).collect();
    let mut listing = Listing::default();
    for (name, fields) in &table {
        // An example of the table's own, which explains the fields.
        if name == "sample_spec" {
            continue;
        }
        let named = sellers::named(name, &fields.text("litellm_provider").unwrap_or_default());
        let taken = named.as_ref().map_err(Clone::clone).and_then(|named| model(named, fields, &table));
        let taken = taken.and_then(|model| one_of_its_name(model, &mut listing.models));
        match taken {
            Ok(model) => listing.models.extend(model),
            Err(why) => {
                let name = named.map_or_else(|_| name.clone(), |named| format!("{}/{}", named.provider, named.name));
                listing.not_imported.push(NotImported { model: name, why });
            }
        }
    }
    Ok(listing)
}

/// Its rows, by name.
pub(super) type Table = BTreeMap<String, Fields>;

pub(super) struct Fields(HashMap<String, Box<RawValue>>);

impl Fields {
    pub(super) fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.0.get(key)?.get()).ok()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.get().parse().ok()
    }

    /// A price per single unit as one per 1,000,000.
    pub(super) fn price(&self, key: &str) -> Option<String> {
        per_million(self.0.get(key)?.get())
    }
}

/// The row as a model of a book, or why it cannot be one.
fn model(named: &Named, fields: &Fields, table: &Table) -> Result<Listed, String> {
    let mode = fields.text("mode").unwrap_or_default();
    let operations = sellers::operations(named.provider, &mode)
        .ok_or_else(|| format!("calls of the mode {mode:?} are not metered by tokens of text"))?;
    if ["search", "deep-research"].iter().any(|part| named.name.contains(part)) {
        return Err("it bills for work that the request does not show".to_owned());
    }
    if let Some(key) = fields.0.keys().filter(|key| !is_understood(key, fields)).min() {
        return Err(format!("{key} is a price that a book has no place for"));
    }
    let hosts = sellers::hosts(named, fields, table)?;
    let rates = rates(fields);
    let first = rates.first().filter(|first| first.tier == "standard" && first.above == 0);
    let first = first.ok_or("the table has no price for its input or its output")?;
    if plain(&first.input) == "0" {
        return Err("the table says that it costs nothing".to_owned());
    }
    let embeds = mode == "embedding";
    // Of old, `max_tokens` was either bound: no answer is longer.
    let max_output = fields.number("max_output_tokens").or_else(|| fields.number("max_tokens"));
    let max_output = max_output.filter(|most| *most > 0).or(embeds.then_some(0));
    let max_output = max_output.ok_or("the table does not state its longest output")?;
    let max_input = fields.number("max_input_tokens").filter(|most| *most > 0);
    let mut max_input = max_input.ok_or("the table does not state its longest input")?;
    if rates.iter().any(|rates| rates.above >= max_input) {
        if !["anthropic", "bedrock"].contains(&named.provider) {
            return Err("the table has prices for longer inputs than it says that the model takes".to_owned());
        }
        max_input = LONG_CONTEXT;
    }
    let factors: HashMap<String, Box<RawValue>> = fields
        .0
        .get("provider_specific_entry")
        .and_then(|value| serde_json::from_str(value.get()).ok())
        .unwrap_or_default();
    let factor = |key: &str| factors.get(key).map(|number| plain(number.get()));
    let model = Listed {
        provider: named.provider.to_owned(),
        names: vec![named.name.clone()],
        hosts,
        operations: operations.iter().map(|&one| one.to_owned()).collect(),
        source: fields.text("source").unwrap_or_else(|| "LiteLLM's table".to_owned()),
        max_input,
        max_output: if embeds { 0 } else { max_output },
        web_search: web_search(named, fields),
        geo_us: factor("us"),
        fast: factor("fast"),
        rates,
    };
    // What a book refuses in one model, such as a price of another unit, must not cost the others.
    let alone = Listing { models: vec![model.clone()], ..Listing::default() };
    PriceBook::parse(&alone.to_book("one", "")).map_err(|error| error.to_string())?;
    Ok(model)
}

/// The dearest size of context, since a request may ask for any; where the provider bills each search of a request, and the
/// number of them has a limit.
fn web_search(named: &Named, fields: &Fields) -> Option<String> {
    if !sellers::bills_by_search(named) {
        return None;
    }
    let searches = fields.0.get("search_context_cost_per_query")?;
    let sizes: HashMap<String, Box<RawValue>> = serde_json::from_str(searches.get()).ok()?;
    sizes.values().filter_map(|price| per_million(price.get())).max_by(compare)
}

/// Two rows of one name, such as `deepseek/x` and `x`: the dearer one counts, and where neither is dearer in all, none.
fn one_of_its_name(model: Listed, models: &mut Vec<Listed>) -> Result<Option<Listed>, String> {
    let same = |other: &Listed| other.provider == model.provider && other.names == model.names;
    let Some(at) = models.iter().position(same) else { return Ok(Some(model)) };
    let old = models.remove(at);
    let covers = |dear: &Listed, other: &Listed| {
        dear.max_input >= other.max_input
            && dear.max_output >= other.max_output
            && dear.rates.len() == other.rates.len()
            && dear.rates.iter().zip(&other.rates).all(|(dear, other)| dear.covers(other))
    };
    match (covers(&old, &model), covers(&model, &old)) {
        (true, _) => Ok(Some(old)),
        (false, true) => Ok(Some(model)),
        (false, false) => Err("the table has it twice, and neither has the dearer prices in all".to_owned()),
    }
}

/// Whether the field is no price, or one that [`rates`] reads, or one that no call of ours is billed by.
fn is_understood(key: &str, fields: &Fields) -> bool {
    let priced = key.contains("cost") || key.contains("pricing") || key.contains("price");
    // Batches are refused; so are grounding by maps and audio that goes in, whatever it costs.
    let refused = key.contains("batch")
        || key.starts_with("google_maps_grounding")
        || (key.contains("_audio_") && (key.starts_with("input_cost") || key.starts_with("cache_read_input")));
    // A part of the input or the output with a price of its own is read as any other part, if that does not cost less.
    let part = |whole: &str| match (fields.price(key), fields.price(whole)) {
        (Some(part), Some(whole)) => compare(&plain(&part), &plain(&whole)).is_le(),
        _ => false,
    };
    let read = [
        "input_cost_per_token",
        "output_cost_per_token",
        "cache_read_input_token_cost",
        "cache_creation_input_token_cost",
    ]
    .iter()
    .any(|name| key.strip_prefix(name).is_some_and(is_place));
    !priced
        || refused
        || read
        || key == "search_context_cost_per_query"
        || (["input_cost_per_image_token", "input_cost_per_video_token", "input_cost_per_token_cache_hit"]
            .contains(&key)
            && part("input_cost_per_token"))
        || (key == "output_cost_per_reasoning_token" && part("output_cost_per_token"))
}

/// What may follow a price's name: a retention, a length of input, a tier; each at most once and in this order.
fn is_place(rest: &str) -> bool {
    let rest = ["_above_1hr", "_above_12hr"].iter().find_map(|kept| rest.strip_prefix(kept)).unwrap_or(rest);
    let rest = match rest.strip_prefix("_above_").and_then(|rest| rest.split_once("k_tokens")) {
        Some((thousands, rest)) if thousands.parse::<u64>().is_ok() => rest,
        _ => rest,
    };
    ["", "_flex", "_priority", "_ultrafast"].contains(&rest)
}

fn rates(fields: &Fields) -> Vec<ListedRates> {
    let mut lengths: Vec<u64> = fields.0.keys().filter_map(|key| above(key)).collect();
    lengths.push(0);
    lengths.sort_unstable();
    lengths.dedup();
    let mut rates: Vec<ListedRates> = Vec::new();
    for tier in ["standard", "flex", "priority", "ultrafast"] {
        rates.extend(lengths.iter().filter_map(|&above| rates_of(fields, tier, above)));
    }
    rates
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
    // Nothing for a write is said of providers that bill none: what was written was read as input, too.
    let written = |price: &String| plain(price) != "0";
    let cache_write = price("cache_creation_input_token_cost").filter(written);
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
