//! What the records say of money: totals per budget window, open intents, spend per agent, model and day.
//! Takes records in the ledger's order; gives the changes that commit with them. Pure.

mod fit;
mod paid;
mod plain;
mod recount;

use crate::clock::UnixNanos;
use crate::event::write::PLACE_BYTES;
use crate::event::{Data, Detail, Draft, Kind, Usage, WindowKey};
use crate::meter::Provider;
use crate::money::NanoUsd;
use paid::Paid;
#[cfg(any(test, fuzzing))]
pub(crate) use plain::reads_alike;
pub(super) use recount::{By, Charge, Fault, Recount};
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
            data: Box::new(Data {
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
            }),
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

/// What was charged to a budget window, and what corrections took back. Both only grow, so that a sum does not depend on the
/// order or on how records were batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Total {
    /// Charges, and what corrections added to them.
    pub charged: NanoUsd,
    /// What corrections took off.
    pub credited: NanoUsd,
}

impl Total {
    /// What `nano` adds: a charge, or less than nothing.
    #[must_use]
    pub fn change(nano: i64) -> Total {
        let amount = NanoUsd(nano.unsigned_abs());
        if nano < 0 {
            Total { charged: NanoUsd::ZERO, credited: amount }
        } else {
            Total { charged: amount, credited: NanoUsd::ZERO }
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: Total) {
        self.charged = self.charged.saturating_add(other.charged);
        self.credited = self.credited.saturating_add(other.credited);
    }

    /// What is spent.
    #[must_use]
    pub fn net(self) -> NanoUsd {
        self.charged.saturating_sub(self.credited)
    }
}

/// A correction in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// The leaf of its record.
    pub leaf: u64,
    /// The call whose charge it corrects.
    pub call: String,
    /// What it adds to the charge, nano-USD.
    pub nano: i64,
    /// The sequence number of the outcome that charged the call, on its host.
    pub sequence: u64,
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
    /// What they were charged, and what corrections added.
    pub cost: NanoUsd,
    /// What corrections took off.
    pub credited: NanoUsd,
    /// Calls whose whole hold was charged because their usage was not seen.
    pub charged_max: u64,
    /// What the provider reported.
    pub usage: Usage,
    /// Bytes of the requests' bodies.
    pub sent: u64,
    /// Bytes of the answers' bodies.
    pub received: u64,
}

impl Spend {
    /// The names of its numbers, in the order of [`Spend::numbers`].
    pub const NUMBERS: [&str; 13] = [
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
        "credited",
        "sent",
        "received",
    ];

    /// Its numbers.
    #[must_use]
    pub fn numbers(&self) -> [u64; 13] {
        let mut row = *self;
        row.numbers_mut().map(|number| *number)
    }

    /// The same, to be changed.
    pub(crate) fn numbers_mut(&mut self) -> [&mut u64; 13] {
        let Spend { calls, cost, credited, charged_max, usage, sent, received } = self;
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
            &mut credited.0,
            sent,
            received,
        ]
    }

    /// What is spent: charges less what corrections took off.
    #[must_use]
    pub fn net(&self) -> NanoUsd {
        self.cost.saturating_sub(self.credited)
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
    pub totals: HashMap<WindowKey, Total>,
    /// Intents that are open now, with the index of their leaf.
    pub opened: BTreeMap<String, (u64, OpenIntent)>,
    /// Calls that were open before the batch and are not any more.
    pub closed: Vec<String>,
    /// To be added to the spend.
    pub spend: BTreeMap<SpendKey, Spend>,
    /// Bills above their holds.
    pub overruns: BTreeSet<Overrun>,
    /// Corrections of charges.
    pub corrections: Vec<Corrected>,
    /// The spend by minute (`2026-11-24T10:05` in place of the day), where somebody wants it.
    pub minutes: Option<BTreeMap<SpendKey, Spend>>,
    /// Outcomes of calls that were not open, and corrections of calls that still are. They change nothing: counting one would
    /// count a call twice, or take back what was not charged.
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
        } else if rest.starts_with(br#""type":"caracal.correction.v1""#) {
            self.correction(leaf, record, open);
        }
    }

    fn intent(&mut self, leaf: u64, record: &[u8]) {
        let Some(paid) = Paid::read(record) else { return };
        let windows = paid.data.windows();
        let Some(call) = paid.data.call else { return };
        let intent = OpenIntent {
            call: call.to_string(),
            at: paid.time.parse().ok().and_then(nanos).unwrap_or_default(),
            hold: NanoUsd(paid.data.hold),
            windows,
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
        let windows = if paid.data.windows.is_empty() { intent.windows } else { paid.data.windows() };
        for window in windows {
            let total = self.totals.entry(window).or_default();
            total.add(Total { charged: NanoUsd(cost), ..Total::default() });
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
        let sent = |bytes: u64| if released { 0 } else { bytes };
        let spend = Spend {
            calls: u64::from(!released),
            cost: NanoUsd(cost),
            credited: NanoUsd::ZERO,
            charged_max: u64::from(paid.data.settle == "charged_max"),
            usage: if released { Usage::default() } else { paid.data.usage() },
            sent: sent(paid.data.sent),
            received: sent(paid.data.received),
        };
        self.add(key, paid.time, &spend);
    }

    /// A charge that is put right counts where the charge did: in its windows, and in its day's spend.
    fn correction(&mut self, leaf: u64, record: &[u8], open: &HashMap<String, OpenIntent>) {
        let Some(paid) = Paid::read(record) else { return };
        let (Some(call), Some(nano), Some(sequence), Some(at)) =
            (&paid.data.call, paid.data.correction, paid.data.corrects, &paid.data.charged_at)
        else {
            self.strays += 1;
            return;
        };
        let was_open = open.contains_key(&**call) && !self.closed.iter().any(|closed| closed == call);
        if was_open || self.opened.contains_key(&**call) {
            self.strays += 1;
            return;
        }
        let change = Total::change(nano);
        for window in paid.data.windows() {
            self.totals.entry(window).or_default().add(change);
        }
        self.corrections.push(Corrected { leaf, call: call.to_string(), nano, sequence });
        let key = SpendKey {
            agent: paid.data.agent.to_string(),
            provider: paid.data.provider.to_string(),
            model: paid.data.model.to_string(),
            day: at.get(..10).unwrap_or_default().to_owned(),
        };
        self.add(key, at, &Spend { cost: change.charged, credited: change.credited, ..Spend::default() });
    }

    /// Adds to the spend of `key`'s day, and of the minute of `time` where somebody wants it.
    fn add(&mut self, key: SpendKey, time: &str, spend: &Spend) {
        if let Some(minutes) = &mut self.minutes {
            let minute = time.get(..16).unwrap_or_default().to_owned();
            minutes.entry(SpendKey { day: minute, ..key.clone() }).or_default().add(spend);
        }
        self.spend.entry(key).or_default().add(spend);
    }
}

/// The call of the record of a paid call.
pub(super) fn call_of(record: &[u8]) -> Option<uuid::Uuid> {
    Paid::read(record)?.data.call?.parse().ok()
}

pub(super) fn nanos(at: jiff::Timestamp) -> Option<UnixNanos> {
    u64::try_from(at.as_nanosecond()).ok().map(UnixNanos)
}
