//! The story of one connection, from the captured socket to the settled charge. Each step is one call.
//!
//! Takes [`Captured`]; gives nothing back: what happened is in the journal.
//! Refuses whatever a stage refuses, inside HTTP wherever HTTP is spoken. Never forwards a byte that no rule accounts for.

mod listening;
mod metered;
mod opening;
mod overrides;
mod paid;
mod passage;
mod priced;
mod rate;
mod record;
mod remember;
mod sentence;
mod session;
mod settle;
mod socket;
mod stack;
mod tally;
mod unstoppable;
mod websocket;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use settle::record_warnings;
pub use stack::{Limits, Parts, Stack};
pub use tally::{Doings, Tally};

use crate::capture::Captured;
use crate::event::Kind;
use crate::http::body::{Download, Streamed, Upload};
use crate::http::framing::Wire;
use crate::http::head::{self, Expected};
use crate::http::pool::SendError;
use crate::http::{forward, serve, upgrade};
use crate::meter::Surface;
use crate::policy::{Action, Ask, Mode};
use crate::refusal::Refusal;
use crate::telemetry::Telemetry;
use crate::tls::dial::{Alpn, Wanted};
use crate::tls::hello;
use crate::tls::rewind::Rewind;
use crate::tls::sniff::Protocol;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use session::{Answer, Asked, Decided, Origin, Session, granted, no_journal};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest refused body that is still read, so that the answer is not overtaken by a reset, bytes.
const MOST_UNWANTED: usize = 1_024 * 1_024;
/// How long it is read.
const UNWANTED_TIME: Duration = Duration::from_secs(5);

/// Serves one captured connection to its end.
pub async fn intercept(stack: Arc<Stack>, captured: Captured) {
    let _open = opening::OpenConnection::new(stack.telemetry.clone());
    let begins = opening::Beginning::new(stack.telemetry.clone());
    let (origin, stream) = begin(stack, captured);
    // Small writes are whole messages here: waiting to fill a segment only delays them.
    stream.set_nodelay(true).ok();
    connection(origin, Rewind::new(stream), begins).await;
}

/// Closes a connection of an agent that has too many, and records that.
pub fn too_many(stack: &Arc<Stack>, captured: Captured) {
    let (origin, _stream) = begin(stack.clone(), captured);
    opening::refuse_connection(&origin, &origin.host, &sentence::too_many(&origin));
}

/// What is known before the first byte.
fn begin(stack: Arc<Stack>, captured: Captured) -> (Origin, TcpStream) {
    let Captured { stream, original, agent, process } = captured;
    let address = original.ip().to_canonical();
    let origin = Origin {
        stack,
        agent,
        process: Arc::new(process),
        host: Arc::from(address.to_string()),
        address: Some(address),
        port: original.port(),
        tunnelled: false,
    };
    (origin, stream)
}

/// A connection to a known place, of unknown protocol.
async fn connection<S>(origin: Origin, mut stream: Rewind<S>, begins: opening::Beginning)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A tcp rule first: in its protocol the server may speak first, and there would be nothing to sniff.
    if let Some((host, decision, grant)) = passage::unread(&origin) {
        return Box::pin(passage::pass(&origin, stream, &host, (&decision, &grant), begins)).await;
    }
    // What does it speak? Read without taking: TLS that passes through must reach the upstream whole.
    match opening::first_words(&origin, &mut stream).await {
        Some(Protocol::Tls) => encrypted(origin, stream, begins).await,
        Some(Protocol::Http1) => requests(origin, None, stream, Alpn::Http1, begins).await,
        Some(Protocol::H2c) => requests(origin, None, stream, Alpn::H2, begins).await,
        Some(Protocol::Other) => {
            opening::refuse_connection(&origin, &origin.host, &sentence::unknown_protocol(&origin))
        }
        None => {}
    }
}

/// TLS: passed through by rule, or ended here.
async fn encrypted<S>(origin: Origin, stream: Rewind<S>, begins: opening::Beginning)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limit = origin.stack.limits.handshake;
    let hello = match timeout(limit, hello::read(stream)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            return opening::refuse_connection(
                &origin,
                &origin.host,
                &sentence::agent_tls(&origin.host, &error.to_string()),
            );
        }
        Err(_) => {
            return opening::refuse_connection(
                &origin,
                &origin.host,
                &sentence::agent_tls(&origin.host, "its first message did not end in time"),
            );
        }
    };
    // Whom does it want to speak to? Without a name, a rule must name the address.
    let name: Arc<str> = hello.name.as_deref().map_or_else(|| origin.host.clone(), Arc::from);
    let address = if hello.name.is_some() { None } else { origin.address };
    // A passthrough rule next: after this point the bytes are ours.
    if let Some((decision, grant)) = passage::allowed(&origin, &name, address, Mode::TlsPassthrough) {
        return Box::pin(passage::pass(&origin, hello.into_stream(), &name, (&decision, &grant), begins)).await;
    }
    // Only what the upstream speaks, so that both sides speak the same.
    let offer = opening::offer(&origin, &name, address.is_none(), hello.alpn).await;
    // Boxed like all that a connection does once: what it does for each request decides its size.
    let accepted = timeout(limit, Box::pin(opening::accept(&origin, hello, &name, offer))).await;
    let (stream, alpn) = match accepted {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return,
        Err(_) => {
            return opening::refuse_connection(
                &origin,
                &name,
                &sentence::agent_tls(&name, "its handshake did not end in time"),
            );
        }
    };
    requests(origin, Some(name), stream, alpn, begins).await;
}

