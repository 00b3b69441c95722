//! Budgets that many hosts share, on the way of a call: a slice in memory stands where a limit stands otherwise, and whoever
//! refills it is woken before it is used up. No call waits for a database but one that does not fit its slice.

use super::escrow::{Claim, Given, Share, Slice, Use};
use super::pool::{Budget, Pool, State};
use super::spec::BudgetSpec;
use crate::clock::{self, UnixNanos};
use crate::event::WindowKey;
use crate::money::NanoUsd;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Slices that are spoken of in one step, at most.
const MAX_CLAIMS: usize = 256;

/// What a host has of shared budgets.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) slices: HashMap<WindowKey, Slice>,
    /// Until when they may be spent from: ms of the clock that never stops.
    until: u64,
    /// Why they are not refilled, if they are not.
    trouble: Option<Arc<str>>,
    wake: Arc<Notify>,
}

/// What bounds a call in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The most that may be spent here now.
    pub(crate) limit: NanoUsd,
    /// The most that it could become.
    pub(crate) reach: NanoUsd,
    /// What others have spent.
    pub(crate) elsewhere: NanoUsd,
}

impl Shared {
    pub(crate) fn bounds(&self, spec: &BudgetSpec, key: &WindowKey) -> Bounds {
        if !spec.shared {
            return Bounds { limit: spec.limit, reach: spec.limit, elsewhere: NanoUsd::ZERO };
        }
        let Some(slice) = self.slices.get(key) else {
            return Bounds { limit: NanoUsd::ZERO, reach: spec.limit, elsewhere: NanoUsd::ZERO };
        };
        let reach = slice.limit.unwrap_or(spec.limit).min(spec.limit).saturating_sub(slice.elsewhere);
        let lent = clock::boottime_ms() < self.until;
        Bounds { limit: if lent { slice.granted.min(reach) } else { NanoUsd::ZERO }, reach, elsewhere: slice.elsewhere }
    }

    /// A call asks for as much as `most` in this window.
    pub(crate) fn ask(&mut self, key: &WindowKey, ends: Option<UnixNanos>, most: NanoUsd) {
        if !self.slices.contains_key(key) {
            self.slices.insert(key.clone(), Slice::new(ends));
        }
        if let Some(slice) = self.slices.get_mut(key) {
            slice.ask(most);
        }
    }

