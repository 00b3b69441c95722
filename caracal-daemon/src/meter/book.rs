//! The price book: takes a TOML file, gives what each model costs and what bounds a call to it.
//! Refuses a file with an unknown field, a name twice, or a price that is missing. Never guesses.

mod unknown;

use super::{Operation, Provider};
use crate::clock::UnixNanos;
use crate::config::Glob;
use crate::event::Usage;
use crate::event::record::Fields;
use crate::money::{Bill, Factor, MoneyError, NanoUsd, UnitPrice};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

const TOKENS: u64 = 1_000_000;

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

/// What 1,000,000 tokens cost anywhere, dollars: at least, if they cost anything, and at most. What stands outside is of
/// another unit: a price of one token would let a million times too much through.
const CHEAPEST: &str = "0.0005";
const DEAREST: &str = "20000";

/// How fast, and at which price, a provider works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// List price.
    Standard,
    /// Slower and cheaper.
    Flex,
    /// Faster and dearer; OpenAI also calls it `fast`.
    Priority,
    /// Fastest.
    Ultrafast,
}

/// Prices per token of one tier and one length of input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) input: UnitPrice,
    pub(crate) cache_read: UnitPrice,
    pub(crate) cache_write: UnitPrice,
    pub(crate) cache_write_long: UnitPrice,
    pub(crate) output: UnitPrice,
}

impl Rates {
    fn dearer(self, other: Rates) -> Rates {
        Rates {
            input: self.input.dearer(other.input),
            cache_read: self.cache_read.dearer(other.cache_read),
            cache_write: self.cache_write.dearer(other.cache_write),
            cache_write_long: self.cache_write_long.dearer(other.cache_write_long),
            output: self.output.dearer(other.output),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    tier: Tier,
    above: u64,
    rates: Rates,
}

/// What one model costs.
#[derive(Debug)]
pub struct Model {
    /// The first of its names.
    pub name: Arc<str>,
    /// The price is a guess on the dear side: the entry says so, or it stands for models that nobody here knows.
    pub assumed: bool,
    /// It holds for calls to these hosts alone; empty: to all.
    hosts: Vec<Glob>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) max_input: u64,
    pub(crate) max_output: u64,
    /// The most tokens of one inline image; `None`: takes no images.
    pub(crate) image_tokens: Option<u64>,
    /// The most input tokens that one web search adds; `None`: nothing is promised.
    pub(crate) search_tokens: Option<u64>,
    pub(crate) web_search: Option<UnitPrice>,
    pub(crate) geo_us: Factor,
    pub(crate) fast: Option<Factor>,
    /// A price that no token has a part in.
    pub(crate) fixed: Option<Fixed>,
    rows: Vec<Row>,
    /// Hash of its entry in the file: another one after each change of it.
    pub entry: Arc<str>,
}

/// Prices of a call by itself, and of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    call: UnitPrice,
    sent: UnitPrice,
    received: UnitPrice,
    /// The longest answer that is held for, bytes.
    pub(crate) max_received: u64,
    /// Answers cost by the byte.
    pub(crate) by_received: bool,
}

impl Fixed {
    pub(crate) fn bill(&self, usage: &Usage) -> NanoUsd {
        Bill::default()
            .plus(usage.calls, self.call)
            .plus(usage.sent, self.sent)
            .plus(usage.received, self.received)
            .round_up()
    }
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

/// On which terms a call is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct On {
    pub(crate) tier: Tier,
    pub(crate) geo_us: bool,
    pub(crate) fast: bool,
}

impl Tier {
    /// The name that records use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tier::Standard => "standard",
            Tier::Flex => "flex",
            Tier::Priority => "priority",
            Tier::Ultrafast => "ultrafast",
        }
    }

    fn named(name: &str) -> Option<Tier> {
        [Tier::Standard, Tier::Flex, Tier::Priority, Tier::Ultrafast].into_iter().find(|tier| tier.name() == name)
    }
}

