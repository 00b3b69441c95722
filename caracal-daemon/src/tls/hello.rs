//! Takes a stream that begins with TLS; gives the whole ClientHello, however many segments and records it spans.
//! Refuses one that is longer than [`MOST_HELLO`], malformed, or not there in time.

use crate::tls::rewind::Rewind;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// The longest ClientHello that is read, bytes with record headers. With ML-KEM they are 1.7 KB.
pub const MOST_HELLO: usize = 32 * 1_024;

/// A ClientHello that was read, and the stream it came from.
pub struct Hello<S> {
    start: StartHandshake<Rewind<S>>,
    /// The server name, lower case; `None` when the agent gave none.
    pub name: Option<String>,
    /// The protocols that the agent offers; `None` when it sent no such list.
    pub alpn: Option<Offered>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Hello<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello").field("name", &self.name).field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

/// Which of the protocols that we can speak the agent offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// `h2`.
    pub h2: bool,
    /// `http/1.1`.
    pub http1: bool,
}

/// Reads the ClientHello. The bytes are kept until it is decided who reads them.
///
/// # Errors
/// The stream's, and those of a malformed message; the alert for it has been sent.
pub async fn read<S>(mut stream: Rewind<S>) -> io::Result<Hello<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.keep(MOST_HELLO);
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    let alpn = hello.alpn().map(|protocols| {
        let mut offered = Offered::default();
        for protocol in protocols {
            offered.h2 |= protocol == b"h2";
            offered.http1 |= protocol == b"http/1.1";
        }
        offered
    });
    Ok(Hello { start, name, alpn })
}

impl<S> Hello<S> {
    /// The stream as if nothing had been read: for TLS that passes through.
    pub fn into_stream(self) -> Rewind<S> {
        let mut stream = self.start.io;
        stream.rewind();
        stream
    }

    /// The handshake, ready to go on.
    pub(crate) fn into_handshake(self) -> StartHandshake<Rewind<S>> {
        let mut start = self.start;
        start.io.forget();
        start
    }
}
