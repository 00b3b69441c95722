//! The JSON of OpenAI's Usage and Costs API and of Anthropic's Admin API: pages of buckets of results, one page after the
//! other or in an array. A report is the pages of one request: each says whether another one follows.

use super::{Amount, Billed, Export, ExportError, Line, Report, day, day_of_seconds, table::of_line_item};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashSet};

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<Bucket<'a>>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Bucket<'a> {
    /// OpenAI's: Unix seconds.
    start_time: Option<i64>,
    /// Anthropic's: RFC 3339.
    starting_at: Option<String>,
    #[serde(borrow, alias = "result")]
    results: Vec<&'a RawValue>,
}

/// A result of either provider: what a kind of result does not have is `None`.
#[derive(Deserialize)]
struct Found<'a> {
    /// OpenAI's: `organization.costs.result`, `organization.usage.completions.result`, ...
    object: Option<String>,
    #[serde(borrow)]
    amount: Option<&'a RawValue>,
    currency: Option<String>,
    model: Option<String>,
    line_item: Option<String>,
    project_id: Option<String>,
    workspace_id: Option<String>,
    api_key_id: Option<String>,
    num_model_requests: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_cached_tokens: Option<u64>,
    input_cache_write_tokens: Option<u64>,
    uncached_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Written>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Deserialize)]
struct Money<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    currency: String,
}

/// The reports of a text.
#[derive(Default)]
struct Reading {
    export: Export,
    /// The report that is being read: its provider, and what it tells of once a result says so.
    open: Option<(Report, &'static str, Option<String>)>,
    /// What is told already: a bucket, and all of a result but its numbers.
    known: HashSet<String>,
}

pub(super) fn read(text: &str) -> Result<Export, ExportError> {
    let mut reading = Reading::default();
    reading.export.form = "OpenAI's or Anthropic's API";
    for page in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let text = page.map_err(|error| unknown(&error))?.get();
        let pages: Vec<Page<'_>> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(|error| unknown(&error))?
        } else {
            vec![serde_json::from_str(text).map_err(|error| unknown(&error))?]
        };
        for page in pages {
            page.data.into_iter().try_for_each(|bucket| reading.take(bucket))?;
            if !page.has_more
                && let Some((report, ..)) = reading.open.take()
            {
                reading.export.take(report)?;
            }
        }
    }
    // The page that would end it is missing.
    if reading.open.is_some() { Err(ExportError::MorePages) } else { Ok(reading.export) }
}

fn unknown(error: &serde_json::Error) -> ExportError {
    ExportError::Unknown(format!("its JSON is no page of buckets: {error}"))
}

impl Reading {
    fn take(&mut self, bucket: Bucket<'_>) -> Result<(), ExportError> {
        let (provider, begins, day) = match (bucket.start_time, bucket.starting_at) {
            (Some(seconds), _) => ("openai", seconds.to_string(), day_of_seconds(seconds)),
            (None, Some(at)) => ("anthropic", at.clone(), day(&at)),
            (None, None) => {
                return Err(ExportError::Unknown("a bucket has neither `start_time` nor `starting_at`".to_owned()));
            }
        };
        let fault = |why: &str| ExportError::Row { at: format!("the bucket of {begins}"), why: why.to_owned() };
        let day = day.ok_or_else(|| fault("that is no time"))?;
        let (report, of, told) = self.open.get_or_insert_with(|| (Report::default(), provider, None));
        if *of != provider {
            return Err(ExportError::MorePages);
        }
        report.places.insert((provider.to_owned(), day.clone()));
        for result in bucket.results {
            let found: Found<'_> = serde_json::from_str(result.get()).map_err(|error| unknown(&error))?;
            // Another report before the last page of this one.
            let kind = found.object.clone().unwrap_or_else(|| found.amount.is_some().to_string());
            if told.get_or_insert_with(|| kind.clone()) != &kind {
                return Err(ExportError::MorePages);
            }
            if !self.known.insert(format!("{begins} {kind} {}", but_numbers(result)?)) {
                return Err(fault("it has a result twice, or two exports overlap: put each day into the file once"));
            }
            if self.known.len() > super::MAX_ROWS {
                return Err(ExportError::TooLong);
            }
            report.lines.push(line(provider, &day, found)?);
        }
        Ok(())
    }
}

/// All of a result that says what it is about, in one spelling.
fn but_numbers(result: &RawValue) -> Result<String, ExportError> {
    let mut members: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(result.get()).map_err(|error| unknown(&error))?;
    // Counts are numbers or objects of them, and an amount may be a text.
    members.retain(|name, value| name != "amount" && !value.is_number() && !value.is_object() && !value.is_null());
    serde_json::to_string(&members).map_err(|error| unknown(&error))
}

fn line(provider: &str, day: &str, found: Found<'_>) -> Result<Line, ExportError> {
    let amount = found.amount.map(|amount| money(provider, amount, &found, day)).transpose()?;
    let (input, written) = match found.uncached_input_tokens {
        None => (found.input_tokens, found.input_cache_write_tokens),
        Some(uncached) => {
            let written = found.cache_creation.unwrap_or_default();
            let written = Some(written.ephemeral_5m_input_tokens.saturating_add(written.ephemeral_1h_input_tokens));
            (Some(Billed::with_cache(uncached, found.cache_read_input_tokens, written)), written)
        }
    };
    let model = found.model.or_else(|| found.line_item.as_deref().map(of_line_item)).unwrap_or_default();
    Ok(Line {
        day: day.to_owned(),
        provider: provider.to_owned(),
        model,
        key: found.api_key_id.unwrap_or_default(),
        workspace: found.workspace_id.or(found.project_id).unwrap_or_default(),
        billed: Billed {
            requests: found.num_model_requests,
            input,
            cache_read: found.input_cached_tokens.or(found.cache_read_input_tokens),
            cache_write: written,
            output: found.output_tokens,
            amount,
        },
    })
}

/// OpenAI writes `{"value": 0.06, "currency": "usd"}` in dollars, Anthropic `"amount": "123.45", "currency": "USD"` in cents.
fn money(provider: &str, amount: &RawValue, found: &Found<'_>, day: &str) -> Result<Amount, ExportError> {
    let at = || format!("an amount of {day}");
    let fault = |why: String| ExportError::Row { at: at(), why };
    let (value, currency) = if provider == "openai" {
        let money: Money<'_> = serde_json::from_str(amount.get()).map_err(|error| fault(error.to_string()))?;
        (money.value.get(), money.currency)
    } else {
        (amount.get(), found.currency.clone().unwrap_or_else(|| "USD".to_owned()))
    };
    if !currency.eq_ignore_ascii_case("usd") {
        return Err(ExportError::Currency { at: at(), currency });
    }
    let bare = value.trim_matches('"');
    let amount = Amount::parse(bare).ok_or_else(|| fault(format!("{bare:?} is no amount")))?;
    Ok(if provider == "openai" { amount } else { amount.of_cents() })
}