impl Model {
    /// The exact bill of `usage`, rounded up once; the greatest amount where the book has no rates.
    pub(crate) fn bill(&self, usage: &Usage, on: On) -> NanoUsd {
        if let Some(fixed) = &self.fixed {
            return fixed.bill(usage);
        }
        let Some(rates) = self.rates(on.tier, all_input(usage)) else { return NanoUsd::MAX };
        let bill = self.with_factors(tokens(&rates, usage), on.geo_us, on.fast);
        bill.plus(usage.web_searches, self.web_search.unwrap_or(UnitPrice::FREE)).round_up()
    }

    pub(crate) fn with_factors(&self, bill: Bill, geo_us: bool, fast: bool) -> Bill {
        let geo = if geo_us { self.geo_us } else { Factor::ONE };
        let speed = if fast { self.fast.unwrap_or(Factor::ONE) } else { Factor::ONE };
        bill.times(geo).times(speed)
    }

    /// From how many input tokens on the prices of this call hold; 0 for the usual ones.
    pub(crate) fn input_above(&self, tier: Tier, usage: &Usage) -> u64 {
        let input = all_input(usage);
        let rows = self.rows.iter().filter(|row| [tier, Tier::Standard].contains(&row.tier) && input > row.above);
        rows.map(|row| row.above).max().unwrap_or(0)
    }

    /// Whether the price holds for calls to this host.
    pub(crate) fn is_sold_at(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|hosts| hosts.matches(host))
    }

    /// Whether it is sold at this tier.
    pub(crate) fn sells(&self, tier: Tier) -> bool {
        self.rows.iter().any(|row| row.tier == tier)
    }

    /// The prices of a request with `input` tokens. A tier without prices for so long an input costs the dearer of
    /// its own prices and those of the standard tier at that length.
    pub(crate) fn rates(&self, tier: Tier, input: u64) -> Option<Rates> {
        let best = |tier: Tier| {
            let rows = self.rows.iter().filter(|row| row.tier == tier && (row.above == 0 || input > row.above));
            rows.max_by_key(|row| row.above)
        };
        let standard = best(Tier::Standard)?;
        let own = best(tier).unwrap_or(standard);
        Some(if own.above < standard.above { own.rates.dearer(standard.rates) } else { own.rates })
    }

    /// The dearest prices of a request with at most `input` tokens.
    pub(crate) fn dearest(&self, tier: Tier, input: u64) -> Option<Rates> {
        let tier = if self.sells(tier) { tier } else { Tier::Standard };
        Some(self.rates(tier, input)?.dearer(self.rates(tier, 0)?))
    }
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    #[serde(default)]
    model: Vec<Entry>,
}

/// The first 16 hex digits of the SHA-256 of each entry, however it is laid out.
fn entry_hashes(text: &str) -> Result<Vec<String>, BookError> {
    #[derive(Deserialize)]
    struct Entries {
        #[serde(default)]
        model: Vec<toml::Table>,
    }
    let entries: Entries = toml::from_str(text)?;
    let hash = |entry: &toml::Table| hex::encode(&Sha256::digest(entry.to_string())[..8]);
    Ok(entries.model.iter().map(hash).collect())
}

