//! A stream whose first bytes can be looked at and then read again.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Gives first what was read ahead, then what the stream gives; can keep a copy of what it gives.
#[derive(Debug)]
pub struct Rewind<S> {
    stream: S,
    ahead: Bytes,
    kept: Option<BytesMut>,
    most_kept: usize,
}

impl<S> Rewind<S> {
    /// Nothing read ahead yet.
    pub fn new(stream: S) -> Rewind<S> {
        Rewind { stream, ahead: Bytes::new(), kept: None, most_kept: 0 }
    }

    /// From now on keeps a copy of what is read, at most `most` bytes; more is an error.
    pub fn keep(&mut self, most: usize) {
        self.kept = Some(BytesMut::new());
        self.most_kept = most;
    }

    /// Ends keeping: the copy is dropped and what was read stays read.
    pub fn forget(&mut self) {
        self.kept = None;
    }

    /// Ends keeping: what was read is given again.
    pub fn rewind(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.extend_from_slice(&self.ahead);
            self.ahead = kept.freeze();
        }
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Rewind<S> {
    /// Reads until at least `least` bytes are ahead or the stream ends; gives what is ahead without taking it.
    ///
    /// # Errors
    /// The stream's.
    pub async fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        if self.ahead.len() < least {
            let mut buffer = BytesMut::with_capacity(least.max(4_096));
            buffer.extend_from_slice(&self.ahead);
            while buffer.len() < least {
                if self.stream.read_buf(&mut buffer).await? == 0 {
                    break;
                }
            }
            self.ahead = buffer.freeze();
        }
        Ok(&self.ahead)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(self.ahead.get(..count).unwrap_or_default());
            self.ahead.advance(count);
        }
        let most = self.most_kept;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(buffer.filled().get(before..).unwrap_or_default());
            if kept.len() > most {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the first message is too long")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
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
