//! What the records say of money: totals per budget window, open intents, spend per agent, model and day.
//! Takes records in the ledger's order; gives the changes that commit with them. Pure.

use crate::clock::UnixNanos;
use crate::event::write::PLACE_BYTES;
use crate::event::{Data, Detail, Draft, Kind, Usage, WindowKey};
use crate::meter::Provider;
use crate::money::NanoUsd;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A paid call that was about to be sent, and whose end is not recorded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OpenIntent {
    /// The call's id: a UUIDv7.
    pub call: String,
    /// When it was about to be sent.
    pub at: UnixNanos,
    /// What was held.
    pub hold: NanoUsd,
    /// Where it was held.
    pub windows: Vec<WindowKey>,
    /// Whose call.
    pub agent: String,
    /// `openai`, `anthropic`.
    pub provider: String,
    /// `chat`, `responses`, `messages`, `embeddings`.
    pub operation: String,
    /// The model.
    pub model: String,
    /// The price book that priced it.
    pub price_book: Option<String>,
}

impl OpenIntent {
    /// The outcome of a call whose daemon died before it could say how it ended: the hold is charged.
    #[must_use]
    pub fn crash_outcome(&self, at: UnixNanos) -> Draft {
        Draft {
            kind: Kind::Outcome,
            at,
            data: Data {
                agent: (!self.agent.is_empty()).then(|| self.agent.as_str().into()),
                reason: Some("crash"),
                call: self.call.parse().ok(),
                provider: Provider::named(&self.provider).map(Provider::name),
                model: (!self.model.is_empty()).then(|| self.model.as_str().into()),
                hold: Some(self.hold),
                cost: Some(self.hold),
                settle: Some("charged_max"),
                windows: self.windows.clone(),
                price_book: self.price_book.as_deref().map(Into::into),
                ..Data::default()
            },
            detail: Detail::default(),
        }
    }
}

/// A bill above its hold: a price that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overrun {
    /// `openai`, `anthropic`.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// The hash of the price book's entry.
    pub entry: String,
}

/// What a row of spend is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct SpendKey {
    /// The agent's name.
    pub agent: String,
    /// `openai`, `anthropic`.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The day in UTC: `2026-11-24`.
    pub day: String,
}

/// A row of spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Spend {
    /// Calls that were charged.
    pub calls: u64,
    /// What they were charged.
    pub cost: NanoUsd,
    /// Calls whose whole hold was charged because their usage was not seen.
    pub charged_max: u64,
    /// What the provider reported.
    pub usage: Usage,
}

impl Spend {
    /// The names of its numbers, in the order of [`Spend::numbers`].
    pub const NUMBERS: [&str; 10] = [
        "calls",
        "nano",
        "input",
        "cache_read",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
        "web_searches",
        "charged_max",
    ];

    /// Its numbers.
    #[must_use]
    pub fn numbers(&self) -> [u64; 10] {
        let mut row = *self;
        row.numbers_mut().map(|number| *number)
    }

    /// The same, to be changed.
    pub(crate) fn numbers_mut(&mut self) -> [&mut u64; 10] {
        let Spend { calls, cost, charged_max, usage } = self;
        let Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning, web_searches, .. } = usage;
        [
            calls,
            &mut cost.0,
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            web_searches,
            charged_max,
        ]
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Spend) {
        for (to, more) in self.numbers_mut().into_iter().zip(other.numbers()) {
            *to = to.saturating_add(more);
        }
    }
}

/// What a batch of records changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be added to the totals.
    pub totals: HashMap<WindowKey, u64>,
    /// Intents that are open now, with the index of their leaf.
    pub opened: BTreeMap<String, (u64, OpenIntent)>,
    /// Calls that were open before the batch and are not any more.
    pub closed: Vec<String>,
    /// To be added to the spend.
    pub spend: BTreeMap<SpendKey, Spend>,
    /// Bills above their holds.
    pub overruns: BTreeSet<Overrun>,
    /// The spend by minute (`2026-11-24T10:05` in place of the day), where somebody wants it.
    pub minutes: Option<BTreeMap<SpendKey, Spend>>,
    /// Outcomes of calls that were not open. They change nothing: counting one would count a call twice.
    pub strays: u64,
}

impl Changes {
    /// Reads one record at `leaf`; `open` are the intents that were open before the batch.
    pub fn post(&mut self, leaf: u64, record: &[u8], open: &HashMap<String, OpenIntent>) {
        let Some(rest) = record.get(PLACE_BYTES..) else { return };
        if rest.starts_with(br#""type":"caracal.intent.v1""#) {
            self.intent(leaf, record);
        } else if rest.starts_with(br#""type":"caracal.outcome.v1""#) {
            self.outcome(record, open);
        }
    }

