//! How often, and how many tokens in a while: the generic cell rate algorithm (ITU-T I.371), one number a bucket.
//! Takes who asks and the time; gives a [`Pass`], or after how many seconds there is room. Not money: it begins anew with
//! the process, and tokens count once the provider reports them.

use super::Scope;
use super::spec::{Per, Window};
use crate::clock::UnixNanos;
use crate::config::Glob;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buckets at once. When there are more, those that are full again go; when none is, the newest asks in vain.
const MOST_BUCKETS: usize = 65_536;
const SECOND: u64 = 1_000_000_000;

/// One limit. A full bucket lets that many through at once, and refills evenly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Requests in one window.
    pub requests: Option<u64>,
    /// Tokens in one window, input and output together.
    pub tokens: Option<u64>,
    /// How long a window is; never [`Window::Total`].
    pub window: Window,
    /// Agents that it is for: empty is all.
    pub agents: Vec<Glob>,
    /// Models, likewise. With models or providers it is for paid calls alone.
    pub models: Vec<Glob>,
    /// Providers, likewise.
    pub providers: Vec<Glob>,
    /// Hosts, likewise.
    pub hosts: Vec<Glob>,
    /// Who has a bucket of its own.
    pub per: Per,
}

impl RateSpec {
    fn is_for(&self, scope: &Scope) -> bool {
        let named = |patterns: &[Glob], name: &str| patterns.is_empty() || !name.is_empty();
        (self.per != Per::Tool || !scope.tool.is_empty())
            && named(&self.models, &scope.model)
            && named(&self.providers, scope.provider)
            && scope.is_among(&self.agents, &self.models, &self.providers, &self.hosts)
    }

