//! Takes a ClientHello; gives the decrypted stream and the protocol agreed on.
//! Offers only the protocols that the upstream speaks. Refuses nothing itself: a refused host is told so inside HTTP.

use crate::clock::Clock;
use crate::keeper::{KeeperError, Signer};
use crate::tls::dial::Alpn;
use crate::tls::hello::Hello;
use crate::tls::leaf::Leaves;
use crate::tls::rewind::Rewind;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

/// The server side toward agents.
#[derive(Debug)]
pub struct Acceptor {
    leaves: Leaves,
    provider: Arc<rustls::crypto::CryptoProvider>,
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
    /// The TLS library refused our own settings.
    #[error("{0}")]
    Settings(rustls::Error),
}

impl Acceptor {
    /// An acceptor whose certificates `signer` signs.
    ///
    /// # Errors
    /// When no leaf key can be made.
    pub fn new(signer: Arc<dyn Signer>, clock: Clock) -> Result<Acceptor, KeeperError> {
        Ok(Acceptor {
            leaves: Leaves::new(signer, clock)?,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        })
    }

    /// Finishes the handshake as `name`.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept<S>(&self, hello: Hello<S>, name: &str, offer: Offer) -> Result<(TlsStream<Rewind<S>>, Alpn), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let certified = self.leaves.get(name).await?;
        let config = self.config(certified, offer).map_err(AcceptError::Settings)?;
        let stream = hello.into_handshake().into_stream(Arc::new(config)).await.map_err(AcceptError::Agent)?;
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Alpn::H2,
            _ => Alpn::Http1,
        };
        Ok((stream, alpn))
    }

    fn config(&self, certified: Arc<CertifiedKey>, offer: Offer) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Only(certified)));
        config.alpn_protocols = match offer {
            Offer::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Offer::Http1 => vec![b"http/1.1".to_vec()],
        };
        // A resumed handshake saves the server nothing, and a ticket would outlive the policy that the handshake met.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    #[cfg(test)]
    pub(crate) fn leaves(&self) -> usize {
        self.leaves.count()
    }
}

/// One certificate, whatever is asked for.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
