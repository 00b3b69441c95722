//! A budget that many hosts share: its limit is in a vault (PostgreSQL, or a file for the instances of one host), and each holds a
//! slice of each window in memory.
//! Takes what a host says of its slices; gives it more, or says why not. Pure: a vault locks the rows, calls this, and
//! stores them. Never frees money: what a host does not say is spent is spent.
//!
//! All amounts are totals of a window, not differences, so that a message that is repeated or lost changes nothing. At all
//! times, for each window: what the hosts may spend <= the sum of what the vault says they have <= limit. A host lowers its
//! own slice first and tells the vault afterwards; the vault raises first and the host learns of it afterwards.

mod book;
mod holder;
mod session;
mod slice;
mod write_off;

pub use book::Book;
pub use holder::{Holder, Standing};
pub use session::{Session, Verdict};
pub use slice::{Slice, Use};
pub use write_off::{Ended, Moment, NotWrittenOff, Stated, Which, WriteOff};

use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::money::NanoUsd;
use std::sync::Arc;

/// A vault that has just started gives nothing more for this long, ms of its own clock: whoever knows that it forgot
/// something has spoken by then.
pub const QUIET_MS: u64 = 8_000;
/// How often a host speaks at least, ms.
pub const TURN_MS: u64 = 2_000;
/// How long a host that could not be served makes others give back what they do not need, ms.
const HUNGRY_MS: u64 = 3 * TURN_MS;

/// How far a host's talk with the vault has come, as the host knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The epoch: it is raised each time that somebody takes the host's slices up.
    pub epoch: u64,
    /// The last step that the vault answered.
    pub step: u64,
    /// The last step that was sent, or was about to be.
    pub sent: u64,
    /// The last step is an opening that was not answered, with this number drawn by lot: it is sent again, and no number is
    /// used up while nobody hears.
    pub opening: Option<u64>,
}

/// A host takes its slices up, after a start.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whose slices: an id that was made with the state directory.
    pub holder: Arc<str>,
    /// The host's id, for people.
    pub host: Arc<str>,
    /// Machine, boot and directory: whoever opens from the same place has outlived the one before it.
    pub place: Arc<str>,
    /// What the host knows from before.
    pub known: Known,
    /// The number of this message: higher than all before, unless it is sent again.
    pub step: u64,
    /// Drawn by lot: by it an opening that was heard already is known.
    pub lot: u64,
    /// How long its slices are lent to it without a further word, ms.
    pub lease_ms: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// They are its own from now on.
    Yes {
        /// Where the talk begins.
        known: Known,
        /// What the vault says it has.
        shares: Vec<(WindowKey, Option<UnixNanos>, Share)>,
        /// Nobody may spend: why.
        halted: Option<Arc<str>>,
    },
    /// Another process has them for this long, ms.
    Busy(u64),
}

/// What a host says of all its slices, or of some.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whose.
    pub holder: Arc<str>,
    /// In which epoch.
    pub epoch: u64,
    /// Its number, higher than all before.
    pub step: u64,
    /// The last one that was answered.
    pub acked: u64,
    /// As in [`Opening`].
    pub lease_ms: u64,
    /// The host ends in an orderly way: whoever opens next need not wait.
    pub close: bool,
    /// The slices.
    pub claims: Vec<Claim>,
}

/// What a host says of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which window.
    pub key: WindowKey,
    /// When it ends; `None`: never.
    pub ends: Option<UnixNanos>,
    /// What the host's own configuration allows in it.
    pub limit: NanoUsd,
    /// All that the host may spend in it. Less than the vault says gives the difference back.
    pub granted: NanoUsd,
    /// What it has spent: its charges, less what corrections took off them.
    pub settled: NanoUsd,
    /// What corrections took off. What was charged is both together, and never falls.
    pub credited: NanoUsd,
    /// What the next call that waits lacks; less than that helps nobody.
    pub first: NanoUsd,
    /// What all calls that wait lack.
    pub need: NanoUsd,
    /// What the host would like to have, `need` included.
    pub want: NanoUsd,
}

/// What the vault says of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which window.
    pub key: WindowKey,
    /// All that the host may spend in it.
    pub granted: NanoUsd,
    /// What others have spent, or must be taken to have spent.
    pub elsewhere: NanoUsd,
    /// What nobody has.
    pub free: NanoUsd,
    /// The limit in force: the smaller one of the vault's and the host's. `None`: the vault has no such budget.
    pub limit: Option<NanoUsd>,
    /// Another host waits for what this one does not need.
    pub hungry: bool,
}

/// The answer to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was taken.
    Served {
        /// In the order of the claims.
        given: Vec<Given>,
        /// Nobody may spend: why.
        halted: Option<Arc<str>>,
    },
    /// Somebody else has taken the slices up.
    Fenced,
    /// A later step was there before it.
    Stale,
}

/// Why a vault cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It does not answer, or broke off: what it did is not known.
    #[error("the vault of shared budgets cannot be reached: {0}")]
    Unreachable(String),
    /// Its tables are not there.
    #[error("the vault of shared budgets has no tables: run `caracald setup postgres`")]
    NotSetUp,
}

/// Where limits are, and slices are given out: one transaction a call.
pub trait Vault: Send {
    /// What it is called where its trouble is told.
    fn name(&self) -> &'static str;
    /// Takes a holder's slices up.
    fn open(&mut self, opening: &Opening) -> impl Future<Output = Result<Opened, VaultError>> + Send;
    /// Hears what a host says, and answers.
    fn step(&mut self, step: &Step) -> impl Future<Output = Result<Stepped, VaultError>> + Send;
    /// All holders and what they have, for an operator.
    fn holders(&mut self) -> impl Future<Output = Result<Vec<Held>, VaultError>> + Send;
    /// Writes a lost holder's slices off; on record, and all or nothing.
    fn write_off(&mut self, order: &WriteOff) -> impl Future<Output = Result<WrittenOff, VaultError>> + Send;
}

