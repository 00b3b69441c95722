//! A provider's own account of a bill. Takes the text of an export; gives what was billed by day, model, key and workspace.
//! Refuses what it does not know: a column that is missing would otherwise read as nothing billed.
//!
//! Known are OpenAI's usage and costs (the JSON of the Usage and Costs API, the CSV of the dashboard), Anthropic's usage and cost
//! reports (the JSON of the Admin API, the CSV of the Console), and a plain CSV. `docs/RECONCILE.md` has them with sources.

mod amount;
mod csv;
mod json;
mod table;

pub use amount::Amount;

use std::collections::{BTreeMap, BTreeSet};

/// The longest export, bytes.
pub const MAX_BYTES: u64 = 64 << 20;
/// The most rows or results of one.
const MAX_ROWS: usize = 1_000_000;

/// Why a text is no export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// No form that is known.
    #[error(
        "this is no export that is known ({0}); see docs/RECONCILE.md for the forms, and `day,provider,model,...,amount_usd` for your own"
    )]
    Unknown(String),
    /// A row or result that cannot be read.
    #[error("{at}: {why}")]
    Row {
        /// Where: a line, or a day's bucket.
        at: String,
        /// Why.
        why: String,
    },
    /// Not the last page of a report.
    #[error(
        "a page says that there are more, and they do not follow: fetch them all (`next_page`) and put them into one file, one after the other"
    )]
    MorePages,
    /// Money in another currency.
    #[error("{at}: amounts in {currency:?} cannot be compared with a ledger in USD")]
    Currency {
        /// Where.
        at: String,
        /// Which.
        currency: String,
    },
    /// Longer than is read.
    #[error("the export is too long: at most {MAX_ROWS} rows are read; export fewer days")]
    TooLong,
}

impl ExportError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ExportError::Unknown(_) => "export_unknown",
            ExportError::Row { .. } => "export_row",
            ExportError::MorePages => "export_more_pages",
            ExportError::Currency { .. } => "export_currency",
            ExportError::TooLong => "export_too_long",
        }
    }
}

/// What was billed. What an export does not tell is `None`, which is not nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Billed {
    /// Requests.
    pub requests: Option<u64>,
    /// Input tokens of every kind.
    pub input: Option<u64>,
    /// Of these, read from a cache.
    pub cache_read: Option<u64>,
    /// Of these, written to a cache.
    pub cache_write: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
    /// Money.
    pub amount: Option<Amount>,
}

impl Billed {
    /// Nothing of each kind that is told.
    fn nothing(&self) -> Billed {
        let zero = |told: Option<u64>| told.map(|_| 0);
        Billed {
            requests: zero(self.requests),
            input: zero(self.input),
            cache_read: zero(self.cache_read),
            cache_write: zero(self.cache_write),
            output: zero(self.output),
            amount: self.amount.map(|_| Amount::default()),
        }
    }

    /// Input tokens, where those in no cache and those of the caches are counted apart.
    fn with_cache(uncached: u64, read: Option<u64>, written: Option<u64>) -> u64 {
        uncached.saturating_add(read.unwrap_or(0)).saturating_add(written.unwrap_or(0))
    }

    /// Adds `other`; what one of both tells is told by the sum.
    pub fn add(&mut self, other: &Billed) {
        let tokens = |to: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *to = Some(to.unwrap_or(0).saturating_add(more));
            }
        };
        tokens(&mut self.requests, other.requests);
        tokens(&mut self.input, other.input);
        tokens(&mut self.cache_read, other.cache_read);
        tokens(&mut self.cache_write, other.cache_write);
        tokens(&mut self.output, other.output);
        if let Some(more) = other.amount {
            self.amount = Some(self.amount.unwrap_or_default().plus(more));
        }
    }
}

/// A line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The day, UTC: `2026-11-24`.
    pub day: String,
    /// As records name it: `openai`, `anthropic`.
    pub provider: String,
    /// The model, as the provider names it; empty where the export does not tell.
    pub model: String,
    /// The API key; empty where the export does not tell.
    pub key: String,
    /// The workspace or project; likewise.
    pub workspace: String,
    /// What was billed.
    pub billed: Billed,
}

/// A provider and a day, UTC.
pub type Place = (String, String);

/// An export, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// What it is, for people.
    pub form: &'static str,
    /// The providers' days that it is about, also those on which nothing was billed, and nothing of each kind that it tells
    /// of such a day. Of any other provider or day, and of any other kind, it tells nothing at all.
    pub told: BTreeMap<Place, Billed>,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Export {
    /// Adds one report.
    fn take(&mut self, report: Report) -> Result<(), ExportError> {
        if self.lines.len() + report.lines.len() > MAX_ROWS {
            return Err(ExportError::TooLong);
        }
        let mut by_place: BTreeMap<Place, Billed> = BTreeMap::new();
        let mut by_provider: BTreeMap<&str, Billed> = BTreeMap::new();
        for line in &report.lines {
            let nothing = line.billed.nothing();
            by_place.entry((line.provider.clone(), line.day.clone())).or_default().add(&nothing);
            by_provider.entry(&line.provider).or_default().add(&nothing);
        }
        for place in report.places {
            // A day without a line is told as the others of its report are.
            by_place
                .entry(place)
                .or_insert_with_key(|(provider, _)| by_provider.get(provider.as_str()).copied().unwrap_or_default());
        }
        for (place, nothing) in by_place {
            self.told.entry(place).or_default().add(&nothing);
        }
        self.lines.extend(report.lines);
        Ok(())
    }

    /// Its days, in order.
    #[must_use]
    pub fn days(&self) -> BTreeSet<&str> {
        self.told.keys().map(|(_, day)| day.as_str()).collect()
    }

    /// The providers that it is about.
    #[must_use]
    pub fn providers(&self) -> BTreeSet<&str> {
        self.told.keys().map(|(provider, _)| provider.as_str()).collect()
    }

    /// Only these days of it.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.told.retain(|(_, day), _| wanted(day));
        self.lines.retain(|line| wanted(&line.day));
    }
}

/// One report: its places, also those without a line, and its lines.
#[derive(Debug, Default)]
struct Report {
    places: BTreeSet<Place>,
    lines: Vec<Line>,
}

/// Reads an export.
///
/// # Errors
/// When it has no known form, or a part of it cannot be read.
pub fn read(text: &str) -> Result<Export, ExportError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().as_bytes().first() {
        Some(b'{' | b'[') => json::read(text),
        Some(_) => table::read(text),
        None => Err(ExportError::Unknown("it is empty".to_owned())),
    }
}

/// The day, UTC, of a date (`2026-11-24`), or of a time that says how far it is from UTC.
fn day(text: &str) -> Option<String> {
    match text.len() {
        10 => text.parse::<jiff::civil::Date>().ok().map(|date| date.to_string()),
        11.. => text.parse::<jiff::Timestamp>().ok().map(|at| at.strftime("%Y-%m-%d").to_string()),
        _ => None,
    }
}

/// The day, UTC, of Unix seconds.
fn day_of_seconds(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests;
