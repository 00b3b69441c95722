//! Prices as they are written, for people: takes the text of a price book, or LiteLLM's table of models
//! (`model_prices_and_context_window.json`); gives rows that can be shown, compared and written as a book.
//! Decides no price: what is in force is a [`super::PriceBook`]. Amounts stay decimal text from end to end.

mod decimal;
mod difference;
mod litellm;
mod sellers;

pub use difference::Difference;

use crate::config::Glob;
use serde::Deserialize;
use std::collections::BTreeMap;
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
    /// What a table has beside these.
    #[serde(skip)]
    pub not_imported: Vec<NotImported>,
}

/// A row of a table that no book can have.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NotImported {
    /// `provider/name` as a book would have it, or else the table's own name.
    pub model: String,
    /// Why not.
    pub why: String,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Listed {
    /// `openai`, `anthropic`, ...
    pub provider: String,
    /// Its names.
    pub names: Vec<String>,
    /// The hosts that the prices hold for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
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

impl Listing {
    /// Reads a book, or LiteLLM's table: JSON begins with a brace.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Listing, ListingError> {
        if text.trim_start().starts_with('{') { Ok(litellm::read(text)?) } else { Ok(toml::from_str(text)?) }
    }

    /// Only models with a name that one of `patterns` matches; all when there is none.
    #[must_use]
    pub fn only(mut self, patterns: &[Glob]) -> Listing {
        if !patterns.is_empty() {
            let wanted = |name: &String| patterns.iter().any(|pattern| pattern.matches(name));
            self.models.retain(|model| model.names.iter().any(wanted));
            let bare = |row: &NotImported| row.model.split_once('/').map_or(&*row.model, |(_, name)| name).to_owned();
            self.not_imported.retain(|row| wanted(&row.model) || wanted(&bare(row)));
        }
        self
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
        if !self.not_imported.is_empty() {
            text.push_str("\n# Not imported:\n");
        }
        for (why, names) in self.left_out() {
            let _ = writeln!(text, "#\n# {}:", why.replace('\n', " "));
            for name in names {
                let _ = writeln!(text, "#   {}", quoted(name));
            }
        }
        text
    }

    /// What was not imported, by the reason.
    #[must_use]
    pub fn left_out(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in &self.not_imported {
            all.entry(&row.why).or_default().push(&row.model);
        }
        all
    }
}

impl Listed {
    fn write(&self, text: &mut String) {
        let list = |values: &[String]| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "\n[[model]]\nprovider = {}", quoted(&self.provider));
        let _ = writeln!(text, "names = [{}]", list(&self.names));
        if !self.hosts.is_empty() {
            let _ = writeln!(text, "hosts = [{}]", list(&self.hosts));
        }
        let _ = writeln!(text, "operations = [{}]", list(&self.operations));
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
    /// At the same place, no price of its is less.
    fn covers(&self, other: &ListedRates) -> bool {
        let dear = |(own, other): ((&str, &str), (&str, &str))| {
            decimal::compare(&decimal::plain(own.1), &decimal::plain(other.1)).is_ge()
        };
        (&self.tier, self.above) == (&other.tier, other.above)
            && self.billed().into_iter().zip(other.billed()).all(dear)
    }

    fn prices(&self) -> [(&'static str, Option<&String>); 5] {
        [
            ("input", Some(&self.input)),
            ("cache_read", self.cache_read.as_ref()),
            ("cache_write", self.cache_write.as_ref()),
            ("cache_write_long", self.cache_write_long.as_ref()),
            ("output", Some(&self.output)),
        ]
    }
}

/// A TOML basic string, which a JSON string is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::PriceBook;

    const TABLE: &str = r#"{
        "gpt-x": { "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 400000, "max_output_tokens": 100,
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
}
