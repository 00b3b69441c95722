//! OpenAI's responses over a WebSocket, where the configuration says so: the handshake. What is said on the socket then is
//! `socket.rs`'s story. The upgrade is refused otherwise.
//!
//! Off by default: an agent that is told 426 goes to HTTP at once, where each call shows its whole input. On a socket a turn
//! goes on from a response before it, so that what is held for it grows with the chain.

use crate::event::Kind;
use crate::http::body::{Download, Streamed, Upload};
use crate::http::forward;
use crate::http::pool::SendError;
use crate::http::upgrade;
use crate::intercept::opening::OpenConnection;
use crate::intercept::session::{Answer, Asked, Decided, Session, no_journal};
use crate::intercept::socket::Socket;
use crate::intercept::{discard, rate, sentence};
use crate::meter::Provider;
use crate::policy::Action;
use crate::refusal::{Reason, Refusal, Side, Stage};
use crate::tls::dial::Wanted;
use http::{HeaderName, Request, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

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
    // What goes up must ask for nothing but the socket: whatever else it is, it would be answered unread.
    if !upgrade::is_handshake(&request) {
        discard(request).await;
        return session.refuse(&asked, &sentence::unmetered(&asked), &decided.policies);
    }
    if let Err(refusal) = rate::pass(session, &rate::unpaid(session, &asked)) {
        return session.refuse(&asked, &refusal, &decided.policies);
    }
    let mut draft = session.draft(Kind::Decision, Action::Request, &asked, &decided);
    // A compressed frame could not be read: none is agreed on.
    if request.headers().contains_key(EXTENSIONS) {
        draft.data.edits = vec!["websocket_extensions"];
    }
    if let Err(error) = session.origin.stack.recorder.allowed(&session.origin.agent, draft).await {
        return session.refuse(&asked, &no_journal(&error), &decided.policies);
    }
    let agent_side = hyper::upgrade::on(&mut request);
    let mut request = request.map(|_| Upload::Whole(None));
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
            if response.status().is_success() {
                return session.refuse(&asked, &upstream_failed("answered and opened none"), &decided.policies);
            }
            if !switched {
                return response.map(|body| Download::Stream(Streamed::new(body, lease)));
            }
            if response.headers().contains_key(EXTENSIONS) {
                let why = "agreed on an extension that nobody asked for";
                return session.refuse(&asked, &upstream_failed(why), &decided.policies);
            }
            session.wire.upgrade();
            let upstream_side = hyper::upgrade::on(&mut response);
            let socket = Socket::new(session.clone(), asked, provider, decided);
            let open = OpenConnection::new(session.origin.stack.telemetry.clone());
            tokio::spawn(async move {
                let _open = open;
                if let Some((agent, upstream)) = upgrade::both(agent_side, upstream_side).await {
                    Box::pin(socket.story(agent, upstream)).await;
                }
            });
            response.map(|_| Download::empty())
        }
        Err(SendError::NotSent(refusal) | SendError::Failed(refusal)) => {
            session.refuse(&asked, &refusal, &decided.policies)
        }
    }
}

fn upstream_failed(why: &str) -> Refusal {
    Refusal {
        stage: Stage::Http,
        side: Side::Upstream,
        reason: Reason::UpstreamFailed,
        sentence: format!("Caracal refused this WebSocket: the provider {why}."),
        limit: None,
    }
}