    /// So much is left in this window: wakes whoever refills it, if that is little.
    pub(crate) fn left(&self, key: &WindowKey, left: NanoUsd) {
        if self.slices.get(key).is_some_and(|slice| slice.is_low(left)) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn waits(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn trouble(&self) -> Option<&Arc<str>> {
        self.trouble.as_ref()
    }
}

/// What is said of slices, and whether a call waits for one.
#[derive(Debug)]
pub struct Claims {
    /// At most 256; those that were spoken of longest ago.
    pub claims: Vec<Claim>,
    /// There are others.
    pub more: bool,
    /// A call waits.
    pub waiting: bool,
}

impl Pool {
    pub(crate) fn wake(&self) -> Arc<Notify> {
        self.with(|state| Arc::clone(&state.shared.wake))
    }

    /// What to say of the slices. What is not needed is given back: it is not spent from any more. `last`: nothing is needed.
    pub(crate) fn claims(&self, now: u64, last: bool) -> Claims {
        self.with(|state| state.claims(now, last))
    }

    /// Takes up what the vault knows, and what this host knows of that the vault may have forgotten.
    pub(crate) fn take_up(&self, shares: &[(WindowKey, Option<UnixNanos>, Share)]) {
        self.with(|state| {
            let known = shares.iter().map(|(key, ends, _)| (key.clone(), *ends));
            let own = state.shared_windows();
            for (key, ends) in known.chain(own).collect::<Vec<_>>() {
                // What the process before this one still has under way is not given back.
                let taken = state.used(&key).taken();
                let slice = state.shared.slices.entry(key).or_default();
                *slice = Slice::taken_up(taken, ends);
            }
        });
    }

    /// Hears the vault's answer, then serves who waits.
    pub(crate) fn hear(pool: &Arc<Pool>, claims: &[Claim], given: &[Given]) {
        pool.with(|state| {
            for (claim, given) in claims.iter().zip(given) {
                let Some(slice) = state.shared.slices.get_mut(&claim.key) else { continue };
                slice.hear(claim, given);
            }
            for key in claims.iter().map(|claim| &claim.key) {
                let used = state.used(key);
                let over = !state.is_current(key);
                if over && state.shared.slices.get(key).is_some_and(|slice| slice.is_done(&used)) {
                    state.shared.slices.remove(key);
                }
            }
        });
        Pool::serve(pool);
    }

    /// Until when the slices may be spent from, and what is wrong.
    pub(crate) fn lend(pool: &Arc<Pool>, until: u64, trouble: Option<Arc<str>>) {
        pool.with(|state| (state.shared.until, state.shared.trouble) = (until, trouble));
        Pool::serve(pool);
    }
}

impl State {
    fn claims(&mut self, now: u64, last: bool) -> Claims {
        let waiting = self.wanted();
        let mut slices = std::mem::take(&mut self.shared.slices);
        let more = slices.len() > MAX_CLAIMS;
        let mut order: Vec<&WindowKey> = slices.keys().collect();
        order.sort_by_key(|key| (!waiting.contains_key(*key), slices.get(*key).map_or(0, Slice::spoke)));
        let chosen: Vec<WindowKey> = order.into_iter().take(MAX_CLAIMS).cloned().collect();
        let mut claims = Vec::with_capacity(chosen.len());
        for key in chosen {
            let (first, all) = waiting.get(&key).copied().unwrap_or_default();
            let used = Use { first, all, ..self.used(&key) };
            let limit = self.shared_limit(&key).filter(|_| !last);
            claims.extend(slices.get_mut(&key).map(|slice| slice.claim(&key, limit, &used, now)));
        }
        self.shared.slices = slices;
        Claims { claims, more, waiting: !waiting.is_empty() }
    }

    /// What the calls that wait need of each window: the first of them, and all together.
    ///
    /// A call that lacks what the vault could not give waits for that window alone: of those that come after it, in the order of
    /// their keys, it needs nothing yet. So does every call behind it. Whoever has what another host waits for therefore waits
    /// for something that comes later, if at all, and hosts never wait for one another in a ring.
    fn wanted(&self) -> HashMap<WindowKey, (NanoUsd, NanoUsd)> {
        let mut wanted: HashMap<WindowKey, (NanoUsd, NanoUsd)> = HashMap::new();
        let mut left: HashMap<WindowKey, NanoUsd> = HashMap::new();
        // Windows that an earlier call waits for, and where that one stands.
        let mut behind: HashMap<WindowKey, Option<WindowKey>> = HashMap::new();
        for waiter in &self.queue {
            let hard = self.levels(&waiter.scope).into_iter().filter(|level| !level.spec.soft);
            let (shared, own): (Vec<_>, Vec<_>) = hard.partition(|level| level.spec.shared);
            let mut keys: Vec<WindowKey> = shared.into_iter().map(|level| level.key).collect();
            keys.sort();
            let before = || keys.iter().chain(own.iter().map(|level| &level.key)).filter_map(|key| behind.get(key));
            let (is_first, mut stands) = (before().next().is_none(), before().flatten().min().cloned());
            for key in &keys {
                if stands.as_ref().is_some_and(|at| key > at) {
                    break;
                }
                let (first, all) = wanted.entry(key.clone()).or_default();
                *first = if *first == NanoUsd::ZERO { waiter.least } else { *first };
                *all = all.saturating_add(waiter.least);
                if !is_first {
                    continue;
                }
                let left = left.entry(key.clone()).or_insert_with(|| self.left_in_slice(key));
                if *left < waiter.least && self.shared.slices.get(key).is_some_and(Slice::is_unserved) {
                    stands = Some(key.clone());
                }
                *left = left.saturating_sub(waiter.least);
            }
            behind.extend(
                keys.into_iter().chain(own.into_iter().map(|level| level.key)).map(|key| (key, stands.clone())),
            );
        }
        wanted
    }

    fn left_in_slice(&self, key: &WindowKey) -> NanoUsd {
        let granted = self.shared.slices.get(key).map(|slice| slice.granted).unwrap_or_default();
        granted.saturating_sub(self.used(key).taken())
    }

    /// The windows of shared budgets that go on, and of which this host has spent.
    fn shared_windows(&self) -> Vec<(WindowKey, Option<UnixNanos>)> {
        let keys = self.cells.keys().filter(|key| self.is_current(key)).cloned();
        keys.map(|key| {
            let ends = self.budget(&key).and_then(|budget| budget.windows.at(self.latest).ends);
            (key, ends)
        })
        .collect()
    }

    fn budget(&self, key: &WindowKey) -> Option<&Budget> {
        self.budgets.iter().find(|budget| budget.spec.shared && budget.spec.name == key.budget)
    }

    /// Whether it is a shared budget's, and goes on.
    fn is_current(&self, key: &WindowKey) -> bool {
        self.budget(key).is_some_and(|budget| budget.windows.at(self.latest).key == key.window)
    }

    /// What a shared budget allows in this window; `None` when it is over, or not shared any more.
    fn shared_limit(&self, key: &WindowKey) -> Option<NanoUsd> {
        self.budget(key).filter(|_| self.is_current(key)).map(|budget| budget.spec.limit)
    }

    fn used(&self, key: &WindowKey) -> Use {
        let cell = self.cells.get(key).copied().unwrap_or_default();
        Use { settled: cell.settled, credited: cell.credited, held: cell.held, ..Use::default() }
    }
}

#[cfg(test)]
mod tests;
