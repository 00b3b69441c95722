//! The HTTP side: GET and HEAD, no body, no query. Everything has a bound: connections, their time, heads, and the bytes of answers
//! that somebody reads slowly. TLS and quotas for each client are a proxy's in front of it.

use super::counters::{Counters, Open};
use super::{File, Logs};
use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Connections at once.
const CONNECTIONS: usize = 512;
/// How long one may take over the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long one may be used, and how long its last answer may take then.
const LIFE: Duration = Duration::from_secs(120);
const LAST: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// KiB of answers that are not read to their end yet: four of the largest bundles, or some thousand usual ones.
const ANSWERS_KIB: usize = 64 << 10;
const ROOM: Duration = Duration::from_secs(10);
/// A file that never changes (RFC 8246).
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

/// Serves `logs` to whoever connects to `listener`, for ever; counts into `counters`.
pub async fn serve(listener: TcpListener, logs: Arc<Logs>, counters: Arc<Counters>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = Arc::new(Semaphore::new(ANSWERS_KIB));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (logs, answers, counters) = (Arc::clone(&logs), Arc::clone(&answers), Arc::clone(&counters));
        tokio::spawn(async move {
            let (_place, _open) = (place, Open::count(&counters));
            converse(stream, logs, answers, Arc::clone(&counters)).await;
        });
    }
}

async fn converse(stream: TcpStream, logs: Arc<Logs>, answers: Arc<Semaphore>, counters: Arc<Counters>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (logs, answers, counters) = (Arc::clone(&logs), Arc::clone(&answers), Arc::clone(&counters));
        async move { Ok::<_, Infallible>(answer(&request, &logs, answers, &counters).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST, connection).await;
    }
}

async fn answer(
    request: &Request<Incoming>,
    logs: &Logs,
    answers: Arc<Semaphore>,
    counters: &Counters,
) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        counters.unknown.fetch_add(1, Ordering::Relaxed);
        let mut refusal = say(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let path = request.uri().path().trim_start_matches('/');
    match path {
        "healthz" => return say(StatusCode::OK, "alive\n"),
        "readyz" if logs.is_ready().await => return say(StatusCode::OK, "ready\n"),
        "readyz" => return later("not ready\n"),
        _ => {}
    }
    let response = file(request, path, logs, answers).await;
    let counter = match response.status() {
        StatusCode::OK | StatusCode::NOT_MODIFIED => &counters.files,
        StatusCode::SERVICE_UNAVAILABLE => &counters.failures,
        _ => &counters.unknown,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    if response.status() == StatusCode::OK && request.method() == Method::GET {
        counters.bytes.fetch_add(response.body().size_hint().lower(), Ordering::Relaxed);
    }
    response
}

async fn file(request: &Request<Incoming>, path: &str, logs: &Logs, answers: Arc<Semaphore>) -> Response<Full<Bytes>> {
    let (file, bytes) = match logs.read(path).await {
        Ok(Some(found)) => found,
        Ok(None) => return say(StatusCode::NOT_FOUND, "there is no such file, or no checkpoint covers it yet\n"),
        Err(error) => {
            tracing::warn!(%error, path, "a file of the log cannot be given");
            return later("the ledger does not answer; come again\n");
        }
    };
    let kib = u32::try_from(bytes.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let Ok(Ok(held)) = timeout(ROOM, answers.acquire_many_owned(kib)).await else {
        return later("too many answers are on their way; come again\n");
    };
    give(request, file, Held { bytes, _room: held })
}

fn give(request: &Request<Incoming>, file: File, held: Held) -> Response<Full<Bytes>> {
    let (kind, caching) = match file {
        File::Checkpoint => ("text/plain; charset=utf-8", ASK_AGAIN),
        File::Tile { .. } | File::Bundle { .. } => ("application/octet-stream", FOR_EVER),
    };
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&held.bytes)[..16]));
    let asked = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let same = asked.is_some_and(|tags| tags.split(',').any(|one| [tag.as_str(), "*"].contains(&one.trim())));
    let (status, body) = match same {
        true => (StatusCode::NOT_MODIFIED, Bytes::new()),
        false => (StatusCode::OK, Bytes::from_owner(held)),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static(caching));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    // A log is there to be read by anybody, also by a page of somebody else's.
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    if let Ok(tag) = header::HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// An answer that is on its way, and the room that it takes until it is sent.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn later(why: &'static str) -> Response<Full<Bytes>> {
    let mut response = say(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

fn say(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static(ASK_AGAIN));
    response
}
