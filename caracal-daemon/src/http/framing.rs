//! Takes the raw bytes of HTTP/1 from an agent; gives them on to the HTTP stack, one request at a time.
//! Refuses what two parsers could read differently: the stack behind is lenient, so a head is judged here before it sees it.
//!
//! A refused head never reaches the stack. In its place goes a request that only we can make (it carries a token that no
//! agent knows), so that the refusal is answered in HTTP and recorded like any other.

mod chunk;
mod scan;

use crate::refusal::{Reason, Refusal, Side, Stage};
use bytes::{Buf, BytesMut};
use chunk::Chunks;
use scan::Follows;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// The longest head, bytes.
pub const MOST_HEAD: usize = 64 * 1_024;
/// What is still read and dropped after a refused head, so that the answer is not overtaken by a reset.
const MOST_DISCARD: usize = 4 * 1_024 * 1_024;
/// Read at once.
const READ: usize = 8 * 1_024;

/// The header that marks a request of our own making.
const MARK: &str = "x-caracal-refused";

static TOKEN: LazyLock<String> = LazyLock::new(|| format!("{:032x}", rand::random::<u128>()));

/// What the reader and the service of one connection tell each other.
#[derive(Debug, Default)]
pub struct Wire {
    upgraded: AtomicBool,
    in_head: AtomicBool,
    refused: Mutex<Option<Refusal>>,
}

impl Wire {
    /// From now on the bytes are no longer HTTP: an upgrade was accepted, or a CONNECT.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// A head has begun and not ended.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.in_head.load(Ordering::Acquire)
    }

    /// The refusal that `headers` stand for, if they are of our own making.
    #[must_use]
    pub fn refusal(&self, headers: &http::HeaderMap) -> Option<Refusal> {
        let mark = headers.get(MARK)?;
        if mark.as_bytes() != TOKEN.as_bytes() {
            return None;
        }
        self.take_refusal()
    }

    /// A refusal that could not be answered: the body broke its framing after the head had gone on.
    #[must_use]
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, refusal: Refusal) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
    }
}

/// Where in the stream the next byte stands.
#[derive(Debug)]
enum Place {
    /// Before or in a head; the bytes of it that were searched already.
    Head(usize),
    /// In a body with this many bytes to go.
    Length(u64),
    /// In a chunked body.
    Chunked(Chunks),
    /// Behind a head that asked for an upgrade or a tunnel.
    Undecided,
    /// No longer HTTP.
    Raw,
    /// Behind a refused head; the bytes dropped so far.
    Refused(usize),
}

/// The stream, judged.
#[derive(Debug)]
pub struct Framed<S> {
    stream: S,
    wire: Arc<Wire>,
    place: Place,
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that are judged.
    judged: usize,
}

impl<S> Framed<S> {
    /// At the beginning of a connection.
    pub fn new(stream: S, wire: Arc<Wire>) -> Framed<S> {
        Framed { stream, wire, place: Place::Head(0), buffer: BytesMut::new(), judged: 0 }
    }

    /// Puts our own request in the place of the head, and of all that follows.
    fn refuse(&mut self, reason: Reason, why: &str) {
        self.wire.refuse(Refusal {
            stage: Stage::Http,
            side: Side::Agent,
            reason,
            sentence: format!("Caracal does not forward this request: {why}."),
            limit: None,
        });
        let mark = format!("GET / HTTP/1.1\r\nhost: refused\r\n{MARK}: {}\r\nconnection: close\r\n\r\n", *TOKEN);
        self.buffer.clear();
        self.buffer.extend_from_slice(mark.as_bytes());
        self.judged = self.buffer.len();
        self.place = Place::Refused(0);
    }

