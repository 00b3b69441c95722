//! Takes what the ledger committed; gives sums of money and tokens by agent, provider, model and day.
//! A view that can be made again from the ledger. Never the authority for a decision.

pub mod fleet;

use crate::ledger::books::{Changes, Spend, SpendKey};
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
    /// By model.
    Model,
    /// By day, UTC.
    Day,
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

/// Sums `rows` by one of their keys, or by several together.
#[must_use]
pub fn sum(rows: &[(SpendKey, Spend)], by: &[By]) -> Vec<(SpendKey, Spend)> {
    let mut sums: BTreeMap<SpendKey, Spend> = BTreeMap::new();
    for (key, spend) in rows {
        let mut kept = SpendKey::default();
        for by in by {
            match by {
                By::Agent => kept.agent.clone_from(&key.agent),
                By::Provider => kept.provider.clone_from(&key.provider),
                By::Model => kept.model.clone_from(&key.model),
                By::Day => kept.day.clone_from(&key.day),
            }
        }
        sums.entry(kept).or_default().add(spend);
    }
    sums.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;

    #[test]
    fn sums_are_by_what_is_asked() {
        let key = |agent: &str, day: &str| SpendKey {
            agent: agent.into(),
            provider: "openai".into(),
            model: "m".into(),
            day: day.into(),
        };
        let spend = |cost| Spend { calls: 1, cost: NanoUsd(cost), ..Spend::default() };
        let view = View::new([(key("a", "1"), spend(1)), (key("a", "2"), spend(2)), (key("b", "1"), spend(4))]);
        let rows = view.rows(|_| true);
        let by_agent: Vec<_> =
            sum(&rows, &[By::Agent]).into_iter().map(|(key, spend)| (key.agent, spend.cost.0, spend.calls)).collect();
        assert_eq!(by_agent, [("a".to_owned(), 3, 2), ("b".to_owned(), 4, 1)]);
        assert_eq!(sum(&view.rows(|key| key.agent == "b"), &[]).len(), 1);
    }
}
