//! The door for fuzzing: one function for each parser that reads bytes which somebody else chose.
//! Takes any bytes; gives nothing. Panics when the parser does, or when what it says of the bytes does not hold.
//!
//! Compiled for tests and for cargo-fuzz (`tests/fuzz`) and for nothing else, so the shipped binary has no such door. The
//! unit tests beside this file run the same functions over the same seeds, so that every run of the tests tries them.

mod connection;
mod evidence;
mod log;
mod paid;
mod providers;
mod settings;
mod socket;
mod streams;
#[cfg(test)]
mod tests;

pub use connection::{client_hello, dns_query, first_bytes, http_target, http1_stream, proxy_answer};
pub use evidence::{checkpoint, frame, journal_segment, kernel_denial, receipt, record};
pub use log::{bus_message, key_history, log_path};
pub use paid::{paid_request, usage_answer};
pub use providers::{provider_answer, provider_request, tool_call};
pub use settings::{config, policy_table, price_book, provider_export};
pub use socket::socket_messages;
pub use streams::tool_stream;

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Runs a future that has nothing to wait for.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits, and nobody will wake it"),
    }
}

/// A peer that sends these bytes in pieces of at most `piece` and takes whatever it is sent.
#[derive(Debug)]
struct Script<'a> {
    left: &'a [u8],
    piece: usize,
}

impl<'a> Script<'a> {
    fn new(bytes: &'a [u8], piece: usize) -> Script<'a> {
        Script { left: bytes, piece: piece.max(1) }
    }
}

impl AsyncRead for Script<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let count = self.piece.min(buffer.remaining()).min(self.left.len());
        let (now, later) = self.left.split_at(count);
        buffer.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first byte of `bytes`, which chooses a variant, and the rest.
fn choice(bytes: &[u8]) -> (usize, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (usize::from(*first), rest))
}
