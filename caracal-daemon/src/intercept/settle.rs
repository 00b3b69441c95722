//! How a paid call ends. Whatever happens - a clean end, a cut on either side, a cancelled task, a panic - its hold ends in one
//! of three ways and the outcome is recorded.

use crate::agent::CgroupId;
use crate::budget::{Hold, Pass, Warning};
use crate::event::{Data, Detail, Draft, Kind, Near};
use crate::intercept::stack::Stack;
use crate::meter::{Call, Operation, Reading};
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal, Side, Stage};
use std::sync::Arc;

/// A paid call from its hold to its end.
#[derive(Debug)]
pub(crate) struct Ticket {
    stack: Arc<Stack>,
    agent: CgroupId,
    hold: Option<Hold>,
    /// Counts the tokens that the provider reports.
    pass: Pass,
    /// Limits that the charge brought near.
    warnings: Vec<Warning>,
    call: Call,
    /// The outcome's record, as far as it is known.
    outcome: Draft,
    sent: bool,
    /// The intent may be in the journal, so the outcome must follow.
    intended: bool,
}

/// Why the charge of a call is the whole hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unknown {
    /// The answer ended without usage.
    NoUsage,
    /// The upstream broke off, or never answered.
    Upstream,
    /// The agent was gone and the answer longer than what is read on.
    Agent,
    /// The task was cancelled or panicked.
    Aborted,
    /// What the answer has cost so far was above the hold.
    Passed,
}

impl Unknown {
    fn code(self) -> &'static str {
        match self {
            Unknown::NoUsage => "usage_missing",
            Unknown::Upstream => "upstream_failed",
            Unknown::Agent => "agent_gone",
            Unknown::Aborted => "aborted",
            Unknown::Passed => "hold_passed",
        }
    }
}

impl Ticket {
    /// A ticket for `call`, which was let through and holds money. `intent` is its record.
    pub(crate) fn new(
        stack: Arc<Stack>,
        agent: CgroupId,
        (hold, pass): (Hold, Pass),
        call: Call,
        intent: &Draft,
    ) -> Ticket {
        let mut outcome = intent.clone();
        outcome.kind = Kind::Outcome;
        outcome.data = Data { windows: hold.windows.clone(), ..outcome.data };
        let (hold, warnings) = (Some(hold), Vec::new());
        Ticket { stack, agent, hold, pass, warnings, call, outcome, sent: false, intended: false }
    }

    /// The intent is on its way to the journal.
    pub(crate) fn intended(&mut self) {
        self.intended = true;
    }

    /// The request's first byte can go out from now on.
    pub(crate) fn sent(&mut self) {
        if !self.sent {
            self.sent = true;
            if let Some(hold) = &mut self.hold {
                hold.sent();
            }
        }
    }