    /// One unit's part of the window times `units`, nanoseconds.
    fn cost(&self, limit: u64, units: u64) -> u64 {
        let nanos = u128::from(self.nanos()) * u128::from(units) / u128::from(limit.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn nanos(&self) -> u64 {
        SECOND
            * match self.window {
                Window::Minute => 60,
                Window::Hour => 3_600,
                Window::Day => 86_400,
                Window::Week => 7 * 86_400,
                Window::Month | Window::Total => 30 * 86_400,
            }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Requests,
    Tokens,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bucket {
    rate: Arc<str>,
    part: Arc<str>,
    unit: Unit,
}

/// Why not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The limit's name.
    pub rate: Arc<str>,
    /// What it counts: `requests` or `tokens`.
    pub unit: &'static str,
    /// Seconds until there is room, at least one.
    pub seconds: u32,
}

#[derive(Debug, Default)]
struct State {
    specs: Vec<RateSpec>,
    /// When each bucket is full again.
    full: HashMap<Bucket, u64>,
}

/// Every rate limit. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rates(Arc<Mutex<State>>);

/// A request that was let through, for the tokens that it turns out to use.
#[derive(Clone, Debug, Default)]
#[must_use = "a call's tokens are counted on it"]
pub struct Pass(Vec<(Bucket, RateSpec)>);

impl Rates {
    /// These limits.
    #[must_use]
    pub fn new(specs: Vec<RateSpec>) -> Rates {
        Rates(Arc::new(Mutex::new(State { specs, full: HashMap::new() })))
    }

    /// Other limits; buckets of those that keep their name stay as they are.
    pub fn reload(&self, specs: Vec<RateSpec>) {
        let mut state = self.state();
        state.full.retain(|bucket, _| specs.iter().any(|spec| spec.name == bucket.rate));
        state.specs = specs;
    }

    /// Lets one request through every limit that is for it, or through none.
    ///
    /// # Errors
    /// The limit that leaves no room for the longest.
    pub fn pass(&self, scope: &Scope, now: UnixNanos) -> Result<Pass, Limited> {
        let mut state = self.state();
        let mut taken: Vec<(Bucket, u64)> = Vec::new();
        let mut pass = Pass::default();
        let mut limited: Option<(u64, Arc<str>, &'static str)> = None;
        for spec in state.specs.iter().filter(|spec| spec.is_for(scope)) {
            let part = scope.part(spec.per);
            for (unit, limit, units, name) in
                [(Unit::Requests, spec.requests, 1, "requests"), (Unit::Tokens, spec.tokens, 0, "tokens")]
            {
                let Some(limit) = limit else { continue };
                let bucket = Bucket { rate: Arc::clone(&spec.name), part: Arc::clone(&part), unit };
                let before = state.full.get(&bucket).copied().unwrap_or(0).max(now.0);
                let after = before.saturating_add(spec.cost(limit, units));
                // A bucket of tokens lets through while one is left; what a call uses is known at its end.
                let room = now.0.saturating_add(spec.nanos()).saturating_sub(u64::from(unit == Unit::Tokens));
                if after > room {
                    let wait = after - room;
                    if limited.as_ref().is_none_or(|(longest, ..)| wait > *longest) {
                        limited = Some((wait, Arc::clone(&spec.name), name));
                    }
                }
                match unit {
                    Unit::Requests => taken.push((bucket, after)),
                    Unit::Tokens => pass.0.push((bucket, spec.clone())),
                }
            }
        }
        if let Some((wait, rate, unit)) = limited {
            let seconds = u32::try_from(wait.div_ceil(SECOND)).unwrap_or(u32::MAX).max(1);
            return Err(Limited { rate, unit, seconds });
        }
        for (bucket, after) in taken {
            state.put(bucket, after, now)?;
        }
        Ok(pass)
    }

    /// Counts the tokens that a call used.
    pub fn used(&self, pass: &Pass, tokens: u64, now: UnixNanos) {
        let mut state = self.state();
        for (bucket, spec) in &pass.0 {
            let before = state.full.get(bucket).copied().unwrap_or(0).max(now.0);
            let after = before.saturating_add(spec.cost(spec.tokens.unwrap_or(u64::MAX), tokens));
            // No room for another bucket: then the request before it was refused already.
            let _ = state.put(bucket.clone(), after, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, bucket: Bucket, full: u64, now: UnixNanos) -> Result<(), Limited> {
        if self.full.len() >= MOST_BUCKETS && !self.full.contains_key(&bucket) {
            self.full.retain(|_, full| *full > now.0);
            if self.full.len() >= MOST_BUCKETS {
                return Err(Limited { rate: bucket.rate, unit: "requests", seconds: 60 });
            }
        }
        self.full.insert(bucket, full);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(agent: &str, model: &str) -> Scope {
        Scope {
            agent: agent.into(),
            provider: if model.is_empty() { "" } else { "openai" },
            model: model.into(),
            host: "h".into(),
            tool: "".into(),
        }
    }

    fn spec(requests: Option<u64>, tokens: Option<u64>) -> RateSpec {
        RateSpec {
            name: "r".into(),
            requests,
            tokens,
            window: Window::Minute,
            agents: Vec::new(),
            models: Vec::new(),
            providers: Vec::new(),
            hosts: Vec::new(),
            per: Per::Agent,
        }
    }

    fn at(seconds: u64) -> UnixNanos {
        UnixNanos(1_000_000 * SECOND + seconds * SECOND)
    }

    #[test]
    fn a_full_bucket_then_one_at_a_time_and_each_agent_its_own() {
        let rates = Rates::new(vec![spec(Some(6), None)]);
        let ask =
            |agent, seconds| rates.pass(&scope(agent, "m"), at(seconds)).map(drop).map_err(|limited| limited.seconds);
        let answers: Vec<_> = (0..7).map(|_| ask("a", 0)).collect();
        assert_eq!(answers, [Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Err(10)]);
        assert_eq!(ask("b", 0), Ok(()), "another agent");
        assert_eq!((ask("a", 4), ask("a", 10), ask("a", 10)), (Err(6), Ok(()), Err(10)));
    }

    #[test]
    fn tokens_are_counted_when_they_are_known() {
        let rates = Rates::new(vec![spec(None, Some(600))]);
        let first = rates.pass(&scope("a", "m"), at(0)).expect("room");
        rates.used(&first, 900, at(0));
        let limited = rates.pass(&scope("a", "m"), at(0)).expect_err("nothing is left");
        assert_eq!((limited.unit, limited.seconds), ("tokens", 31));
        assert!(rates.pass(&scope("a", "m"), at(31)).is_ok());
    }

    #[test]
    fn all_or_none_is_taken_and_a_limit_of_models_is_for_calls_alone() {
        let both = vec![
            RateSpec { name: "wide".into(), ..spec(Some(10), None) },
            RateSpec { name: "narrow".into(), models: vec!["gpt-*".into()], ..spec(Some(1), None) },
        ];
        let rates = Rates::new(both);
        assert!(rates.pass(&scope("a", "gpt-5"), at(0)).is_ok());
        for _ in 0..100 {
            assert_eq!(rates.pass(&scope("a", "gpt-5"), at(0)).map(drop).map_err(|l| l.rate), Err("narrow".into()));
        }
        assert_eq!((0..20).filter(|_| rates.pass(&scope("a", ""), at(0)).is_ok()).count(), 9);
    }

    proptest! {
        /// In any stretch as long as the window, at most twice the limit passes: a full bucket and its refill.
        #[test]
        fn no_window_has_more_than_a_bucket_and_its_refill(limit in 1u64..50, steps in proptest::collection::vec(0u64..5_000, 1..300)) {
            let rates = Rates::new(vec![spec(Some(limit), None)]);
            let mut now = at(0).0;
            let mut passed = Vec::new();
            for step in steps {
                now += step * 1_000_000;
                if rates.pass(&scope("a", "m"), UnixNanos(now)).is_ok() {
                    passed.push(now);
                }
            }
            for from in &passed {
                let within = passed.iter().filter(|at| **at >= *from && **at < from + 60 * SECOND).count() as u64;
                prop_assert!(within <= 2 * limit, "{within} of {limit}");
            }
        }
    }
}
