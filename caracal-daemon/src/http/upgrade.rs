//! Takes an accepted upgrade; copies bytes both ways from then on. Only for hosts without a price.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long both sides may take to hand their connection over.
const HAND_OVER: Duration = Duration::from_secs(10);
/// Bytes held per direction.
const BUFFER: usize = 16 * 1_024;

/// The request asks to leave HTTP/1 on this connection.
#[must_use]
pub fn is_asked<B>(request: &http::Request<B>) -> bool {
    request.version() == http::Version::HTTP_11 && request.headers().contains_key(http::header::UPGRADE)
}

/// Copies between the agent's and the upstream's connection, once both have left HTTP. Keeps `open` until the end.
pub fn splice(agent: OnUpgrade, upstream: OnUpgrade, open: impl Send + 'static) {
    tokio::spawn(async move {
        let _open = open;
        let both = async { tokio::try_join!(agent, upstream) };
        if let Ok(Ok((agent, upstream))) = tokio::time::timeout(HAND_OVER, both).await {
            copy(&mut TokioIo::new(agent), &mut TokioIo::new(upstream)).await;
        }
    });
}

/// Copies both ways until both have ended, or one has failed.
pub async fn copy<A, B>(one: &mut A, other: &mut B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) = tokio::io::copy_bidirectional_with_sizes(one, other, BUFFER, BUFFER).await {
        tracing::debug!(%error, "a spliced connection broke off");
    }
}
