//! The answer of a paid call on its way to the agent: read as it passes, settled before its last byte, or before the event
//! whose usage is final goes out, and ended with the provider's own error where it costs more than is held.

use crate::http::body::{BodyError, Streamed};
use crate::intercept::settle::{Ticket, Unknown};
use crate::intercept::stack::Stack;
use crate::meter::{self, Reading, UsageReader};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes of an answer that are worth a record of their own: a TLS record holds 16 KB.
const ENOUGH: usize = 8 * 1_024;

/// How far an answer that has passed its hold is read on for its usage: it costs money while it comes. Responses say their
/// whole text four times more at their end.
pub(crate) const BEYOND: Bounds = Bounds { bytes: 4 << 20, time: Duration::from_secs(10) };

/// How much of an answer is read for nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// An answer on its way to the agent.
pub(crate) struct Metered(Option<Box<Open>>);

struct Open {
    /// Read already, and written together with what follows at once: a token's event is far smaller than what its own
    /// record and segment cost.
    gathered: BytesMut,
    /// Something went out: the first byte never waits for a second one.
    begun: bool,
    /// The next poll finds nothing: the connection writes only then, and an answer that comes at once would hold its first
    /// byte back until its last.
    pause: bool,
    /// The upstream's task had its turn since the last frame.
    yielded: bool,
    /// Bytes of the answer so far.
    received: u64,
    /// Taken by whoever reads it on for nobody.
    body: Option<Streamed>,
    reader: Option<UsageReader>,
    /// Until it is settled.
    ticket: Option<Ticket>,
    /// Nothing more is read: `last` is what is left.
    ended: bool,
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
            pause: false,
            yielded: false,
            received: 0,
            body: Some(body),
            reader: Some(reader),
            ticket: Some(ticket),
            ended: false,
            closing: None,
            last: None,
            stack,
        })))
    }
}

impl Open {
    /// Settles; the record's way to the journal is waited for before `last` goes out.
    fn close(&mut self, last: Option<Result<Frame<Bytes>, BodyError>>, broken: Option<Unknown>) {
        (self.last, self.ended) = (last, true);
        let (Some(reader), Some(mut ticket)) = (self.reader.take(), self.ticket.take()) else { return };
        ticket.received(self.received);
        if let Some(ended) = ticket.read(reader.finish(), broken) {
            self.closing = Some(Box::pin(ended.record()));
        }
    }

    /// Settles an answer that goes on, once its usage is final: who has seen its usage is charged by it, also when the daemon
    /// is killed before the end. Gives whether what was read has to wait for that.
    fn settle(&mut self) -> bool {
        let Some(reading) = self.reader.as_ref().filter(|_| self.is_open()).and_then(UsageReader::settled) else {
            return false;
        };
        let Some(mut ticket) = self.ticket.take() else { return false };
        ticket.received(self.received);
        self.closing = ticket.read(reading, None).map(|ended| Box::pin(ended.record()) as _);
        self.closing.is_some()
    }

    /// Whether the answer has cost more than is held.
    fn passes(&mut self) -> bool {
        let (Some(reader), Some(ticket)) = (&mut self.reader, &self.ticket) else { return false };
        reader.grown().is_some_and(|reading| ticket.passes(&reading))
    }

