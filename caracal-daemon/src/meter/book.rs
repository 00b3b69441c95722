//! The price book: takes a TOML file, gives what each model costs and what bounds a call to it.
//! Refuses a file with an unknown field, a name twice, or a price that is missing. Never guesses.

mod file;
mod model;
#[cfg(test)]
mod tests;
mod unknown;

use super::{Operation, Provider};
use crate::clock::UnixNanos;
use crate::event::Usage;
use crate::event::record::Fields;
use crate::money::{Factor, MoneyError, NanoUsd, UnitPrice};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

use file::{File, entry_hashes};
use model::Fixed;
pub use model::{Model, Tier};
pub(crate) use model::{On, Rates};

/// Why a price book was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Not TOML, an unknown field, or a missing one.
    #[error("the price book cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Two models have one name.
    #[error("the price book names {0:?} twice; keep one of the two")]
    Twice(String),
    /// A model without names, operations, or rates of the standard tier.
    #[error(
        "model {0:?} of the price book needs names, operations, max_input and a rate with tier = \"standard\" that has no `above`"
    )]
    Incomplete(String),
    /// A number that is not one.
    #[error("model {model:?} of the price book: {why}")]
    Number {
        /// Which model.
        model: String,
        /// What is wrong.
        why: MoneyError,
    },
    /// A price of another unit.
    #[error(
        "model {model:?} of the price book: {price:?} dollars for 1,000,000 tokens cannot be; is it the price of one token, or in cents?"
    )]
    Unit {
        /// Which model.
        model: String,
        /// The price.
        price: String,
    },
    /// An entry for unknown models that is below a known one.
    #[error(
        "the price book's entry \"*\" of {provider} has a smaller {what} than its model {model:?}. It stands for models that nobody here knows, so it must be at least the dearest: raise it, or leave it out and unknown models are refused"
    )]
    Below {
        /// Whose.
        provider: String,
        /// The known model.
        model: String,
        /// In what.
        what: String,
    },
}

/// A price that the configuration names, for a call of a tool or of a plain API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedPrice {
    /// `mcp` or `api`.
    pub provider: Provider,
    /// `server/tool`, or the API's name.
    pub name: String,
    /// For one call.
    pub call: NanoUsd,
    /// For 1,048,576 bytes sent.
    pub sent_mib: NanoUsd,
    /// For 1,048,576 bytes received.
    pub received_mib: NanoUsd,
    /// The longest answer, bytes.
    pub max_received: u64,
}

/// Every price, with the version and hash that records carry.
#[derive(Debug)]
pub struct PriceBook {
    id: Arc<str>,
    models: HashMap<(Provider, Arc<str>), Arc<Model>>,
}

impl PriceBook {
    /// The text of the book that is compiled in.
    pub const BUILT_IN: &str = concat!(
        include_str!("prices.toml"),
        "\n",
        include_str!("prices/google.toml"),
        "\n",
        include_str!("prices/bedrock.toml"),
        "\n",
        include_str!("prices/compatible.toml"),
    );

    /// The book that is compiled in.
    ///
    /// # Errors
    /// Never, as a test proves.
    pub fn built_in() -> Result<PriceBook, BookError> {
        PriceBook::parse(Self::BUILT_IN)
    }

    /// How old it is, where its version is a day: `2026-11-24`.
    #[must_use]
    pub fn age_days(&self, now: UnixNanos) -> Option<u64> {
        let day: jiff::civil::Date = self.id.get(..10)?.parse().ok()?;
        let from = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_nanosecond();
        u64::try_from((i128::from(now.0) - from) / 86_400_000_000_000).ok()
    }

    /// A book without a price: every paid call is refused.
    #[must_use]
    pub fn empty() -> PriceBook {
        PriceBook { id: "none".into(), models: HashMap::new() }
    }

    /// Reads a book.
    ///
    /// # Errors
    /// When it is not one; the sentence says where.
    pub fn parse(text: &str) -> Result<PriceBook, BookError> {
        let file: File = toml::from_str(text)?;
        let mut models = HashMap::new();
        for (entry, hash) in file.model.into_iter().zip(entry_hashes(text)?) {
            let (provider, names) = (entry.provider, entry.names.clone());
            let model = Arc::new(Model { entry: hash.into(), ..entry.build()? });
            for name in names {
                if models.insert((provider, Arc::from(name.as_str())), Arc::clone(&model)).is_some() {
                    return Err(BookError::Twice(name));
                }
            }
        }
        unknown::check(&models)?;
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        let id = format!("{}@{}", file.version, digest.get(..16).unwrap_or(&digest));
        Ok(PriceBook { id: id.into(), models })
    }

