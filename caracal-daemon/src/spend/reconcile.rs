//! The ledger held against a provider's own account. Takes an export and the charges in the ledger; gives both sides by day
//! and model, what differs, and what would put it right. Pure. Says what it knows: nothing here changes a charge.

use super::export::{Billed, Export, Place};
use crate::ledger::charges::Charged;
use crate::money::NanoUsd;
use std::collections::{BTreeMap, BTreeSet};

/// What the ledger has of a day and a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Own {
    /// Calls that were charged.
    pub calls: u64,
    /// Input tokens of every kind.
    pub input: u64,
    /// Of these, read from a cache.
    pub cache_read: u64,
    /// Of these, written to a cache.
    pub cache_write: u64,
    /// Output tokens.
    pub output: u64,
    /// What they were charged, with corrections.
    pub nano_usd: NanoUsd,
    /// Calls whose whole hold was charged because their usage was not seen, by model as it was asked for: how many, and what is
    /// left of their charges.
    pub at_hold: BTreeMap<String, (u64, NanoUsd)>,
    /// The models as they were asked for.
    pub models: BTreeSet<String>,
    /// The same by host, where there are several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, OfHost>,
}

/// What of it one host was charged.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OfHost {
    /// Calls that were charged.
    pub calls: u64,
    /// What they were charged, with corrections.
    pub nano_usd: NanoUsd,
    /// As of all.
    pub at_hold: BTreeMap<String, (u64, NanoUsd)>,
    /// As of all.
    pub models: BTreeSet<String>,
}

/// A day and a model, from both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// UTC.
    pub day: String,
    /// The provider.
    pub provider: String,
    /// The model without the date of its snapshot; empty: all of the day's, since the export does not tell them apart.
    pub model: String,
    /// The ledger's side.
    pub ledger: Own,
    /// The provider's side. What the export does not tell is `None`.
    pub billed: Billed,
    /// The provider's side by key and workspace, where the export tells them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A part of the provider's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// The API key.
    pub key: String,
    /// The workspace or project.
    pub workspace: String,
    /// What was billed.
    pub billed: Billed,
}

/// What would put a row right.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Proposal {
    /// The host that has the charges, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The model as it was asked for.
    pub model: String,
    /// What is to be added, nano-USD.
    pub nano_usd: i64,
    /// Of charges of a whole hold only.
    pub at_hold: bool,
}

impl Row {
    /// What the provider billed more than the ledger has, nano-USD; `None` where the export tells no money.
    #[must_use]
    pub fn money(&self) -> Option<i128> {
        Some(self.billed.amount?.nano() - i128::from(self.ledger.nano_usd.0))
    }

