//! How a connection begins: what it speaks, what it is offered, and whether it trusts us.

use crate::http::pool::Key;
use crate::intercept::record::About;
use crate::intercept::sentence;
use crate::intercept::session::Origin;
use crate::policy::{Action, Verdict};
use crate::refusal::Refusal;
use crate::telemetry::Telemetry;
use crate::tls::accept::{AcceptError, Offer};
use crate::tls::dial::{Alpn, Wanted};
use crate::tls::hello::{Hello, Offered};
use crate::tls::rewind::Rewind;
use crate::tls::sniff::{self, Protocol};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// What the first bytes begin; `None` when there are none.
pub(super) async fn first_words<S: AsyncRead + Unpin>(origin: &Origin, stream: &mut Rewind<S>) -> Option<Protocol> {
    let first = timeout(origin.stack.limits.first_byte, stream.peek(1)).await;
    if first.ok()?.ok()?.is_empty() {
        return None;
    }
    let rest = async {
        let mut seen = 1;
        loop {
            let bytes = stream.peek(seen).await.ok()?;
            match sniff::sniff(bytes) {
                Some(protocol) => return Some(protocol),
                // Ended in the middle of what could have become anything.
                None if bytes.len() < seen => return (!bytes.is_empty()).then_some(Protocol::Other),
                None => seen = bytes.len() + 1,
            }
        }
    };
    timeout(origin.stack.limits.handshake, rest).await.unwrap_or(Some(Protocol::Other))
}

/// What to offer an agent: what the upstream speaks. A host that is refused anyway is not dialled to find out.
pub(super) async fn offer(origin: &Origin, name: &Arc<str>, is_name: bool, offered: Option<Offered>) -> Offer {
    let offered = offered.unwrap_or_default();
    if !offered.h2 || !is_name {
        return Offer::Http1;
    }
    let decision = origin.stack.policy.current().decide(&origin.ask(Action::Resolve, name, origin.port, None));
    let Verdict::Allow(grant) = decision.verdict else { return Offer::Both };
    let spoken = match origin.stack.pool.spoken(name, origin.port) {
        Some(alpn) => Ok(alpn),
        None => {
            let key = Key {
                host: name.clone(),
                port: origin.port,
                tls: true,
                wanted: Wanted::Either,
                private: grant.private,
                netns: origin.elsewhere(&grant),
            };
            origin.stack.pool.learn(&key).await
        }
    };
    // An upstream that cannot be reached is told of inside HTTP, whichever the agent prefers.
    if matches!(spoken, Ok(Alpn::Http1)) { Offer::Http1 } else { Offer::Both }
}

/// The handshake, and the first byte after it: an agent that distrusts us breaks off at either.
pub(super) async fn accept<S>(
    origin: &Origin,
    hello: Hello<S>,
    name: &str,
    offer: Offer,
) -> Option<(Rewind<tokio_rustls::server::TlsStream<Rewind<S>>>, Alpn)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match origin.stack.acceptor.accept(hello, name, offer).await {
        Ok((stream, alpn)) => Some((Rewind::new(stream), alpn)),
        Err(error) => {
            if matches!(error, AcceptError::Agent(_)) {
                distrusted(origin, name);
            }
            refuse_connection(origin, name, &sentence::agent_tls(name, &error.to_string()));
            None
        }
    }
}

/// Counts a handshake that the agent broke off.
pub(super) fn distrusted(origin: &Origin, name: &str) {
    Telemetry::count(&origin.stack.telemetry.untrusted);
    origin.stack.trust.untrusted(&origin.agent.name, &origin.process, Some(name));
}

/// Records a connection that was refused.
pub(super) fn refuse_connection(origin: &Origin, host: &str, refusal: &Refusal) {
    let about = About { action: Some(Action::Connect), host, port: origin.port, ..About::default() };
    origin.refused(refusal, about, &[]);
}

/// Counts a connection among the open ones while it is.
pub(crate) struct OpenConnection(Arc<Telemetry>);

impl OpenConnection {
    pub(crate) fn new(telemetry: Arc<Telemetry>) -> OpenConnection {
        Telemetry::count(&telemetry.open);
        OpenConnection(telemetry)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts what an upgrade waits for a moment: a connection until it is known what it is, a request until it is answered.
pub(crate) struct Beginning(Arc<Telemetry>);

impl Beginning {
    pub(crate) fn new(telemetry: Arc<Telemetry>) -> Beginning {
        Telemetry::count(&telemetry.beginning);
        Beginning(telemetry)
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.0.beginning.fetch_sub(1, Ordering::Relaxed);
    }
}
