//! Takes a call's bounds and who makes it; gives a [`Hold`] taken from every budget above it, or from none.
//! Refuses when it does not fit. Never frees a hold by a timeout. Next: `journal`.
//!
//! At all times, for each window, settled + held <= limit. Only a bill above its hold can break that: it is charged
//! truly, an alarm is raised, and its model is frozen.
//!
//! How much is granted: with `left` the least that any budget above the call has left, the smaller of `most` and the
//! larger of `least` and half of `left`. So a lone client is served until less than its `least` is left, and a client
//! that asks for much leaves room for others.

pub mod escrow;
mod exceeded;
mod pool;
mod rate;
mod shared;
mod spec;
mod wait;
mod warning;
mod window;

pub use rate::{Pass, RateSpec, Rates};
pub use shared::Claims;
pub use spec::{BudgetSpec, Per, SpecError, Wait, Window, WindowKind};
pub use warning::Warning;

use crate::clock::{Clock, UnixNanos};
use crate::config::Glob;
use crate::event::WindowKey;
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal, Side, Stage};
use pool::{Asked, End, Pool};
use std::collections::HashMap;
use std::sync::Arc;
use wait::Waiting;

/// Who makes a call, for the budgets that apply to it.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The agent's name.
    pub agent: Arc<str>,
    /// `openai`, `anthropic`.
    pub provider: &'static str,
    /// The model.
    pub model: Arc<str>,
    /// The host.
    pub host: Arc<str>,
    /// The tool that is called, without its server; empty for all else.
    pub tool: Arc<str>,
}

impl Scope {
    /// Whether each of its names matches one of the patterns for it; no patterns match everything.
    fn is_among(&self, agents: &[Glob], models: &[Glob], providers: &[Glob], hosts: &[Glob]) -> bool {
        let any =
            |patterns: &[Glob], name: &str| patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name));
        any(agents, &self.agent) && any(models, &self.model) && any(providers, self.provider) && any(hosts, &self.host)
    }

    /// Which part of a limit that is divided by `per` it has.
    fn part(&self, per: Per) -> Arc<str> {
        match per {
            Per::All => Arc::from(""),
            Per::Agent => Arc::clone(&self.agent),
            Per::Model => Arc::clone(&self.model),
            Per::Host => Arc::clone(&self.host),
            // Two servers may have tools of one name: with its server, as records name it.
            Per::Tool if self.tool.is_empty() => Arc::from(""),
            Per::Tool => format!("{}/{}", self.model.split('/').next().unwrap_or_default(), self.tool).into(),
        }
    }
}

/// One window of one budget, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// The window. Of a rolling budget: its newest part.
    pub key: WindowKey,
    /// The most that is spent in it.
    pub limit: NanoUsd,
    /// Spent.
    pub settled: NanoUsd,
    /// Set aside by open calls.
    pub held: NanoUsd,
    /// Left.
    pub left: NanoUsd,
    /// When the window turns; `None`: never.
    pub ends: Option<UnixNanos>,
    /// It refuses nothing.
    pub soft: bool,
    /// What this host has of a budget that many share.
    #[serde(skip)]
    pub slice: Option<escrow::Slice>,
    /// What the budget is divided by.
    #[serde(skip)]
    pub per: Per,
}

/// Every budget and what is left of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budgets(Arc<Pool>);

impl Budgets {
    /// Budgets with what the journal says was spent: `totals` are settled amounts, restored exactly.
    ///
    /// # Errors
    /// When the specs contradict each other.
    pub fn new(
        specs: Vec<BudgetSpec>,
        clock: Clock,
        totals: HashMap<WindowKey, NanoUsd>,
    ) -> Result<Budgets, SpecError> {
        Pool::new(specs, clock, totals).map(|pool| Budgets(Arc::new(pool)))
    }

    /// Whether calls that no budget covers are allowed without a limit. They are denied unless this says so.
    pub fn allow_uncovered(&self, allowed: bool) {
        self.0.with(|state| state.allow_uncovered = allowed);
    }

