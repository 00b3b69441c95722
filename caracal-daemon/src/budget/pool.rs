//! What is settled and held in each window, and who waits. One lock, held for a few map look-ups, never across a wait.

mod level;

use super::exceeded::exceeded;
use super::shared::Shared;
use super::spec::{BudgetSpec, SpecError, check};
use super::wait::Waiting;
use super::window::{self, Windows};
use super::{Hold, Scope, Warning, refuse};
use crate::clock::{Clock, UnixNanos};
use crate::event::WindowKey;
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

pub(super) use level::Level;

pub(crate) type Answer = Result<Hold, Refusal>;

/// The shared state and the clock.
pub(crate) struct Pool {
    clock: Clock,
    state: Mutex<State>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) settled: NanoUsd,
    /// What corrections took off: `settled` and this are what was charged.
    pub(super) credited: NanoUsd,
    pub(super) held: NanoUsd,
    forget: Option<UnixNanos>,
}

pub(super) struct Budget {
    pub(super) spec: BudgetSpec,
    pub(super) windows: Windows,
}

pub(super) struct Waiter {
    id: u64,
    pub(super) scope: Scope,
    pub(super) least: NanoUsd,
    most: NanoUsd,
    answer: oneshot::Sender<Answer>,
}

/// The newest part, and the sum of those before it: settled and held.
type Former = HashMap<(Arc<str>, Arc<str>), (Arc<str>, (NanoUsd, NanoUsd))>;

/// Everything under the lock.
pub(crate) struct State {
    pub(super) budgets: Vec<Budget>,
    pub(super) cells: HashMap<WindowKey, Cell>,
    pub(super) shared: Shared,
    pub(super) queue: VecDeque<Waiter>,
    next_id: u64,
    /// The latest time seen: a clock that steps back opens no former window again.
    pub(super) latest: UnixNanos,
    /// Parts of rolling windows that lay in the future at the start: the clock stood further once, and what was spent then
    /// counts as long as a window has it and the present in it.
    ahead: Vec<WindowKey>,
    /// Of a rolling budget's parts, by budget and scope: what its former parts sum up to, beside the newest one.
    former: RefCell<Former>,
    pub(crate) frozen: HashSet<(&'static str, Arc<str>)>,
    pub(crate) allow_uncovered: bool,
    /// The next data path has the budgets.
    pub(super) closed: bool,
}

/// What a hold's end changes.
pub(crate) struct End {
    pub(crate) held: NanoUsd,
    pub(crate) settled: NanoUsd,
}

/// The answer to one question.
pub(crate) enum Asked {
    Now(Answer),
    Queued(Waiting),
}

enum Taken {
    Granted {
        amount: NanoUsd,
        windows: Vec<WindowKey>,
    },
    Denied(Refusal),
    /// Fits once open holds are settled.
    Later {
        windows: Vec<WindowKey>,
        calls: usize,
        time: Duration,
        refusal: Refusal,
    },
}

impl Pool {
    pub(crate) fn new(
        specs: Vec<BudgetSpec>,
        clock: Clock,
        totals: HashMap<WindowKey, NanoUsd>,
    ) -> Result<Pool, SpecError> {
        let now = clock.now();
        let ahead = totals.keys().filter(|key| window::begins_after(&key.window, now)).cloned().collect();
        let cells = totals.into_iter().map(|(key, settled)| (key, Cell { settled, ..Cell::default() })).collect();
        let state = State {
            budgets: budgets(specs)?,
            cells,
            shared: Shared::default(),
            queue: VecDeque::new(),
            next_id: 0,
            latest: now,
            ahead,
            former: RefCell::default(),
            frozen: HashSet::new(),
            allow_uncovered: false,
            closed: false,
        };
        Ok(Pool { clock, state: Mutex::new(state) })
    }

    /// Runs `work` under the lock, with the time brought up to date.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest = state.latest.max(self.clock.now());
        work(&mut state)
    }