/// HTTP to the end of the connection.
async fn requests<S>(
    origin: Origin,
    name: Option<Arc<str>>,
    mut stream: Rewind<S>,
    alpn: Alpn,
    begins: opening::Beginning,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tls = name.is_some();
    drop(begins);
    if let Some(name) = &name {
        match timeout(origin.stack.limits.first_byte, stream.peek(1)).await {
            Ok(Ok(first)) if !first.is_empty() => origin.stack.trust.trusted(&origin.agent.name, &origin.process),
            // Silence is not distrust: some clients connect ahead of need. Closing without one byte is.
            Err(_) => return,
            Ok(_) => {
                opening::distrusted(&origin, name);
                return opening::refuse_connection(
                    &origin,
                    name,
                    &sentence::agent_tls(name, "it closed the connection without one byte"),
                );
            }
        }
    }
    let wire = Arc::new(Wire::default());
    let tunnel = origin.tunnelled.then(|| origin.host.clone());
    let expected = Expected { name, tunnel, port: origin.port, tls };
    let session = Arc::new(Session { origin, expected, alpn, wire: wire.clone() });
    let leaving = session.origin.stack.leaving();
    let service = {
        let session = session.clone();
        move |request| answer(session.clone(), request)
    };
    let head_time = session.origin.stack.limits.head;
    if let Err(error) = serve::serve(stream, (alpn, head_time), wire, leaving, service).await {
        // Waiting between requests is nobody's fault; half a request is.
        if error.is_timeout() && session.wire.in_head() {
            let refusal = sentence::half_a_head(head_time);
            opening::refuse_connection(&session.origin, &session.origin.host, &refusal);
        }
        tracing::debug!(%error, agent = %session.origin.agent.name, "a connection broke off");
    }
    if let Some(refusal) = session.wire.take_refusal() {
        opening::refuse_connection(&session.origin, &session.origin.host, &refusal);
    }
}

/// One request: decided, and answered by the upstream or by us.
async fn answer(session: Arc<Session>, mut request: Request<Incoming>) -> Answer {
    let _begins = opening::Beginning::new(session.origin.stack.telemetry.clone());
    Telemetry::count(&session.origin.stack.telemetry.requests);
    // A head with two readings never got here: this one stands in its place.
    if let Some(refusal) = session.wire.refusal(request.headers()) {
        return session.refuse_head(&refusal);
    }
    if request.method() == Method::CONNECT {
        return tunnel(&session, request);
    }
    // One host, the same for TLS, the head and us.
    let asked = match asked(&session, request) {
        Ok((asked, back)) => {
            request = back;
            asked
        }
        Err(refusal) => return session.refuse_head(&refusal),
    };
    // May this agent send this request there?
    let decided = match decide(&session, &asked) {
        Ok(decided) => decided,
        Err((refusal, policies)) => {
            discard(request).await;
            return session.refuse(&asked, &refusal, &policies);
        }
    };
    // Is that what every server will read?
    if let Err((refusal, policies)) = overrides::check(&session, &asked, request.headers()) {
        discard(request).await;
        return session.refuse(&asked, &refusal, &policies);
    }
    // What does it cost? Nothing is forwarded to a priced host without an answer.
    match asked.surface {
        Surface::Priced(ref entry) => Box::pin(priced::call(&session, &asked, entry, request, &decided)).await,
        Surface::Paid(provider, operation) => {
            paid::call(&session, &asked, provider, operation, request, &decided).await
        }
        Surface::Websocket(provider) if websocket::is_metered(&session, &asked, provider) => {
            Box::pin(websocket::open(&session, asked, provider, request, decided)).await
        }
        Surface::Websocket(_) => {
            discard(request).await;
            session.refuse(&asked, &sentence::unmetered(&asked), &decided.policies)
        }
        Surface::Unmetered(provider, why) if !decided.grant.free => {
            discard(request).await;
            session.refuse(&asked, &sentence::unmetered_call(&asked, provider, why), &decided.policies)
        }
        Surface::Unknown(provider) if !decided.grant.free => {
            discard(request).await;
            session.refuse(&asked, &sentence::unknown_path(&asked, provider), &decided.policies)
        }
        Surface::Unpriced | Surface::Free(_) | Surface::Unmetered(..) | Surface::Unknown(_) => {
            if let Err(refusal) = rate::pass(&session, &rate::unpaid(&session, &asked)) {
                discard(request).await;
                return session.refuse(&asked, &refusal, &decided.policies);
            }
            forward(&session, &asked, request, &decided).await
        }
    }
}

