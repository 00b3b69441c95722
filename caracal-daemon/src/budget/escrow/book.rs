//! A vault in memory: what one host needs, and what the tests compare the others with.

use super::{
    Held, Moment, Odd, Opened, Opening, QUIET_MS, Session, Share, Step, Stepped, Terms, Vault, VaultError, Verdict,
    Window, WriteOff, WrittenOff, serve,
};
use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::money::NanoUsd;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All rows.
#[derive(Clone, Debug, Default)]
pub struct Book {
    limits: HashMap<Arc<str>, NanoUsd>,
    sessions: BTreeMap<Arc<str>, Session>,
    hosts: BTreeMap<Arc<str>, Arc<str>>,
    windows: BTreeMap<WindowKey, (Window, Option<UnixNanos>)>,
    shares: BTreeMap<(Arc<str>, WindowKey), Share>,
    /// What went wrong, and whether nobody may spend until an operator has looked.
    incidents: Vec<(String, bool)>,
    /// How many of them an operator has looked at.
    accepted: usize,
    started: u64,
    now: u64,
}

impl Book {
    /// A vault with these limits.
    #[must_use]
    pub fn new(limits: HashMap<Arc<str>, NanoUsd>) -> Book {
        Book { limits, now: QUIET_MS, ..Book::default() }
    }

    /// Moves its clock.
    pub fn set(&mut self, now: u64) {
        self.now = now;
    }

    /// It was away, and starts.
    pub fn start(&mut self) {
        self.started = self.now;
    }

    /// It was filled from a dump, and knows by what no dump carries.
    pub fn filled(&mut self) {
        self.incidents.push(("it was filled from a dump".to_owned(), true));
    }

    /// An operator has looked at what went wrong.
    pub fn accept(&mut self) {
        self.accepted = self.incidents.len();
    }

    /// What went wrong.
    #[must_use]
    pub fn incidents(&self) -> &[(String, bool)] {
        &self.incidents
    }

    /// The last step that was heard of a holder.
    #[must_use]
    pub fn heard(&self, holder: &str) -> u64 {
        self.sessions.get(holder).map_or(0, |session| session.step)
    }

    /// A window.
    #[must_use]
    pub fn window(&self, key: &WindowKey) -> Window {
        self.windows.get(key).map(|(window, _)| window.clone()).unwrap_or_default()
    }

    /// Everything that what comes next depends on.
    #[cfg(test)]
    pub(crate) fn picture(&self) -> String {
        format!("{:?}{:?}{:?}{:?}", self.sessions, self.windows, self.shares, self.incidents)
    }

