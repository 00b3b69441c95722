//! Prices as they are written, for people: takes the text of a price book, or LiteLLM's table of models
//! (`model_prices_and_context_window.json`); gives rows that can be shown, compared and written as a book.
//! Decides no price: what is in force is a [`super::PriceBook`]. Amounts stay decimal text from end to end.

use crate::config::Glob;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// What is wrong with a text of prices.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// Not a book.
    #[error("this is no price book: {0}")]
    Book(#[from] toml::de::Error),
    /// Not LiteLLM's table.
    #[error("this is no table of LiteLLM's: {0}")]
    Table(#[from] serde_json::Error),
}

/// Prices of many models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Listing {
    /// The book's version; empty for a table.
    #[serde(default)]
    pub version: String,
    /// The models.
    #[serde(default, rename = "model")]
    pub models: Vec<Listed>,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Listed {
    /// `openai`, `anthropic`, ...
    pub provider: String,
    /// Its names.
    pub names: Vec<String>,
    /// What it does.
    #[serde(default)]
    pub operations: Vec<String>,
    /// Where the prices are published.
    #[serde(default)]
    pub source: String,
    /// The longest input, tokens.
    #[serde(default)]
    pub max_input: u64,
    /// The longest output, tokens.
    #[serde(default)]
    pub max_output: u64,
    /// Dollars per 1,000,000 web searches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_search: Option<String>,
    /// What a call that must be processed in the US costs, times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo_us: Option<String>,
    /// What a call at the dearer speed costs, times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<String>,
    /// Dollars per 1,000,000 tokens, by tier and length of input.
    #[serde(default)]
    pub rates: Vec<ListedRates>,
}

/// Prices of one tier and length of input, dollars per 1,000,000 tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct ListedRates {
    /// `standard`, `flex`, `priority`.
    pub tier: String,
    /// For inputs of more than this many tokens.
    #[serde(default)]
    pub above: u64,
    /// Plain input.
    pub input: String,
    /// Input that was read from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<String>,
    /// Input that was written to a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<String>,
    /// The same, kept for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_long: Option<String>,
    /// Output.
    pub output: String,
}

/// How one listing differs from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Names that only the newer one has.
    pub added: Vec<String>,
    /// Names that only the older one has.
    pub removed: Vec<String>,
    /// What changed for a name that both have.
    pub changed: Vec<Change>,
}

/// One changed value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// `provider/name`.
    pub model: String,
    /// Which value: `standard output`, `max_output`.
    pub what: String,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
}

impl Listing {
    /// Reads a book, or LiteLLM's table: JSON begins with a brace.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Listing, ListingError> {
        if text.trim_start().starts_with('{') { Ok(litellm(text)?) } else { Ok(toml::from_str(text)?) }
    }

    /// Only models with a name that one of `patterns` matches; all when there is none.
    #[must_use]
    pub fn only(mut self, patterns: &[Glob]) -> Listing {
        if !patterns.is_empty() {
            let wanted = |name: &String| patterns.iter().any(|pattern| pattern.matches(name));
            self.models.retain(|model| model.names.iter().any(wanted));
        }
        self
    }

    /// What is different in `newer`. Of models that it lists and this does not, only names are given.
    #[must_use]
    pub fn difference(&self, newer: &Listing) -> Difference {
        let (old, new) = (self.by_name(), newer.by_name());
        let mut difference = Difference::default();
        for (name, after) in &new {
            match old.get(name) {
                None => difference.added.push(name.clone()),
                Some(before) => changes(name, before, after, &mut difference.changed),
            }
        }
        difference.removed = old.into_keys().filter(|name| !new.contains_key(name)).collect();
        difference
    }

    fn by_name(&self) -> BTreeMap<String, &Listed> {
        let named = |model| move |name: &String| (format!("{}/{name}", Listed::provider(model)), model);
        self.models.iter().flat_map(|model| model.names.iter().map(named(model))).collect()
    }

    /// The text of a price book.
    #[must_use]
    pub fn to_book(&self, version: &str, about: &str) -> String {
        let mut text = String::new();
        for line in about.lines() {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "\nversion = {}", quoted(version));
        for model in &self.models {
            model.write(&mut text);
        }
        text
    }
}

impl Listed {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn write(&self, text: &mut String) {
        let list = |values: &[String]| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "\n[[model]]\nprovider = {}", quoted(&self.provider));
        let _ = writeln!(text, "names = [{}]\noperations = [{}]", list(&self.names), list(&self.operations));
        let _ = writeln!(text, "source = {}\nmax_input = {}", quoted(&self.source), self.max_input);
        if self.max_output > 0 {
            let _ = writeln!(text, "max_output = {}", self.max_output);
        }
        for (name, value) in [("web_search", &self.web_search), ("geo_us", &self.geo_us), ("fast", &self.fast)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name} = {}", quoted(value));
            }
        }
        let _ = writeln!(text, "rates = [");
        for rates in &self.rates {
            let above = if rates.above == 0 { String::new() } else { format!(", above = {}", rates.above) };
            let _ = write!(text, "    {{ tier = {}{above}", quoted(&rates.tier));
            for (name, price) in rates.prices() {
                if let Some(price) = price {
                    let _ = write!(text, ", {name} = {}", quoted(price));
                }
            }
            let _ = writeln!(text, " }},");
        }
        let _ = writeln!(text, "]");
    }
}

