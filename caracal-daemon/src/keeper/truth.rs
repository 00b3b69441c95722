//! What is true of the kernel, as last seen: faults that shut the door, and facts worth knowing. Takes what each look and
//! each canary found; gives the keeper's word to the data path's probe, lines for `status`, and what is to be recorded.
//! Never vouches on the strength of an old look: a watch that hangs shuts the door too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::govern::Governor;
use super::order::Order;
use crate::clock::monotonic_ns;

/// How often the effective programs are asked for.
pub const EVERY: Duration = Duration::from_millis(200);
/// How often a canary tries, where there is time for all of them.
const CANARY_EVERY: Duration = Duration::from_millis(500);
/// A look that is older proves nothing.
const STALE: Duration = Duration::from_millis(750);
/// Messages that wait for the journal. What is more is in the log only.
const WAITING: usize = 256;

/// What has to be done without keeping the watch waiting.
#[derive(Debug)]
pub enum Work {
    /// Record a sentence.
    Record(String),
    /// Attach a cgroup that was removed and made again.
    Again(super::govern::Again),
}

/// The state. Its parts are small and their locks are never held over a call.
#[derive(Debug)]
pub struct Truth {
    looked: AtomicU64,
    /// Found by a look: where, and what.
    faults: Mutex<BTreeSet<String>>,
    /// Found by a canary: where, and what got through.
    passed: Mutex<BTreeMap<String, String>>,
    /// No fault, and still to be known.
    notes: Mutex<BTreeSet<String>>,
    /// Canaries that could not try: where, and why.
    blind: Mutex<BTreeMap<String, String>>,
    work: SyncSender<Work>,
    waiting: Mutex<Option<Receiver<Work>>>,
}