    /// Whether the sums of each window are those of its shares.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.windows.iter().all(|(key, (window, _))| {
            let shares = || self.shares.iter().filter(|((_, of), _)| of == key).map(|(_, share)| share);
            window.allotted.0 == shares().map(|share| share.allotted().0).sum::<u64>()
                && window.spent.0 == shares().map(|share| share.spent().0).sum::<u64>()
        })
    }

    fn halted(&self) -> Option<Arc<str>> {
        let open = self.incidents.get(self.accepted..).unwrap_or_default();
        open.iter().find(|(_, halts)| *halts).map(|(why, _)| why.as_str().into())
    }

    fn take_up(&mut self, opening: &Opening) -> Opened {
        let found = self.sessions.get(&opening.holder).cloned();
        let (session, verdict) = Session::open(found, opening, self.now);
        match verdict {
            Verdict::Busy(ms) => return Opened::Busy(ms),
            Verdict::Forgot(why) => self.incidents.push((why, true)),
            Verdict::HostForgot(why) => {
                self.incidents.push((why, false));
                for ((_, key), share) in self.shares.iter_mut().filter(|((holder, _), _)| *holder == opening.holder) {
                    let more = share.forget();
                    if let Some((window, _)) = self.windows.get_mut(key) {
                        window.spent = window.spent.saturating_add(more);
                    }
                }
            }
            Verdict::Go | Verdict::Fenced | Verdict::Stale => {}
        }
        let known = super::Known { epoch: session.epoch, step: session.step, sent: session.step, opening: None };
        self.sessions.insert(Arc::clone(&opening.holder), session);
        self.hosts.insert(Arc::clone(&opening.holder), Arc::clone(&opening.host));
        let mine = self.shares.iter().filter(|((holder, _), _)| *holder == opening.holder);
        let shares = mine.map(|((_, key), share)| {
            let ends = self.windows.get(key).and_then(|(_, ends)| *ends);
            (key.clone(), ends, *share)
        });
        Opened::Yes { known, shares: shares.collect(), halted: self.halted() }
    }

    fn hear(&mut self, step: &Step) -> Stepped {
        let Some(session) = self.sessions.get_mut(&step.holder) else {
            // Nothing is known of it at all: as if it stood at nothing.
            let known = Session { epoch: 0, step: 0, lot: 0, place: "".into(), until: 0 };
            self.sessions.insert(Arc::clone(&step.holder), known);
            return self.hear(step);
        };
        match session.step(step, self.now) {
            Verdict::Fenced => return Stepped::Fenced,
            Verdict::Stale | Verdict::Busy(_) => return Stepped::Stale,
            Verdict::Forgot(why) => self.incidents.push((why, true)),
            Verdict::HostForgot(_) | Verdict::Go => {}
        }
        let mut given = Vec::new();
        for claim in &step.claims {
            let terms = Terms {
                holder: &step.holder,
                halted: self.halted().is_some(),
                calm: self.now >= self.started.saturating_add(QUIET_MS),
                holders: self.sessions.values().filter(|session| self.now < session.until).count() as u64,
                now: self.now,
            };
            let (window, ends) = self.windows.entry(claim.key.clone()).or_default();
            *ends = claim.ends;
            let share = self.shares.entry((Arc::clone(&step.holder), claim.key.clone())).or_default();
            let limit = self.limits.get(&claim.key.budget).copied();
            let (answer, odd) = serve(window, share, limit, claim, &terms);
            given.push(answer);
            self.incidents.extend(odd.map(|odd| match odd {
                Odd::HostForgot(why) => (why, false),
                Odd::VaultForgot(why) => (why, true),
            }));
        }
        Stepped::Served { given, halted: self.halted() }
    }
}

impl Book {
    fn shares_of<'a>(&'a self, holder: &'a str) -> impl Iterator<Item = (&'a WindowKey, &'a Share)> {
        self.shares.iter().filter(move |((of, _), _)| **of == *holder).map(|((_, key), share)| (key, share))
    }

    fn end(&mut self, order: &WriteOff) -> WrittenOff {
        let halted = self.halted();
        let at = Moment { now: self.now, started: self.started, halted: halted.as_ref() };
        let found = self.sessions.get(&order.holder).cloned();
        let (session, ended) = order.decide(found, self.shares_of(&order.holder), &at)?;
        self.sessions.insert(Arc::clone(&order.holder), session);
        self.incidents.push((order.record(&ended), false));
        for one in &ended {
            let share = self.shares.get_mut(&(Arc::clone(&order.holder), one.key.clone()));
            if let (Some((window, _)), Some(share)) = (self.windows.get_mut(&one.key), share) {
                one.apply(window, share);
            }
        }
        Ok(ended)
    }
}

impl Vault for Book {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn open(&mut self, opening: &Opening) -> Result<Opened, VaultError> {
        Ok(self.take_up(opening))
    }

    async fn step(&mut self, step: &Step) -> Result<Stepped, VaultError> {
        Ok(self.hear(step))
    }

    async fn holders(&mut self) -> Result<Vec<Held>, VaultError> {
        let held = |(holder, session): (&Arc<str>, &Session)| Held {
            holder: Arc::clone(holder),
            host: self.hosts.get(holder).cloned().unwrap_or_else(|| "".into()),
            lease_ms: session.until.saturating_sub(self.now),
            shares: self.shares_of(holder).map(|(key, share)| (key.clone(), *share)).collect(),
        };
        Ok(self.sessions.iter().map(held).collect())
    }

    async fn write_off(&mut self, order: &WriteOff) -> Result<WrittenOff, VaultError> {
        Ok(self.end(order))
    }
}
