//! Whether an outcome is one of its intent. A daemon makes it of the intent's own fields, so whatever differs was written by
//! somebody else. Takes both; gives what is wrong. What the provider reported is the daemon's word: nobody can make it again.

use super::paid::Paid;

/// Terms are recorded since this version.
const SCHEMA_WITH_TERMS: u64 = 2;

/// The intent of an outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) call: &'a str,
    /// Nano-USD.
    pub(super) hold: u64,
    /// The outcome counts in the windows that it was held in.
    pub(super) same_windows: bool,
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) price_book: Option<&'a str>,
}

/// What is wrong with the outcome, in words that follow the number of its leaf.
pub(super) fn fault(intent: &Held<'_>, outcome: &Paid<'_>) -> Option<String> {
    let data = &outcome.data;
    let (hold, call) = (intent.hold, intent.call);
    if !intent.same_windows {
        return Some(format!("counts in other budget windows than call {call} was held in"));
    }
    if data.provider != intent.provider || data.model != intent.model {
        return Some(format!("is of another provider or model than call {call} was sent to"));
    }
    if intent.price_book.is_some() && data.price_book.as_deref() != intent.price_book {
        return Some(format!("is by another price book than call {call} was held by"));
    }
    match &*data.settle {
        // More is honest: a stream that had cost more than its hold before it could be ended.
        "charged_max" if data.cost.unwrap_or(hold) < hold => {
            let cost = data.cost.unwrap_or_default();
            Some(format!("charges {cost} nano-USD for all of a hold of {hold}"))
        }
        "released" if data.cost.unwrap_or(0) > 0 || data.has_usage() => {
            Some(format!("releases call {call}, and says what it used or cost"))
        }
        "settled" if !data.has_usage() || data.cost.is_none() => {
            Some(format!("charges call {call} by a usage that it does not say"))
        }
        "settled" if outcome.schema >= SCHEMA_WITH_TERMS && !data.has_terms() => {
            Some(format!("charges call {call} on terms that it does not say"))
        }
        "charged_max" | "released" | "settled" => None,
        _ => Some(format!("does not say how call {call} ended")),
    }
}
