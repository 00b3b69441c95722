//! WebSockets (RFC 6455), extensions not taken: an echo, and OpenAI's responses in messages.

use super::World;
use super::deliver::{Out, full};
use anyhow::{Result, bail};
use base64::Engine as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Is this an upgrade to a WebSocket? Any other request with the header is answered as if it had none (RFC 9110, 7.8).
#[must_use]
pub fn asked(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Switches protocols; `work` has the socket from then on.
fn switch<W, F>(request: Request<Incoming>, work: W) -> Response<Out>
where
    W: FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let key =
        request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(digest.as_ref());
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(value) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let _ended = work(TokioIo::new(upgraded)).await;
        }
    });
    response
}

/// Echoes.
#[must_use]
pub fn echo(request: Request<Incoming>) -> Response<Out> {
    switch(request, |mut stream| async move {
        loop {
            let (first, payload) = frame(&mut stream).await?;
            // A ping (9) is answered with a pong (10); everything else comes back as it came.
            let kind = if first & 0x0f == 9 { (first & 0xf0) | 10 } else { first };
            send(&mut stream, kind, &payload).await?;
            if first & 0x0f == 8 {
                return Ok(());
            }
        }
    })
}

/// Responses: each `response.create` is answered with the events of its answer, a message each, and billed. The input of a
/// chain is that of each call before, and what was answered.
#[must_use]
pub fn responses(world: Arc<World>, request: Request<Incoming>) -> Response<Out> {
    let asked_for_extensions = request.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
    switch(request, move |mut stream| async move {
        world.log.write(&json!({"event": "socket", "extensions": asked_for_extensions}));
        let mut contexts: HashMap<String, u64> = HashMap::new();
        loop {
            let (first, payload) = frame(&mut stream).await?;
            if first & 0x0f != 1 {
                send(&mut stream, if first & 0x0f == 9 { (first & 0xf0) | 10 } else { first }, &payload).await?;
                if first & 0x0f == 8 {
                    return Ok(());
                }
                continue;
            }
            let message: Value = serde_json::from_slice(&payload)?;
            world.log.write(&json!({"event": "message", "type": message["type"], "cap": message["max_output_tokens"]}));
            if message["type"] != "response.create" {
                // There is nothing to cancel, and nothing else is known.
                let error = json!({"type": "error", "status": 400, "error": {"message": "no active response"}});
                send(&mut stream, 0x81, error.to_string().as_bytes()).await?;
                continue;
            }
            let before = message["previous_response_id"].as_str().and_then(|id| contexts.get(id)).copied();
            let bytes = payload.len() as u64 + before.unwrap_or(0);
            let Some(turn) = super::responses::turn(&world, &message, bytes) else {
                let error = json!({"type": "error", "status": 404, "error": {"message": "no such model"}});
                send(&mut stream, 0x81, error.to_string().as_bytes()).await?;
                continue;
            };
            contexts.insert(turn.id.clone(), bytes + 4 * turn.delivery.plan.tokens.output);
            let (fails, mut sent) = (turn.delivery.directive.error, 0);
            let mut stream_of = turn.delivery.messages(turn.events);
            while let Some(event) = stream_of.recv().await {
                let Ok(text) = event else { return Ok(()) };
                send(&mut stream, 0x81, text.as_bytes()).await?;
                sent += 1;
                if fails == Some(sent) {
                    let error = json!({"type": "error", "status": 500, "error": {"message": "in the middle"}});
                    send(&mut stream, 0x81, error.to_string().as_bytes()).await?;
                }
            }
        }
    })
}

/// A client's frame: its first byte, and its payload without the mask.
async fn frame<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => usize::from(stream.read_u16().await?),
        127 => usize::try_from(stream.read_u64().await?)?,
        short => usize::from(short),
    };
    if second & 0x80 == 0 || length > 16 << 20 {
        bail!("an unmasked or huge frame");
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok((first, payload))
}

/// A server's frame.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, kind: u8, payload: &[u8]) -> Result<()> {
    let length = payload.len();
    let mut head = vec![kind];
    match length {
        0..=125 => head.push(u8::try_from(length)?),
        126..=65_535 => {
            head.push(126);
            head.extend(u16::try_from(length)?.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend(u64::try_from(length)?.to_be_bytes());
        }
    }
    stream.write_all(&head).await?;
    stream.write_all(payload).await?;
    stream.flush().await?;
    Ok(())
}
