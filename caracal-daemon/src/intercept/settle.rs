//! How a paid call ends. Whatever happens - a clean end, a cut on either side, a cancelled task, a panic - its hold ends in one
//! of three ways and the outcome is recorded.

use crate::agent::CgroupId;
use crate::budget::{Ending, Hold, Pass, Warning};
use crate::clock::UnixNanos;
use crate::event::{Data, Detail, Draft, Kind, Near};
use crate::http::body::{BodyError, Streamed};
use crate::intercept::stack::Stack;
use crate::journal::JournalError;
use crate::meter::{Call, Reading, UsageReader};
use crate::money::NanoUsd;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

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

/// Bytes of an answer that are worth a record of their own: a TLS record holds 16 KB.
const ENOUGH: usize = 8 * 1_024;

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
}

impl Unknown {
    fn code(self) -> &'static str {
        match self {
            Unknown::NoUsage => "usage_missing",
            Unknown::Upstream => "upstream_failed",
            Unknown::Agent => "agent_gone",
            Unknown::Aborted => "aborted",
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

    /// The answer's status.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        self.outcome.data.status = Some(status.as_u16());
    }

    /// Ends by what the answer said; `broken` is why there was no more of it.
    fn read(&mut self, reading: Reading, broken: Option<Unknown>) -> Option<Ended> {
        let hold = self.hold.take()?;
        if let Some(used) = &reading.usage {
            self.stack.rates.used(&self.pass, used.tokens(), self.stack.clock.now());
        }
        // Of an answer that costs by the byte, one that broke off tells nothing: more of it may have been sent.
        let reading = if broken.is_some() && self.call.costs_by_answer() { Reading::default() } else { reading };
        Some(match (self.call.bill(&reading), reading.refused && broken.is_none()) {
            (Some(charge), _) => {
                self.outcome.data.price_entry = (charge > hold.amount).then(|| self.call.price_entry());
                self.outcome.data.served = self.call.served(&reading);
                self.outcome.data.usage = reading.usage;
                self.end(hold, Ending::Settled(charge), broken.map(Unknown::code))
            }
            (None, true) => self.end(hold, Ending::Released, Some("provider_refused")),
            (None, false) => self.end(hold, Ending::Charged, Some(broken.unwrap_or(Unknown::NoUsage).code())),
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
struct Ended {
    stack: Arc<Stack>,
    hold: Hold,
    ending: Ending,
    outcome: Draft,
}

impl Ended {
    async fn record(self) {
        let Ended { stack, hold, ending, outcome } = self;
        let about = (outcome.at, outcome.data.agent.clone(), outcome.data.call);
        let (recorded, warnings) = hold.end_after(ending, stack.journal.append(outcome)).await;
        if let Err(error) = recorded {
            // The intent is durable: without an outcome the ledger charges the hold, which is never less than the bill.
            unrecorded(&error);
        }
        for warning in warnings {
            if let Err(error) = stack.journal.append(warned(&warning, about.clone())).await {
                tracing::error!(%error, "a warning could not be recorded");
            }
        }
    }
}

fn unrecorded(error: &JournalError) {
    tracing::error!(%error, "an outcome could not be recorded; its hold stands as charged");
}

/// The record of a limit that came near by an outcome, of which there are the time, the agent and the call.
fn warned(warning: &Warning, (at, agent, call): (UnixNanos, Option<Arc<str>>, Option<uuid::Uuid>)) -> Draft {
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
    Draft { kind: Kind::BudgetWarning, at, data, detail: Detail::default() }
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

/// An answer of a paid call on its way to the agent: read as it passes, settled before its last byte.
pub(crate) struct Metered(Option<Box<Open>>);

struct Open {
    /// Read already, and written together with what follows at once: a token's event is far smaller than what its own
    /// record and segment cost.
    gathered: BytesMut,
    /// Something went out: the first byte never waits for a second one.
    begun: bool,
    /// The upstream's task had its turn since the last frame.
    yielded: bool,
    body: Streamed,
    reader: Option<UsageReader>,
    ticket: Option<Ticket>,
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    last: Option<Result<Frame<Bytes>, BodyError>>,
    stack: Arc<Stack>,
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}

impl Metered {
    pub(crate) fn new(stack: Arc<Stack>, body: Streamed, reader: UsageReader, ticket: Ticket) -> Metered {
        Metered(Some(Box::new(Open {
            gathered: BytesMut::new(),
            begun: false,
            yielded: false,
            body,
            reader: Some(reader),
            ticket: Some(ticket),
            closing: None,
            last: None,
            stack,
        })))
    }
}

impl Open {
    /// Settles; the record's way to the journal is waited for before `last` goes out.
    fn close(&mut self, last: Option<Result<Frame<Bytes>, BodyError>>, broken: Option<Unknown>) {
        self.last = last;
        let (Some(reader), Some(mut ticket)) = (self.reader.take(), self.ticket.take()) else { return };
        if let Some(ended) = ticket.read(reader.finish(), broken) {
            self.closing = Some(Box::pin(ended.record()));
        }
    }

    /// What was gathered, `data`, and what the reader still held back, as the last frame.
    fn flush(&mut self, data: Bytes) -> Option<Result<Frame<Bytes>, BodyError>> {
        let held = self.reader.as_mut().map_or_else(Bytes::new, UsageReader::flush);
        let gathered = self.gathered.split().freeze();
        let whole = match (gathered.is_empty(), data.is_empty(), held.is_empty()) {
            (true, true, true) => return None,
            (true, false, true) => data,
            (true, true, false) => held,
            _ => [gathered, data, held].concat().into(),
        };
        Some(Ok(Frame::data(whole)))
    }

    /// Adds `data` to what is gathered; gives it when it is enough, or the very first.
    fn gather(&mut self, data: Bytes) -> Option<Bytes> {
        let alone = self.gathered.is_empty() && (!self.begun || data.len() >= ENOUGH);
        if alone && !data.is_empty() {
            self.begun = true;
            return Some(data);
        }
        self.gathered.extend_from_slice(&data);
        (self.gathered.len() >= ENOUGH).then(|| self.gathered.split().freeze())
    }

    /// Nothing more is there. The task that reads the upstream may only want its turn, so it gets one; there is no other
    /// wait, and a paced stream keeps its pace.
    fn nothing_more(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.gathered.is_empty() {
            return Poll::Pending;
        }
        if !self.yielded {
            self.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        Poll::Ready(Some(Ok(Frame::data(self.gathered.split().freeze()))))
    }

    fn is_open(&self) -> bool {
        self.ticket.is_some()
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let Some(open) = this.0.as_mut() else { return Poll::Ready(None) };
            if let Some(closing) = &mut open.closing {
                ready!(closing.as_mut().poll(context));
                open.closing = None;
            }
            if !open.is_open() {
                let last = open.last.take();
                this.0 = None;
                return Poll::Ready(last);
            }
            let Poll::Ready(frame) = Pin::new(&mut open.body).poll_frame(context) else {
                return open.nothing_more(context);
            };
            open.yielded = false;
            match frame {
                None => {
                    let rest = open.flush(Bytes::new());
                    open.close(rest, None);
                }
                Some(Err(error)) => {
                    open.close(Some(Err(error)), Some(Unknown::Upstream));
                    // What came before the failure goes before it.
                    if !open.gathered.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(open.gathered.split().freeze()))));
                    }
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let data = open.reader.as_mut().map_or_else(Bytes::new, |reader| reader.feed(data));
                        if open.body.is_end_stream() {
                            let rest = open.flush(data);
                            open.close(rest, None);
                        } else if let Some(data) = open.gather(data) {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(trailers) => {
                        let rest = open.flush(Bytes::new());
                        open.close(Some(Ok(trailers)), None);
                        // What was held back goes before the trailers.
                        if let Some(rest) = rest {
                            return Poll::Ready(Some(rest));
                        }
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // The reader may leave a chunk out that only we asked for.
        SizeHint::default()
    }
}

impl Drop for Metered {
    /// The agent is gone. The provider bills on, so the answer is read on to its usage.
    fn drop(&mut self) {
        let Some(mut open) = self.0.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if let Some(closing) = open.closing.take() {
            runtime.spawn(closing);
        } else if open.is_open() {
            runtime.spawn(read_on(*open));
        }
    }
}

/// Reads an answer to its end for nobody, within bounds, and settles.
async fn read_on(open: Open) {
    let Open { mut body, reader, ticket, stack, .. } = open;
    let (Some(mut reader), Some(mut ticket)) = (reader, ticket) else { return };
    let Ok(_permit) = stack.drains.clone().try_acquire_owned() else {
        return ticket.charge_max(Unknown::Agent).await;
    };
    let mut left = stack.limits.drain_bytes;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Some(Unknown::Upstream) };
            let Ok(data) = frame.into_data() else { continue };
            let length = data.len() as u64;
            reader.feed(data);
            if length > left {
                return Some(Unknown::Agent);
            }
            left -= length;
        }
        None
    };
    let broken = tokio::time::timeout(stack.limits.drain_time, reading).await.unwrap_or(Some(Unknown::Agent));
    if let Some(ended) = ticket.read(reader.finish(), broken) {
        ended.record().await;
    }
}
