//! The book as it is written: TOML, every field known, every price a decimal in quotes. A price that cannot be is refused.

use super::model::{Model, Rates, Row, Tier};
use super::{BookError, unknown};
use crate::config::Glob;
use crate::meter::{Operation, Provider};
use crate::money::{Factor, MoneyError, UnitPrice};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const TOKENS: u64 = 1_000_000;

/// What 1,000,000 tokens cost anywhere, dollars: at least, if they cost anything, and at most. What stands outside is of
/// another unit: a price of one token would let a million times too much through.
const CHEAPEST: &str = "0.0005";
const DEAREST: &str = "20000";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) version: String,
    #[serde(default)]
    pub(super) model: Vec<Entry>,
}

/// The first 16 hex digits of the SHA-256 of each entry, however it is laid out.
pub(super) fn entry_hashes(text: &str) -> Result<Vec<String>, BookError> {
    #[derive(Deserialize)]
    struct Entries {
        #[serde(default)]
        model: Vec<toml::Table>,
    }
    let entries: Entries = toml::from_str(text)?;
    let hash = |entry: &toml::Table| hex::encode(&Sha256::digest(entry.to_string())[..8]);
    Ok(entries.model.iter().map(hash).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) provider: Provider,
    pub(super) names: Vec<String>,
    #[serde(default)]
    hosts: Vec<Glob>,
    operations: Vec<Operation>,
    #[serde(rename = "source")]
    _source: String,
    #[serde(default)]
    assumed: bool,
    max_input: u64,
    #[serde(default)]
    max_output: u64,
    image_tokens: Option<u64>,
    search_tokens: Option<u64>,
    web_search: Option<String>,
    geo_us: Option<String>,
    fast: Option<String>,
    rates: Vec<RawRates>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRates {
    tier: Tier,
    #[serde(default)]
    above: u64,
    input: String,
    cache_read: Option<String>,
    cache_write: Option<String>,
    cache_write_long: Option<String>,
    output: String,
}

impl Entry {
    pub(super) fn build(self) -> Result<Model, BookError> {
        let name = self.names.first().cloned().unwrap_or_default();
        let number = |why| BookError::Number { model: name.clone(), why };
        let rows = self.rates.iter().map(RawRates::build).collect::<Result<Vec<Row>, _>>().map_err(number)?;
        let (cheapest, dearest) = (UnitPrice::new(CHEAPEST, TOKENS), UnitPrice::new(DEAREST, TOKENS));
        let (cheapest, dearest) = (cheapest.map_err(number)?, dearest.map_err(number)?);
        for usd in self.rates.iter().flat_map(RawRates::prices) {
            let price = UnitPrice::new(usd, TOKENS).map_err(number)?;
            let costs = price.is_dearer(UnitPrice::FREE);
            if costs && (cheapest.is_dearer(price) || price.is_dearer(dearest)) {
                return Err(BookError::Unit { model: name, price: usd.to_owned() });
            }
        }
        let based = rows.iter().any(|row| row.tier == Tier::Standard && row.above == 0);
        let speaks =
            self.max_output > 0 || matches!(self.operations[..], [Operation::Embeddings | Operation::EmbedContent]);
        if name.is_empty() || self.operations.is_empty() || self.max_input == 0 || !based || !speaks {
            return Err(BookError::Incomplete(name));
        }
        let factor = |text: &Option<String>| text.as_deref().map(Factor::new).transpose().map_err(number);
        let web_search =
            self.web_search.as_deref().map(|usd| UnitPrice::new(usd, TOKENS)).transpose().map_err(number)?;
        Ok(Model {
            assumed: self.assumed || unknown::is_guess(self.provider, &self.names),
            hosts: self.hosts,
            max_input: self.max_input,
            max_output: self.max_output,
            image_tokens: self.image_tokens,
            search_tokens: self.search_tokens,
            web_search,
            geo_us: factor(&self.geo_us)?.unwrap_or(Factor::ONE),
            fast: factor(&self.fast)?,
            fixed: None,
            rows,
            entry: "".into(),
            operations: self.operations,
            name: name.as_str().into(),
        })
    }
}

impl RawRates {
    fn prices(&self) -> impl Iterator<Item = &str> {
        let caches = [&self.cache_read, &self.cache_write, &self.cache_write_long];
        [self.input.as_str(), &self.output].into_iter().chain(caches.into_iter().flatten().map(String::as_str))
    }

    /// A kind of input without a price of its own costs what it is made of: reads and writes cost plain input.
    fn build(&self) -> Result<Row, MoneyError> {
        let price = |usd: &str| UnitPrice::new(usd, TOKENS);
        let or = |usd: &Option<String>, other: UnitPrice| usd.as_deref().map_or(Ok(other), price);
        let input = price(&self.input)?;
        let cache_write = or(&self.cache_write, input)?;
        let rates = Rates {
            input,
            cache_read: or(&self.cache_read, input)?,
            cache_write,
            cache_write_long: or(&self.cache_write_long, cache_write)?,
            output: price(&self.output)?,
        };
        Ok(Row { tier: self.tier, above: self.above, rates })
    }
}
