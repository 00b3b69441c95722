//! Takes what the ledger committed; gives sums of money, tokens, calls and bytes by agent, provider, model, tool, host and time.
//! A view that can be made again from the ledger. Never the authority for a decision.

pub mod export;
pub mod fleet;
pub mod reconcile;

use crate::ledger::books::{Changes, Spend, SpendKey};
use crate::ledger::charges::Charged;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The sums, in memory. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<RwLock<BTreeMap<SpendKey, Spend>>>);

/// What to sum by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[derive(clap::ValueEnum)]
pub enum By {
    /// By agent.
    Agent,
    /// By provider.
    Provider,
    /// By model; a tool or an API counts as one.
    Model,
    /// By tool of an `[[mcp]]` server.
    Tool,
    /// By the host that was called. Reads every record, and the agents' detail keys.
    Host,
    /// By minute, UTC. Reads every record; of the fleet, the last two days.
    Minute,
    /// By hour, UTC. Reads every record; of the fleet, the last 62 days.
    Hour,
    /// By day, UTC.
    Day,
    /// By week, Monday to Sunday, UTC: its Monday.
    Week,
    /// By month, UTC.
    Month,
    /// By each budget's own windows, in its time zone; a charge stands in one of each of its budgets. Alone: without other
    /// keys, --agent, --since, --until and --fleet. Of a shared budget, this host's part.
    Window,
}

impl By {
    /// Its name: a column's head, and a key in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            By::Agent => "agent",
            By::Provider => "provider",
            By::Model => "model",
            By::Tool => "tool",
            By::Host => "host",
            By::Minute => "minute",
            By::Hour => "hour",
            By::Day => "day",
            By::Week => "week",
            By::Month => "month",
            By::Window => "window",
        }
    }

    /// Whether the sums by day do not tell, so that every record is read.
    #[must_use]
    pub fn needs_records(self) -> bool {
        matches!(self, By::Host | By::Minute | By::Hour)
    }

    fn of(self, about: &About) -> String {
        let key = &about.key;
        let time = |length: usize| key.day.get(..length).unwrap_or(&key.day).to_owned();
        match self {
            By::Agent => key.agent.clone(),
            By::Provider => key.provider.clone(),
            By::Model => key.model.clone(),
            By::Tool if key.provider == "mcp" => key.model.clone(),
            By::Tool => String::new(),
            By::Host => about.host.clone(),
            By::Minute => time(16),
            By::Hour => time(13),
            By::Day => time(10),
            By::Week => monday(&time(10)),
            By::Month => time(7),
            // A row of spend is of no one window: the ledger's totals are.
            By::Window => String::new(),
        }
    }
}

/// The Monday of this day's week; the text as it is where it is no day.
fn monday(day: &str) -> String {
    let date: Option<jiff::civil::Date> = day.parse().ok();
    let first = date.and_then(|date| {
        let after = i64::from(date.weekday().to_monday_zero_offset());
        date.checked_sub(jiff::Span::new().days(after)).ok()
    });
    first.map_or_else(|| day.to_owned(), |monday| monday.to_string())
}

/// What a row is about, as finely as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its `day` may be a time: `2026-11-24T10:05`.
    pub key: SpendKey,
    /// The host that was called; empty where it is not known.
    pub host: String,
}

impl About {
    /// A row of the sums by day.
    #[must_use]
    pub fn day(key: SpendKey) -> About {
        About { key, host: String::new() }
    }
}

impl View {
    /// A view of these rows.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = (SpendKey, Spend)>) -> View {
        View(Arc::new(RwLock::new(rows.into_iter().collect())))
    }

    /// Adds what a commit changed.
    pub fn apply(&self, changes: &Changes) {
        if changes.spend.is_empty() {
            return;
        }
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, spend) in &changes.spend {
            rows.entry(key.clone()).or_default().add(spend);
        }
    }

    /// The rows that `keep` keeps.
    #[must_use]
    pub fn rows(&self, keep: impl Fn(&SpendKey) -> bool) -> Vec<(SpendKey, Spend)> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().filter(|(key, _)| keep(key)).map(|(key, spend)| (key.clone(), *spend)).collect()
    }
}

/// Sums by several keys: each row's values of them in their order, and its sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    by: Vec<By>,
    rows: BTreeMap<Vec<String>, Spend>,
}

impl Sums {
    /// Nothing yet.
    #[must_use]
    pub fn new(by: &[By]) -> Sums {
        Sums { by: by.to_vec(), rows: BTreeMap::new() }
    }

    /// The sums of these rows.
    #[must_use]
    pub fn of(by: &[By], rows: impl IntoIterator<Item = (SpendKey, Spend)>) -> Sums {
        let mut sums = Sums::new(by);
        rows.into_iter().for_each(|(key, spend)| sums.add(&About::day(key), &spend));
        sums
    }

    /// Adds a row.
    pub fn add(&mut self, about: &About, spend: &Spend) {
        let key = self.by.iter().map(|by| by.of(about)).collect();
        self.rows.entry(key).or_default().add(spend);
    }

