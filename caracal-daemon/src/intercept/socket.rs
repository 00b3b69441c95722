//! What is said on a metered WebSocket: each `response.create` is held, recorded, sent and settled as a call over HTTP is,
//! one at a time, and nothing else of the agent's passes. The provider's messages pass as long as each is a part of the
//! answer to the open call, or of no answer at all; one that is of another answer ends the socket.

use crate::http::websocket::{Kind, Message, Reader, Side, Unread, write};
use crate::intercept::metered::{BEYOND, Bounds};
use crate::intercept::paid::{self, Prepared, Refused};
use crate::intercept::session::{Asked, Decided, Session};
use crate::intercept::settle::{Ticket, Unknown};
use crate::meter::{self, Call, Chain, Heard, Operation, Provider, Surface, UsageReader};
use crate::refusal::{Reason, Refusal, Stage};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

/// The longest message of a provider's, bytes.
const MOST_ANSWERED: usize = 16 << 20;
/// How long a side may take to take a message: one that takes none counts as gone, so that no hold waits for it.
const TAKES: Duration = Duration::from_secs(60);
/// The provider said what cannot be (RFC 6455, 7.4.1: an unexpected condition).
const UNEXPECTED: u16 = 1_011;
/// Nothing of a model's is binary.
const NOT_TEXT: u16 = 1_003;
/// Later there may be room (the registry of RFC 6455, 11.7).
const TRY_AGAIN: u16 = 1_013;

/// A metered socket.
pub(crate) struct Socket {
    session: Arc<Session>,
    asked: Asked,
    provider: Provider,
    decided: Decided,
    chain: Chain,
}

/// A call that is open on it.
struct Turn {
    ticket: Ticket,
    reader: UsageReader,
    call: Call,
    cap: Option<u64>,
    answer: meter::Answer,
    /// Set once its end is awaited for the charge alone.
    last: Option<Last>,
}

/// How far an end is still awaited.
struct Last {
    why: Unknown,
    until: Instant,
    bytes: u64,
    /// One of the answers that are read on at once for agents that are gone.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Last {
    fn new(why: Unknown, bounds: Bounds, permit: Option<OwnedSemaphorePermit>) -> Last {
        Last { why, until: Instant::now() + bounds.time, bytes: bounds.bytes, _permit: permit }
    }

    /// Whether a message of this length is still read.
    fn takes(&mut self, length: usize) -> bool {
        let left = u64::try_from(length).ok().and_then(|length| self.bytes.checked_sub(length));
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }
}

impl Turn {
    fn has_passed(&self) -> bool {
        matches!(self.last, Some(Last { why: Unknown::Passed, .. }))
    }

    /// What the agent is told in place of the end, where the answer has passed its hold.
    fn failed(&self) -> Option<Message> {
        let refusal = self.has_passed().then(|| self.ticket.passed())?;
        Some(Message::text(meter::socket_failure(&refusal, "resp_caracal", self.reader.next_event())))
    }

    /// The answer costs more than is held: the agent hears its end once what it cost is charged.
    fn passes(&mut self) {
        let (mut last, before) = (Last::new(Unknown::Passed, BEYOND, None), self.last.take());
        if let Some(before) = before {
            (last.until, last.bytes) = (last.until.min(before.until), last.bytes.min(before.bytes));
            last._permit = before._permit;
        }
        self.last = Some(last);
    }

    /// Ends without an end of the provider's.
    async fn broken(mut self: Box<Self>) {
        let why = self.last.map_or(Unknown::Upstream, |last| last.why);
        if let Some(ended) = self.ticket.read(self.reader.finish(), Some(why)) {
            ended.record().await;
        }
    }
}

/// What the agent gets of a message.
enum Pass {
    /// The message.
    On,
    /// Nothing.
    Nothing,
    /// Another one.
    Instead(Message),
    /// Another one, if any, and the end of the socket.
    Last(Option<Message>),
}

/// What one side has said.
type Said = std::io::Result<Option<Message>>;

fn listen<R: AsyncRead + Unpin + Send + 'static>(mut reader: Reader<R>) -> mpsc::Receiver<Said> {
    let (tell, heard) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            // Nobody listens any more: then nothing may hold the socket open.
            let next = tokio::select! {
                next = reader.next() => next,
                () = tell.closed() => return,
            };
            let goes_on = matches!(next, Ok(Some(_)));
            if tell.send(next).await.is_err() || !goes_on {
                return;
            }
        }
    });
    heard
}

impl Socket {
    pub(crate) fn new(session: Arc<Session>, asked: Asked, provider: Provider, decided: Decided) -> Socket {
        Socket { session, asked, provider, decided, chain: Chain::default() }
    }

