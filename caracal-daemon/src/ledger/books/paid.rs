//! The fields of a record that money hangs on, read without a copy. Most records are as a daemon writes them: those are read by
//! hand (`books/plain.rs`). All else that JSON allows goes through serde, to the same fields.

use super::plain::Scan;
use crate::event::{Usage, WindowKey};
use serde::Deserialize as _;
use std::borrow::Cow;

/// A record of a paid call.
#[derive(Debug, Default, PartialEq, serde::Deserialize)]
pub(in crate::ledger) struct Paid<'a> {
    #[serde(rename = "caracalschema", default)]
    pub(super) schema: u64,
    #[serde(borrow)]
    pub(super) time: &'a str,
    #[serde(borrow)]
    pub(in crate::ledger) data: PaidData<'a>,
    /// What a bill is made again from, where the record was read by hand.
    #[serde(skip)]
    pub(super) terms: Option<Terms<'a>>,
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
pub(in crate::ledger) struct PaidData<'a> {
    #[serde(rename = "caracal.call", borrow)]
    pub(super) call: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.agent", borrow, default)]
    pub(super) agent: Cow<'a, str>,
    #[serde(rename = "gen_ai.provider.name", borrow, default)]
    pub(super) provider: Cow<'a, str>,
    #[serde(rename = "gen_ai.operation.name", borrow, default)]
    pub(super) operation: Cow<'a, str>,
    #[serde(rename = "gen_ai.request.model", borrow, default)]
    pub(super) model: Cow<'a, str>,
    #[serde(rename = "caracal.price_book", borrow)]
    pub(super) price_book: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.price_entry", borrow)]
    pub(super) price_entry: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.settle", borrow, default)]
    pub(super) settle: Cow<'a, str>,
    #[serde(rename = "caracal.hold.nano_usd", default)]
    pub(super) hold: u64,
    #[serde(rename = "caracal.cost.nano_usd")]
    pub(super) cost: Option<u64>,
    #[serde(rename = "caracal.correction.nano_usd")]
    pub(super) correction: Option<i64>,
    #[serde(rename = "caracal.correction.sequence")]
    pub(super) corrects: Option<u64>,
    #[serde(rename = "caracal.correction.charged_at", borrow)]
    pub(super) charged_at: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.bytes.sent", default)]
    pub(super) sent: u64,
    #[serde(rename = "caracal.bytes.received", default)]
    pub(super) received: u64,
    /// As JSON in one form, so that equal windows are equal texts; empty where there are none.
    #[serde(rename = "caracal.windows", default, deserialize_with = "in_one_form")]
    pub(super) windows: Cow<'a, str>,
    #[serde(rename = "caracal.usage.uncached_input_tokens")]
    pub(super) input: Option<u64>,
    #[serde(rename = "gen_ai.usage.cache_read.input_tokens", default)]
    pub(super) cache_read: u64,
    #[serde(rename = "caracal.usage.cache_write_5m_tokens", default)]
    pub(super) cache_write_5m: u64,
    #[serde(rename = "caracal.usage.cache_write_1h_tokens", default)]
    pub(super) cache_write_1h: u64,
    #[serde(rename = "gen_ai.usage.output_tokens", default)]
    pub(super) output: u64,
    #[serde(rename = "gen_ai.usage.reasoning.output_tokens", default)]
    pub(super) reasoning: u64,
    #[serde(rename = "caracal.usage.web_searches", default)]
    pub(super) web_searches: u64,
    #[serde(rename = "caracal.terms.tier", borrow)]
    pub(super) tier: Option<Cow<'a, str>>,
}

/// What else a bill depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms<'a> {
    pub(super) has_model: bool,
    pub(super) answered: Option<&'a str>,
    pub(super) calls: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) geo_us: bool,
    pub(super) fast: bool,
}

fn in_one_form<'a, 'de, D: serde::Deserializer<'de>>(from: D) -> Result<Cow<'a, str>, D::Error> {
    let windows = Vec::<WindowKey>::deserialize(from)?;
    if windows.is_empty() {
        return Ok(Cow::Borrowed(""));
    }
    serde_json::to_string(&windows).map(Cow::Owned).map_err(serde::de::Error::custom)
}

impl<'a> Paid<'a> {
    pub(in crate::ledger) fn read(record: &'a [u8]) -> Option<Paid<'a>> {
        let mut paid = Paid::default();
        paid.fill(record)?;
        Some(paid)
    }

    /// Reads `record` into this one, which is as new.
    pub(super) fn fill(&mut self, record: &'a [u8]) -> Option<()> {
        if Scan::paid(record, self).is_none() {
            *self = Paid::by_serde(record)?;
        }
        Some(())
    }

    pub(super) fn by_serde(record: &'a [u8]) -> Option<Paid<'a>> {
        serde_json::from_slice(record).ok()
    }
}

impl PaidData<'_> {
    /// Whether it says what was used.
    pub(super) fn has_usage(&self) -> bool {
        self.input.is_some()
    }

    /// Whether it says on which terms.
    pub(super) fn has_terms(&self) -> bool {
        self.tier.is_some()
    }

    /// The windows.
    pub(super) fn windows(&self) -> Vec<WindowKey> {
        windows_of(&self.windows)
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            input: self.input.unwrap_or(0),
            cache_read: self.cache_read,
            cache_write_5m: self.cache_write_5m,
            cache_write_1h: self.cache_write_1h,
            output: self.output,
            reasoning: self.reasoning,
            web_searches: self.web_searches,
            ..Usage::default()
        }
    }
}

/// The windows of a text in their one form.
pub(super) fn windows_of(text: &str) -> Vec<WindowKey> {
    if text.is_empty() { Vec::new() } else { serde_json::from_str(text).unwrap_or_default() }
}
