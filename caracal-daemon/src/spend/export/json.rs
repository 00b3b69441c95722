//! The JSON of OpenAI's Usage and Costs API and of Anthropic's Admin API: pages of buckets of results, one page after the
//! other or in an array.

use super::{Amount, Billed, Export, ExportError, Line, day, table::of_line_item};
use serde::Deserialize;
use serde_json::value::RawValue;

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
    results: Vec<Found<'a>>,
}

/// A result of either provider: what a kind of result does not have is `None`.
#[derive(Deserialize)]
struct Found<'a> {
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

pub(super) fn read(text: &str) -> Result<Export, ExportError> {
    let mut export = Export { form: "OpenAI's or Anthropic's API", ..Export::default() };
    let mut more = false;
    for page in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let unknown =
            |error: serde_json::Error| ExportError::Unknown(format!("its JSON is no page of buckets: {error}"));
        let text = page.map_err(unknown)?.get();
        let pages: Vec<Page<'_>> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(unknown)?
        } else {
            vec![serde_json::from_str(text).map_err(unknown)?]
        };
        for page in pages {
            more = page.has_more;
            page.data.into_iter().try_for_each(|bucket| take(&mut export, bucket))?;
        }
    }
    if more {
        return Err(ExportError::MorePages);
    }
    Ok(export)
}

fn take(export: &mut Export, bucket: Bucket<'_>) -> Result<(), ExportError> {
    let (provider, begins) = match (bucket.start_time, &bucket.starting_at) {
        (Some(seconds), _) => ("openai", seconds.to_string()),
        (None, Some(at)) => ("anthropic", at.clone()),
        (None, None) => {
            return Err(ExportError::Unknown("a bucket has neither `start_time` nor `starting_at`".to_owned()));
        }
    };
    let fault = |why: &str| ExportError::Row { at: format!("the bucket of {begins}"), why: why.to_owned() };
    let day = day(&begins).ok_or_else(|| fault("that is no time"))?;
    export.days.insert(day.clone());
    export.providers.insert(provider.to_owned());
    for found in bucket.results {
        let amount = found.amount.map(|amount| money(provider, amount, &found, &day)).transpose()?;
        let (input, written) = match found.uncached_input_tokens {
            None => (found.input_tokens, found.input_cache_write_tokens),
            Some(uncached) => {
                let written = found.cache_creation.unwrap_or_default();
                let written = written.ephemeral_5m_input_tokens.saturating_add(written.ephemeral_1h_input_tokens);
                let read = found.cache_read_input_tokens.unwrap_or(0);
                (Some(uncached.saturating_add(read).saturating_add(written)), Some(written))
            }
        };
        let model = found.model.or_else(|| found.line_item.as_deref().map(of_line_item)).unwrap_or_default();
        export.push(Line {
            day: day.clone(),
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
        })?;
    }
    Ok(())
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
