//! One slice in the host's memory: what may be spent from it, and how much the host asks for or gives back.
//!
//! The slice grows with what is taken from it and with what single calls ask for, and is asked for before it is used up.
//! What is not needed goes back: at once when another host waits for it, and by and by when nobody calls any more.

use super::{Claim, Given};
use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::money::NanoUsd;

/// How long a slice should last, seconds.
const LASTS: u64 = 6;
/// The same while another host waits.
const LASTS_SHORT: u64 = 1;
/// Measured over at least this long, ms.
const MEASURE_MS: u64 = 200;

/// What is taken from a slice now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Spent.
    pub settled: NanoUsd,
    /// What corrections took off what was charged.
    pub credited: NanoUsd,
    /// Set aside by open calls.
    pub held: NanoUsd,
    /// The least that the call needs which waits first; zero: none waits.
    pub first: NanoUsd,
    /// The least that all need that wait.
    pub all: NanoUsd,
}

impl Use {
    /// Both.
    #[must_use]
    pub fn taken(&self) -> NanoUsd {
        self.settled.saturating_add(self.held)
    }
}

/// One slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// All that this host may spend in the window.
    pub granted: NanoUsd,
    /// What others have spent, as of the last answer.
    pub elsewhere: NanoUsd,
    /// What nobody had, as of the last answer.
    pub free: NanoUsd,
    /// The limit in force, as of the last answer; `None`: there was none yet, or the vault has no such budget.
    pub limit: Option<NanoUsd>,
    /// When its window ends.
    pub ends: Option<UnixNanos>,
    /// There was an answer.
    pub heard: bool,
    /// Another host waits for what this one does not need.
    hungry: bool,
    /// The last answer was not enough for the call that waits first.
    unserved: bool,
    /// The most that a call asked for lately.
    peak: NanoUsd,
    /// A call asked since the last measurement.
    asked: bool,
    /// About what is taken in a second.
    rate: NanoUsd,
    /// What was taken at the last measurement, and when, ms.
    measured: Option<(NanoUsd, u64)>,
    /// What was spent as of the last answer.
    said: Option<NanoUsd>,
    /// When the last claim was made, ms.
    spoke: u64,
}

impl Slice {
    /// A slice of nothing, of a window that ends then.
    #[must_use]
    pub fn new(ends: Option<UnixNanos>) -> Slice {
        Slice { ends, ..Slice::default() }
    }

    /// A slice that was another process's of this host, which is gone: what that one did not spend goes back with the first
    /// claim. It is not spent from: a vault that came from a backup may have lent it to another host meanwhile.
    #[must_use]
    pub fn taken_up(taken: NanoUsd, ends: Option<UnixNanos>) -> Slice {
        Slice { granted: taken, ends, ..Slice::default() }
    }

    /// A call asks for as much as `most`.
    pub fn ask(&mut self, most: NanoUsd) {
        self.asked = true;
        self.peak = self.peak.max(most);
    }

    /// Whether it is time to ask for more: there is less left than half of what there should be.
    #[must_use]
    pub fn is_low(&self, left: NanoUsd) -> bool {
        left.0 < self.reserve(LASTS).0 / 2 && (self.free > NanoUsd::ZERO || !self.heard)
    }

    /// When the last claim was made, ms.
    #[must_use]
    pub fn spoke(&self) -> u64 {
        self.spoke
    }

    /// Whether the vault knows all that was spent, and the host holds nothing.
    #[must_use]
    pub fn is_done(&self, used: &Use) -> bool {
        used.held == NanoUsd::ZERO && self.granted == used.settled && self.said == Some(used.settled)
    }

    /// Whether the last answer was not enough for the call that waited first.
    #[must_use]
    pub fn is_unserved(&self) -> bool {
        self.unserved
    }

    /// What the host says to the vault. Gives back what is not needed first: it is not spent from any more, whatever comes
    /// of the message. `limit` is the configuration's; `None`: nothing is needed any more.
    pub fn claim(&mut self, key: &WindowKey, limit: Option<NanoUsd>, used: &Use, now: u64) -> Claim {
        self.measure(used, now);
        self.spoke = now;
        let left = self.granted.saturating_sub(used.taken());
        let keep = match (limit, used.first > left) {
            (None, _) => NanoUsd::ZERO,
            // It is too little for whoever waits here, and may be enough for somebody there.
            (Some(_), true) if self.unserved && self.hungry => NanoUsd::ZERO,
            (Some(_), true) => left,
            (Some(_), false) if self.hungry => used.all.saturating_add(self.burn(LASTS_SHORT)).min(left),
            (Some(_), false) => {
                let reserve = used.all.saturating_add(self.reserve(LASTS));
                if left.0 / 2 > reserve.0 { reserve } else { left }
            }
        };
        self.granted = self.granted.saturating_sub(left.saturating_sub(keep));
        let lacks = |wanted: NanoUsd| wanted.saturating_sub(keep);
        let (first, need) = (lacks(used.first), lacks(used.all.max(used.first)));
        let want = if limit.is_none() || (self.hungry && need == NanoUsd::ZERO) {
            NanoUsd::ZERO
        } else {
            lacks(used.all.saturating_add(self.reserve(LASTS)))
        };
        Claim {
            key: key.clone(),
            ends: self.ends,
            limit: limit.unwrap_or_default(),
            granted: self.granted,
            settled: used.settled,
            credited: used.credited,
            first,
            need,
            want: want.max(need),
        }
    }

    /// Hears the answer to `said`.
    pub fn hear(&mut self, said: &Claim, given: &Given) {
        self.unserved = given.granted < said.granted.saturating_add(said.first);
        self.granted = given.granted;
        self.elsewhere = given.elsewhere;
        self.free = given.free;
        self.limit = given.limit;
        self.hungry = given.hungry;
        self.heard = true;
        self.said = Some(said.settled);
    }

    /// What should be at hand: room for the largest calls, and for a while.
    fn reserve(&self, seconds: u64) -> NanoUsd {
        self.burn(seconds).max(NanoUsd(self.peak.0.saturating_mul(2)))
    }

    fn burn(&self, seconds: u64) -> NanoUsd {
        NanoUsd(self.rate.0.saturating_mul(seconds))
    }

    fn measure(&mut self, used: &Use, now: u64) {
        let Some((before, at)) = self.measured else {
            self.measured = Some((used.taken(), now));
            return;
        };
        let elapsed = now.saturating_sub(at);
        if elapsed < MEASURE_MS {
            return;
        }
        let taken = u128::from(used.taken().saturating_sub(before).0) * 1_000 / u128::from(elapsed);
        let rate = (u128::from(self.rate.0) + taken) / 2;
        self.rate = NanoUsd(u64::try_from(rate).unwrap_or(u64::MAX));
        self.measured = Some((used.taken(), now));
        if !std::mem::take(&mut self.asked) {
            self.peak = NanoUsd(self.peak.0 / 2);
        }
    }
}
