//! Hosts that cost nothing, and the shapes of HTTP that a proxy may break.
//!
//! | path | answer |
//! |---|---|
//! | `/hello` | a greeting |
//! | `/echo` | the request's body, as it streams in |
//! | `/hash` | length and SHA-256 of the request's body |
//! | `/headers` | the request's headers |
//! | `/bytes/N` | N bytes, the same each time |
//! | `/gzip`, `/br`, `/zstd` | the same text, encoded |
//! | `/trailers` | a body with trailers |
//! | `/sse/N` | N events |
//! | `/wait/NAME`, `/go/NAME` | one event, and a second only after `/go/NAME` was asked: a proxy that buffers hangs |
//! | `/held/NAME` | as `/hash`, of a body that is read only after `/go/NAME` was asked |
//! | `/status/N` | that status |

use super::deliver::{Out, answer, flow, full};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Component, Path};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio::sync::Notify;

static GATES: LazyLock<Mutex<HashMap<String, Arc<Notify>>>> = LazyLock::new(Mutex::default);

/// What `/go/NAME` opens.
#[must_use]
pub fn gate(name: &str) -> Arc<Notify> {
    let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(gates.entry(name.to_owned()).or_default())
}

/// Answers for any host.
pub async fn answer_for(request: Request<Incoming>) -> Response<Out> {
    let head = request.method() == Method::HEAD;
    let mut response = page(request).await;
    if head {
        // The length of what a GET would give, and not a byte of it: HTTP/1 cuts it off by itself, HTTP/2 does not.
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = full("");
    }
    response
}

async fn page(request: Request<Incoming>) -> Response<Out> {
    let path = request.uri().path().to_owned();
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = rest.parse::<usize>().unwrap_or(0);
    match first {
        "" | "hello" => with(full("hello from the stand-in\n"), "text/plain"),
        "echo" => echo(request),
        "hash" => hash(request).await,
        "held" => {
            gate(rest).notified().await;
            hash(request).await
        }
        "headers" => answer(200, &json!(pairs(request.headers()))),
        "bytes" => bytes(number),
        "gzip" | "br" | "zstd" => encoded(first),
        "trailers" => trailers(),
        "sse" => events(number),
        "wait" => wait(rest),
        "go" => {
            gate(rest).notify_one();
            with(full("gone\n"), "text/plain")
        }
        "status" => {
            // Neither has a body (RFC 9110, 15.3.5 and 15.4.5).
            let body = if matches!(number, 204 | 304) { "" } else { "as asked\n" };
            let mut response = with(full(body), "text/plain");
            *response.status_mut() = u16::try_from(number)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .unwrap_or(StatusCode::BAD_REQUEST);
            response
        }
        _ => answer(404, &json!({"error": "no such page at the stand-in"})),
    }
}

/// The file `host/path` below `sites`, or the index of that directory.
#[must_use]
pub fn file(sites: &Path, host: &str, path: &str) -> Option<Response<Out>> {
    let below = Path::new(host).join(path.trim_start_matches('/'));
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let place = sites.join(below);
    let indices = ["index.html", "index.json"].map(|name| place.join(name));
    let found = std::iter::once(place).chain(indices).find(|place| place.is_file())?;
    let kind = match found.extension().and_then(OsStr::to_str) {
        Some("html") => "text/html",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    Some(with(full(std::fs::read(found).ok()?), kind))
}

/// Header names and values in the order in which they came.
#[must_use]
pub fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

fn with(body: Out, kind: &'static str) -> Response<Out> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn echo(request: Request<Incoming>) -> Response<Out> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().map_err(std::io::Error::other).boxed());
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

async fn hash(request: Request<Incoming>) -> Response<Out> {
    let mut body = request.into_body();
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return answer(400, &json!({"error": "the body broke off"})) };
        if let Some(data) = frame.data_ref() {
            context.update(data);
            length += data.len();
        }
    }
    let hex: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    answer(200, &json!({"length": length, "sha256": hex}))
}

/// Byte `n` of every `/bytes` body.
#[must_use]
pub fn byte(n: usize) -> u8 {
    u8::try_from((n ^ (n >> 8)) & 0xff).unwrap_or(0)
}

fn bytes(length: usize) -> Response<Out> {
    /// After which they begin anew.
    const PIECE: usize = 64 << 10;
    let (feed, body) = flow();
    tokio::spawn(async move {
        let piece: Bytes = (0..PIECE).map(byte).collect();
        let mut left = length;
        while left > 0 {
            let next = piece.slice(..left.min(PIECE));
            left -= next.len();
            if feed.send(Ok(Frame::data(next))).await.is_err() {
                return;
            }
        }
    });
    let mut response = with(body, "application/octet-stream");
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// What the encoded pages say.
#[must_use]
pub fn text() -> String {
    (0..200).map(|n| format!("line {n} of a text that compresses well\n")).collect()
}

fn encoded(encoding: &str) -> Response<Out> {
    let text = text();
    let packed = match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish())
        }
        "zstd" => zstd::encode_all(text.as_bytes(), 3),
        _ => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4_096, 5, 22);
            encoder.write_all(text.as_bytes()).map(|()| encoder.into_inner())
        }
    };
    let Ok(packed) = packed else { return answer(500, &json!({"error": "cannot encode"})) };
    let mut response = with(full(packed), "text/plain");
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap_or(HeaderValue::from_static("gzip")));
    response
}

fn trailers() -> Response<Out> {
    let (feed, body) = flow();
    tokio::spawn(async move {
        let _gone = feed.send(Ok(Frame::data(Bytes::from_static(b"a body with trailers\n")))).await;
        let mut trailers = HeaderMap::new();
        trailers.insert(HeaderName::from_static("x-checksum"), HeaderValue::from_static("c0ffee"));
        trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        let _gone = feed.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response = with(body, "text/plain");
    // HTTP/1.1 sends only the trailers that were announced.
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum, grpc-status"));
    response
}

fn events(count: usize) -> Response<Out> {
    let (feed, body) = flow();
    tokio::spawn(async move {
        for n in 0..count {
            let event = format!("event: tick\nid: {n}\ndata: tick {n}\n\n");
            if feed.send(Ok(Frame::data(Bytes::from(event)))).await.is_err() {
                return;
            }
        }
    });
    with(body, "text/event-stream")
}

fn wait(name: &str) -> Response<Out> {
    let gate = gate(name);
    let (feed, body) = flow();
    tokio::spawn(async move {
        let _gone = feed.send(Ok(Frame::data(Bytes::from_static(b"data: first\n\n")))).await;
        gate.notified().await;
        let _gone = feed.send(Ok(Frame::data(Bytes::from_static(b"data: second\n\n")))).await;
    });
    with(body, "text/event-stream")
}