impl Default for Truth {
    fn default() -> Truth {
        let (work, waiting) = sync_channel(WAITING);
        let (faults, passed, notes, blind) = Default::default();
        Truth { looked: AtomicU64::new(0), faults, passed, notes, blind, work, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Truth {
    /// Whether all is as it should be, by a look that is not old.
    #[must_use]
    pub fn vouches(&self) -> bool {
        let age = monotonic_ns().saturating_sub(self.looked.load(Ordering::Acquire));
        age < u64::try_from(STALE.as_nanos()).unwrap_or(0) && self.fault().is_none()
    }

    /// What shuts the door, if something does.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fault = lock(&self.faults).iter().next().cloned();
        fault.or_else(|| lock(&self.passed).values().next().cloned())
    }

    /// A look has ended with these faults and these facts. What is new, and what is over, is recorded.
    pub fn looked(&self, faults: BTreeSet<String>, notes: BTreeSet<String>) {
        let before = std::mem::replace(&mut *lock(&self.faults), faults.clone());
        let known = std::mem::replace(&mut *lock(&self.notes), notes.clone());
        self.looked.store(monotonic_ns(), Ordering::Release);
        for fault in faults.difference(&before) {
            self.record(format!("the door is shut: {fault}"));
        }
        for fault in before.difference(&faults) {
            self.record(format!("no longer so: {fault}"));
        }
        for note in notes.difference(&known) {
            self.record(note.clone());
        }
    }

    /// A canary has tried in `place`; `through` is what was not refused.
    pub fn tried(&self, place: &str, through: &[String]) {
        lock(&self.blind).remove(place);
        if through.is_empty() {
            if let Some(fault) = lock(&self.passed).remove(place) {
                self.record(format!("no longer so: {fault}"));
            }
            return;
        }
        let fault = format!("the canary got out of {place}: {}", through.join(", "));
        if lock(&self.passed).insert(place.to_owned(), fault.clone()).is_none() {
            self.record(format!("the door is shut: {fault}"));
        }
    }

    /// A canary could not try in `place`.
    pub fn blind(&self, place: &str, why: String) {
        lock(&self.blind).insert(place.to_owned(), why);
    }

    /// These places are watched; what was found in others is over.
    pub fn watch_only(&self, places: &BTreeSet<String>) {
        lock(&self.passed).retain(|place, _| places.contains(place));
        lock(&self.blind).retain(|place, _| places.contains(place));
    }

    /// Has a sentence recorded, in its turn.
    pub fn record(&self, sentence: String) {
        tracing::error!(sentence, "The watch over the kernel.");
        self.hand_over(Work::Record(sentence));
    }

    /// Has something done, in its turn.
    pub fn hand_over(&self, work: Work) {
        if let Err(TrySendError::Full(work)) = self.work.try_send(work) {
            tracing::error!(?work, "Too much waits to be done; this is not recorded.");
        }
    }

    /// For `status`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let faults: Vec<String> =
            lock(&self.faults).iter().cloned().chain(lock(&self.passed).values().cloned()).collect();
        let blind: Vec<Value> =
            lock(&self.blind).iter().map(|(place, why)| json!({ "cgroup": place, "why": why })).collect();
        let notes: Vec<String> = lock(&self.notes).iter().cloned().collect();
        json!({ "proven": self.vouches(), "faults": faults, "notes": notes, "untried": blind })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for ever.
pub fn watch(governor: &Governor) {
    go_first();
    loop {
        std::thread::sleep(EVERY);
        governor.look_at_programs();
    }
}

/// Puts the calling thread ahead of others: it does little, and on a busy host the door would be shut for nothing.
pub fn go_first() {
    // SAFETY: integers only; 0 is the calling thread, and -10 what the journal's has. Refused, it is merely slower.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

/// Sends the canary through every governed tree, for ever.
pub fn send_canaries(governor: &Governor) {
    let mut flights = super::govern::Flights::default();
    loop {
        std::thread::sleep(CANARY_EVERY);
        governor.send_canaries(&mut flights);
    }
}

/// Does what the watch hands over, for ever: the data path may hang, and the watch must not wait for it.
pub fn work_off(governor: &Arc<Governor>) {
    let Some(waiting) = lock(&governor.truth().waiting).take() else { return };
    while let Ok(work) = waiting.recv() {
        match work {
            Work::Record(sentence) => {
                // While no data path runs there is nobody to write it; it is worth waiting for one.
                while governor.order(&Order::Lifecycle(sentence.clone())).is_err() {
                    std::thread::sleep(EVERY);
                }
            }
            Work::Again(again) => governor.attach_again(&again),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(truth: &Truth) -> Vec<String> {
        let guard = lock(&truth.waiting);
        let waiting = guard.as_ref().expect("nobody took it");
        std::iter::from_fn(|| waiting.try_recv().ok()).map(|work| format!("{work:?}")).collect()
    }

    #[test]
    fn vouches_for_a_fresh_look_without_a_fault_only() {
        let truth = Truth::default();
        assert!(!truth.vouches(), "nobody has looked");
        truth.looked(BTreeSet::new(), BTreeSet::new());
        assert!(truth.vouches());
        truth.looked(["a".to_owned()].into(), BTreeSet::new());
        assert!(!truth.vouches());
        truth.looked(BTreeSet::new(), BTreeSet::new());
        assert!(truth.vouches());
        truth.tried("/x", &["udp".to_owned()]);
        assert!(!truth.vouches());
        truth.tried("/x", &["udp".to_owned()]);
        truth.tried("/x", &[]);
        assert!(truth.vouches());
        assert_eq!(waiting(&truth).len(), 4, "each begin and end once");
        truth.looked.store(0, Ordering::Release);
        assert!(!truth.vouches(), "the look is old");
    }

    #[test]
    fn what_is_not_watched_any_more_shuts_nothing() {
        let truth = Truth::default();
        truth.looked(BTreeSet::new(), BTreeSet::new());
        truth.tried("/gone", &["udp".to_owned()]);
        truth.watch_only(&BTreeSet::new());
        assert!(truth.vouches());
    }
}
