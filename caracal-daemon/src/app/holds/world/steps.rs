//! What can happen in the small world, and what of it can happen now.

use super::{CRASHES, DAEMONS, Phase, World};

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::app::holds) enum Step {
    /// The client asks for a hold.
    Ask(usize),
    /// The client hangs up while it waits or holds.
    Leave(usize),
    /// Its intent becomes durable, and with it all before.
    Intend(usize),
    /// Its request goes out, and the provider bills; nothing, where it refuses.
    Send(usize, Bill),
    /// Its end is known, and on its way into the journal.
    End(usize, How),
    /// The journal has the outcome, or could not take it.
    Recorded(usize, bool),
    /// The task is gone without another word.
    Drop(usize),
    /// The journal syncs.
    Sync,
    /// `kill -9`: what the journal took is kept.
    Kill,
    /// A power cut: of what was not synced, so many records are there.
    Cut(usize),
    /// This daemon starts, and dies again when it has written so many outcomes of the calls that were open; `None`: it lives.
    Start(u8, Option<usize>),
}

/// What the provider bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::app::holds) enum Bill {
    Nothing,
    One,
    All,
}

/// How a call that was intended ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::app::holds) enum How {
    /// The usage was seen, or the provider's refusal.
    Seen,
    /// It was not.
    Unseen,
    /// Not one byte went out.
    NotSent,
}

impl World<'_> {
    /// What can happen now.
    pub(in crate::app::holds) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let disk = self.disk.borrow();
        if self.daemon.is_none() {
            let open = self.open(disk.records.len()).len();
            let dies = (0..=open).map(Some).filter(|_| self.crashes < CRASHES);
            let lives = (0..DAEMONS).map(|which| Step::Start(which, None));
            return lives.chain(dies.map(|after| Step::Start(0, after))).collect();
        }
        for (client, one) in self.clients.iter().enumerate() {
            match &one.phase {
                Phase::Idle => steps.push(Step::Ask(client)),
                Phase::Waiting(_) => steps.push(Step::Leave(client)),
                Phase::Held(_) => steps.extend([Step::Leave(client), Step::Intend(client)]),
                Phase::Intended(_) => {
                    let sends = [Bill::Nothing, Bill::One, Bill::All].map(|bill| Step::Send(client, bill));
                    steps.extend(sends);
                    steps.extend([Step::End(client, How::NotSent), Step::Drop(client)]);
                }
                Phase::Sent(_) => {
                    let ends = [How::Seen, How::Unseen].map(|how| Step::End(client, how));
                    steps.extend(ends);
                    steps.push(Step::Drop(client));
                }
                Phase::Ending(..) => steps.extend([true, false].map(|taken| Step::Recorded(client, taken))),
                Phase::Over => {}
            }
        }
        let unsynced = disk.records.len() - disk.synced;
        if unsynced > 0 {
            steps.push(Step::Sync);
        }
        if self.crashes < CRASHES {
            steps.push(Step::Kill);
            steps.extend((0..unsynced).map(Step::Cut));
        }
        steps
    }

    fn open(&self, length: usize) -> Vec<usize> {
        let disk = self.disk.borrow();
        let records = || disk.records.iter().take(length);
        let ended = |client| records().any(|record| record.client == client && record.cost.is_some());
        records().filter(|record| record.cost.is_none() && !ended(record.client)).map(|record| record.client).collect()
    }
}
