//! The host's side of the talk with a vault: who has the slices, and until when they may be spent from.

use super::{Claim, Known, Opened, Opening, Step, Stepped};
use std::sync::Arc;

/// Whether slices may be spent from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They were not taken up yet.
    Closed,
    /// They may, until the lease runs out.
    Live,
    /// Another process has them for this long, ms.
    Busy(u64),
    /// Nobody may spend: why.
    Halted(Arc<str>),
    /// Another process took them from this one: two run with one state. For good.
    Fenced,
}

/// One host, for as long as its process lives.
#[derive(Clone, Debug)]
pub struct Holder {
    id: Arc<str>,
    host: Arc<str>,
    place: Arc<str>,
    lease_ms: u64,
    lot: u64,
    known: Known,
    standing: Standing,
    /// Until when the slices may be spent from, ms of the host's clock that never stops.
    until: u64,
}

impl Holder {
    /// A holder that knows this much from before. `lot` is drawn for this process.
    #[must_use]
    pub fn new(id: &str, host: &str, place: &str, lease_ms: u64, lot: u64, known: Known) -> Holder {
        let (id, host, place) = (id.into(), host.into(), place.into());
        Holder { id, host, place, lease_ms, lot, known, standing: Standing::Closed, until: 0 }
    }

    /// How far the talk has come. Kept before each message is sent, and durable: a host that says less than it did has lost
    /// records, and its slices with them.
    #[must_use]
    pub fn known(&self) -> Known {
        self.known
    }

    /// Whether the slices may be spent from.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Until when they may, ms of the host's clock; 0: not at all.
    #[must_use]
    pub fn until(&self) -> u64 {
        if self.standing == Standing::Live { self.until } else { 0 }
    }

    /// Whether the slices have to be taken up first.
    #[must_use]
    pub fn must_open(&self) -> bool {
        matches!(self.standing, Standing::Closed | Standing::Busy(_))
    }

    /// Asks for the slices.
    #[must_use]
    pub fn opening(&mut self) -> Opening {
        let known = self.known;
        let lot = known.opening.unwrap_or(self.lot);
        if known.opening.is_none() {
            self.known.sent = known.sent.saturating_add(1);
            self.known.opening = Some(lot);
        }
        let (holder, host, place) = (Arc::clone(&self.id), Arc::clone(&self.host), Arc::clone(&self.place));
        Opening { holder, host, place, known, step: self.known.sent, lot, lease_ms: self.lease_ms }
    }

    /// Hears the answer to what was asked at `sent`.
    pub fn opened(&mut self, answer: &Opened, sent: u64) {
        match answer {
            Opened::Busy(ms) => self.standing = Standing::Busy(*ms),
            Opened::Yes { known, halted, .. } => {
                self.known = Known { sent: self.known.sent.max(known.step), ..*known };
                self.stand(halted.as_ref(), sent);
            }
        }
    }

    /// The next step. Each has a number of its own, whether it is answered or not.
    pub fn step(&mut self, claims: Vec<Claim>, close: bool) -> Step {
        self.known.sent = self.known.sent.saturating_add(1);
        Step {
            holder: Arc::clone(&self.id),
            epoch: self.known.epoch,
            step: self.known.sent,
            acked: self.known.step,
            lease_ms: self.lease_ms,
            close,
            claims,
        }
    }

    /// Hears the answer to the step of this number, which was sent at `sent`. Gives whether it says something of slices.
    pub fn stepped(&mut self, step: u64, answer: &Stepped, sent: u64) -> bool {
        match answer {
            Stepped::Fenced => {
                self.standing = Standing::Fenced;
                false
            }
            Stepped::Stale => false,
            // An answer that was overtaken says how things were.
            Stepped::Served { .. } if step <= self.known.step => false,
            Stepped::Served { halted, .. } => {
                self.known.step = step;
                self.stand(halted.as_ref(), sent);
                true
            }
        }
    }

    /// The vault's lease began after `sent`. A sixth of it is for clocks that do not go alike.
    fn stand(&mut self, halted: Option<&Arc<str>>, sent: u64) {
        if self.standing == Standing::Fenced {
            return;
        }
        self.standing = halted.map_or(Standing::Live, |why| Standing::Halted(Arc::clone(why)));
        self.until = sent.saturating_add(self.lease_ms - self.lease_ms / 6);
    }
}