    /// Judges a head if all of it is there. `false`: more bytes are needed.
    fn judge_head(&mut self, mut searched: usize) -> bool {
        // Empty lines before a request are dropped (RFC 9112 2.2), also when their CR came in a segment of its own.
        while self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            searched = 0;
        }
        let found = scan::head(&self.buffer, searched);
        self.wire.in_head.store(matches!(found, Ok(None)) && !self.buffer.is_empty(), Ordering::Release);
        match found {
            // Also where all of it is here: the stack behind would refuse it, and tell nobody.
            Ok(Some((length, _))) if length > MOST_HEAD => {
                self.refuse(Reason::HeadInvalid, "its head is longer than 64 KB");
                true
            }
            Ok(Some((length, follows))) => {
                self.judged = length;
                self.place = match follows {
                    Follows::Length(length) => Place::Length(length),
                    Follows::Chunks => Place::Chunked(Chunks::default()),
                    Follows::Upgrade => Place::Undecided,
                };
                true
            }
            Ok(None) if self.buffer.len() > MOST_HEAD => {
                self.refuse(Reason::HeadInvalid, "its head is longer than 64 KB");
                true
            }
            Ok(None) => {
                self.place = Place::Head(self.buffer.len());
                false
            }
            Err(fault) => {
                self.refuse(fault.reason, fault.why);
                true
            }
        }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.judged.min(buffer.remaining());
        buffer.put_slice(self.buffer.get(..count).unwrap_or_default());
        self.buffer.advance(count);
        self.judged -= count;
    }
}

impl<S: AsyncRead + Unpin> Framed<S> {
    /// Reads into our own buffer; the number of bytes, 0 at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(READ);
        poll_read_buf(Pin::new(&mut self.stream), context, &mut self.buffer)
    }

    /// Reads straight into the asker's buffer; the number of bytes.
    fn poll_direct(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<u64>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(Ok((buffer.filled().len() - before) as u64))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.judged > 0 {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            match &mut this.place {
                Place::Head(searched) => {
                    let searched = *searched;
                    if this.buffer.len() > searched && this.judge_head(searched) {
                        continue;
                    }
                    if ready!(this.poll_fill(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Place::Length(0) => this.place = Place::Head(0),
                // Far from the body's end nothing needs to be looked at, and so nothing is copied.
                Place::Length(left) if this.buffer.is_empty() && *left >= buffer.remaining() as u64 => {
                    let left = *left;
                    let count = ready!(this.poll_direct(context, buffer))?;
                    this.place = Place::Length(left.saturating_sub(count));
                    return Poll::Ready(Ok(()));
                }
                Place::Length(_) if this.buffer.is_empty() => {
                    if ready!(this.poll_fill(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Place::Length(left) => {
                    this.judged = usize::try_from(*left).unwrap_or(usize::MAX).min(this.buffer.len());
                    *left -= this.judged as u64;
                }
                Place::Chunked(_) if this.buffer.is_empty() => {
                    if ready!(this.poll_fill(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Place::Chunked(chunks) => match chunks.read(&this.buffer) {
                    Ok((count, ended)) => {
                        this.judged = count;
                        if ended {
                            this.place = Place::Head(0);
                        }
                    }
                    Err(why) => {
                        this.wire.refuse(Refusal {
                            stage: Stage::Http,
                            side: Side::Agent,
                            reason: Reason::AmbiguousRequest,
                            sentence: format!("Caracal broke this request off: {why}."),
                            limit: None,
                        });
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                    }
                },
                Place::Undecided => {
                    if this.buffer.is_empty() && ready!(this.poll_fill(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    this.place = if this.wire.upgraded.load(Ordering::Acquire) { Place::Raw } else { Place::Head(0) };
                }
                Place::Raw if this.buffer.is_empty() => {
                    ready!(this.poll_direct(context, buffer))?;
                    return Poll::Ready(Ok(()));
                }
                Place::Raw => this.judged = this.buffer.len(),
                Place::Refused(dropped) => {
                    let dropped = *dropped;
                    this.buffer.clear();
                    let count = if dropped > MOST_DISCARD { 0 } else { ready!(this.poll_fill(context))? };
                    if count == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    this.place = Place::Refused(dropped + count);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn empty_lines_before_a_request_may_come_in_any_segments() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (first, second) in [("\r", "\n\r\n"), ("\r\n\r", "\n"), ("\r\n", "\r\n")] {
            let wire = Arc::new(Wire::default());
            let rest = [second.as_bytes(), request].concat();
            let stream = tokio::io::join(AsyncReadExt::chain(first.as_bytes(), rest.as_slice()), tokio::io::sink());
            let mut passed = Vec::new();
            Framed::new(stream, Arc::clone(&wire)).read_to_end(&mut passed).await.expect("read");
            assert_eq!((passed.as_slice(), wire.take_refusal()), (request.as_slice(), None), "{first:?} {second:?}");
        }
    }
}
