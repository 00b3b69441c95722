//! The bodies that pass through: one kind on its way up, one on its way down. Neither holds more than a frame.

use crate::http::pool::Lease;
use crate::http::room::{Full, Taken};
use crate::http::told::Told;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

/// How long what came before an answer broke off has to reach its reader. Whoever is told of the failure writes nothing more,
/// and some clients (Node's) throw away what they have not read yet.
const PARTING: Duration = Duration::from_millis(50);

/// What can go wrong while a body passes.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub enum Upload {
    /// As the agent sends it.
    Stream(Incoming),
    /// Read whole before.
    Whole(Option<Bytes>),
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Upload::Stream(body) => Pin::new(body).poll_frame(context).map_err(BodyError::from),
            Upload::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Stream(body) => body.is_end_stream(),
            Upload::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Stream(body) => body.size_hint(),
            Upload::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// A body that comes from the upstream, with the connection it comes on.
#[derive(Debug)]
pub struct Streamed {
    body: Incoming,
    lease: Option<Lease>,
    /// It broke off, which is said when the time has come.
    broken: Option<(BodyError, Pin<Box<Sleep>>)>,
}

impl Streamed {
    /// A body; at its end the connection goes back to the pool.
    #[must_use]
    pub fn new(body: Incoming, lease: Option<Lease>) -> Streamed {
        let mut streamed = Streamed { body, lease, broken: None };
        if streamed.body.is_end_stream() {
            streamed.give_back();
        }
        streamed
    }

    /// Whether pending means that nothing more has come: whoever polls it reads the connection.
    #[must_use]
    pub fn reads_itself(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_driven)
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some((_, time)) = &mut this.broken {
            ready!(time.as_mut().poll(context));
            return Poll::Ready(this.broken.take().map(|(error, _)| Err(error)));
        }
        let body = &mut this.body;
        let mut wait = |context: &mut Context<'_>| Pin::new(&mut *body).poll_frame(context);
        let frame = ready!(match &mut this.lease {
            None => wait(context),
            Some(lease) => lease.poll(context, wait),
        });
        match frame.transpose() {
            Ok(frame) => {
                if frame.is_none() || this.body.is_end_stream() {
                    this.give_back();
                }
                Poll::Ready(frame.map(Ok))
            }
            Err(error) => {
                // A connection that failed is not used again.
                this.lease = None;
                let mut time = Box::pin(sleep(PARTING));
                let _not_yet = time.as_mut().poll(context);
                this.broken = Some((error.into(), time));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body on its way to the agent.
#[derive(Debug)]
pub enum Download<M> {
    /// Of our own making.
    Whole(Option<Bytes>),
    /// As the upstream sends it.
    Stream(Streamed),
    /// The same, and what we have to say between two of its events.
    Told(Box<Told<Streamed>>),
    /// Read as it passes.
    Metered(M),
}

impl<M> Download<M> {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Download<M> {
        Download::Whole(None)
    }
}

impl<M> Body for Download<M>
where
    M: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Download::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Download::Stream(body) => Pin::new(body).poll_frame(context),
            Download::Told(body) => Pin::new(&mut **body).poll_frame(context),
            Download::Metered(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Download::Whole(bytes) => bytes.is_none(),
            Download::Stream(body) => body.is_end_stream(),
            Download::Told(body) => body.is_end_stream(),
            Download::Metered(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Download::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Download::Stream(body) => body.size_hint(),
            Download::Told(body) => body.size_hint(),
            Download::Metered(body) => body.size_hint(),
        }
    }
}

/// Why a body was not read whole.
#[derive(Debug)]
pub enum CollectError {
    /// It is longer than the limit.
    TooLong,
    /// The agent broke off.
    Broken(BodyError),
    /// There is no room for it beside the others.
    Full(Full),
    /// It did not come in time.
    Slow,
}

/// How long a body may take that is read whole.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte.
    pub idle: Duration,
    /// In all.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { idle: Duration::from_secs(30), whole: Duration::from_secs(300) }
    }
}

/// How long a body is read for nobody that there was no room for, so that the answer is not overtaken by a reset.
const UNHOUSED: Duration = Duration::from_secs(5);

/// Reads a request's body whole, at most `most` bytes, into the room that it takes as it comes and gives back with its last
/// copy. Trailers are dropped: a body that is priced has none that matter.
///
/// # Errors
/// See [`CollectError`].
pub async fn collect(
    mut body: Incoming,
    most: usize,
    patience: Patience,
    mut room: Taken,
) -> Result<Bytes, CollectError> {
    use http_body_util::BodyExt;
    let hint = body.size_hint();
    if hint.lower() > most as u64 {
        return Err(CollectError::TooLong);
    }
    let mut first = Bytes::new();
    let mut rest = bytes::BytesMut::new();
    let end = Instant::now() + patience.whole;
    loop {
        let until = end.min(Instant::now() + patience.idle);
        let Some(frame) = timeout_at(until, body.frame()).await.map_err(|_| CollectError::Slow)? else { break };
        let frame = frame.map_err(|error| CollectError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > most {
            return Err(CollectError::TooLong);
        }
        if let Err(full) = room.more(data.len()) {
            drop((first, rest, room));
            timeout(UNHOUSED, discard(body, most)).await.ok();
            return Err(CollectError::Full(full));
        }
        // Most calls come in one piece, which is then not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                let expected = usize::try_from(hint.upper().unwrap_or(0)).unwrap_or(most).min(most);
                rest.reserve(expected.max(first.len() + data.len()));
                rest.extend_from_slice(&first);
                first.clear();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { room.keep(first) } else { room.keep(rest) })
}

/// Reads a request's body for nobody, at most `most` bytes.
pub async fn discard(mut body: Incoming, most: usize) {
    use http_body_util::BodyExt;
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > most {
            return;
        }
    }
}
