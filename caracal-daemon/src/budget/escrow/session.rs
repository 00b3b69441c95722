//! Whether a vault takes a message: who has the slices, in which epoch, and how far the talk has come.

use super::{Opening, Step};
use std::sync::Arc;

/// A holder, as the vault knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The epoch in force.
    pub epoch: u64,
    /// The last step that was taken.
    pub step: u64,
    /// The lot of the opening that began the epoch.
    pub lot: u64,
    /// Where the host runs.
    pub place: Arc<str>,
    /// Its slices are lent to it until then, ms of the vault's clock.
    pub until: u64,
}

/// Whether a message is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Go,
    /// Yes, and it shows that the vault forgot something: it came from a backup.
    Forgot(String),
    /// Yes, and it shows that the host lost records: all that it had is spent, for all that anybody can say.
    HostForgot(String),
    /// Another process has the slices for so long, ms.
    Busy(u64),
    /// Somebody else has taken the slices up.
    Fenced,
    /// A later step was there before it.
    Stale,
}

impl Session {
    /// Takes the slices up, or says why not. `found` is what the vault has of this holder.
    #[must_use]
    pub fn open(found: Option<Session>, opening: &Opening, now: u64) -> (Session, Verdict) {
        let until = now.saturating_add(opening.lease_ms);
        let (epoch, step) = found.as_ref().map_or((0, 0), |session| (session.epoch, session.step));
        let known = opening.known;
        let lost = epoch < known.epoch || step < known.step;
        if let Some(found) = &found
            && !lost
            && found.place != opening.place
            && now < found.until
        {
            return (found.clone(), Verdict::Busy(found.until - now));
        }
        let again = found.is_some_and(|found| found.step == opening.step && found.lot == opening.lot);
        let session = Session {
            lot: opening.lot,
            epoch: epoch.max(known.epoch).saturating_add(1),
            step: step.max(opening.step),
            place: Arc::clone(&opening.place),
            until,
        };
        let host = &opening.host;
        let verdict = if lost {
            Verdict::Forgot(format!(
                "{host} was answered up to step {} of epoch {}, and the vault knows step {step} of epoch {epoch}",
                known.step, known.epoch
            ))
        } else if opening.step <= step && !again {
            Verdict::HostForgot(format!(
                "{host} has sent {} steps, as far as it knows, and the vault has heard {step}",
                known.sent
            ))
        } else {
            Verdict::Go
        };
        (session, verdict)
    }

    /// Takes a step, or says why not.
    pub fn step(&mut self, step: &Step, now: u64) -> Verdict {
        if self.epoch > step.epoch {
            return Verdict::Fenced;
        }
        let (epoch, last) = (self.epoch, self.step);
        let lost = epoch < step.epoch || last < step.acked;
        if !lost && last >= step.step {
            return Verdict::Stale;
        }
        (self.epoch, self.step) = (step.epoch, step.step.max(last));
        self.until = if step.close { now } else { now.saturating_add(step.lease_ms) };
        if lost {
            return Verdict::Forgot(format!(
                "{} was answered up to step {} of epoch {}, and the vault knows step {last} of epoch {epoch}",
                step.holder, step.acked, step.epoch
            ));
        }
        Verdict::Go
    }
}