/// What came of writing a holder off: nothing changed where it says why not.
pub type WrittenOff = Result<Vec<Ended>, NotWrittenOff>;

/// A holder, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub holder: Arc<str>,
    /// The host's id.
    pub host: Arc<str>,
    /// Its lease runs for so long, ms; 0: it has run out.
    pub lease_ms: u64,
    /// What it has of each window, in their order.
    pub shares: Vec<(WindowKey, Share)>,
}

/// One window of one budget, as the vault knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The sum of what the holders have, and of what is lost.
    pub allotted: NanoUsd,
    /// The sum of what they said is spent, and of what is lost.
    pub spent: NanoUsd,
    /// Who could not be served last, and when.
    pub hungry: Option<(Arc<str>, u64)>,
}

/// What one holder has of one window, as the vault knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// All that it may spend.
    pub granted: NanoUsd,
    /// What it said is spent.
    pub settled: NanoUsd,
    /// What it said corrections took off.
    pub credited: NanoUsd,
    /// What it had and knows nothing of any more: its records were lost. Spent, for all that anybody can say.
    pub lost: NanoUsd,
}

impl Share {
    /// Its holder knows nothing of it any more. Gives the change to what is said to be spent.
    pub fn forget(&mut self) -> NanoUsd {
        let more = self.granted.saturating_sub(self.settled);
        *self = Share { lost: self.allotted().max(self.spent()), ..Share::default() };
        more
    }

    fn allotted(&self) -> NanoUsd {
        self.granted.saturating_add(self.lost)
    }

    fn spent(&self) -> NanoUsd {
        self.settled.saturating_add(self.lost)
    }

    /// What it said was charged. It only grows.
    fn charged(&self) -> NanoUsd {
        self.settled.saturating_add(self.credited)
    }
}

/// What is the same for all claims of a step.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// Whose claims.
    pub holder: &'a Arc<str>,
    /// Nobody may spend: nothing is given, and nothing is taken back.
    pub halted: bool,
    /// The vault is up for long enough.
    pub calm: bool,
    /// How many holders there are whose lease has not run out.
    pub holders: u64,
    /// ms of the vault's clock.
    pub now: u64,
}

/// What a claim showed beside itself, for the vault's records. The money it is about counts as spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Odd {
    /// The host lost records.
    HostForgot(String),
    /// The vault came from a backup: nobody may spend until an operator has looked.
    VaultForgot(String),
}

/// Answers one claim. `limit` is the vault's own for the budget.
pub fn serve(
    window: &mut Window,
    share: &mut Share,
    limit: Option<NanoUsd>,
    claim: &Claim,
    terms: &Terms<'_>,
) -> (Given, Option<Odd>) {
    let before = *share;
    let mut odd = None;
    let charged = claim.settled.saturating_add(claim.credited);
    if charged < share.charged() {
        let lost = share.granted.saturating_sub(claim.settled);
        share.lost = share.lost.saturating_add(lost);
        share.granted = claim.settled;
        odd = Some(Odd::HostForgot(format!(
            "{} knows of {charged} charged where the vault had heard of {}: {lost} more count as spent",
            terms.holder,
            share.charged()
        )));
    }
    (share.settled, share.credited) = (claim.settled, claim.credited);
    let told = claim.granted.max(claim.settled);
    if told > share.granted.max(claim.settled) && odd.is_none() {
        let why = format!("{} has {told} where the vault knows of {}", terms.holder, share.granted);
        odd = Some(Odd::VaultForgot(why));
    }
    share.granted = if terms.halted || odd.is_some() { told.max(share.granted) } else { told };
    window.allotted = add(window.allotted, before.allotted(), share.allotted());

    let limit = limit.map(|limit| limit.min(claim.limit));
    let free = limit.unwrap_or_default().saturating_sub(window.allotted);
    let more = if terms.halted || !terms.calm || odd.is_some() || free < claim.first {
        NanoUsd::ZERO
    } else {
        // A fair part of what is left, and never less than what waits.
        let part = NanoUsd(free.0 / terms.holders.max(1).saturating_mul(2));
        claim.want.max(claim.need).min(part.max(claim.need)).min(free)
    };
    share.granted = share.granted.saturating_add(more);
    window.allotted = window.allotted.saturating_add(more);
    window.spent = add(window.spent, before.spent(), share.spent());
    let unserved = more < claim.need;
    let mine = window.hungry.as_ref().is_some_and(|(who, _)| who == terms.holder);
    let hungry = window.hungry.as_ref().is_some_and(|(_, at)| !mine && terms.now < at.saturating_add(HUNGRY_MS));
    if unserved && terms.calm && !hungry {
        window.hungry = Some((Arc::clone(terms.holder), terms.now));
    } else if mine && !unserved {
        window.hungry = None;
    }
    let given = Given {
        key: claim.key.clone(),
        // What the vault remembers beyond that may be somebody else's by now.
        granted: told.saturating_add(more),
        elsewhere: window.spent.saturating_sub(share.settled),
        free: limit.unwrap_or_default().saturating_sub(window.allotted),
        limit,
        hungry,
    };
    (given, odd)
}

/// A sum in which one part changes.
fn add(sum: NanoUsd, before: NanoUsd, after: NanoUsd) -> NanoUsd {
    sum.saturating_sub(before).saturating_add(after)
}

#[cfg(test)]
mod tests;