    /// Takes a hold of at least `least` and at most `most`: as much of `most` as fits. Waits, first come first served
    /// and bounded, when `least` fits only once open holds are settled.
    ///
    /// # Errors
    /// `budget_exceeded` or `budget_wait_timeout`, with a sentence that names the budget, its limit and when its window
    /// turns; `policy_denied` when no budget covers the call; `price_unknown` when the model is frozen.
    pub async fn hold(&self, scope: &Scope, least: NanoUsd, most: NanoUsd) -> Result<Hold, Refusal> {
        match Pool::ask(&self.0, scope, least, most.max(least)) {
            Asked::Now(answer) => answer,
            Asked::Queued(waiting) => Waiting::answer(waiting).await,
        }
    }

    /// The hold of a call that another process of this host sent, and whose end this one will record.
    #[must_use]
    pub fn restore(&self, windows: Vec<WindowKey>, amount: NanoUsd, who: (&'static str, Arc<str>)) -> Hold {
        Pool::restore(&self.0, windows, amount, who)
    }

    /// Gives no hold any more: another process has the budgets. Holds that are open end as they would.
    pub fn close(&self) {
        Pool::close(&self.0);
    }

    /// Puts other specs in force. What was settled and is held stays; calls that wait are looked at again.
    ///
    /// # Errors
    /// When the specs contradict each other: then the former ones stay.
    pub fn reload(&self, specs: Vec<BudgetSpec>) -> Result<(), SpecError> {
        Pool::reload(&self.0, specs)
    }

    /// A charge is put right: adds `nano` to what is settled in these windows, or takes it off, and looks again at calls that
    /// wait. Gives the limits that it brought near. Whoever calls it has a durable record of it.
    pub fn correct(&self, windows: &[WindowKey], nano: i64) -> Vec<Warning> {
        Pool::correct(&self.0, windows, nano)
    }

    /// What corrections took off what was charged before this start, where they did: what a vault was told of must not fall.
    pub fn credited(&self, credits: HashMap<WindowKey, NanoUsd>) {
        self.0.with(|state| {
            for (key, nano) in credits {
                if let Some(cell) = state.cells.get_mut(&key) {
                    cell.credited = nano;
                }
            }
        });
    }

    /// The current window of each budget, and of each agent or model that a budget is divided by and that has called.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Status> {
        self.0.with(pool::State::snapshot)
    }

    /// Woken when a slice of a shared budget runs low, or a call waits for one.
    #[must_use]
    pub fn wake(&self) -> Arc<tokio::sync::Notify> {
        self.0.wake()
    }

    /// What to say of this host's slices at `now`, ms of the clock that never stops. What is not needed is not spent from any
    /// more; `last`: nothing is needed.
    #[must_use]
    pub fn claims(&self, now: u64, last: bool) -> Claims {
        self.0.claims(now, last)
    }

    /// Takes up what a vault says this host has.
    pub fn take_up(&self, shares: &[(WindowKey, Option<UnixNanos>, escrow::Share)]) {
        self.0.take_up(shares);
    }

    /// Hears a vault's answer to these claims; calls that wait are looked at again.
    pub fn hear(&self, claims: &[escrow::Claim], given: &[escrow::Given]) {
        Pool::hear(&self.0, claims, given);
    }

    /// Until when slices may be spent from, ms of the clock that never stops; and why they are not refilled, if they are not.
    pub fn lend(&self, until: u64, trouble: Option<Arc<str>>) {
        Pool::lend(&self.0, until, trouble);
    }

    /// Everything that what comes next depends on.
    #[cfg(test)]
    pub(crate) fn picture(&self) -> String {
        self.0.with(|state| state.picture())
    }

    /// Calls to this model are refused from now on: a bill was above its hold, so its price cannot be right.
    pub fn freeze(&self, provider: &'static str, model: &Arc<str>) {
        self.0.with(|state| state.frozen.insert((provider, Arc::clone(model))));
    }

    /// The price was put right. Gives whether the model was frozen.
    pub fn unfreeze(&self, provider: &'static str, model: &Arc<str>) -> bool {
        self.0.with(|state| state.frozen.remove(&(provider, Arc::clone(model))))
    }

    /// The frozen models, by provider.
    #[must_use]
    pub fn frozen(&self) -> Vec<(&'static str, Arc<str>)> {
        self.0.with(|state| state.frozen.iter().cloned().collect())
    }
}

