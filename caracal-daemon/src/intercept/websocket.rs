//! OpenAI's responses over a WebSocket, where the configuration says so: each `response.create` is held, recorded, sent and
//! settled as a call over HTTP is; other messages pass or are refused by their type. The upgrade is refused otherwise.
//!
//! Off by default: an agent that is told 426 goes to HTTP at once, where each call shows its whole input. On a socket a turn
//! goes on from a response before it, so that what is held for it grows with the chain.

use crate::event::Kind as Record;
use crate::http::body::{Download, Streamed, Upload};
use crate::http::forward;
use crate::http::pool::SendError;
use crate::http::upgrade;
use crate::http::websocket::{Kind, Message, Reader, Side, write};
use crate::intercept::metered::BEYOND;
use crate::intercept::opening::OpenConnection;
use crate::intercept::paid::{self, Prepared, Refused};
use crate::intercept::session::{Answer, Asked, Decided, Session, no_journal};
use crate::intercept::settle::{Ticket, Unknown};
use crate::intercept::{rate, sentence};
use crate::meter::{self, Call, Chain, Operation, Provider, Reading, Said, Surface, UsageReader};
use crate::policy::Action;
use crate::refusal::{self, Reason, Refusal, Stage};
use crate::tls::dial::Wanted;
use bytes::Bytes;
use http::{HeaderName, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long both sides may take to hand their connection over.
const HAND_OVER: Duration = Duration::from_secs(10);
/// The longest message of a provider's, bytes.
const MOST_ANSWERED: usize = 16 << 20;
const EXTENSIONS: HeaderName = HeaderName::from_static("sec-websocket-extensions");

/// Whether this upgrade leads to a socket that is metered here.
pub(crate) fn is_metered(session: &Session, asked: &Asked, provider: Provider) -> bool {
    session.origin.stack.limits.websockets && provider == Provider::OpenAi && asked.path == "/v1/responses"
}

/// Answers the upgrade, and tells the story of the socket in a task of its own.
pub(crate) async fn open(
    session: &Arc<Session>,
    asked: Asked,
    provider: Provider,
    mut request: Request<Incoming>,
    decided: Decided,
) -> Answer {
    if !upgrade::is_asked(&request) {
        return session.refuse(&asked, &sentence::unmetered(&asked), &decided.policies);
    }
    if let Err(refusal) = rate::pass(session, &rate::unpaid(session, &asked)) {
        return session.refuse(&asked, &refusal, &decided.policies);
    }
    let mut draft = session.draft(Record::Decision, Action::Request, &asked, &decided);
    // A compressed frame could not be read: none is agreed on.
    if request.headers().contains_key(EXTENSIONS) {
        draft.data.edits = vec!["websocket_extensions"];
    }
    if let Err(error) = session.origin.stack.recorder.allowed(&session.origin.agent, draft).await {
        return session.refuse(&asked, &no_journal(&error), &decided.policies);
    }
    let agent_side = hyper::upgrade::on(&mut request);
    let mut request = request.map(Upload::Stream);
    let Some(shape) = forward::shape(&mut request, session.expected.tls, true) else {
        return session.refuse(&asked, &sentence::no_host(), &decided.policies);
    };
    forward::remove_in_order(request.headers_mut(), |name| *name == EXTENSIONS);
    let key = session.key(&asked.target, &decided.grant, Some(Wanted::Http1));
    let sent = session.origin.stack.pool.send(&key, request, |request, alpn| shape.fit(request, alpn), || {}).await;
    match sent {
        Ok((mut response, lease)) => {
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            forward::strip_answer(response.headers_mut(), switched);
            if !switched {
                return response.map(|body| Download::Stream(Streamed::new(body, lease)));
            }
            if response.headers().contains_key(EXTENSIONS) {
                return session.refuse(&asked, &extended(), &decided.policies);
            }
            session.wire.upgrade();
            let upstream_side = hyper::upgrade::on(&mut response);
            let socket = Socket { session: session.clone(), asked, provider, decided, chain: Chain::default() };
            let open = OpenConnection::new(session.origin.stack.telemetry.clone());
            tokio::spawn(socket.story(agent_side, upstream_side, open));
            response.map(|_| Download::empty())
        }
        Err(SendError::NotSent(refusal) | SendError::Failed(refusal)) => {
            session.refuse(&asked, &refusal, &decided.policies)
        }
    }
}

fn extended() -> Refusal {
    Refusal {
        stage: Stage::Http,
        side: refusal::Side::Upstream,
        reason: Reason::UpstreamFailed,
        sentence: "Caracal refused this WebSocket: the provider agreed on an extension that nobody asked for."
            .to_owned(),
    }
}

/// A metered socket.
struct Socket {
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
    /// The provider has begun to answer.
    begun: bool,
    /// Why its end is awaited for nobody, and how long.
    unheard: Option<(Unknown, Instant)>,
}

impl Turn {
    /// What the agent is told in place of the end, where the answer has passed its hold.
    fn failed(&self) -> Option<Bytes> {
        let passed = matches!(self.unheard, Some((Unknown::Passed, _)));
        let refusal = passed.then(|| self.ticket.passed())?;
        Some(meter::socket_failure(&refusal, "resp_caracal", self.reader.next_event()))
    }
}

/// What one side has said.
type Heard = std::io::Result<Option<Message>>;

fn listen<R: AsyncRead + Unpin + Send + 'static>(from: R, side: Side, most: usize) -> mpsc::Receiver<Heard> {
    let (tell, heard) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut reader = Reader::new(from, side, most);
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
    async fn story(mut self, agent: OnUpgrade, upstream: OnUpgrade, _open: OpenConnection) {
        let both = async { tokio::try_join!(agent, upstream) };
        let Ok(Ok((agent, upstream))) = tokio::time::timeout(HAND_OVER, both).await else { return };
        let (from_agent, mut to_agent) = tokio::io::split(TokioIo::new(agent));
        let (from_upstream, mut to_upstream) = tokio::io::split(TokioIo::new(upstream));
        let most = self.session.origin.stack.limits.priced_body;
        let mut agent = listen(from_agent, Side::Client, most);
        let mut upstream = listen(from_upstream, Side::Server, MOST_ANSWERED);
        let mut turn: Option<Turn> = None;
        // A call that came while another is open waits for its end: the provider answers one at a time.
        let mut waiting: Option<Bytes> = None;
        let mut here = true;
        loop {
            if turn.is_none() {
                if !here {
                    return;
                }
                if let Some(message) = waiting.take() {
                    turn = self.said(message, &mut to_agent, &mut to_upstream).await;
                    continue;
                }
            }
            let until = turn.as_ref().and_then(|turn| turn.unheard).map(|(_, until)| until);
            tokio::select! {
                heard = agent.recv(), if here && waiting.is_none() => match heard {
                    Some(Ok(Some(Message { kind: Kind::Text, data }))) if turn.is_some() && !meter::is_cancel(&data) => {
                        waiting = Some(data);
                    }
                    Some(Ok(Some(Message { kind: Kind::Text, data }))) => {
                        let next = self.said(data, &mut to_agent, &mut to_upstream).await;
                        turn = turn.or(next);
                    }
                    // Nothing of a model's is binary.
                    Some(Ok(Some(Message { kind: Kind::Binary, .. }))) => {
                        write(&mut to_agent, Side::Server, &Message::close(1_003)).await.ok();
                        (here, waiting) = self.leave(&mut turn);
                    }
                    Some(Ok(Some(message))) if message.kind != Kind::Close => {
                        write(&mut to_upstream, Side::Client, &message).await.ok();
                    }
                    Some(Ok(Some(close))) => {
                        write(&mut to_agent, Side::Server, &close).await.ok();
                        if turn.is_none() {
                            write(&mut to_upstream, Side::Client, &close).await.ok();
                        }
                        (here, waiting) = self.leave(&mut turn);
                    }
                    // It is gone, or speaks nonsense. The provider bills on for a call that is open.
                    _ => (here, waiting) = self.leave(&mut turn),
                },
                heard = upstream.recv() => match heard {
                    Some(Ok(Some(message))) if message.kind != Kind::Close => {
                        let (next, pass) = self.answered(turn, &message).await;
                        turn = next;
                        let said = match pass {
                            Pass::On => Some(message),
                            Pass::Nothing => None,
                            Pass::Instead(data) => Some(Message::text(data)),
                        };
                        if let (true, Some(said)) = (here, said) && write(&mut to_agent, Side::Server, &said).await.is_err() {
                            (here, waiting) = self.leave(&mut turn);
                        }
                    }
                    end => {
                        self.broken(turn).await;
                        if let (true, Some(Ok(Some(close)))) = (here, end) {
                            write(&mut to_agent, Side::Server, &close).await.ok();
                        }
                        return;
                    }
                },
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    let failed = turn.as_ref().and_then(Turn::failed);
                    self.broken(turn).await;
                    if let (true, Some(failed)) = (here, failed) {
                        write(&mut to_agent, Side::Server, &Message::text(failed)).await.ok();
                    }
                    return;
                }
            }
        }
    }

    /// The agent is gone. Gives what holds from then on.
    fn leave(&self, turn: &mut Option<Turn>) -> (bool, Option<Bytes>) {
        let until = Instant::now() + self.session.origin.stack.limits.drain_time;
        if let Some(turn) = turn {
            turn.unheard.get_or_insert((Unknown::Agent, until));
        }
        (false, None)
    }

    /// A text of the agent's, while no call is open or to cancel one. Gives the call that it opens.
    async fn said<S>(
        &mut self,
        message: Bytes,
        to_agent: &mut WriteHalf<S>,
        to_upstream: &mut WriteHalf<S>,
    ) -> Option<Turn>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let meter = &self.session.origin.stack.meter;
        let prepared = match meter.message(self.provider, &self.chain, &message) {
            Ok(meter::Message::Free) => {
                write(to_upstream, Side::Client, &Message::text(message)).await.ok();
                return None;
            }
            Ok(meter::Message::Create(call)) => self.prepare(*call).await,
            Err(refusal) => Err((self.asked(), (refusal, Vec::new()))),
        };
        match prepared {
            Ok(Prepared { mut ticket, call, edited }) => {
                ticket.sent();
                let reader = call.reader_of_messages();
                let sent = Message::text(edited.body.unwrap_or(message));
                // What was not written is charged all the same: a part of it may have arrived.
                if write(to_upstream, Side::Client, &sent).await.is_err() {
                    ticket.charge_max(Unknown::Upstream).await;
                    return None;
                }
                Some(Turn { ticket, reader, call, cap: edited.max_tokens, begun: false, unheard: None })
            }
            Err((asked, (refusal, policies))) => {
                self.session.refuse(&asked, &refusal, &policies);
                write(to_agent, Side::Server, &Message::text(meter::socket_denial(&refusal))).await.ok();
                None
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
        }
    }

    async fn prepare(&self, call: Call) -> Result<Prepared, (Asked, Refused)> {
        let asked = self.asked();
        match paid::granted_call(&self.session, &asked, call, &self.decided).await {
            Ok(prepared) => Ok(prepared),
            Err(refused) => Err((asked, refused)),
        }
    }

    /// A message of the provider's: settles the open call at its end, before the agent gets that.
    async fn answered(&mut self, turn: Option<Turn>, message: &Message) -> (Option<Turn>, Pass) {
        let Some(mut turn) = turn else { return (None, Pass::On) };
        if message.kind != Kind::Text {
            return (Some(turn), Pass::On);
        }
        turn.reader.feed(message.data.clone());
        let passed = matches!(turn.unheard, Some((Unknown::Passed, _)));
        let said = meter::said(&message.data, turn.begun);
        turn.begun = true;
        if said == Said::More {
            let grown = if passed { None } else { turn.reader.grown() };
            if grown.is_some_and(|reading| turn.ticket.passes(&reading)) {
                // The agent hears the end once what it cost is charged.
                turn.unheard = Some((Unknown::Passed, Instant::now() + BEYOND.time));
                return (Some(turn), Pass::Nothing);
            }
            return (Some(turn), if passed { Pass::Nothing } else { Pass::On });
        }
        let failed = turn.failed();
        let Turn { mut ticket, reader, call, cap, unheard, .. } = turn;
        let reading = Reading { refused: said == Said::Refused, ..reader.finish() };
        if let Said::Ended(Some(id)) = said {
            self.chain.add(id, &call, cap, reading.usage.as_ref());
        }
        let broken = unheard.map(|(why, _)| why).filter(|why| matches!(why, Unknown::Passed));
        if let Some(ended) = ticket.read(reading, broken) {
            ended.record().await;
        }
        (None, failed.map_or(Pass::On, Pass::Instead))
    }

    /// The provider broke off, or was awaited long enough.
    async fn broken(&self, turn: Option<Turn>) {
        let Some(Turn { mut ticket, reader, unheard, .. }) = turn else { return };
        let why = unheard.map_or(Unknown::Upstream, |(why, _)| why);
        if let Some(ended) = ticket.read(reader.finish(), Some(why)) {
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
    Instead(Bytes),
}