/// What a request asks for, and the request back.
fn asked(session: &Session, request: Request<Incoming>) -> Result<(Asked, Request<Incoming>), Refusal> {
    let (parts, body) = request.into_parts();
    let target = head::target(&parts, &session.expected)?;
    let surface = session.origin.stack.meter.surface(&target.host, &parts.method, parts.uri.path(), &parts.headers);
    let asked = Asked {
        target,
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        surface,
        model: OnceLock::new(),
        rpc: OnceLock::new(),
        posted: OnceLock::new(),
    };
    Ok((asked, Request::from_parts(parts, body)))
}

fn decide(session: &Session, asked: &Asked) -> Result<Decided, (Refusal, Vec<Arc<str>>)> {
    let set = session.origin.stack.policy.current();
    let ask = Ask {
        method: Some(asked.method.as_str()),
        path: Some(&asked.path),
        ..session.origin.ask(Action::Request, &asked.target.host, asked.target.port, asked.target.address)
    };
    granted(&set, &ask)
}

/// A request that costs nothing: recorded, then streamed both ways.
async fn forward(session: &Arc<Session>, asked: &Asked, mut request: Request<Incoming>, decided: &Decided) -> Answer {
    // No record, no forward.
    let draft = session.draft(Kind::Decision, Action::Request, asked, decided);
    if let Err(error) = session.origin.stack.recorder.allowed(&session.origin.agent, draft).await {
        return session.refuse(asked, &no_journal(&error), &decided.policies);
    }
    // An upgrade leaves HTTP, and with it what could be read: only on hosts without a price.
    let upgrades = asked.surface == Surface::Unpriced && upgrade::is_asked(&request);
    let agent_side = upgrades.then(|| hyper::upgrade::on(&mut request));
    let mut request = request.map(Upload::Stream);
    let Some(shape) = forward::shape(&mut request, session.expected.tls, upgrades) else {
        return session.refuse(asked, &sentence::no_host(), &decided.policies);
    };
    let key = session.key(&asked.target, &decided.grant, upgrades.then_some(Wanted::Http1));
    let sent = session.origin.stack.pool.send(&key, request, |request, alpn| shape.fit(request, alpn), || {}).await;
    match sent {
        Ok((mut response, lease)) => {
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            forward::strip_answer(response.headers_mut(), switched);
            if let (true, Some(agent_side)) = (switched, agent_side) {
                session.wire.upgrade();
                let open = opening::OpenConnection::new(session.origin.stack.telemetry.clone());
                upgrade::splice(agent_side, hyper::upgrade::on(&mut response), open);
                return response.map(|_| Download::empty());
            }
            response.map(|body| Download::Stream(Streamed::new(body, lease)))
        }
        Err(SendError::NotSent(refusal) | SendError::Failed(refusal)) => {
            session.refuse(asked, &refusal, &decided.policies)
        }
    }
}

/// A CONNECT, of an agent that was told to use a proxy: answered here, and what comes out of it told as a story of its own.
/// The proxy is never asked: what stands in the tunnel is judged like any other connection to that host, so a refusal can be
/// said inside its TLS, where the client prints it.
fn tunnel(session: &Arc<Session>, mut request: Request<Incoming>) -> Answer {
    let agent_side = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let target = match head::connect_target(&parts) {
        Ok(target) if session.expected.tls || session.origin.tunnelled || session.alpn == Alpn::H2 => {
            return session.refuse_head(&sentence::nested(&target.host));
        }
        Ok(target) => target,
        Err(refusal) => return session.refuse_head(&refusal),
    };
    let origin = Origin {
        host: target.host,
        address: target.address,
        port: target.port,
        tunnelled: true,
        ..session.origin.clone()
    };
    session.wire.upgrade();
    // Boxed, because the story contains itself.
    let open = opening::OpenConnection::new(origin.stack.telemetry.clone());
    let story: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let _open = open;
        let begins = opening::Beginning::new(origin.stack.telemetry.clone());
        if let Some(stream) = upgrade::handed(agent_side).await {
            connection(origin, Rewind::new(stream), begins).await;
        }
    });
    tokio::spawn(story);
    Response::new(Download::empty())
}

/// Reads a refused body that is already on its way. Not one that still asks whether it may come.
async fn discard(request: Request<Incoming>) {
    if request.headers().contains_key(http::header::EXPECT) || request.body().is_end_stream() {
        return;
    }
    let reading = crate::http::body::discard(request.into_body(), MOST_UNWANTED);
    timeout(UNWANTED_TIME, reading).await.ok();
}