    /// From the end of the handshake to the end of the socket.
    pub(crate) async fn story<A, U>(mut self, agent: A, upstream: U)
    where
        A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (from_agent, mut to_agent) = tokio::io::split(agent);
        let (from_upstream, mut to_upstream) = tokio::io::split(upstream);
        let (stack, cgroup) = (&self.session.origin.stack, self.session.origin.agent.cgroup);
        let asked = Reader::new(from_agent, Side::Client, stack.limits.priced_body);
        let mut agent = listen(asked.within(stack.room.of(cgroup), stack.limits.patience.whole));
        let mut upstream = listen(Reader::new(from_upstream, Side::Server, MOST_ANSWERED));
        let mut turn: Option<Box<Turn>> = None;
        // A call that came while another is open waits for its end: the provider answers one at a time.
        let mut waiting: Option<Bytes> = None;
        let mut here = true;
        loop {
            if turn.is_none() {
                if !here {
                    return;
                }
                if let Some(message) = waiting.take() {
                    match self.said(message, &mut to_upstream).await {
                        Ok(next) => turn = Some(next),
                        Err(Some(denial)) => here = self.tell(&mut to_agent, Side::Server, &denial).await,
                        Err(None) => return,
                    }
                    continue;
                }
            }
            let until = turn.as_ref().and_then(|turn| turn.last.as_ref()).map(|last| last.until);
            tokio::select! {
                said = agent.recv(), if here && waiting.is_none() => {
                    let close = match said {
                        Some(Ok(Some(Message { kind: Kind::Text, data }))) => {
                            waiting = Some(data);
                            continue;
                        }
                        Some(Ok(Some(Message { kind: Kind::Binary, .. }))) => Some(Message::close(NOT_TEXT)),
                        Some(Ok(Some(close))) if close.kind == Kind::Close => Some(close),
                        // A ping or a pong.
                        Some(Ok(Some(message))) => {
                            if self.tell(&mut to_upstream, Side::Client, &message).await {
                                continue;
                            }
                            return broken(turn).await;
                        }
                        Some(Err(error)) => self.unread(&error, &mut to_agent).await,
                        // It is gone.
                        _ => None,
                    };
                    if let Some(close) = close {
                        self.tell(&mut to_agent, Side::Server, &close).await;
                        if turn.is_none() {
                            self.tell(&mut to_upstream, Side::Client, &close).await;
                        }
                    }
                    (here, turn) = (false, self.leave(turn).await);
                }
                said = upstream.recv() => {
                    let (message, pass) = match said {
                        Some(Ok(Some(message))) if message.kind == Kind::Text => {
                            let pass;
                            (turn, pass) = self.answered(turn, &message.data).await;
                            (message, pass)
                        }
                        Some(Ok(Some(message))) if matches!(message.kind, Kind::Ping | Kind::Pong) => (message, Pass::On),
                        end => {
                            broken(turn.take()).await;
                            let close = end.and_then(Result::ok).flatten().filter(|end| end.kind == Kind::Close);
                            (Message::close(UNEXPECTED), Pass::Last(close))
                        }
                    };
                    let ends = matches!(pass, Pass::Last(_));
                    let told = match pass {
                        Pass::On => Some(message),
                        Pass::Nothing | Pass::Last(None) => None,
                        Pass::Instead(other) | Pass::Last(Some(other)) => Some(other),
                    };
                    if let (true, Some(told)) = (here, told) && !self.tell(&mut to_agent, Side::Server, &told).await {
                        (here, waiting, turn) = (false, None, self.leave(turn).await);
                    }
                    if ends {
                        return;
                    }
                }
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    let failed = turn.as_ref().and_then(|turn| turn.failed());
                    broken(turn).await;
                    if let (true, Some(failed)) = (here, failed) {
                        self.tell(&mut to_agent, Side::Server, &failed).await;
                    }
                    return;
                }
            }
        }
    }

    /// Writes a message; `false` where it was not taken, and then nothing more can be written there.
    async fn tell<W: AsyncWrite + Unpin>(&self, to: &mut W, side: Side, message: &Message) -> bool {
        let patience = TAKES.min(self.session.origin.stack.limits.drain_time);
        matches!(timeout(patience, write(to, side, message)).await, Ok(Ok(())))
    }

    /// The agent speaks nonsense, or what it says may not be read to its end: which it is told, and which is recorded. Gives
    /// the end that it gets.
    async fn unread<W: AsyncWrite + Unpin>(&self, error: &std::io::Error, to_agent: &mut W) -> Option<Message> {
        let refusal = match Unread::of(error)? {
            Unread::Full(full) => full.refusal(),
            Unread::Late => Refusal {
                stage: Stage::Http,
                side: crate::refusal::Side::Agent,
                reason: Reason::BodyTimeout,
                sentence: format!(
                    "Caracal prices a call by its whole message, and this one did not come within {} seconds.",
                    self.session.origin.stack.limits.patience.whole.as_secs()
                ),
                limit: None,
            },
        };
        self.session.refuse(&self.asked(), &refusal, &[]);
        self.tell(to_agent, Side::Server, &Message::text(meter::socket_denial(&refusal))).await;
        Some(Message::close(TRY_AGAIN))
    }

    /// The agent is gone. The provider bills on for a call that is open, so its end is awaited, within the bounds that hold
    /// for an answer over HTTP.
    async fn leave(&self, turn: Option<Box<Turn>>) -> Option<Box<Turn>> {
        let mut turn = turn?;
        if turn.last.is_some() {
            return Some(turn);
        }
        let stack = &self.session.origin.stack;
        let Ok(permit) = stack.drains.clone().try_acquire_owned() else {
            turn.ticket.charge_max(Unknown::Agent).await;
            return None;
        };
        let bounds = Bounds { bytes: stack.limits.drain_bytes, time: stack.limits.drain_time };
        turn.last = Some(Last::new(Unknown::Agent, bounds, Some(permit)));
        Some(turn)
    }

    /// A text of the agent's, while no call is open. Gives the call that it opens, or what the agent is told instead; nothing
    /// where the provider took no more.
    async fn said<W>(&mut self, message: Bytes, to_upstream: &mut W) -> Result<Box<Turn>, Option<Message>>
    where
        W: AsyncWrite + Unpin,
    {
        let read = self.session.origin.stack.meter.message(self.provider, &self.chain, &message);
        let prepared = match read {
            Ok(call) => self.prepare(call).await,
            Err(refusal) => Err((self.asked(), (refusal, Vec::new()))),
        };
        match prepared {
            Ok(Prepared { mut ticket, call, edited }) => {
                ticket.sent();
                let reader = call.reader_of_messages();
                let sent = Message::text(edited.body.unwrap_or(message));
                // What was not written is charged all the same: a part of it may have arrived.
                if !self.tell(to_upstream, Side::Client, &sent).await {
                    ticket.charge_max(Unknown::Upstream).await;
                    return Err(None);
                }
                let answer = meter::Answer::default();
                Ok(Box::new(Turn { ticket, reader, call, cap: edited.max_tokens, answer, last: None }))
            }
            Err((asked, (refusal, policies))) => {
                self.session.refuse(&asked, &refusal, &policies);
                Err(Some(Message::text(meter::socket_denial(&refusal))))
            }
        }
    }

    /// What one call asks for, as a request of its own would.
    fn asked(&self) -> Asked {
        Asked {
            target: self.asked.target.clone(),
            method: self.asked.method.clone(),
            path: self.asked.path.clone(),
            surface: Surface::Paid(self.provider, Operation::Responses),
            model: OnceLock::new(),
            rpc: OnceLock::new(),
            posted: OnceLock::new(),
        }
    }

    async fn prepare(&self, call: Call) -> Result<Prepared, (Asked, Refused)> {
        let asked = self.asked();
        match paid::granted_call(&self.session, &asked, call, &self.decided).await {
            Ok(prepared) => Ok(prepared),
            Err(refused) => Err((asked, refused)),
        }
    }

    /// A text of the provider's: settles the open call at its end, before the agent gets that.
    async fn answered(&mut self, turn: Option<Box<Turn>>, text: &Bytes) -> (Option<Box<Turn>>, Pass) {
        let Some(mut turn) = turn else {
            let stray = meter::is_stray(text).then(|| Pass::Last(Some(Message::close(UNEXPECTED))));
            return (None, stray.unwrap_or(Pass::On));
        };
        let heard = turn.answer.hear(text);
        if heard == Heard::Stray {
            turn.broken().await;
            return (None, Pass::Last(Some(Message::close(UNEXPECTED))));
        }
        turn.reader.feed(text.clone());
        let passed = turn.has_passed();
        let (refused, id) = match heard {
            Heard::Ended(id) => (false, Some(id)),
            Heard::Refused => (true, None),
            heard => {
                if heard == Heard::Failed && turn.last.is_none() {
                    turn.last = Some(Last::new(Unknown::Upstream, BEYOND, None));
                }
                if turn.last.as_mut().is_some_and(|last| !last.takes(text.len())) {
                    let failed = turn.failed();
                    turn.broken().await;
                    return (None, Pass::Last(failed));
                }
                if !passed && turn.reader.grown().is_some_and(|reading| turn.ticket.passes(&reading)) {
                    turn.passes();
                }
                let pass = if turn.has_passed() { Pass::Nothing } else { Pass::On };
                return (Some(turn), pass);
            }
        };
        let failed = turn.failed();
        let Turn { mut ticket, reader, call, cap, .. } = *turn;
        let reading = if refused { reader.refused() } else { reader.finish() };
        if let Some(id) = id {
            self.chain.add(id, &call, cap, reading.usage.as_ref());
        }
        if let Some(ended) = ticket.read(reading, passed.then_some(Unknown::Passed)) {
            ended.record().await;
        }
        (None, failed.map_or(Pass::On, Pass::Instead))
    }
}

async fn broken(turn: Option<Box<Turn>>) {
    if let Some(turn) = turn {
        turn.broken().await;
    }
}
