//! How a paid call ends. Whatever happens - a clean end, a cut on either side, a cancelled task, a panic - its hold ends in one
//! of three ways and the outcome is recorded.

use crate::agent::CgroupId;
use crate::budget::{Ending, Hold, Pass, Warning};
use crate::clock::UnixNanos;
use crate::event::{Data, Detail, Draft, Kind, Near};
use crate::intercept::stack::Stack;
use crate::journal::{Journal, JournalError};
use crate::meter::{Call, Failed, Operation, Reading};
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
    call: Call,
    /// The outcome's record, as far as it is known.
    outcome: Draft,
    sent: bool,
    /// The intent was given to the journal, so the outcome must follow; whether it is durable.
    intent: Option<bool>,
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
        Ticket { stack, agent, hold: Some(hold), pass, call, outcome, sent: false, intent: None }
    }

    /// The intent was given to the journal, which says whether it is durable.
    pub(crate) fn intended(&mut self, durable: bool) {
        self.intent = Some(durable);
        if let Some(hold) = self.hold.as_mut().filter(|_| durable) {
            hold.sent();
        }
    }

    /// The request's first byte can go out from now on.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
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
            limit: None,
        }
    }

    /// Which call it is.
    pub(crate) fn operation(&self) -> Operation {
        self.call.operation
    }

    /// Ends by what the answer said; `broken` is why there was no more of it.
    pub(crate) fn read(&mut self, reading: Reading, broken: Option<Unknown>) -> Option<Ended> {
        let hold = self.hold.take()?;
        if let Some(used) = &reading.usage {
            self.stack.rates.used(&self.pass, used.tokens(), self.stack.clock.now());
        }
        // Of an answer that costs by the byte, one that broke off tells nothing: more of it may have been sent.
        let reading = if broken.is_some() && self.call.costs_by_answer() { Reading::default() } else { reading };
        let failed = self.call.failed(&reading).filter(|_| broken.is_none());
        Some(match (self.call.bill(&reading), failed) {
            (Some(charge), _) => {
                let over = charge > hold.amount || matches!(broken, Some(Unknown::Passed));
                self.outcome.data.price_entry = over.then(|| self.call.price_entry());
                self.outcome.data.served = self.call.served(&reading);
                self.outcome.data.usage = reading.usage;
                self.end(hold, Ending::Settled(charge), broken.map(Unknown::code))
            }
            (None, Some(Failed::Unbilled)) => self.end(hold, Ending::Released, Some("provider_refused")),
            (None, Some(Failed::Billed(reason))) => self.end(hold, Ending::Charged, Some(reason)),
            // The hold does not cover it, and the bill is not known.
            (None, None) if self.call.least_bill(&reading) > hold.amount => {
                let charge = self.call.bill_beyond(&reading, hold.amount);
                self.outcome.data.price_entry = Some(self.call.price_entry());
                self.end(hold, Ending::Beyond(charge), Some(Unknown::Passed.code()))
            }
            (None, None) => self.end(hold, Ending::Charged, Some(broken.unwrap_or(Unknown::NoUsage).code())),
        })
    }

    /// Ends with the whole hold charged.
    pub(crate) async fn charge_max(mut self, why: Unknown) {
        if let Some(ended) = self.read(Reading::default(), Some(why)) {
            ended.record().await;
        }
    }

    /// Ends with nothing charged: provably not one byte went out.
    pub(crate) async fn not_sent(mut self) {
        if let Some(hold) = self.hold.take() {
            self.end(hold, Ending::Released, Some("not_sent")).record().await;
        }
    }

    /// What is left to do. Called once: whoever calls it has taken the hold.
    fn end(&mut self, hold: Hold, ending: Ending, reason: Option<&'static str>) -> Ended {
        let outcome = self.outcome(hold.amount, ending, reason);
        Ended { stack: Arc::clone(&self.stack), hold, ending, outcome }
    }

    /// The outcome's record.
    fn outcome(&mut self, held: NanoUsd, ending: Ending, reason: Option<&'static str>) -> Draft {
        let (data, detail) = (std::mem::take(&mut self.outcome.data), std::mem::take(&mut self.outcome.detail));
        let mut outcome = Draft { kind: self.outcome.kind, at: self.stack.clock.now(), data, detail };
        let (settle, cost) = match ending {
            Ending::Settled(charge) => ("settled", charge),
            Ending::Beyond(charge) => ("charged_max", charge),
            Ending::Charged => ("charged_max", held),
            Ending::Released => ("released", NanoUsd::ZERO),
        };
        outcome.data.settle = Some(settle);
        outcome.data.reason = reason;
        outcome.data.cost = Some(cost);
        self.stack.recorder.tally().note(self.agent, &outcome);
        outcome
    }
}

/// A call whose end is known: what is left is to record it, and then to end its hold.
pub(crate) struct Ended {
    stack: Arc<Stack>,
    hold: Hold,
    ending: Ending,
    outcome: Draft,
}

impl Ended {
    pub(crate) async fn record(self) {
        let Ended { stack, hold, ending, outcome } = self;
        let about = (outcome.at, outcome.data.agent.clone(), outcome.data.call);
        let (recorded, warnings) = hold.end_after(ending, stack.journal.append(outcome)).await;
        if let Err(error) = recorded {
            // The intent is durable: without an outcome the ledger charges the hold, which is never less than the bill.
            unrecorded(&error);
        }
        if !warnings.is_empty() {
            Box::pin(record_warnings(&stack.journal, &warnings, about)).await;
        }
    }
}

fn unrecorded(error: &JournalError) {
    tracing::error!(%error, "an outcome could not be recorded; its hold stands as charged");
}

/// An outcome or a correction: its time, agent and call.
type About = (UnixNanos, Option<Arc<str>>, Option<uuid::Uuid>);

/// Records the limits that an outcome or a correction brought near. One that cannot be recorded is said in the log.
pub(crate) async fn record_warnings(journal: &Journal, warnings: &[Warning], about: About) {
    for warning in warnings {
        if let Err(error) = journal.append(warned(warning, about.clone())).await {
            tracing::error!(%error, "a warning could not be recorded");
        }
    }
}

fn warned(warning: &Warning, (at, agent, call): About) -> Draft {
    let sentence = warning.sentence();
    tracing::warn!(agent = agent.as_deref(), "{sentence}");
    let data = Data {
        agent,
        call,
        windows: vec![warning.key.clone()],
        near: Some(Near { percent: warning.percent, limit: warning.limit, spent: warning.settled }),
        message: Some(sentence),
        ..Data::default()
    };
    Draft { kind: Kind::BudgetWarning, at, data: data.into(), detail: Detail::default() }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Before the intent there is nothing to record, and a hold that drops is released. Without a runtime the process is
        // ending: the hold drops too, and the next start charges its open intent.
        let (Some(hold), Some(durable)) = (self.hold.take(), self.intent) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.sent {
            runtime.spawn(self.end(hold, Ending::Charged, Some(Unknown::Aborted.code())).record());
        } else if durable {
            runtime.spawn(self.end(hold, Ending::Released, Some("not_sent")).record());
        } else {
            // Such an intent can only come back before another one is durable, so its money need not wait for its outcome.
            let outcome = self.outcome(hold.amount, Ending::Released, Some("not_sent"));
            hold.release();
            let stack = Arc::clone(&self.stack);
            runtime
                .spawn(async move { stack.journal.append(outcome).await.unwrap_or_else(|error| unrecorded(&error)) });
        }
    }
}
