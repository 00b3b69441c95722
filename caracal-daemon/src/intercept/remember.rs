//! Refusals of paid calls just given: of models, of tools, of priced paths. The same call again gets the same answer, without a
//! look at the policy, a hold or a wait: a retry storm is cheap.

use crate::clock::UnixNanos;
use crate::refusal::{Reason, Refusal};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Refusals remembered.
const MOST: usize = 1_024;
/// For how long.
const KEPT_NS: u64 = 60 * 1_000_000_000;

/// A refusal, the model that was asked for, and since when it is kept.
#[derive(Debug)]
struct Kept {
    refusal: Refusal,
    model: Option<Arc<str>>,
    since: UnixNanos,
}

impl Kept {
    fn fresh(&self, now: UnixNanos) -> bool {
        now.0.saturating_sub(self.since.0) <= KEPT_NS
    }
}

/// Refusals by what was refused.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    hasher: RandomState,
    kept: Mutex<HashMap<u64, Kept>>,
}

impl Remembered {
    /// The refusal that an equal call was given, if it was lately, and its model. `call` is everything that makes two calls
    /// equal.
    pub(crate) fn get<K: std::hash::Hash>(&self, call: &K, now: UnixNanos) -> Option<(Refusal, Option<Arc<str>>)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            // Hashing a body costs more than all else here: only while there is something to find.
            return None;
        }
        drop(kept);
        let key = self.hasher.hash_one(call);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&key).filter(|kept| kept.fresh(now)).map(|kept| (kept.refusal.clone(), kept.model.clone()))
    }

    /// Remembers a refusal, unless what it says changes by itself soon.
    pub(crate) fn put<K: std::hash::Hash>(
        &self,
        call: &K,
        refusal: &Refusal,
        model: Option<&Arc<str>>,
        now: UnixNanos,
    ) {
        if matches!(refusal.reason, Reason::JournalUnavailable | Reason::RateLimited { .. } | Reason::TooManyBodies) {
            return;
        }
        let key = self.hasher.hash_one(call);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.fresh(now));
        if kept.len() >= MOST
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.since).map(|(key, _)| *key)
        {
            kept.remove(&oldest);
        }
        kept.insert(key, Kept { refusal: refusal.clone(), model: model.cloned(), since: now });
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