    /// What the provider counted more than the ledger has, of each kind of token that the export tells.
    #[must_use]
    pub fn tokens(&self) -> [(&'static str, Option<i128>); 4] {
        let more = |billed: Option<u64>, own: u64| billed.map(|billed| i128::from(billed) - i128::from(own));
        let (own, billed) = (&self.ledger, &self.billed);
        [
            ("input", more(billed.input, own.input)),
            ("cache_read", more(billed.cache_read, own.cache_read)),
            ("cache_write", more(billed.cache_write, own.cache_write)),
            ("output", more(billed.output, own.output)),
        ]
    }

    /// Whether the sides differ: in money by more than `tolerance`, or in a token.
    #[must_use]
    pub fn differs(&self, tolerance: NanoUsd) -> bool {
        let money = self.money().is_some_and(|more| more.unsigned_abs() > u128::from(tolerance.0));
        money || self.tokens().iter().any(|(_, more)| more.is_some_and(|more| more != 0))
    }

    /// Calls charged at their hold, and what is left of those charges.
    #[must_use]
    pub fn at_hold(&self) -> (u64, NanoUsd) {
        let all = self.ledger.at_hold.values();
        all.fold((0, NanoUsd::ZERO), |(count, sum), (more, nano)| (count + more, sum.saturating_add(*nano)))
    }

    /// The corrections that bring the row's money within `tolerance`, as far as there are charges to correct: what is too much
    /// comes off charges of whole holds, and off nothing else, since those whose usage was seen are the provider's own count.
    #[must_use]
    pub fn proposals(&self, tolerance: NanoUsd) -> Vec<Proposal> {
        let Some(more) = self.money().filter(|more| more.unsigned_abs() > u128::from(tolerance.0)) else {
            return Vec::new();
        };
        let Ok(more) = i64::try_from(more) else { return Vec::new() };
        if more > 0 {
            let model = self.places().find_map(|(host, _, models)| Some((host, models.first()?)));
            let proposal = |(host, model): (Option<&String>, &String)| Proposal {
                host: host.cloned(),
                model: model.clone(),
                nano_usd: more,
                at_hold: false,
            };
            return model.map(proposal).into_iter().collect();
        }
        let mut left = NanoUsd(more.unsigned_abs());
        let mut proposals = Vec::new();
        for (host, (model, (_, there))) in
            self.places().flat_map(|(host, held, _)| held.iter().map(move |one| (host, one)))
        {
            let part = left.min(*there);
            left = left.saturating_sub(part);
            if let Some(nano_usd) = i64::try_from(part.0).ok().filter(|part| *part > 0) {
                proposals.push(Proposal {
                    host: host.cloned(),
                    model: model.clone(),
                    nano_usd: -nano_usd,
                    at_hold: true,
                });
            }
        }
        proposals
    }

    /// Where the charges are: this host's ledger, or each of several hosts.
    fn places(&self) -> impl Iterator<Item = Charges<'_>> {
        let own = &self.ledger;
        let here = own.hosts.is_empty().then_some((None, &own.at_hold, &own.models));
        here.into_iter().chain(own.hosts.iter().map(|(host, of)| (Some(host), &of.at_hold, &of.models)))
    }
}

/// A host, its charges of whole holds by model, and its models.
type Charges<'a> = (Option<&'a String>, &'a BTreeMap<String, (u64, NanoUsd)>, &'a BTreeSet<String>);

/// Both sides, as they come.
#[derive(Debug)]
pub struct Reconciliation<'a> {
    export: &'a Export,
    /// Charges are of several hosts.
    fleet: bool,
    rows: BTreeMap<RowKey, Row>,
    /// The parts of each row, by key and workspace.
    parts: BTreeMap<RowKey, BTreeMap<(String, String), Billed>>,
    /// Providers' days of which the export does not tell the models apart.
    whole: BTreeSet<Place>,
}

/// Day, provider, model.
type RowKey = (String, String, String);