    /// The length of the request's body, as it goes upstream.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.outcome.data.bytes_sent = u64::try_from(bytes).ok();
    }

    /// The length of the answer's body, as far as it came.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.outcome.data.bytes_received = Some(bytes);
    }

    /// The answer's status.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        self.outcome.data.status = Some(status.as_u16());
    }

    /// Whether an answer that has come so far has cost more than is held. Then its price or its cap does not hold, and the
    /// model is refused from now on: what is asked again meets that.
    pub(crate) fn passes(&self, reading: &Reading) -> bool {
        let over = self.hold.as_ref().is_some_and(|hold| self.call.least_bill(reading) > hold.amount);
        if over {
            self.stack.budgets.freeze(self.call.provider.name(), &self.call.priced_as());
        }
        over
    }

    /// What the agent is told in the middle of an answer that costs more than is held.
    pub(crate) fn passed(&self) -> Refusal {
        Refusal {
            stage: Stage::Meter,
            side: Side::Upstream,
            reason: Reason::PriceUnknown,
            sentence: format!(
                "Caracal ended this answer: it has cost more than its price and its output cap allow, so one of them does not hold. It is charged truly, and model {:?} is refused until its entry in the price book is corrected and reloaded.",
                self.call.model
            ),
        }
    }

    /// Which call it is.
    pub(crate) fn operation(&self) -> Operation {
        self.call.operation
    }

    /// Ends by what the answer said; `broken` is why there was no more of it.
    pub(crate) fn read(&mut self, reading: Reading, broken: Option<Unknown>) -> Option<Draft> {
        let hold = self.hold.take()?;
        if let Some(used) = &reading.usage {
            self.stack.rates.used(&self.pass, used.tokens(), self.stack.clock.now());
        }
        // Of an answer that costs by the byte, one that broke off tells nothing: more of it may have been sent.
        let reading = if broken.is_some() && self.call.costs_by_answer() { Reading::default() } else { reading };
        match (self.call.bill(&reading), reading.refused && broken.is_none()) {
            (Some(charge), _) => {
                let over = charge > hold.amount || matches!(broken, Some(Unknown::Passed));
                self.outcome.data.price_entry = over.then(|| self.call.price_entry());
                self.outcome.data.served = self.call.served(&reading);
                self.warnings = hold.settle(charge);
                self.outcome.data.usage = reading.usage;
                Some(self.close("settled", broken.map(Unknown::code), charge))
            }
            (None, true) => {
                hold.release();
                Some(self.close("released", Some("provider_refused"), NanoUsd(0)))
            }
            // The hold does not cover it, and the bill is not known.
            (None, false) if self.call.least_bill(&reading) > hold.amount => {
                let charge = self.call.bill_beyond(&reading, hold.amount);
                self.outcome.data.price_entry = Some(self.call.price_entry());
                self.warnings = hold.settle(charge);
                Some(self.close("charged_max", Some(Unknown::Passed.code()), charge))
            }
            (None, false) => {
                let charge = self.charge(hold);
                Some(self.close("charged_max", Some(broken.unwrap_or(Unknown::NoUsage).code()), charge))
            }
        }
    }

    /// Ends with the whole hold charged.
    pub(crate) async fn charge_max(mut self, why: Unknown) {
        if let Some(draft) = self.read(Reading::default(), Some(why)) {
            self.append(draft).await;
        }
    }

    /// Ends with nothing charged: provably not one byte went out.
    pub(crate) async fn not_sent(mut self) {
        if let Some(hold) = self.hold.take() {
            hold.release();
            let draft = self.close("released", Some("not_sent"), NanoUsd(0));
            self.append(draft).await;
        }
    }

    /// Charges the whole hold.
    fn charge(&mut self, hold: Hold) -> NanoUsd {
        let (charge, warnings) = hold.charge_max();
        self.warnings = warnings;
        charge
    }

    /// The records of limits that came near.
    fn take_warnings(&mut self, outcome: &Draft) -> Vec<Draft> {
        let warnings = std::mem::take(&mut self.warnings);
        warnings.into_iter().map(|warning| warned(&warning, outcome)).collect()
    }

    /// The outcome's record. Called once: whoever calls it has taken the hold.
    fn close(&mut self, settle: &'static str, reason: Option<&'static str>, cost: NanoUsd) -> Draft {
        let (data, detail) = (std::mem::take(&mut self.outcome.data), std::mem::take(&mut self.outcome.detail));
        let mut draft = Draft { kind: self.outcome.kind, at: self.outcome.at, data, detail };
        draft.at = self.stack.clock.now();
        draft.data.settle = Some(settle);
        draft.data.reason = reason;
        draft.data.cost = Some(cost);
        self.stack.recorder.tally().note(self.agent, &draft);
        draft
    }

    pub(crate) async fn append(&mut self, draft: Draft) {
        let warnings = self.take_warnings(&draft);
        append(&self.stack, draft, warnings).await;
    }
}

async fn append(stack: &Stack, outcome: Draft, warnings: Vec<Draft>) {
    if let Err(error) = stack.journal.append(outcome).await {
        // The intent is durable: without an outcome the ledger charges the hold, which is never less than the bill.
        tracing::error!(%error, "an outcome could not be recorded; its hold stands as charged");
    }
    for warning in warnings {
        if let Err(error) = stack.journal.append(warning).await {
            tracing::error!(%error, "a warning could not be recorded");
        }
    }
}

/// The record of a limit that came near by `outcome`, or by a correction.
pub(crate) fn warned(warning: &Warning, outcome: &Draft) -> Draft {
    let sentence = warning.sentence();
    tracing::warn!(agent = outcome.data.agent.as_deref(), "{sentence}");
    let data = Data {
        agent: outcome.data.agent.clone(),
        call: outcome.data.call,
        windows: vec![warning.key.clone()],
        near: Some(Near { percent: warning.percent, limit: warning.limit, spent: warning.settled }),
        message: Some(sentence),
        ..Data::default()
    };
    Draft { kind: Kind::BudgetWarning, at: outcome.at, data, detail: Detail::default() }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let draft = if self.sent {
            let charge = self.charge(hold);
            self.close("charged_max", Some(Unknown::Aborted.code()), charge)
        } else {
            hold.release();
            self.close("released", Some("not_sent"), NanoUsd(0))
        };
        if !self.intended {
            return;
        }
        let (stack, warnings) = (Arc::clone(&self.stack), self.take_warnings(&draft));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { append(&stack, draft, warnings).await });
        }
    }
}