    fn intent(&mut self, leaf: u64, record: &[u8]) {
        let Some(paid) = Paid::read(record) else { return };
        let Some(call) = paid.data.call else { return };
        let intent = OpenIntent {
            call: call.to_string(),
            at: paid.time.parse().ok().and_then(nanos).unwrap_or_default(),
            hold: NanoUsd(paid.data.hold),
            windows: paid.data.windows,
            agent: paid.data.agent.into_owned(),
            provider: paid.data.provider.into_owned(),
            operation: paid.data.operation.into_owned(),
            model: paid.data.model.into_owned(),
            price_book: paid.data.price_book.map(Cow::into_owned),
        };
        self.opened.insert(call.into_owned(), (leaf, intent));
    }

    fn outcome(&mut self, record: &[u8], open: &HashMap<String, OpenIntent>) {
        let Some(paid) = Paid::read(record) else { return };
        let call = paid.data.call.as_deref().unwrap_or_default();
        let intent = match self.opened.remove(call) {
            Some((_, intent)) => intent,
            None => match open.get(call) {
                Some(intent) if !self.closed.iter().any(|closed| closed == call) => {
                    self.closed.push(call.to_owned());
                    intent.clone()
                }
                _ => {
                    self.strays += 1;
                    return;
                }
            },
        };
        let released = paid.data.settle == "released";
        // Without a cost the longest bill is the only sound one.
        let cost = paid.data.cost.unwrap_or(if released { 0 } else { intent.hold.0 });
        let windows = if paid.data.windows.is_empty() { &intent.windows } else { &paid.data.windows };
        for window in windows {
            let total = self.totals.entry(window.clone()).or_default();
            *total = total.saturating_add(cost);
        }
        if let Some(entry) = &paid.data.price_entry {
            let (provider, model) = (intent.provider.clone(), intent.model.clone());
            self.overruns.insert(Overrun { provider, model, entry: entry.to_string() });
        }
        let key = SpendKey {
            agent: intent.agent,
            provider: intent.provider,
            model: intent.model,
            day: paid.time.get(..10).unwrap_or_default().to_owned(),
        };
        let spend = Spend {
            calls: u64::from(!released),
            cost: NanoUsd(cost),
            charged_max: u64::from(paid.data.settle == "charged_max"),
            usage: if released { Usage::default() } else { paid.data.usage() },
        };
        if let Some(minutes) = &mut self.minutes {
            let minute = paid.time.get(..16).unwrap_or_default().to_owned();
            minutes.entry(SpendKey { day: minute, ..key.clone() }).or_default().add(&spend);
        }
        self.spend.entry(key).or_default().add(&spend);
    }
}

fn nanos(at: jiff::Timestamp) -> Option<UnixNanos> {
    u64::try_from(at.as_nanosecond()).ok().map(UnixNanos)
}

/// The fields that money hangs on, read without a copy.
#[derive(serde::Deserialize)]
struct Paid<'a> {
    #[serde(borrow)]
    time: &'a str,
    #[serde(borrow)]
    data: PaidData<'a>,
}

#[derive(serde::Deserialize)]
struct PaidData<'a> {
    #[serde(rename = "caracal.call", borrow)]
    call: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.agent", borrow, default)]
    agent: Cow<'a, str>,
    #[serde(rename = "gen_ai.provider.name", borrow, default)]
    provider: Cow<'a, str>,
    #[serde(rename = "gen_ai.operation.name", borrow, default)]
    operation: Cow<'a, str>,
    #[serde(rename = "gen_ai.request.model", borrow, default)]
    model: Cow<'a, str>,
    #[serde(rename = "caracal.price_book", borrow)]
    price_book: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.price_entry", borrow)]
    price_entry: Option<Cow<'a, str>>,
    #[serde(rename = "caracal.settle", borrow, default)]
    settle: Cow<'a, str>,
    #[serde(rename = "caracal.hold.nano_usd", default)]
    hold: u64,
    #[serde(rename = "caracal.cost.nano_usd")]
    cost: Option<u64>,
    #[serde(rename = "caracal.windows", default)]
    windows: Vec<WindowKey>,
    #[serde(rename = "caracal.usage.uncached_input_tokens", default)]
    input: u64,
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
}

impl Paid<'_> {
    fn read(record: &[u8]) -> Option<Paid<'_>> {
        serde_json::from_slice(record).ok()
    }
}

impl PaidData<'_> {
    fn usage(&self) -> Usage {
        Usage {
            input: self.input,
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
