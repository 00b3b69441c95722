//! A limit that comes near: said once for each part of it that a charge reached, and recorded.

use super::spec::BudgetSpec;
use crate::event::WindowKey;
use crate::money::NanoUsd;

/// What was spent has reached a part of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The window.
    pub key: WindowKey,
    /// The part that was reached, percent.
    pub percent: u8,
    /// The limit.
    pub limit: NanoUsd,
    /// What is spent.
    pub settled: NanoUsd,
}

impl Warning {
    /// The highest part of the limit that was reached by adding `added`, which made it `settled`.
    pub(super) fn of(spec: &BudgetSpec, key: &WindowKey, added: NanoUsd, settled: NanoUsd) -> Option<Warning> {
        let reached =
            |amount: NanoUsd, percent: u8| u128::from(amount.0) * 100 >= u128::from(spec.limit.0) * u128::from(percent);
        let before = settled.saturating_sub(added);
        let parts = spec.warn_at.iter().copied();
        let percent = parts.filter(|&part| reached(settled, part) && !reached(before, part)).max()?;
        Some(Warning { key: key.clone(), percent, limit: spec.limit, settled })
    }

    /// One sentence for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let whose = if self.key.scope.is_empty() { String::new() } else { format!(" for {}", self.key.scope) };
        format!(
            "budget {:?}{whose} has reached {} % of its {}: {} are spent",
            self.key.budget,
            self.percent,
            self.limit,
            self.settled.short()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_said_once_and_the_highest_alone() {
        let spec = BudgetSpec { warn_at: vec![50, 80, 95], ..BudgetSpec::daily("day", NanoUsd(1_000)) };
        let key = WindowKey { budget: "day".into(), scope: "".into(), window: "day/x".into() };
        let mut settled = NanoUsd::ZERO;
        let mut said = Vec::new();
        for added in [400, 99, 1, 0, 300, 100, 60, 500] {
            settled = settled.saturating_add(NanoUsd(added));
            said.extend(Warning::of(&spec, &key, NanoUsd(added), settled).map(|warning| (settled.0, warning.percent)));
        }
        assert_eq!(said, [(500, 50), (800, 80), (960, 95)]);
        let all = Warning::of(&spec, &key, NanoUsd(2_000), NanoUsd(2_000));
        assert_eq!(all.map(|warning| warning.percent), Some(95));
    }
}
