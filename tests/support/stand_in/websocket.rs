//! A WebSocket echo (RFC 6455): what a client sends comes back as it was, extensions are not taken.

use super::deliver::{Out, full};
use anyhow::{Result, bail};
use base64::Engine as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Is this an upgrade to a WebSocket?
#[must_use]
pub fn asked(request: &Request<Incoming>) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Switches protocols and echoes.
#[must_use]
pub fn echo(request: Request<Incoming>) -> Response<Out> {
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
            let _ended = frames(TokioIo::new(upgraded)).await;
        }
    });
    response
}

async fn frames<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Result<()> {
    loop {
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
        // A ping (9) is answered with a pong (10); everything else comes back as it came.
        let kind = if first & 0x0f == 9 { (first & 0xf0) | 10 } else { first };
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
        stream.write_all(&payload).await?;
        stream.flush().await?;
        if first & 0x0f == 8 {
            return Ok(());
        }
    }
}