    /// Ends an answer that has cost more than is held: its usage is read for nobody, and charged, before the agent gets
    /// `data` and the provider's own error, and with it may ask again.
    fn pass(&mut self, data: Bytes) {
        let (Some(reader), Some(mut ticket), Some(body)) = (self.reader.take(), self.ticket.take(), self.body.take())
        else {
            return;
        };
        let mut last = self.gathered.split();
        match reader.ending() {
            Some(ending) => {
                let whole = data.len().saturating_sub(ending.unfinished);
                last.extend_from_slice(data.get(..whole).unwrap_or_default());
                let id = uuid::Uuid::now_v7().simple().to_string();
                last.extend_from_slice(&meter::stream_error(ticket.operation(), &ticket.passed(), &id, ending.next));
            }
            // Nothing of ours can follow: it only ends.
            None => last.extend_from_slice(&data),
        }
        (self.last, self.ended) = (Some(Ok(Frame::data(last.freeze()))), true);
        let received = self.received;
        self.closing = Some(Box::pin(async move {
            let Rest { reading, bytes, .. } = read_on(body, reader, None, BEYOND).await;
            ticket.received(received.saturating_add(bytes));
            if let Some(ended) = ticket.read(reading, Some(Unknown::Passed)) {
                ended.record().await;
            }
        }));
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
            self.pause = !std::mem::replace(&mut self.begun, true);
            return Some(data);
        }
        self.gathered.extend_from_slice(&data);
        (self.gathered.len() >= ENOUGH).then(|| self.gathered.split().freeze())
    }

    /// Nothing more is there. Where a task of its own reads the upstream, it may only want its turn, so it gets one; there
    /// is no other wait, and a paced stream keeps its pace.
    fn nothing_more(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.gathered.is_empty() {
            return Poll::Pending;
        }
        let reads_itself = self.body.as_ref().is_some_and(Streamed::reads_itself);
        if !self.yielded && !reads_itself {
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
            if open.ended {
                let last = open.last.take();
                this.0 = None;
                return Poll::Ready(last);
            }
            if std::mem::take(&mut open.pause) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(body) = &mut open.body else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) else {
                return open.nothing_more(context);
            };
            let ended = body.is_end_stream();
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
                        open.received = open.received.saturating_add(data.len() as u64);
                        let data = open.reader.as_mut().map_or_else(Bytes::new, |reader| reader.feed(data));
                        if open.passes() {
                            open.pass(data);
                        } else if ended {
                            let rest = open.flush(data);
                            open.close(rest, None);
                        } else if open.settle() {
                            open.gathered.extend_from_slice(&data);
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
            runtime.spawn(drain(*open));
        }
    }
}

/// Reads an answer to its end for an agent that is gone, and settles.
async fn drain(open: Open) {
    let Open { body: Some(body), reader: Some(reader), ticket: Some(mut ticket), stack, received, .. } = open else {
        return;
    };
    let Ok(_permit) = stack.drains.clone().try_acquire_owned() else {
        return ticket.charge_max(Unknown::Agent).await;
    };
    let bounds = Bounds { bytes: stack.limits.drain_bytes, time: stack.limits.drain_time };
    let Rest { reading, broken, bytes } = read_on(body, reader, Some(&ticket), bounds).await;
    ticket.received(received.saturating_add(bytes));
    if let Some(ended) = ticket.read(reading, broken) {
        ended.record().await;
    }
}

/// What was read for nobody.
struct Rest {
    reading: Reading,
    /// Why it did not get to the end.
    broken: Option<Unknown>,
    bytes: u64,
}

/// Reads an answer to its end for nobody, within bounds, which become narrow once it passes the hold of `ticket`.
async fn read_on(mut body: Streamed, mut reader: UsageReader, ticket: Option<&Ticket>, bounds: Bounds) -> Rest {
    let mut bytes = 0_u64;
    let (mut left, mut why) = (bounds.bytes, Unknown::Agent);
    let mut until = tokio::time::Instant::now() + bounds.time;
    let broken = loop {
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else { break Some(why) };
        match frame {
            None => break None,
            Some(Err(_)) => break Some(Unknown::Upstream),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                let length = data.len() as u64;
                bytes = bytes.saturating_add(length);
                reader.feed(data);
                if length > left {
                    break Some(why);
                }
                left -= length;
            }
        }
        let Some(ticket) = ticket.filter(|_| matches!(why, Unknown::Agent)) else { continue };
        if reader.grown().is_some_and(|reading| ticket.passes(&reading)) {
            why = Unknown::Passed;
            left = left.min(BEYOND.bytes);
            until = until.min(tokio::time::Instant::now() + BEYOND.time);
        }
    };
    Rest { reading: reader.finish(), broken, bytes }
}
