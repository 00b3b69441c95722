//! The sound upper bound of a call's bill, and the exact bill of a usage.
//!
//! Input: a token of a byte-level vocabulary covers at least one byte, so bytes bound text, and those that its normal form may
//! add; what the provider adds in words of its own is a constant; an inline image is bounded by its model's rule, a PDF by the model's longest input.
//! Output: the cap, or the model's maximum, times the answers asked for. Every rate is the dearest that can apply.

use super::book::{Model, On, Rates, Tier};
use super::shape::{Caching, Searches, Tongue, unbounded};
use super::usage::{Reading, Terms};
use super::{Call, Operation, Provider, refuse_agent};
use crate::event::Usage;
use crate::money::{Bill, NanoUsd, UnitPrice};
use crate::refusal::{Reason, Refusal};

/// Input tokens that a provider may add to any request: roles, the frame of tool use, safety text.
const HIDDEN: u64 = 2_048;

/// Input tokens that a provider may add for a tool that it describes itself.
const HIDDEN_PER_TOOL: u64 = 1_024;

/// Most web searches of one call.
const MAX_SEARCHES: u64 = 32;

impl Call {
    /// Refuses what the price book cannot bound.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.shape.images > 0 && self.price.image_tokens.is_none() && self.shape.tongue != Tongue::Gemini {
            return Err(unbounded("the price book has no `image_tokens` for this model", "Add it, or send no image."));
        }
        if self.max_searches() > 0 && self.price.web_search.is_none() {
            return Err(unbounded(
                "the price book has no `web_search` price for this model",
                "Add it, or turn the web search tool off.",
            ));
        }
        if matches!(self.shape.searches, Searches::Fixed(uses) if uses > MAX_SEARCHES) {
            return Err(unbounded(&format!("it allows more than {MAX_SEARCHES} web searches"), "Lower `max_uses`."));
        }
        // Elsewhere a project's setting may ask for a tier that the model is not sold at, and it is served at the usual one.
        let strict = |tier: &Tier| *tier == Tier::Ultrafast || self.provider != Provider::OpenAi;
        let asked = self.shape.tiers.len() == 1;
        let asked = self.shape.tiers.iter().filter(|tier| asked && strict(tier));
        if asked.into_iter().any(|tier| !self.price.sells(*tier)) {
            return Err(unbounded(
                "the price book has no price for this service tier of this model",
                "Use another service tier.",
            ));
        }
        if self.shape.fast && self.price.fast.is_none() {
            return Err(unbounded("the price book has no price for `speed: fast` of this model", "Leave `speed` out."));
        }
        if self.operation == Operation::Messages && self.shape.cap().is_none() {
            return Err(refuse_agent(
                Reason::AmbiguousRequest,
                "cannot price a messages call without `max_tokens`, which the provider requires.".to_owned(),
            ));
        }
        Ok(())
    }

    /// Output tokens that the call can be given: its own cap, or the model's maximum.
    pub(crate) fn ceiling(&self) -> u64 {
        if self.shape.cap_key.is_empty() {
            return 0;
        }
        // Its own cap even above the model's maximum: a maximum that has grown since must not make the bound too low.
        self.shape.cap().unwrap_or(self.price.max_output).max(self.shape.least_output)
    }

    /// The smallest cap that respects `min_output`: a thinking budget needs 1,024 tokens beside it. A signed body keeps
    /// its own: an edit would break the signature.
    pub(crate) fn floor(&self, min_output: u64) -> u64 {
        if self.shape.signed {
            return self.ceiling();
        }
        let thinking = if self.thinks_within_cap() { 1_024 } else { 0 };
        min_output.max(16).saturating_add(thinking).max(self.shape.least_output).min(self.ceiling())
    }

    /// The thinking budget is a part of the cap (with interleaved thinking it may exceed it, and is then left alone).
    pub(crate) fn thinks_within_cap(&self) -> bool {
        self.shape.thinking.as_ref().zip(self.shape.cap()).is_some_and(|((budget, _), cap)| *budget < cap)
    }

    /// Searches that the call can make as it was written.
    pub(crate) fn max_searches(&self) -> u64 {
        match self.shape.searches {
            Searches::None => 0,
            Searches::Fixed(uses) => uses,
            Searches::Clamped { declared, .. } => declared.unwrap_or(MAX_SEARCHES).min(MAX_SEARCHES),
        }
    }

    /// Searches that a clamp leaves.
    pub(crate) fn min_searches(&self) -> u64 {
        match self.shape.searches {
            Searches::Clamped { .. } if !self.shape.signed => self.max_searches().min(1),
            _ => self.max_searches(),
        }
    }

    /// The longest bill of the call as the agent wrote it.
    #[must_use]
    pub fn most(&self) -> NanoUsd {
        self.bound(self.ceiling(), self.max_searches())
    }

    /// The longest bill with the output clamped to `min_output` tokens (or to its own cap, if that is lower).
    #[must_use]
    pub fn least(&self, min_output: u64) -> NanoUsd {
        self.bound(self.floor(min_output), self.min_searches())
    }

    /// Input tokens of the first pass, at most.
    pub(crate) fn first_pass(&self) -> u64 {
        let shape = &self.shape;
        // What an image of Gemini's costs is documented by tiles, whose number has no bound.
        if shape.whole_context || (shape.images > 0 && self.price.image_tokens.is_none()) {
            return self.price.max_input;
        }
        let bytes = u64::try_from(self.length).unwrap_or(u64::MAX).saturating_sub(shape.image_bytes);
        let images = shape.images.saturating_mul(self.price.image_tokens.unwrap_or(0));
        let hidden = HIDDEN.saturating_add(shape.typed_tools.saturating_mul(HIDDEN_PER_TOOL));
        let own = bytes.saturating_add(shape.grown).saturating_add(images).saturating_add(hidden);
        own.saturating_add(shape.earlier).min(self.longest_input())
    }

    /// An embeddings call takes many inputs, each up to the model's limit: 2,048 and 300,000 tokens in all.
    fn longest_input(&self) -> u64 {
        let many = matches!(self.operation, Operation::Embeddings | Operation::EmbedContent);
        if many { u64::MAX } else { self.price.max_input }
    }

    /// Input tokens of all passes: each search adds to what the next pass reads.
    fn input(&self, output: u64, searches: u64) -> u64 {
        let added = self.price.search_tokens.map_or(self.price.max_input, |tokens| tokens.saturating_add(output));
        let first = self.first_pass();
        let pass = |n: u64| first.saturating_add(added.saturating_mul(n)).min(self.longest_input());
        (0..=searches.saturating_add(self.shape.extra_passes)).map(pass).fold(0, u64::saturating_add)
    }

    /// Output tokens of all passes. OpenAI's cap holds for the whole response, Anthropic's for each pass.
    fn output(&self, cap: u64, searches: u64) -> u64 {
        let passes = match self.operation {
            Operation::Responses => 1 + self.shape.extra_passes,
            _ => 1 + searches + self.shape.extra_passes,
        };
        cap.saturating_mul(self.shape.choices).saturating_mul(passes)
    }

    /// The longest bill with this output cap and this many searches.
    pub(crate) fn bound(&self, cap: u64, searches: u64) -> NanoUsd {
        if let Some(fixed) = &self.price.fixed {
            let sent = u64::try_from(self.length).unwrap_or(u64::MAX);
            return fixed.bill(&Usage { calls: 1, sent, received: fixed.max_received, ..Usage::default() });
        }
        let (input, output) = (self.input(cap, searches), self.output(cap, searches));
        let fees = Bill::default().plus(searches, self.price.web_search.unwrap_or(UnitPrice::FREE));
        let dearest = self.shape.tiers.iter().filter_map(|tier| {
            let rates = self.price.dearest(*tier, input)?;
            let bill = Bill::default().plus(input, self.dearest_input(&rates)).plus(output, rates.output);
            Some(self.price.with_factors(bill, self.shape.geo_us, self.shape.fast).round_up())
        });
        dearest.max().unwrap_or(NanoUsd::MAX).saturating_add(fees.round_up())
    }

    fn dearest_input(&self, rates: &Rates) -> UnitPrice {
        let read = rates.input.dearer(rates.cache_read);
        match self.shape.caching {
            Caching::Never => read,
            Caching::Short => read.dearer(rates.cache_write),
            Caching::Long => read.dearer(rates.cache_write).dearer(rates.cache_write_long),
        }
    }

    /// The least that the provider bills for what a stream has told and delivered so far: where it has not said on which
    /// of the terms that were asked for it is served, the cheapest of them.
    #[must_use]
    pub fn least_bill(&self, reading: &Reading) -> NanoUsd {
        let answered = reading.model.as_deref().and_then(|name| self.book.model(self.provider, name));
        let price = answered.as_ref().unwrap_or(&self.price);
        let tiers = reading.terms.tier.map_or_else(|| self.shape.tiers.clone(), |tier| vec![tier]);
        let on = |tier| self.on(&Terms { tier: Some(tier), ..reading.terms });
        let bills = tiers.into_iter().map(|tier| price.bill(&reading.so_far.least, on(tier)));
        bills.min().unwrap_or(NanoUsd::ZERO)
    }

    /// A bill that is not below the provider's, of a stream that has passed its hold and did not tell what it cost: what
    /// the whole request could cost, and each byte that was delivered as a token.
    #[must_use]
    pub fn bill_beyond(&self, reading: &Reading, hold: NanoUsd) -> NanoUsd {
        let output = reading.so_far.least.output.max(reading.so_far.delivered);
        let delivered = Reading { usage: Some(Usage { output, ..Usage::default() }), ..reading.clone() };
        let beyond = self.bill(&delivered).unwrap_or(NanoUsd::ZERO);
        hold.saturating_add(beyond).max(self.least_bill(reading))
    }

    /// The exact bill of `usage`.
    pub(crate) fn charge_on(&self, usage: &Usage, terms: &Terms, price: &Model) -> NanoUsd {
        price.bill(usage, self.on(terms))
    }

    /// The terms that count: those that the answer reports, or else those asked for.
    pub(crate) fn on(&self, terms: &Terms) -> On {
        let asked = self.shape.tiers.first().copied().unwrap_or(Tier::Standard);
        On {
            tier: terms.tier.filter(|_| self.shape.tongue != Tongue::Messages).unwrap_or(asked),
            geo_us: terms.geo_us.unwrap_or(self.shape.geo_us_asked),
            fast: terms.fast.unwrap_or(self.shape.fast),
        }
    }
}