    /// The book of what the configuration prices by the call. Its id is `configured@hash`.
    #[must_use]
    pub fn fixed(prices: &[FixedPrice]) -> PriceBook {
        const MIB: u64 = 1 << 20;
        let mut models = HashMap::new();
        let mut whole = Sha256::new();
        for price in prices {
            let text = format!("{price:?}\n");
            whole.update(text.as_bytes());
            let entry = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
            let fixed = Fixed {
                call: UnitPrice::of(price.call, 1),
                sent: UnitPrice::of(price.sent_mib, MIB),
                received: UnitPrice::of(price.received_mib, MIB),
                max_received: price.max_received,
                by_received: price.received_mib > NanoUsd::ZERO,
            };
            let model = Model {
                name: price.name.as_str().into(),
                assumed: false,
                hosts: Vec::new(),
                operations: vec![Operation::Tool, Operation::Call],
                max_input: 0,
                max_output: 0,
                image_tokens: None,
                search_tokens: None,
                web_search: None,
                geo_us: Factor::ONE,
                fast: None,
                fixed: Some(fixed),
                rows: Vec::new(),
                entry: entry.into(),
            };
            models.insert((price.provider, Arc::from(price.name.as_str())), Arc::new(model));
        }
        let digest = hex::encode(whole.finalize());
        PriceBook { id: format!("configured@{}", digest.get(..16).unwrap_or(&digest)).into(), models }
    }

    /// `version@hash`: the hash is the first 16 hex digits of the file's SHA-256.
    #[must_use]
    pub fn id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// The model of this exact name.
    #[must_use]
    pub fn model(&self, provider: Provider, name: &str) -> Option<Arc<Model>> {
        self.models.get(&(provider, Arc::from(name))).cloned()
    }

    /// The price of a model that a request names: its own entry, or the provider's entry named `*` for all others.
    #[must_use]
    pub fn price(&self, provider: Provider, name: &str) -> Option<Arc<Model>> {
        self.model(provider, name).or_else(|| self.model(provider, "*"))
    }

    /// The bill of an outcome, made again from its record: `None` when it was not charged by its usage, when another book
    /// priced it, or when its schema carries no terms.
    #[must_use]
    pub fn reprice<'a>(&self, outcome: impl Into<Outcome<'a>>) -> Option<NanoUsd> {
        let outcome = outcome.into();
        let by_usage = outcome.settle == Some("settled") && outcome.price_book == Some(&*self.id);
        let (usage, tier) = outcome.usage.zip(outcome.tier).filter(|_| by_usage)?;
        let provider = Provider::named(outcome.provider?)?;
        let answered = outcome.answered.and_then(|name| self.model(provider, name));
        let asked = outcome.model?;
        // The server's price for tools that it has no price of their own for.
        let server = || self.model(provider, &format!("{}/*", asked.split_once('/')?.0));
        let model = answered.or_else(|| self.price(provider, asked)).or_else(server)?;
        Some(model.bill(&usage, On { tier: Tier::named(tier)?, geo_us: outcome.geo_us, fast: outcome.fast }))
    }

    /// How many names have a price.
    #[must_use]
    pub fn len(&self) -> usize {
        self.models.len()
    }

    /// No name has a price: every paid call is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }
}

/// What a bill is made from again, as the record of an outcome says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// `settled`, where it was charged by its usage.
    pub settle: Option<&'a str>,
    /// The price book that priced it.
    pub price_book: Option<&'a str>,
    /// The provider.
    pub provider: Option<&'a str>,
    /// The model that was asked for.
    pub model: Option<&'a str>,
    /// The model that answered.
    pub answered: Option<&'a str>,
    /// The service tier.
    pub tier: Option<&'a str>,
    /// Processed in the US, at an uplift.
    pub geo_us: bool,
    /// Processed at the dearer speed.
    pub fast: bool,
    /// What was used.
    pub usage: Option<Usage>,
}

impl<'a> From<&'a Fields> for Outcome<'a> {
    fn from(fields: &'a Fields) -> Outcome<'a> {
        Outcome {
            settle: fields.settle.as_deref(),
            price_book: fields.price_book.as_deref(),
            provider: fields.provider.as_deref(),
            model: fields.model.as_deref(),
            answered: fields.response_model.as_deref(),
            tier: fields.tier.as_deref(),
            geo_us: fields.geo_us == Some(1),
            fast: fields.fast == Some(1),
            usage: fields.usage(),
        }
    }
}