    pub(crate) fn reload(pool: &Arc<Pool>, specs: Vec<BudgetSpec>) -> Result<(), SpecError> {
        let budgets = budgets(specs)?;
        pool.with(|state| {
            state.budgets = budgets;
            state.former.get_mut().clear();
        });
        Pool::serve(pool);
        Ok(())
    }

    /// Grants, denies, or queues.
    pub(crate) fn ask(pool: &Arc<Pool>, scope: &Scope, least: NanoUsd, most: NanoUsd) -> Asked {
        pool.with(|state| {
            let waiting_for = state.waited_for();
            match state.take(scope, least, most, &waiting_for) {
                Taken::Granted { amount, windows } => Asked::Now(Ok(Pool::hold(pool, scope, amount, windows))),
                Taken::Denied(refusal) => Asked::Now(Err(refusal)),
                Taken::Later { calls, refusal, .. } if state.queue.len() >= calls => {
                    let sentence = format!(
                        "has {} calls waiting for budget already, the most allowed. {}",
                        state.queue.len(),
                        refusal.sentence
                    );
                    Asked::Now(Err(Refusal { limit: refusal.limit, ..refuse(Reason::BudgetWaitTimeout, sentence) }))
                }
                Taken::Later { time, refusal, .. } => {
                    let (answer, wait) = oneshot::channel();
                    let id = state.next_id;
                    state.next_id += 1;
                    state.queue.push_back(Waiter { id, scope: scope.clone(), least, most, answer });
                    state.shared.waits();
                    Asked::Queued(Waiting { pool: Arc::clone(pool), id, wait, time, refusal })
                }
            }
        })
    }

    fn hold(pool: &Arc<Pool>, scope: &Scope, amount: NanoUsd, windows: Vec<WindowKey>) -> Hold {
        let who = (scope.provider, Arc::clone(&scope.model));
        Hold { amount, windows, held: amount, who, sent: false, pool: Some(Arc::clone(pool)) }
    }