impl<'a> Reconciliation<'a> {
    /// The provider's side of `export`, for the charges of several hosts.
    #[must_use]
    pub fn of_fleet(export: &'a Export) -> Reconciliation<'a> {
        Reconciliation { fleet: true, ..Reconciliation::new(export) }
    }

    /// The provider's side of `export`.
    #[must_use]
    pub fn new(export: &'a Export) -> Reconciliation<'a> {
        let nameless = export.lines.iter().filter(|line| line.model.is_empty());
        let whole = nameless.map(|line| (line.provider.clone(), line.day.clone())).collect();
        let mut all = Reconciliation { export, fleet: false, rows: BTreeMap::new(), parts: BTreeMap::new(), whole };
        for line in &export.lines {
            let key = all.key(&line.day, &line.provider, &line.model);
            all.row(&key).billed.add(&line.billed);
            if !line.key.is_empty() || !line.workspace.is_empty() {
                let parts = all.parts.entry(key).or_default();
                parts.entry((line.key.clone(), line.workspace.clone())).or_default().add(&line.billed);
            }
        }
        all
    }

    /// Adds a charge, if it is of a provider's day that the export is about.
    pub fn add(&mut self, charged: &Charged) {
        let fields = &charged.charge.record.data;
        let at = jiff::Timestamp::from_nanosecond(i128::from(charged.charge.record.at.0)).unwrap_or_default();
        let (day, provider) = (at.strftime("%Y-%m-%d").to_string(), fields.provider.as_deref().unwrap_or_default());
        if !self.export.told.contains_key(&(provider.to_owned(), day.clone())) {
            return;
        }
        let asked = fields.model.clone().unwrap_or_default();
        let left = charged.left();
        let released = fields.settle.as_deref() == Some("released");
        if released && left == NanoUsd::ZERO {
            return;
        }
        let used = fields.usage().unwrap_or_default();
        let answered = fields.response_model.clone().unwrap_or_else(|| asked.clone());
        let key = self.key(&day, provider, &answered);
        let host = self.fleet.then(|| host_of(&charged.charge.record.source).to_owned());
        let own = &mut self.row(&key).ledger;
        let written = used.cache_write_5m.saturating_add(used.cache_write_1h);
        let input = used.input.saturating_add(used.cache_read).saturating_add(written);
        own.calls = own.calls.saturating_add(u64::from(!released));
        own.input = own.input.saturating_add(input);
        own.cache_read = own.cache_read.saturating_add(used.cache_read);
        own.cache_write = own.cache_write.saturating_add(written);
        own.output = own.output.saturating_add(used.output);
        own.nano_usd = own.nano_usd.saturating_add(left);
        if let Some(host) = host {
            let of = own.hosts.entry(host).or_default();
            of.calls = of.calls.saturating_add(u64::from(!released));
            of.nano_usd = of.nano_usd.saturating_add(left);
            note(&mut of.models, &mut of.at_hold, &asked, charged, left);
        }
        note(&mut own.models, &mut own.at_hold, &asked, charged, left);
    }

    fn key(&self, day: &str, provider: &str, model: &str) -> RowKey {
        let whole = self.whole.contains(&(provider.to_owned(), day.to_owned()));
        (day.to_owned(), provider.to_owned(), if whole { String::new() } else { canonical(model) })
    }

    fn row(&mut self, key: &RowKey) -> &mut Row {
        self.rows.entry(key.clone()).or_insert_with(|| {
            let (day, provider, model) = key.clone();
            Row { day, provider, model, ..Row::default() }
        })
    }

    /// The rows, by day. What the export tells of some models of a provider's day and not of one, it tells to be nothing.
    #[must_use]
    pub fn rows(mut self) -> Vec<Row> {
        let part = |((key, workspace), billed)| Part { key, workspace, billed };
        let filled = self.rows.into_iter().map(|(key, mut row)| {
            row.parts = self.parts.remove(&key).unwrap_or_default().into_iter().map(part).collect();
            let (day, provider, _) = key;
            if let Some(nothing) = self.export.told.get(&(provider, day)) {
                row.billed.add(nothing);
            }
            row
        });
        filled.collect()
    }
}

/// Notes a charge under the model that was asked for.
fn note(
    models: &mut BTreeSet<String>,
    at_hold: &mut BTreeMap<String, (u64, NanoUsd)>,
    asked: &str,
    charged: &Charged,
    left: NanoUsd,
) {
    models.insert(asked.to_owned());
    if charged.charge.at_hold {
        let (count, sum) = at_hold.entry(asked.to_owned()).or_default();
        *count += 1;
        *sum = sum.saturating_add(left);
    }
}

/// The host whose record it is, by the record's source.
#[must_use]
pub fn host_of(source: &str) -> &str {
    source.strip_prefix("/caracal/").unwrap_or(source)
}

/// A model's name without the date of its snapshot, and a display name as an identifier: `gpt-4o-2024-08-06` is `gpt-4o`,
/// `claude-sonnet-4-5-20250929` and `Claude Sonnet 4.5` are `claude-sonnet-4-5`.
fn canonical(model: &str) -> String {
    let model = model.trim().to_ascii_lowercase();
    let model = if model.contains(' ') { model.replace([' ', '.'], "-") } else { model };
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = model.split('-').collect();
    let kept = match parts.as_slice() {
        [kept @ .., last] if digits(last, 8) && !kept.is_empty() => kept,
        [kept @ .., year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) && !kept.is_empty() => {
            kept
        }
        all => all,
    };
    kept.join("-")
}

#[cfg(test)]
mod tests;
