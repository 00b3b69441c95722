//! An operator writes a lost host's slices off: what it can have spent is settled for it, on the operator's word, and the rest
//! is everybody's again.
//! Refuses while the holder may still spend: its lease has not run out, or the vault may not know of the latest one. A holder
//! that comes back is fenced until it is started again, and then what it did spend counts if that is more.

use super::{QUIET_MS, Session, Share, Window};
use crate::event::WindowKey;
use crate::money::NanoUsd;
use std::sync::Arc;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct WriteOff {
    /// Whose slices.
    pub holder: Arc<str>,
    /// Of which windows; an empty one is of all.
    pub which: Which,
    /// What was spent of the one window that is meant. `None`: all that the holder had, of each.
    pub stated: Option<Stated>,
    /// Who asks and why, for the vault's records.
    pub why: String,
    /// The longest lease of a host, ms: a vault that came from a backup may not know of it.
    pub lease_ms: u64,
}

/// Chooses windows.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Of this budget.
    pub budget: Option<String>,
    /// Of this agent's part.
    pub scope: Option<String>,
    /// Of this time: `day/2026-11-24`.
    pub window: Option<String>,
}

/// What the operator knows of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// So much was spent in all.
    Spent(NanoUsd),
    /// So much was not spent.
    Unspent(NanoUsd),
}

/// A slice that was written off.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ended {
    /// Which window.
    pub key: WindowKey,
    /// All that the holder might have spent.
    pub granted: NanoUsd,
    /// What it had said was spent.
    pub said: NanoUsd,
    /// What counts as spent now.
    pub spent: NanoUsd,
}

impl Ended {
    /// What others may spend again.
    #[must_use]
    pub fn returned(&self) -> NanoUsd {
        self.granted.saturating_sub(self.spent)
    }
}

/// Why nothing was written off, and nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWrittenOff {
    /// No such holder.
    #[error("there is no such holder; `caracald budgets holders` lists them")]
    Unknown,
    /// It may still spend.
    #[error("it may still spend: its lease runs for {} s more. Stop the host, or wait", .0.div_ceil(1_000))]
    Alive(u64),
    /// The vault may not know what it knew.
    #[error("shared budgets are halted ({0}): run `caracald budgets --accept` first")]
    Halted(Arc<str>),
    /// The vault may have forgotten a lease.
    #[error("the vault has just started, so it may have forgotten a lease: wait {} s", .0.div_ceil(1_000))]
    Young(u64),
    /// No slice fits.
    #[error("it has no slice of such a window; `caracald budgets holders` lists them")]
    NoSlice,
    /// An amount is of one window.
    #[error(
        "an amount is of one window, and {0} fit: say --budget, --scope and --window as `caracald budgets holders` does"
    )]
    Several(usize),
    /// The host itself said otherwise.
    #[error("it said itself that {said} was spent, of {granted} that it had: the amount must lie between")]
    Outside {
        /// What it said was spent.
        said: NanoUsd,
        /// What it had.
        granted: NanoUsd,
    },
}

impl NotWrittenOff {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            NotWrittenOff::Unknown => "write_off_unknown_holder",
            NotWrittenOff::Alive(_) => "write_off_alive",
            NotWrittenOff::Halted(_) => "write_off_halted",
            NotWrittenOff::Young(_) => "write_off_young_vault",
            NotWrittenOff::NoSlice => "write_off_no_slice",
            NotWrittenOff::Several(_) => "write_off_several_windows",
            NotWrittenOff::Outside { .. } => "write_off_amount",
        }
    }
}

/// What is the same for all slices of a holder.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// ms of the vault's clock.
    pub now: u64,
    /// Since when the vault is up, or is this file, ms.
    pub started: u64,
    /// Nobody may spend: why.
    pub halted: Option<&'a Arc<str>>,
}

impl Which {
    fn has(&self, key: &WindowKey) -> bool {
        let fits = |asked: &Option<String>, own: &str| asked.as_ref().is_none_or(|asked| asked == own);
        fits(&self.budget, &key.budget) && fits(&self.scope, &key.scope) && fits(&self.window, &key.window)
    }
}

