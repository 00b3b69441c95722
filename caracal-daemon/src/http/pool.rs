//! Takes a request for a host; gives its answer over a connection that is kept, or a new one.
//! Kept connections are bounded in number and idle time. Never sends a request twice once its first byte may have gone out.

mod http1;
mod place;
mod together;

use crate::clock::{Clock, UnixNanos};
use crate::http::body::Upload;
use crate::refusal::{Reason, Refusal, Side, Stage};
use crate::tls::dial::{Alpn, Dialer, Route, Wanted};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http1::Http1;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper_util::rt::{TokioExecutor, TokioIo};
use place::{Held, Place};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

pub use place::Lease;

/// Hosts for which connections or protocols are remembered.
const MOST_PLACES: usize = 4_096;
/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(15);
/// Receive window of one HTTP/2 stream, bytes: what one slow agent can make us hold.
const STREAM_WINDOW: u32 = 256 * 1_024;
/// Receive window of one HTTP/2 connection, bytes.
const CONNECTION_WINDOW: u32 = 2 * 1_024 * 1_024;
/// The longest head of an answer, bytes.
const MOST_ANSWER_HEAD: usize = 256 * 1_024;

/// Where a request goes, and how it may get there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// With TLS.
    pub tls: bool,
    /// The protocols to offer. In the clear `Either` is HTTP/2 with prior knowledge.
    pub wanted: Wanted,
    /// The rule names a private address.
    pub private: bool,
    /// The agent's network namespace, where that is another one than ours and the rule names a private address.
    pub netns: Option<u64>,
}

impl Key {
    fn route(&self) -> Route<'_> {
        Route { host: &self.host, port: self.port, private: self.private, netns: self.netns, first: None }
    }
}

/// A request that has no answer.
#[derive(Debug)]
pub enum SendError {
    /// Provably not one byte of it went out.
    NotSent(Refusal),
    /// It may have reached the upstream.
    Failed(Refusal),
}

/// Connections to upstreams.
#[derive(Debug)]
pub struct Pool {
    dialer: Arc<Dialer>,
    clock: Clock,
    places: Mutex<HashMap<Key, Arc<Place>>>,
    /// What each host negotiated when both were offered.
    spoken: Mutex<HashMap<(Arc<str>, u16), Alpn>>,
}