/// A refusal of this stage. The sentence goes on after `Caracal `.
pub(crate) fn refuse(reason: Reason, sentence: String) -> Refusal {
    Refusal { stage: Stage::Budget, side: Side::Us, reason, sentence: format!("Caracal {sentence}"), limit: None }
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The bill is known.
    Settled(NanoUsd),
    /// The bill is not known, and is more than was held: charged is what it is at least.
    Beyond(NanoUsd),
    /// The bill is not known: the whole hold is charged.
    Charged,
    /// Provably nothing was billed.
    Released,
}

/// Money set aside: HELD until [`Hold::sent`], then SENT until one of the three ends.
/// Dropped while HELD it is released; dropped while SENT it is charged in full.
#[derive(Debug)]
pub struct Hold {
    /// How much. To change it, call [`Hold::shrink`].
    pub amount: NanoUsd,
    /// Where it was taken from.
    pub windows: Vec<WindowKey>,
    /// What is set aside in the pool: `amount` may be read by others, this is what is given back.
    held: NanoUsd,
    who: (&'static str, Arc<str>),
    sent: bool,
    pool: Option<Arc<Pool>>,
}

impl Hold {
    /// Gives back all above `amount`. Only while HELD.
    pub fn shrink(&mut self, amount: NanoUsd) {
        let Some(pool) = self.pool.as_ref().filter(|_| !self.sent) else {
            return;
        };
        let back = self.held.saturating_sub(amount);
        if back > NanoUsd::ZERO {
            Pool::end(pool, &self.windows, End { held: back, settled: NanoUsd::ZERO }, None);
            self.held = self.held.saturating_sub(back);
        }
        self.amount = self.held;
    }

    /// Its intent is durable, so its request may be sent: from now on only an end that is recorded gives it back, as the next
    /// start would have it.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// The bill is known: charges it truly, also above the hold. A bill above the hold freezes the model. Gives the limits
    /// that it brought near.
    pub fn settle(mut self, actual: NanoUsd) -> Vec<Warning> {
        self.end(actual)
    }

    /// The bill is not known: charges the hold. Gives the charge, and the limits that it brought near.
    pub fn charge_max(mut self) -> (NanoUsd, Vec<Warning>) {
        let held = self.held;
        let warnings = self.end(held);
        (held, warnings)
    }

    /// Provably nothing was billed.
    pub fn release(mut self) {
        self.end(NanoUsd::ZERO);
    }

    /// Ends as `ending` says once `recorded` has the outcome, and not before: money that is given back earlier can be held
    /// again, and a crash in between would find both holds and no outcome. When it is not recorded the whole hold is
    /// charged, which is what the next start will do. Gives the answer of `recorded`, and the limits that came near.
    pub async fn end_after<E>(
        self,
        ending: Ending,
        recorded: impl Future<Output = Result<(), E>>,
    ) -> (Result<(), E>, Vec<Warning>) {
        let recorded = recorded.await;
        let warnings = match (ending, &recorded) {
            (Ending::Settled(bill), Err(_)) if bill <= self.held => self.charge_max().1,
            (Ending::Settled(bill) | Ending::Beyond(bill), _) => self.settle(bill),
            (Ending::Charged, _) | (Ending::Released, Err(_)) => self.charge_max().1,
            (Ending::Released, Ok(())) => {
                self.release();
                Vec::new()
            }
        };
        (recorded, warnings)
    }

    fn end(&mut self, settled: NanoUsd) -> Vec<Warning> {
        let Some(pool) = self.pool.take() else { return Vec::new() };
        let over = settled > self.held;
        if over {
            tracing::error!(
                provider = self.who.0,
                model = %self.who.1,
                held = %self.held,
                billed = %settled,
                "a bill is above its hold: charged truly, the model is refused until its price is put right"
            );
        }
        Pool::end(&pool, &self.windows, End { held: self.held, settled }, over.then_some(&self.who))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let settled = if self.sent { self.held } else { NanoUsd::ZERO };
        self.end(settled);
    }
}

#[cfg(test)]
mod tests;
