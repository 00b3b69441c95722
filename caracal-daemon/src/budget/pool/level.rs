//! The budgets above a call, and what each has spent, holds and has left now.

use super::{Budget, State};
use crate::budget::shared::Bounds;
use crate::budget::spec::{BudgetSpec, Per};
use crate::budget::window;
use crate::budget::{Scope, Status};
use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::money::NanoUsd;
use std::sync::Arc;

/// One budget above a call, now.
pub(in crate::budget) struct Level<'s> {
    pub(in crate::budget) spec: &'s BudgetSpec,
    pub(in crate::budget) key: WindowKey,
    pub(in crate::budget) ends: Option<UnixNanos>,
    pub(super) forget: Option<UnixNanos>,
    pub(super) settled: NanoUsd,
    pub(in crate::budget) held: NanoUsd,
    pub(in crate::budget) bounds: Bounds,
}

impl Level<'_> {
    pub(super) fn left(&self) -> NanoUsd {
        self.bounds.limit.saturating_sub(self.taken())
    }

    pub(in crate::budget) fn taken(&self) -> NanoUsd {
        self.settled.saturating_add(self.held)
    }

    /// Spent here and elsewhere.
    pub(in crate::budget) fn spent(&self) -> NanoUsd {
        self.settled.saturating_add(self.bounds.elsewhere)
    }
}

impl State {
    /// The budgets above a call: those that cover it, and all their parents.
    pub(in crate::budget) fn levels(&self, scope: &Scope) -> Vec<Level<'_>> {
        let mut above: Vec<usize> = Vec::new();
        for (index, budget) in self.budgets.iter().enumerate() {
            let mut next = covers(&budget.spec, scope).then_some(index);
            while let Some(index) = next.filter(|index| !above.contains(index)) {
                above.push(index);
                let parent = self.budgets.get(index).and_then(|budget| budget.spec.parent.as_ref());
                next = parent.and_then(|name| self.budgets.iter().position(|other| other.spec.name == *name));
            }
        }
        above
            .into_iter()
            .filter_map(|index| self.budgets.get(index))
            .map(|budget| self.level(budget, scope.part(budget.spec.per)))
            .collect()
    }

    pub(super) fn level<'s>(&self, budget: &'s Budget, part: Arc<str>) -> Level<'s> {
        let place = budget.windows.at(self.latest);
        let key = |window| WindowKey { budget: Arc::clone(&budget.spec.name), scope: Arc::clone(&part), window };
        let newest = key(place.key);
        let (mut settled, mut held) = self.sum(std::iter::once(&newest));
        if !place.counted.is_empty() {
            let former = self.former(&newest, &place.counted);
            (settled, held) = (settled.saturating_add(former.0), held.saturating_add(former.1));
        }
        // Of all stretches of a window's length that have the present in them, the fullest.
        let ahead = || {
            let mine = self.ahead.iter().filter(|key| key.budget == newest.budget && key.scope == newest.scope);
            mine.filter(|key| key.window != newest.window && window::is_within(&newest.window, &key.window))
        };
        let none: &[Arc<str>] = &[];
        let counted = if self.ahead.is_empty() { none } else { &place.counted };
        let counted: Vec<WindowKey> = counted.iter().cloned().map(key).collect();
        for last in ahead() {
            let present = std::iter::once(&newest).chain(&counted);
            let stretch = present.chain(ahead()).filter(|key| window::is_within(&key.window, &last.window));
            let sum = self.sum(stretch);
            if sum.0.saturating_add(sum.1) > settled.saturating_add(held) {
                (settled, held) = sum;
            }
        }
        let bounds = self.shared.bounds(&budget.spec, &newest);
        Level { spec: &budget.spec, key: newest, ends: place.ends, forget: place.forget, settled, held, bounds }
    }

    /// What is settled and held in the sixty parts before the newest one of a rolling window. They change only when a call that
    /// was held in one of them ends, or is put right: see [`State::touch`].
    fn former(&self, newest: &WindowKey, counted: &[Arc<str>]) -> (NanoUsd, NanoUsd) {
        let whose = (Arc::clone(&newest.budget), Arc::clone(&newest.scope));
        let mut kept = self.former.borrow_mut();
        if let Some((window, sum)) = kept.get(&whose)
            && *window == newest.window
        {
            return *sum;
        }
        let keys: Vec<WindowKey> =
            counted.iter().map(|window| WindowKey { window: Arc::clone(window), ..newest.clone() }).collect();
        let sum = self.sum(keys.iter());
        kept.insert(whose, (Arc::clone(&newest.window), sum));
        sum
    }

    /// The sums of a rolling window's former parts do not hold any more, if this is one of them.
    pub(super) fn touch(&mut self, key: &WindowKey) {
        let kept = self.former.get_mut();
        if !kept.is_empty() {
            let whose = (Arc::clone(&key.budget), Arc::clone(&key.scope));
            if kept.get(&whose).is_some_and(|(newest, _)| *newest != key.window) {
                kept.remove(&whose);
            }
        }
    }

    /// What is settled and held in these windows.
    fn sum<'k>(&self, keys: impl Iterator<Item = &'k WindowKey>) -> (NanoUsd, NanoUsd) {
        keys.filter_map(|key| self.cells.get(key)).fold(Default::default(), |(settled, held), cell| {
            (cell.settled.saturating_add(settled), cell.held.saturating_add(held))
        })
    }

    /// Every budget's window, and of each part that a budget is divided into and that has called.
    pub(crate) fn snapshot(&mut self) -> Vec<Status> {
        let mut all = Vec::new();
        for budget in &self.budgets {
            let now = budget.windows.at(self.latest);
            let counts = |key: &WindowKey| {
                key.budget == budget.spec.name && (key.window == now.key || now.counted.contains(&key.window))
            };
            let mut parts: Vec<Arc<str>> =
                self.cells.keys().filter(|key| counts(key)).map(|key| Arc::clone(&key.scope)).collect();
            parts.sort();
            parts.dedup();
            if parts.is_empty() {
                parts.push(Arc::from(""));
            }
            all.extend(parts.into_iter().map(|part| {
                let level = self.level(budget, part);
                Status {
                    limit: level.spec.limit,
                    settled: level.settled,
                    held: level.held,
                    left: level.bounds.reach.saturating_sub(level.taken()),
                    ends: level.ends,
                    slice: level.spec.shared.then(|| self.shared.slices.get(&level.key).cloned().unwrap_or_default()),
                    soft: level.spec.soft,
                    per: level.spec.per,
                    key: level.key,
                }
            }));
        }
        all
    }
}

fn covers(spec: &BudgetSpec, scope: &Scope) -> bool {
    let tool = || {
        let named = spec.tools.is_empty() || spec.tools.iter().any(|pattern| pattern.matches(&scope.tool));
        named && !scope.tool.is_empty()
    };
    let of_tools = !spec.tools.is_empty() || spec.per == Per::Tool;
    scope.is_among(&spec.agents, &spec.models, &spec.providers, &spec.hosts) && (!of_tools || tool())
}
