//! What one model costs: rates by tier and length of input, factors, fees by the call; gives the exact bill of a usage.

use crate::config::Glob;
use crate::event::Usage;
use crate::meter::Operation;
use crate::money::{Bill, Factor, NanoUsd, UnitPrice};
use serde::Deserialize;
use std::sync::Arc;

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
pub(super) struct Row {
    pub(super) tier: Tier,
    pub(super) above: u64,
    pub(super) rates: Rates,
}

/// What one model costs.
#[derive(Debug)]
pub struct Model {
    /// The first of its names.
    pub name: Arc<str>,
    /// The price is a guess on the dear side: the entry says so, or it stands for models that nobody here knows.
    pub assumed: bool,
    /// It holds for calls to these hosts alone; empty: to all.
    pub(super) hosts: Vec<Glob>,
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
    pub(super) rows: Vec<Row>,
    /// Hash of its entry in the file: another one after each change of it.
    pub entry: Arc<str>,
}

/// Prices of a call by itself, and of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    pub(super) call: UnitPrice,
    pub(super) sent: UnitPrice,
    pub(super) received: UnitPrice,
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

    pub(super) fn named(name: &str) -> Option<Tier> {
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

/// Input tokens of every kind: a request's length.
fn all_input(usage: &Usage) -> u64 {
    [usage.cache_read, usage.cache_write_5m, usage.cache_write_1h].into_iter().fold(usage.input, u64::saturating_add)
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