impl WriteOff {
    /// The talk with the holder, ended, and which of `shares` are written off, and with what. `found` is what the vault has of it.
    ///
    /// # Errors
    /// While the holder may still spend; when no share fits, or the amount does not.
    pub fn decide<'a>(
        &self,
        found: Option<Session>,
        shares: impl IntoIterator<Item = (&'a WindowKey, &'a Share)>,
        at: &Moment<'_>,
    ) -> Result<(Session, Vec<Ended>), NotWrittenOff> {
        Ok((self.fence(found, at)?, self.plan(shares)?))
    }

    /// Ends the talk with the holder: the next word of its process is fenced. `found` is what the vault has of it.
    ///
    /// # Errors
    /// While the holder may still spend.
    fn fence(&self, found: Option<Session>, at: &Moment<'_>) -> Result<Session, NotWrittenOff> {
        let session = found.ok_or(NotWrittenOff::Unknown)?;
        if let Some(why) = at.halted {
            return Err(NotWrittenOff::Halted(Arc::clone(why)));
        }
        let sure = at.started.saturating_add(self.lease_ms.max(QUIET_MS));
        if at.now < sure {
            return Err(NotWrittenOff::Young(sure - at.now));
        }
        if at.now < session.until {
            return Err(NotWrittenOff::Alive(session.until - at.now));
        }
        Ok(Session { epoch: session.epoch.saturating_add(1), until: at.now, ..session })
    }

    /// Which of `shares` are written off, and with what.
    ///
    /// # Errors
    /// When none fits, or the amount does not.
    fn plan<'a>(
        &self,
        shares: impl IntoIterator<Item = (&'a WindowKey, &'a Share)>,
    ) -> Result<Vec<Ended>, NotWrittenOff> {
        let meant: Vec<_> = shares.into_iter().filter(|(key, _)| self.which.has(key)).collect();
        let ended = |key: &WindowKey, share: &Share, spent| Ended {
            key: key.clone(),
            granted: share.granted,
            said: share.settled,
            spent,
        };
        let (key, share, stated) = match (meant.as_slice(), self.stated) {
            ([], _) => return Err(NotWrittenOff::NoSlice),
            (_, None) => {
                let all = meant.iter().map(|(key, share)| ended(key, share, share.granted));
                return Ok(all.filter(|ended| ended.spent > ended.said).collect());
            }
            ([(key, share)], Some(stated)) => (key, share, stated),
            (several, Some(_)) => return Err(NotWrittenOff::Several(several.len())),
        };
        let (said, granted) = (share.settled, share.granted);
        let spent = match stated {
            Stated::Spent(spent) => Some(spent),
            Stated::Unspent(left) => granted.0.checked_sub(left.0).map(NanoUsd),
        };
        let spent = spent.filter(|spent| said <= *spent && *spent <= granted);
        Ok(vec![ended(key, share, spent.ok_or(NotWrittenOff::Outside { said, granted })?)])
    }

    /// What the vault's records say of it.
    #[must_use]
    pub fn record(&self, ended: &[Ended]) -> String {
        let one = |ended: &Ended| {
            let Ended { key, granted, said, spent } = ended;
            format!(
                "{} {:?} {}: {spent} of {granted} count as spent where it had said {said}",
                key.budget, key.scope, key.window
            )
        };
        let what = if ended.is_empty() {
            vec!["it had spent all that it had".to_owned()]
        } else {
            ended.iter().map(one).collect()
        };
        format!("written off ({}): {}", self.why, what.join("; "))
    }
}

impl Ended {
    /// The share afterwards, as if its holder had said so itself and given the rest back; what that takes off the window's
    /// allotted sum, and what it adds to the spent one.
    #[must_use]
    pub fn change(&self, share: Share) -> (Share, NanoUsd, NanoUsd) {
        let after = Share { granted: self.spent, settled: self.spent, ..share };
        let back = share.granted.saturating_sub(after.granted);
        (after, back, after.settled.saturating_sub(share.settled))
    }

    /// Puts it into force.
    pub fn apply(&self, window: &mut Window, share: &mut Share) {
        let (after, back, more) = self.change(*share);
        *share = after;
        window.allotted = window.allotted.saturating_sub(back);
        window.spent = window.spent.saturating_add(more);
    }
}