impl ListedRates {
    fn prices(&self) -> [(&'static str, Option<&String>); 5] {
        [
            ("input", Some(&self.input)),
            ("cache_read", self.cache_read.as_ref()),
            ("cache_write", self.cache_write.as_ref()),
            ("cache_write_long", self.cache_write_long.as_ref()),
            ("output", Some(&self.output)),
        ]
    }

    /// What is billed where no price of its own is written: plain input, and the shorter write.
    fn billed(&self) -> [(&'static str, &str); 5] {
        let write = self.cache_write.as_ref().unwrap_or(&self.input);
        [
            ("input", &self.input),
            ("cache_read", self.cache_read.as_ref().unwrap_or(&self.input)),
            ("cache_write", write),
            ("cache_write_long", self.cache_write_long.as_ref().unwrap_or(write)),
            ("output", &self.output),
        ]
    }
}

fn changes(name: &str, old: &Listed, new: &Listed, to: &mut Vec<Change>) {
    let mut say = |what: String, old: &str, new: &str| {
        if plain(old) != plain(new) {
            to.push(Change { model: name.to_owned(), what, old: plain(old), new: plain(new) });
        }
    };
    say("max_input".into(), &old.max_input.to_string(), &new.max_input.to_string());
    say("max_output".into(), &old.max_output.to_string(), &new.max_output.to_string());
    let none = || "none".to_owned();
    let factor = |factor: &Option<String>| factor.clone().unwrap_or_else(|| "1".to_owned());
    say("geo_us".into(), &factor(&old.geo_us), &factor(&new.geo_us));
    say("fast".into(), &factor(&old.fast), &factor(&new.fast));
    say(
        "web_search".into(),
        &old.web_search.clone().unwrap_or_else(none),
        &new.web_search.clone().unwrap_or_else(none),
    );
    let places = |model: &Listed| -> BTreeMap<(String, u64), ListedRates> {
        model.rates.iter().map(|rates| ((rates.tier.clone(), rates.above), rates.clone())).collect()
    };
    let (before, after) = (places(old), places(new));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let label = if key.1 == 0 { key.0.clone() } else { format!("{} above {}", key.0, key.1) };
        match (before.get(&key), after.get(&key)) {
            (Some(before), Some(after)) => {
                for ((what, old), (_, new)) in before.billed().into_iter().zip(after.billed()) {
                    say(format!("{label} {what}"), old, new);
                }
            }
            (before, after) => {
                let text = |rates: Option<&ListedRates>| {
                    rates.map_or_else(none, |rates| format!("{} in, {} out", rates.input, rates.output))
                };
                say(label, &text(before), &text(after));
            }
        }
    }
}

/// A decimal without zeros that say nothing; other text as it is.
fn plain(text: &str) -> String {
    let number = text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if number { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// A TOML basic string, which a JSON string is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// LiteLLM's table: dollars per single token as JSON numbers, one field a price. Takes chat and embedding models whose
/// bounds it states, of the providers that a book can name.
fn litellm(text: &str) -> Result<Listing, serde_json::Error> {
    let table: BTreeMap<String, HashMap<String, Box<RawValue>>> = serde_json::from_str(text)?;
    let models = table.into_iter().filter_map(|(name, fields)| litellm_model(name, &Fields(fields))).collect();
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

fn litellm_model(name: String, fields: &Fields) -> Option<Listed> {
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
        rates.extend(lengths.iter().filter_map(|&above| litellm_rates(fields, tier, above)));
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

fn litellm_rates(fields: &Fields, tier: &str, above: u64) -> Option<ListedRates> {
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

/// A JSON number times 1,000,000 as decimal text, exactly; `None` when it is negative or not a number of sane size.
fn per_million(number: &str) -> Option<String> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    // Where the point stands, counted from the first digit.
    let point = i32::try_from(whole.len()).ok()? + exponent.checked_add(6)?;
    if !(-30..=40).contains(&point) {
        return None;
    }
    let length = i32::try_from(digits.len()).ok()?;
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let text = if point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else if point >= length {
        format!("{digits}{}", zeros(point - length))
    } else {
        let (left, right) = digits.split_at(usize::try_from(point).ok()?);
        format!("{left}.{right}")
    };
    let text = plain(&text);
    let bare = text.trim_start_matches('0');
    Some(if bare.is_empty() || bare.starts_with('.') { format!("0{bare}") } else { bare.to_owned() })
}

/// Which decimal text is more.
fn compare(one: &String, other: &String) -> std::cmp::Ordering {
    let parts = |text: &String| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        (whole.len(), whole.to_owned(), fraction.to_owned())
    };
    parts(one).cmp(&parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::PriceBook;
    use proptest::prelude::*;

    const TABLE: &str = r#"{
        "gpt-x": { "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1000, "max_output_tokens": 100,
            "input_cost_per_token": 2.5e-06, "input_cost_per_token_above_272k_tokens": 5e-06, "output_cost_per_token": 1.5E-5,
            "output_cost_per_token_above_272k_tokens": 0.0000225, "input_cost_per_token_flex": 1.25e-06,
            "output_cost_per_token_flex": 7.5e-06, "cache_read_input_token_cost": 2.5e-07,
            "search_context_cost_per_query": { "search_context_size_low": 0.01, "search_context_size_high": 0.025 } },
        "embed": { "litellm_provider": "openai", "mode": "embedding", "max_input_tokens": 8191,
            "input_cost_per_token": 2e-08, "output_cost_per_token": 0.0 },
        "picture": { "litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1e-6 },
        "boundless": { "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1, "output_cost_per_token": 1 }
    }"#;

    #[test]
    fn a_number_is_taken_exactly() {
        for (number, million) in [
            ("2.5e-06", "2.5"),
            ("1.5E-5", "15"),
            ("0.0000225", "22.5"),
            ("2e-08", "0.02"),
            ("0.0", "0"),
            ("1", "1000000"),
            ("1.30e-07", "0.13"),
            ("3.7500000000000001e-06", "3.7500000000000001"),
        ] {
            assert_eq!(per_million(number).as_deref(), Some(million), "{number}");
        }
        for number in ["-1", "1e99", "NaN", "", "e5", "1e", "\"1\"", "1.2.3"] {
            assert_eq!(per_million(number), None, "{number}");
        }
    }

    #[test]
    fn a_table_becomes_a_book_that_is_taken() -> Result<(), Box<dyn std::error::Error>> {
        let listing = Listing::parse(TABLE)?;
        let names: Vec<_> = listing.models.iter().flat_map(|model| model.names.clone()).collect();
        assert_eq!(names, ["embed", "gpt-x"]);
        let text = listing.to_book("2026-11-24", "from LiteLLM's table");
        let book = PriceBook::parse(&text)?;
        assert_eq!(book.len(), 2);
        assert_eq!(Listing::parse(&text)?.difference(&listing), Difference::default());
        let x = listing.models.iter().find(|model| model.names == ["gpt-x"]).ok_or("gpt-x")?;
        assert_eq!(x.web_search.as_deref(), Some("25000"));
        let rates: Vec<_> =
            x.rates.iter().map(|r| (r.tier.as_str(), r.above, r.input.as_str(), r.output.as_str())).collect();
        assert_eq!(
            rates,
            [("standard", 0, "2.5", "15"), ("standard", 272_000, "5", "22.5"), ("flex", 0, "1.25", "7.5")]
        );
        Ok(())
    }

    #[test]
    fn a_difference_names_what_changed() -> Result<(), ListingError> {
        let old = Listing::parse(TABLE)?;
        let new = Listing::parse(&TABLE.replace("1.5E-5", "1.6e-5").replace("\"embed\"", "\"embed-2\""))?;
        let difference = old.difference(&new);
        assert_eq!(
            (difference.added, difference.removed),
            (vec!["openai/embed-2".to_owned()], vec!["openai/embed".to_owned()])
        );
        let [change] = difference.changed.as_slice() else { panic!("{:?}", difference.changed) };
        assert_eq!((change.what.as_str(), change.old.as_str(), change.new.as_str()), ("standard output", "15", "16"));
        Ok(())
    }

    #[test]
    fn the_built_in_book_can_be_listed() -> Result<(), ListingError> {
        let listing = Listing::parse(PriceBook::BUILT_IN)?;
        assert!(listing.models.len() > 20 && !listing.version.is_empty());
        assert_eq!(
            listing
                .clone()
                .only(&[Glob::try_from("claude-*".to_owned()).expect("a pattern")])
                .models
                .iter()
                .filter(|model| model.provider != "anthropic")
                .count(),
            0
        );
        assert_eq!(listing.difference(&listing), Difference::default());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_number_is_read_or_refused(text in "[0-9.eE+-]{0,50}") {
            if let Some(million) = per_million(&text) {
                prop_assert!(million.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{million}");
                let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
                prop_assert!(million.split('.').count() <= 2 && digit(million.as_bytes().first()) && digit(million.as_bytes().last()));
            }
        }

        #[test]
        fn decimals_are_compared_as_numbers(one in 0u32..2_000_000, other in 0u32..2_000_000) {
            let text = |n: u32| plain(&format!("{}.{:03}", n / 1_000, n % 1_000));
            prop_assert_eq!(compare(&text(one), &text(other)), one.cmp(&other));
        }
    }
}
