//! Requests that ask to leave HTTP, and connections that have left it. Which of them may is decided in `intercept`: where
//! requests cost money, only a socket whose messages are read.

use http::header::UPGRADE;
use http::{Method, Request, Version};
use http_body::Body;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a side may take to hand its connection over.
const HAND_OVER: Duration = Duration::from_secs(10);
/// Bytes held per direction.
const BUFFER: usize = 16 * 1_024;

/// The request asks to leave HTTP/1 on this connection, for something that is no HTTP: requests of another version of it
/// would reach the upstream without being decided.
#[must_use]
pub fn is_asked<B>(request: &Request<B>) -> bool {
    let mut names = request.headers().get_all(UPGRADE).iter().map(|value| value.to_str().unwrap_or("h2c"));
    let is_http = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        name.is_empty() || ["h2", "h3", "http", "tls"].iter().any(|http| name.starts_with(http))
    };
    request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && !names.any(|value| value.split(',').any(is_http))
}

/// The request is a WebSocket's handshake and nothing else (RFC 6455, 4.1): without a body, and with no other protocol to
/// choose. A server may ignore `Upgrade` and answer the request that it finds (RFC 9110, 7.8): this one asks for nothing.
#[must_use]
pub fn is_handshake<B: Body>(request: &Request<B>) -> bool {
    let mut names = request.headers().get_all(UPGRADE).iter();
    let alone = names.next().is_some_and(|name| name.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
        && names.next().is_none();
    alone && request.version() == Version::HTTP_11 && *request.method() == Method::GET && request.body().is_end_stream()
}

/// The connection, once its side has left HTTP.
pub async fn handed(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match tokio::time::timeout(HAND_OVER, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection was not handed over");
            None
        }
        Err(_) => None,
    }
}

/// Both connections, once both sides have left HTTP.
pub async fn both(agent: OnUpgrade, upstream: OnUpgrade) -> Option<(TokioIo<Upgraded>, TokioIo<Upgraded>)> {
    let (agent, upstream) = tokio::join!(handed(agent), handed(upstream));
    agent.zip(upstream)
}

/// Copies between the agent's and the upstream's connection, once both have left HTTP. Keeps `open` until the end.
pub fn splice(agent: OnUpgrade, upstream: OnUpgrade, open: impl Send + 'static) {
    tokio::spawn(async move {
        let _open = open;
        if let Some((mut agent, mut upstream)) = both(agent, upstream).await {
            copy(&mut agent, &mut upstream).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn request(method: &str, upgrades: &[&'static str], body: &'static str) -> Request<Full<&'static [u8]>> {
        let request = Request::builder().method(method).uri("/v1/responses");
        let request = upgrades.iter().fold(request, |request, name| request.header("Upgrade", *name));
        request.body(Full::new(body.as_bytes())).expect("request")
    }

    #[test]
    fn only_a_whole_handshake_is_one() {
        assert!(is_handshake(&request("GET", &["websocket"], "")));
        assert!(is_handshake(&request("GET", &["WebSocket"], "")));
        for (method, upgrades, body) in [
            ("POST", &["websocket"][..], ""),
            ("GET", &["websocket"], "{}"),
            ("GET", &["x"], ""),
            ("GET", &["websocket, x"], ""),
            ("GET", &["websocket", "x"], ""),
            ("GET", &[], ""),
        ] {
            assert!(!is_handshake(&request(method, upgrades, body)), "{method} {upgrades:?} {body:?}");
        }
    }

    #[test]
    fn another_http_is_never_asked_for() {
        for name in ["websocket", "tcp", "SPDY/3.1", "foo/2, bar"] {
            assert!(is_asked(&request("GET", &[name], "")), "{name}");
        }
        for name in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0", ""] {
            assert!(!is_asked(&request("GET", &[name], "")), "{name}");
        }
        assert!(!is_asked(&request("GET", &["websocket", "h2c"], "")));
        assert!(!is_asked(&request("GET", &[], "")));
    }
}
