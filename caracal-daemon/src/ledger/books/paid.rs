//! The fields of a record that money hangs on, read without a copy.

use crate::event::{Usage, WindowKey};
use std::borrow::Cow;

/// A record of a paid call.
#[derive(serde::Deserialize)]
pub(super) struct Paid<'a> {
    #[serde(rename = "caracalschema", default)]
    pub(super) schema: u64,
    #[serde(borrow)]
    pub(super) time: &'a str,
    #[serde(borrow)]
    pub(super) data: PaidData<'a>,
}

#[derive(serde::Deserialize)]
pub(super) struct PaidData<'a> {
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
    #[serde(rename = "caracal.windows", default)]
    pub(super) windows: Vec<WindowKey>,
    #[serde(rename = "caracal.usage.uncached_input_tokens")]
    input: Option<u64>,
    #[serde(rename = "gen_ai.usage.cache_read.input_tokens", default)]
    cache_read: u64,
    #[serde(rename = "caracal.usage.cache_write_5m_tokens", default)]
    cache_write_5m: u64,
    #[serde(rename = "caracal.usage.cache_write_1h_tokens", default)]
    cache_write_1h: u64,
    #[serde(rename = "gen_ai.usage.output_tokens", default)]
    output: u64,
    #[serde(rename = "gen_ai.usage.reasoning.output_tokens", default)]
    reasoning: u64,
    #[serde(rename = "caracal.usage.web_searches", default)]
    web_searches: u64,
    #[serde(rename = "caracal.terms.tier", borrow)]
    tier: Option<Cow<'a, str>>,
}

impl Paid<'_> {
    pub(super) fn read(record: &[u8]) -> Option<Paid<'_>> {
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