impl Pool {
    /// An empty pool. Call it inside a tokio runtime: it sweeps itself.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, clock: Clock) -> Arc<Pool> {
        let pool = Arc::new(Pool { dialer, clock, places: Mutex::default(), spoken: Mutex::default() });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        pool
    }

    /// Who dials for it.
    #[must_use]
    pub fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// What `host` negotiated the last time both protocols were offered to it.
    #[must_use]
    pub fn spoken(&self, host: &Arc<str>, port: u16) -> Option<Alpn> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(&(host.clone(), port)).copied()
    }

    /// Dials once to learn what the upstream speaks; the connection is kept for the request that follows.
    ///
    /// # Errors
    /// The dialer's.
    pub async fn learn(&self, key: &Key) -> Result<Alpn, Refusal> {
        let place = self.place(key);
        let _turn = place.dialing.lock().await;
        if let Some(alpn) = self.spoken(&key.host, key.port) {
            return Ok(alpn);
        }
        let held = self.dial(key, &place).await?;
        let alpn = held.alpn();
        match alpn {
            Alpn::H2 => place.share(&held),
            // An agent that speaks HTTP/1.1 asks for a connection on which nothing else was offered: keep it there.
            Alpn::Http1 => {
                let place = self.place(&Key { wanted: Wanted::Http1, ..key.clone() });
                place.keep(held, self.clock.now()).await;
            }
        }
        Ok(alpn)
    }

    /// Sends `request`, whose target is in absolute form. `before` is called just before its first byte can go out, each time.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        &self,
        key: &Key,
        mut request: Request<Upload>,
        fit: impl Fn(&mut Request<Upload>, Alpn),
        mut before: impl FnMut(),
    ) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
        let place = self.place(key);
        loop {
            let (mut held, fresh) = self.connection(key, &place).await.map_err(SendError::NotSent)?;
            fit(&mut request, held.alpn());
            before();
            match held.send(request).await {
                Ok(response) => return Ok((response, Some(Lease::new(held, place, self.clock.clone())))),
                Err(TrySend { error, message: Some(back) }) if !fresh => {
                    // The kept connection had been closed under us; not a byte of the request went out on it.
                    tracing::debug!(host = %key.host, %error, "a kept connection was gone");
                    request = back;
                }
                Err(TrySend { error, message: Some(_) }) => return Err(SendError::NotSent(broke_off(key, &error))),
                Err(TrySend { error, message: None }) => return Err(SendError::Failed(broke_off(key, &error))),
            }
        }
    }

    /// A connection, and whether it is new.
    async fn connection(&self, key: &Key, place: &Arc<Place>) -> Result<(Held, bool), Refusal> {
        if let Some(held) = place.take(self.clock.now()) {
            return Ok((held, false));
        }
        if key.wanted == Wanted::Http1 {
            return Ok((self.dial(key, place).await?, true));
        }
        // Where a connection can be shared, a crowd of first requests makes one, not many.
        let _turn = place.dialing.lock().await;
        if let Some(held) = place.take(self.clock.now()) {
            return Ok((held, false));
        }
        let held = self.dial(key, place).await?;
        place.share(&held);
        Ok((held, true))
    }

    /// A new connection. Boxed: every request's future would have its size, and few need it.
    fn dial<'a>(&'a self, key: &'a Key, place: &'a Arc<Place>) -> BoxFuture<'a, Result<Held, Refusal>> {
        Box::pin(self.dialled(key, place))
    }

    async fn dialled(&self, key: &Key, place: &Arc<Place>) -> Result<Held, Refusal> {
        let failed = |error: hyper::Error| broke_off(key, &error);
        if !key.tls {
            let stream = self.dialer.tcp(key.route()).await?;
            return match key.wanted {
                Wanted::Http1 => Http1::begin(stream).await.map(Held::Http1).map_err(failed),
                Wanted::Either => http2(stream, place).await.map_err(failed),
            };
        }
        let (stream, alpn) = self.dialer.tls(key.route(), key.wanted).await?;
        if key.wanted == Wanted::Either {
            self.remember(key, alpn);
        }
        match alpn {
            Alpn::Http1 => Http1::begin(stream).await.map(Held::Http1).map_err(failed),
            Alpn::H2 => http2(stream, place).await.map_err(failed),
        }
    }

    fn remember(&self, key: &Key, alpn: Alpn) {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.len() >= MOST_PLACES {
            spoken.clear();
        }
        spoken.insert((key.host.clone(), key.port), alpn);
    }

    fn place(&self, key: &Key) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(key) {
            return place.clone();
        }
        if places.len() >= MOST_PLACES {
            places.retain(|_, place| !place.is_empty());
        }
        if places.len() >= MOST_PLACES {
            // Every place holds connections: what is dropped here closes its idle ones and nothing in use.
            places.clear();
        }
        places.entry(key.clone()).or_default().clone()
    }

    fn sweep(&self, now: UnixNanos) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| {
            place.sweep(now);
            !place.is_empty() || Arc::strong_count(place) > 1
        });
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep(pool.clock.now());
    }
}

/// A failed try: the request comes back if not a byte of it went out.
struct TrySend {
    error: hyper::Error,
    message: Option<Request<Upload>>,
}

impl From<TrySendError<Request<Upload>>> for TrySend {
    fn from(mut error: TrySendError<Request<Upload>>) -> TrySend {
        let message = error.take_message();
        TrySend { error: error.into_error(), message }
    }
}

async fn http2<S>(stream: S, place: &Arc<Place>) -> Result<Held, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(hyper_util::rt::TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(MOST_ANSWER_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(Held::shared(sender, place))
}

fn broke_off(key: &Key, error: &hyper::Error) -> Refusal {
    let mut why = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        why = format!("{why}: {source}");
    }
    Refusal {
        stage: Stage::Http,
        side: Side::Upstream,
        reason: Reason::UpstreamFailed,
        sentence: format!("Caracal got no answer from {}: {why}.", key.host),
        limit: None,
    }
}
