//! The sentence of a call that does not fit.

use super::pool::Level;
use super::refuse;
use super::window::shown;
use crate::money::NanoUsd;
use crate::refusal::{Limit, Reason, Refusal};
use std::sync::Arc;

/// Names the budget, what it has left, and when its window turns.
pub(super) fn exceeded(level: &Level<'_>, least: NanoUsd) -> Refusal {
    let spec = level.spec;
    let part = if level.key.scope.is_empty() { String::new() } else { format!(" for {}", level.key.scope) };
    let turns = level.ends.map_or_else(
        || "It has no window, so raise its limit to go on".to_owned(),
        |ends| format!("Its {} turns at {}", spec.window.as_str(), shown(ends)),
    );
    let held = match level.held {
        NanoUsd::ZERO => String::new(),
        held => format!(", {} held by open calls", held.short()),
    };
    let sentence = format!(
        "refused this call: budget {:?}{part} of {} has {} left ({} spent{held}), and this call can cost {} even with a short answer. {turns}.",
        spec.name,
        spec.limit,
        level.bounds.reach.saturating_sub(level.taken()).short_down(),
        level.spent().short(),
        least.short(),
    );
    let limit = Limit { budget: Arc::clone(&spec.name), turns: level.ends };
    Refusal { limit: Some(limit), ..refuse(Reason::BudgetExceeded, sentence) }
}
