//! Takes a CONNECT of an agent that was told to use a proxy; gives the tunnel, as a connection to the CONNECT's target.
//!
//! The proxy itself is never asked: what stands in the tunnel is judged like any other connection to that host, so a
//! refusal can be said inside its TLS, where the client prints it.

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// How long the connection may take to be handed over.
const HAND_OVER: Duration = Duration::from_secs(10);

/// The tunnel, once the 200 has gone out.
pub async fn tunnel(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match tokio::time::timeout(HAND_OVER, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a tunnel was not handed over");
            None
        }
        Err(_) => None,
    }
}