    /// Adds a charge, with its corrections.
    pub fn add_charge(&mut self, charged: &Charged) {
        let record = &charged.charge.record;
        let fields = &record.data;
        let at = jiff::Timestamp::from_nanosecond(i128::from(record.at.0)).unwrap_or_default();
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = SpendKey {
            agent: text(&fields.agent),
            provider: text(&fields.provider),
            model: text(&fields.model),
            day: at.strftime("%Y-%m-%dT%H:%M").to_string(),
        };
        let host = charged.detail.as_ref().and_then(|detail| detail.host.clone()).unwrap_or_default();
        let released = fields.settle.as_deref() == Some("released");
        let counted = |number: Option<u64>| number.filter(|_| !released).unwrap_or_default();
        let mut spend = Spend {
            calls: u64::from(!released),
            cost: charged.charge.cost,
            charged_max: u64::from(charged.charge.at_hold),
            usage: fields.usage().filter(|_| !released).unwrap_or_default(),
            sent: counted(fields.bytes_sent),
            received: counted(fields.bytes_received),
            ..Spend::default()
        };
        for correction in &charged.corrections {
            let change = crate::ledger::books::Total::change(correction.nano);
            spend.cost = spend.cost.saturating_add(change.charged);
            spend.credited = spend.credited.saturating_add(change.credited);
        }
        self.add(&About { key, host }, &spend);
    }

    /// What it sums by.
    #[must_use]
    pub fn by(&self) -> &[By] {
        &self.by
    }

    /// The rows, in the order of their keys.
    pub fn rows(&self) -> impl Iterator<Item = (&[String], &Spend)> {
        self.rows.iter().map(|(key, spend)| (key.as_slice(), spend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;

    /// A call's charge; its details can be read where there is a `host`.
    fn charged((provider, model): (&'static str, &str), time: &str, host: Option<&str>) -> Charged {
        use crate::event::write::tests::{paid, scribe};
        let mut draft = paid(crate::event::Kind::Outcome, uuid::Uuid::from_u128(7));
        let at: jiff::Timestamp = time.parse().expect("a time");
        draft.at = crate::clock::UnixNanos(u64::try_from(at.as_nanosecond()).expect("after 1970"));
        (draft.data.provider, draft.data.model) = (Some(provider), Some(model.into()));
        let ((_dir, scribe), mut bytes) = (scribe(), Vec::new());
        scribe.seal(&draft).expect("sealed").place(1, &[0; 32], &mut bytes);
        let record = crate::event::Record::parse(&bytes).expect("a record");
        Charged {
            leaf: 1,
            charge: crate::ledger::corrections::Charge::of(record).expect("a charge"),
            detail: host.map(|host| crate::event::Detail { host: Some(host.into()), ..Default::default() }),
            corrections: Vec::new(),
        }
    }

    #[test]
    fn charges_are_summed_by_what_only_records_tell() {
        let (gpt, tool) = (("openai", "gpt-5"), ("mcp", "desk/search"));
        let all = [
            charged(gpt, "2026-11-24T10:05:59.999Z", Some("api.openai.com")),
            charged(gpt, "2026-11-24T10:06:00Z", Some("proxy.example")),
            charged(gpt, "2026-11-24T11:00:00Z", None),
            charged(tool, "2026-11-24T11:59:59Z", Some("mcp.example")),
        ];
        let sums = |by: &[By]| {
            let mut sums = Sums::new(by);
            all.iter().for_each(|one| sums.add_charge(one));
            sums.rows().map(|(key, spend)| (key.join(" "), spend.cost.0, spend.calls)).collect::<Vec<_>>()
        };
        let row = |key: &str, calls: u64| (key.to_owned(), calls * 1_234, calls);
        assert_eq!(
            sums(&[By::Host]),
            [row("", 1), row("api.openai.com", 1), row("mcp.example", 1), row("proxy.example", 1)],
            "without a detail key the host is not known, and the money is there"
        );
        assert_eq!(sums(&[By::Hour]), [row("2026-11-24T10", 2), row("2026-11-24T11", 2)]);
        assert_eq!(sums(&[By::Day, By::Minute]).first(), Some(&row("2026-11-24 2026-11-24T10:05", 1)));
        assert_eq!(sums(&[By::Tool]), [row("", 3), row("desk/search", 1)], "a model is no tool");
        assert_eq!(sums(&[By::Hour, By::Tool]).last(), Some(&row("2026-11-24T11 desk/search", 1)));
    }

    #[test]
    fn sums_are_by_what_is_asked() {
        let key = |agent: &str, day: &str| SpendKey {
            agent: agent.into(),
            provider: "mcp".into(),
            model: "search/web".into(),
            day: day.into(),
        };
        let spend = |cost| Spend { calls: 1, cost: NanoUsd(cost), ..Spend::default() };
        let view = View::new([
            (key("a", "2026-11-24"), spend(1)),
            (key("a", "2026-12-01"), spend(2)),
            (key("b", "2026-11-24"), spend(4)),
        ]);
        let sums = |by: &[By], rows| {
            let sums = Sums::of(by, rows);
            sums.rows().map(|(key, spend)| (key.join(" "), spend.cost.0, spend.calls)).collect::<Vec<_>>()
        };
        let all = || view.rows(|_| true);
        assert_eq!(sums(&[By::Agent], all()), [("a".to_owned(), 3, 2), ("b".to_owned(), 4, 1)]);
        assert_eq!(sums(&[By::Month], all()), [("2026-11".to_owned(), 5, 2), ("2026-12".to_owned(), 2, 1)]);
        // A Tuesday and the Tuesday after it.
        assert_eq!(sums(&[By::Week], all()), [("2026-11-23".to_owned(), 5, 2), ("2026-11-30".to_owned(), 2, 1)]);
        assert_eq!(["2026-11-29", "2026-11-30", "no day"].map(monday), ["2026-11-23", "2026-11-30", "no day"]);
        assert_eq!(sums(&[By::Tool], all()), [("search/web".to_owned(), 7, 3)]);
        assert_eq!(sums(&[], view.rows(|key| key.agent == "b")).len(), 1);
    }
}
