//! Takes a ClientHello; gives the decrypted stream and the protocol agreed on.
//! Offers only the protocols that the upstream speaks. Refuses nothing itself: a refused host is told so inside HTTP.

use crate::clock::Clock;
use crate::keeper::{KeeperError, Signer};
use crate::tls::dial::Alpn;
use crate::tls::hello::Hello;
use crate::tls::leaf::Leaves;
use crate::tls::rewind::Rewind;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

/// The server side toward agents.
#[derive(Debug)]
pub struct Acceptor {
    leaves: Leaves,
}

/// What is offered to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `h2`, then `http/1.1`.
    Both,
    /// `http/1.1`.
    Http1,
}

/// Why a handshake did not finish.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No certificate could be had.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The agent broke off, or sent nonsense.
    #[error("{0}")]
    Agent(std::io::Error),
}

impl Acceptor {
    /// An acceptor whose certificates `signer` signs.
    ///
    /// # Errors
    /// When no leaf key can be made.
    pub fn new(signer: Arc<dyn Signer>, clock: Clock) -> Result<Acceptor, KeeperError> {
        Ok(Acceptor { leaves: Leaves::new(signer, clock)? })
    }

    /// Finishes the handshake as `name`.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept<S>(
        &self,
        hello: Hello<S>,
        name: &str,
        offer: Offer,
    ) -> Result<(TlsStream<Rewind<S>>, Alpn), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let settings = self.leaves.get(name).await?;
        let stream = hello.into_handshake().into_stream(settings.of(offer)).await.map_err(AcceptError::Agent)?;
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Alpn::H2,
            _ => Alpn::Http1,
        };
        Ok((stream, alpn))
    }

    #[cfg(test)]
    pub(crate) fn leaves(&self) -> usize {
        self.leaves.count()
    }
}
