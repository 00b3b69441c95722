//! The connections to one host and port.

use crate::clock::{Clock, UnixNanos};
use crate::http::body::Upload;
use crate::http::pool::TrySend;
use crate::http::pool::http1::Http1;
use crate::tls::dial::Alpn;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// Idle HTTP/1 connections kept for one host and port.
const MOST_IDLE: usize = 256;
/// How long an idle connection is kept.
const MOST_IDLE_NS: u64 = 60 * 1_000_000_000;
/// Requests on one HTTP/2 connection at once before another one is made.
const MOST_STREAMS: usize = 100;
/// How long a connection may take to become free after its answer's end.
const SETTLE: Duration = Duration::from_secs(5);

/// Connections to one host and port.
#[derive(Debug, Default)]
pub(super) struct Place {
    idle: Mutex<Vec<(Http1, UnixNanos)>>,
    shared: Mutex<Vec<Shared>>,
    /// Held by whoever dials a connection that can be shared.
    pub(super) dialing: tokio::sync::Mutex<()>,
}

/// An HTTP/2 connection and how many requests are on it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    sender: http2::SendRequest<Upload>,
    streams: Arc<AtomicUsize>,
    used: UnixNanos,
}

/// A connection in use by one request.
#[derive(Debug)]
pub(super) enum Held {
    Http1(Http1),
    Http2(Stream),
}

/// One request's part in a shared connection.
#[derive(Debug)]
pub(super) struct Stream(Shared);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    fn of(shared: &Shared) -> Stream {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Stream(shared.clone())
    }
}

impl Held {
    pub(super) fn shared(sender: http2::SendRequest<Upload>, _place: &Arc<Place>) -> Held {
        Held::Http2(Stream::of(&Shared { sender, streams: Arc::default(), used: UnixNanos(u64::MAX) }))
    }

    pub(super) fn alpn(&self) -> Alpn {
        match self {
            Held::Http1(_) => Alpn::Http1,
            Held::Http2(_) => Alpn::H2,
        }
    }

    pub(super) async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, TrySend> {
        match self {
            Held::Http1(connection) => connection.send(request).await,
            Held::Http2(stream) => stream.0.sender.try_send_request(request).await.map_err(TrySend::from),
        }
    }
}

impl Place {
    /// A connection that is ready: the one used last, so that the others can age.
    pub(super) fn take(&self, now: UnixNanos) -> Option<Held> {
        {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.retain(|shared| !shared.sender.is_closed());
            if let Some(free) = shared.iter_mut().find(|shared| shared.streams.load(Ordering::Relaxed) < MOST_STREAMS) {
                free.used = now;
                return Some(Held::Http2(Stream::of(free)));
            }
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut connection, since)) = idle.pop() {
            if connection.is_ready() && is_fresh(since, now) {
                return Some(Held::Http1(connection));
            }
            connection.close();
        }
        None
    }

    /// Lets others use a connection too, if it can be shared.
    pub(super) fn share(&self, held: &Held) {
        if let Held::Http2(stream) = held {
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).push(stream.0.clone());
        }
    }

    /// Keeps a new connection for whoever asks next, if it is one that can be idle. Waits until it has begun: one that is
    /// not ready yet would be passed by.
    pub(super) async fn keep(&self, held: Held, now: UnixNanos) {
        if let Held::Http1(mut connection) = held
            && connection.ready().await.is_ok()
        {
            self.put(connection, now);
        }
    }

    fn put(&self, connection: Http1, now: UnixNanos) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push((connection, now));
        } else {
            connection.close();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            && self.shared.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Closes what was idle for too long.
    pub(super) fn sweep(&self, now: UnixNanos) {
        let stale = |(connection, since): &mut (Http1, UnixNanos)| !connection.is_ready() || !is_fresh(*since, now);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extract_if(.., stale).for_each(|(connection, _)| connection.close());
        drop(idle);
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|shared| {
            let busy = shared.streams.load(Ordering::Relaxed) > 0;
            if busy || shared.used.0 == u64::MAX {
                shared.used = now;
            }
            !shared.sender.is_closed() && is_fresh(shared.used, now)
        });
    }
}

/// Whether what has been idle since then is still kept.
fn is_fresh(since: UnixNanos, now: UnixNanos) -> bool {
    now.0.saturating_sub(since.0) <= MOST_IDLE_NS
}

/// A connection on loan until its answer has ended. Dropped early, an HTTP/1 connection is closed.
#[derive(Debug)]
pub struct Lease {
    held: Held,
    place: Arc<Place>,
    clock: Clock,
}

impl Lease {
    pub(super) fn new(held: Held, place: Arc<Place>, clock: Clock) -> Lease {
        Lease { held, place, clock }
    }

    /// Polls `wait` for what comes over the connection, which goes on meanwhile where whoever reads its answer drives it.
    pub(crate) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut wait: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.held {
            Held::Http1(connection) => connection.poll(context, wait),
            Held::Http2(_) => wait(context),
        }
    }

    /// Whether [`Lease::poll`] is all that drives the connection.
    pub(crate) fn is_driven(&self) -> bool {
        matches!(&self.held, Held::Http1(connection) if connection.is_driven())
    }

    /// The answer has ended: others may use the connection.
    pub fn give_back(self) {
        let Held::Http1(mut connection) = self.held else { return };
        if connection.is_ready() {
            self.place.put(connection, self.clock.now());
            return;
        }
        if connection.is_closed() {
            return;
        }
        // The answer came before the request's end, or the connection has not noticed yet that it is free.
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, connection.ready()).await {
                self.place.put(connection, self.clock.now());
            }
        });
    }
}