/// Input tokens of every kind: a request's length.
fn all_input(usage: &Usage) -> u64 {
    [usage.cache_read, usage.cache_write_5m, usage.cache_write_1h].into_iter().fold(usage.input, u64::saturating_add)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    provider: Provider,
    names: Vec<String>,
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
    fn build(self) -> Result<Model, BookError> {
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

/// The bill of `usage` at these rates, before per-call fees.
fn tokens(rates: &Rates, usage: &Usage) -> Bill {
    Bill::default()
        .plus(usage.input, rates.input)
        .plus(usage.cache_read, rates.cache_read)
        .plus(usage.cache_write_5m, rates.cache_write)
        .plus(usage.cache_write_1h, rates.cache_write_long)
        .plus(usage.output, rates.output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_book_has_the_agents_default_models() -> Result<(), BookError> {
        let book = PriceBook::built_in()?;
        for name in
            ["claude-opus-4-8", "claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-opus-5-5", "claude-sonnet-5-5"]
        {
            assert!(book.model(Provider::Anthropic, name).is_some_and(|model| !model.assumed), "{name}");
        }
        for name in ["gpt-6.1-sol", "gpt-5.4-mini", "gpt-4.1", "text-embedding-3-small"] {
            assert!(book.model(Provider::OpenAi, name).is_some(), "{name}");
        }
        assert!(book.model(Provider::OpenAi, "claude-opus-4-8").is_none());
        assert!(book.id().starts_with("2026-11-24@") && book.id().len() == 27);
        Ok(())
    }

    #[test]
    fn a_longer_input_moves_the_whole_request() -> Result<(), BookError> {
        let book = PriceBook::built_in()?;
        let model = book.model(Provider::OpenAi, "gpt-6.1-sol").ok_or(BookError::Incomplete("gpt-6.1-sol".into()))?;
        let price = |tier, input| {
            model.rates(tier, input).map(|rates| Bill::default().plus(1_000_000, rates.input).round_up().0)
        };
        assert_eq!(price(Tier::Standard, 272_000), Some(2_000_000_000));
        assert_eq!(price(Tier::Standard, 272_001), Some(4_000_000_000));
        assert_eq!(price(Tier::Priority, 272_001), Some(8_000_000_000));
        let model = book.model(Provider::OpenAi, "gpt-5.4").ok_or(BookError::Incomplete("gpt-5.4".into()))?;
        let priority = model
            .rates(Tier::Priority, 300_000)
            .map(|rates| Bill::default().plus(1_000_000, rates.output).round_up().0);
        assert_eq!(priority, Some(30_000_000_000), "a tier without long prices: the dearer of both");
        Ok(())
    }

    #[test]
    fn an_entrys_hash_moves_with_its_price_and_with_nothing_else() -> Result<(), BookError> {
        let hash = |price: &str, more: &str| {
            let rates = format!("rates=[{{tier='standard',input='{price}',output='1'}}]\n");
            let book = PriceBook::parse(&format!("version='1'\n{ENTRY}{rates}{more}"))?;
            Ok::<_, BookError>(book.model(Provider::OpenAi, "a").map(|model| model.entry.to_string()))
        };
        let other = ENTRY.replace("['a']", "['b']") + "rates=[{tier='standard',input='1',output='1'}]\n";
        assert_eq!(hash("1", "")?, hash("1", &other)?);
        assert_ne!(hash("1", "")?, hash("2", "")?);
        assert_eq!(hash("1", "")?.map(|hash| hash.len()), Some(16));
        Ok(())
    }

    const ENTRY: &str =
        "[[model]]\nprovider='openai'\nnames=['a']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\n";

    #[test]
    fn a_book_with_a_fault_is_refused() {
        let rates = "rates=[{tier='standard',input='1',output='1'}]\n";
        let book = |body: &str| PriceBook::parse(&format!("version='1'\n{body}"));
        assert!(book(&format!("{ENTRY}{rates}")).is_ok());
        assert!(matches!(book(&format!("{ENTRY}{rates}{ENTRY}{rates}")), Err(BookError::Twice(_))));
        assert!(matches!(book(&format!("{ENTRY}typo=1\n{rates}")), Err(BookError::Syntax(_))));
        assert!(matches!(book(ENTRY), Err(BookError::Syntax(_))));
        assert!(matches!(
            book(&format!("{ENTRY}rates=[{{tier='flex',input='1',output='1'}}]")),
            Err(BookError::Incomplete(_))
        ));
        assert!(matches!(
            book(&format!("{ENTRY}rates=[{{tier='standard',input='1e-6',output='1'}}]")),
            Err(BookError::Number { .. })
        ));
        assert!(matches!(
            book(&format!("{ENTRY}rates=[{{tier='standard',input=1.0,output='1'}}]")),
            Err(BookError::Syntax(_))
        ));
    }
}