    /// A hold that another process took from these windows, and whose call was sent.
    pub(crate) fn restore(
        pool: &Arc<Pool>,
        windows: Vec<WindowKey>,
        amount: NanoUsd,
        who: (&'static str, Arc<str>),
    ) -> Hold {
        pool.with(|state| {
            for key in &windows {
                state.touch(key);
                let cell = state.cells.entry(key.clone()).or_default();
                cell.held = cell.held.saturating_add(amount);
            }
        });
        Hold { amount, windows, held: amount, who, sent: true, pool: Some(Arc::clone(pool)) }
    }

    /// Grants nothing any more; who waits is told so.
    pub(crate) fn close(pool: &Arc<Pool>) {
        pool.with(|state| state.closed = true);
        Pool::serve(pool);
    }

    /// Ends a hold, or a part of it, in the windows that it was taken from; then serves who waits. Gives the limits that
    /// what was settled brought near.
    pub(crate) fn end(
        pool: &Arc<Pool>,
        windows: &[WindowKey],
        end: End,
        freeze: Option<&(&'static str, Arc<str>)>,
    ) -> Vec<Warning> {
        let warnings = pool.with(|state| {
            for key in windows {
                state.touch(key);
                let cell = state.cells.entry(key.clone()).or_default();
                cell.held = cell.held.saturating_sub(end.held);
                cell.settled = cell.settled.saturating_add(end.settled);
            }
            state.frozen.extend(freeze.cloned());
            windows.iter().filter_map(|key| state.warning(key, end.settled)).collect()
        });
        Pool::serve(pool);
        warnings
    }

    /// Changes what is settled. Of a window that is forgotten nothing is left to take off.
    pub(crate) fn correct(pool: &Arc<Pool>, windows: &[WindowKey], nano: i64) -> Vec<Warning> {
        let amount = NanoUsd(nano.unsigned_abs());
        let warnings = pool.with(|state| {
            for key in windows {
                state.touch(key);
                if nano < 0 {
                    if let Some(cell) = state.cells.get_mut(key) {
                        let off = amount.min(cell.settled);
                        cell.settled = cell.settled.saturating_sub(off);
                        cell.credited = cell.credited.saturating_add(off);
                    }
                } else {
                    let cell = state.cells.entry(key.clone()).or_default();
                    cell.settled = cell.settled.saturating_add(amount);
                }
            }
            let reached = windows.iter().filter(|_| nano > 0);
            reached.filter_map(|key| state.warning(key, amount)).collect()
        });
        Pool::serve(pool);
        warnings
    }

    /// Answers those in the queue whose turn has come. A call waits behind an earlier one that waits for the same window.
    pub(crate) fn serve(pool: &Arc<Pool>) {
        let answers = pool.with(|state| state.serve(pool));
        // Outside the lock: an answer that nobody takes any more is a hold that drops.
        for (answer, to) in answers {
            let _ = to.send(answer);
        }
    }

    pub(crate) fn leave(pool: &Arc<Pool>, id: u64) {
        let left = pool.with(|state| {
            let before = state.queue.len();
            state.queue.retain(|waiter| waiter.id != id);
            before != state.queue.len()
        });
        if left {
            Pool::serve(pool);
        }
    }
}

fn budgets(specs: Vec<BudgetSpec>) -> Result<Vec<Budget>, SpecError> {
    check(&specs)?;
    specs.into_iter().map(|spec| Ok(Budget { windows: Windows::new(&spec)?, spec })).collect()
}

impl State {
    /// Takes money from every level or from none. A level in `behind` has somebody waiting for it already.
    fn take(&mut self, scope: &Scope, least: NanoUsd, most: NanoUsd, behind: &HashSet<WindowKey>) -> Taken {
        if self.closed {
            let sentence =
                "is being upgraded, and this call came too late for the one before. Send it again.".to_owned();
            return Taken::Denied(refuse(Reason::ShuttingDown, sentence));
        }
        if self.frozen.contains(&(scope.provider, Arc::clone(&scope.model))) {
            let sentence = format!(
                "refuses model {:?}: a bill was above what its price allows, so the price is wrong. Correct its entry in the price book and reload.",
                scope.model
            );
            return Taken::Denied(refuse(Reason::PriceUnknown, sentence));
        }
        let levels = self.levels(scope);
        if levels.is_empty() && !self.allow_uncovered {
            let sentence = format!(
                "refused this call: no budget covers agent {:?} and model {:?}. Add a [[budget]] that does.",
                scope.agent, scope.model
            );
            return Taken::Denied(refuse(Reason::PolicyDenied, sentence));
        }
        let hard = || levels.iter().filter(|level| !level.spec.soft);
        if let Some(level) = hard().find(|level| level.settled.saturating_add(least) > level.bounds.reach) {
            return Taken::Denied(exceeded(level, least));
        }
        let left = hard().map(Level::left).min();
        let tight = hard().find(|level| level.left() < least || behind.contains(&level.key));
        let asked: Vec<_> =
            hard().filter(|level| level.spec.shared).map(|level| (level.key.clone(), level.ends)).collect();
        if let Some(level) = tight {
            let mut refusal = exceeded(level, least);
            if let Some(trouble) = self.shared.trouble().filter(|_| level.spec.shared) {
                refusal.sentence = format!("{} This host's part of it is not refilled: {trouble}.", refusal.sentence);
            }
            let later = Taken::Later {
                calls: hard().map(|level| level.spec.wait.calls).min().unwrap_or(0),
                time: hard().map(|level| level.spec.wait.time).min().unwrap_or_default(),
                refusal,
                windows: hard().map(|level| level.key.clone()).collect(),
            };
            asked.iter().for_each(|(key, ends)| self.shared.ask(key, *ends, most));
            return later;
        }
        let amount = left.map_or(most, |left| most.min(least.max(NanoUsd(left.0 / 2))));
        let lefts: Vec<NanoUsd> = hard().filter(|level| level.spec.shared).map(Level::left).collect();
        let taken: Vec<(WindowKey, Option<UnixNanos>)> =
            levels.into_iter().map(|level| (level.key, level.forget)).collect();
        for (key, forget) in &taken {
            self.add(key, *forget, amount);
        }
        for ((key, ends), left) in asked.iter().zip(lefts) {
            self.shared.ask(key, *ends, most);
            self.shared.left(key, left.saturating_sub(amount));
        }
        Taken::Granted { amount, windows: taken.into_iter().map(|(key, _)| key).collect() }
    }

    fn add(&mut self, key: &WindowKey, forget: Option<UnixNanos>, amount: NanoUsd) {
        if !self.cells.contains_key(key) {
            let now = self.latest;
            let slices = &self.shared.slices;
            self.former.get_mut().clear();
            self.cells.retain(|key, cell| {
                // The vault is told of a slice to its end.
                cell.held > NanoUsd::ZERO || cell.forget.is_none_or(|at| now < at) || slices.contains_key(key)
            });
        }
        let cell = self.cells.entry(key.clone()).or_default();
        cell.forget = forget;
        cell.held = cell.held.saturating_add(amount);
    }

    fn waited_for(&self) -> HashSet<WindowKey> {
        let levels = self.queue.iter().flat_map(|waiter| self.levels(&waiter.scope));
        levels.filter(|level| !level.spec.soft).map(|level| level.key).collect()
    }

    fn serve(&mut self, pool: &Arc<Pool>) -> Vec<(Answer, oneshot::Sender<Answer>)> {
        let mut answers = Vec::new();
        let mut behind = HashSet::new();
        for waiter in std::mem::take(&mut self.queue) {
            match self.take(&waiter.scope, waiter.least, waiter.most, &behind) {
                Taken::Granted { amount, windows } => {
                    answers.push((Ok(Pool::hold(pool, &waiter.scope, amount, windows)), waiter.answer))
                }
                Taken::Denied(refusal) => answers.push((Err(refusal), waiter.answer)),
                Taken::Later { windows, .. } => {
                    behind.extend(windows);
                    self.queue.push_back(waiter);
                }
            }
        }
        answers
    }

    /// The limit of `key`'s budget that `settled`, just added to it, brought near.
    fn warning(&self, key: &WindowKey, settled: NanoUsd) -> Option<Warning> {
        let budget = self.budgets.iter().find(|budget| budget.spec.name == key.budget)?;
        let level = self.level(budget, Arc::clone(&key.scope));
        // A window that has turned warns nobody any more.
        (level.key == *key).then(|| Warning::of(&budget.spec, key, settled, level.spent()))?
    }

    /// How long until a window of this waiter turns.
    pub(crate) fn turns(&self, id: u64) -> Duration {
        let waiter = self.queue.iter().find(|waiter| waiter.id == id);
        let ends = waiter.and_then(|waiter| self.levels(&waiter.scope).iter().filter_map(|level| level.ends).min());
        ends.map_or(Duration::from_secs(3_600), |ends| Duration::from_nanos(ends.0.saturating_sub(self.latest.0)))
    }

    /// Everything that what comes next depends on, for the search of its states: windows with money in them, and who waits.
    #[cfg(test)]
    pub(crate) fn picture(&self) -> String {
        let mut cells: Vec<_> = self.cells.iter().map(|(key, cell)| (key, cell.settled.0, cell.held.0)).collect();
        cells.retain(|(_, settled, held)| settled + held > 0);
        cells.sort();
        let queue: Vec<_> = self.queue.iter().map(|waiter| (waiter.least.0, waiter.most.0)).collect();
        format!("{cells:?}{queue:?}")
    }

    /// Calls in the queue.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}
