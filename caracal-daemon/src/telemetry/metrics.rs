//! `/metrics` (Prometheus text), `/healthz` and `/readyz` of a role, over plain HTTP on the address that is configured.
//! Tells numbers about the process and no name of an agent, a host or a model. Refuses what is no GET of one of the three.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long one may take over its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: u64,
}

impl Row {
    /// A value that only grows.
    pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Row {
        Row { name, kind: "counter", help, value }
    }

    /// A value that goes up and down.
    pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Row {
        Row { name, kind: "gauge", help, value }
    }
}

impl From<(&'static str, &'static str, &'static str, u64)> for Row {
    fn from((name, kind, help, value): (&'static str, &'static str, &'static str, u64)) -> Row {
        Row { name, kind, help, value }
    }
}

/// Serves on a thread of its own, until what it gives is notified.
///
/// # Errors
/// When the address cannot be taken, or the thread not be started.
pub(crate) fn serve(
    address: SocketAddr,
    rows: impl Fn() -> Vec<Row> + Send + Sync + 'static,
    ready: impl Fn() -> bool + Send + Sync + 'static,
) -> anyhow::Result<Arc<Notify>> {
    let listener =
        std::net::TcpListener::bind(address).map_err(|error| anyhow::anyhow!("metrics on {address}: {error}"))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = Arc::new(move |path: &str| answer(path, &rows, &ready));
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    std::thread::Builder::new().name("metrics".into()).spawn(move || {
        let served = async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            while let Ok(place) = Arc::clone(&room).acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let _place = place;
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let response = answer(request.uri().path());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = served.await;
                });
            }
        };
        runtime.block_on(async {
            tokio::select! {
                () = served => {}
                () = stopped.notified() => {}
            }
        });
    })?;
    Ok(stop)
}

fn answer(path: &str, rows: &impl Fn() -> Vec<Row>, ready: &impl Fn() -> bool) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" => (StatusCode::OK, text(&rows())),
        "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
        "/readyz" if ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for Row { name, kind, help, value } in rows {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let rows = [Row::counter("caracal_x_total", "What.", 7)];
        assert_eq!(text(&rows), "# HELP caracal_x_total What.\n# TYPE caracal_x_total counter\ncaracal_x_total 7\n");
        let status = |path, ready: bool| answer(path, &Vec::new, &|| ready).status().as_u16();
        assert_eq!((status("/readyz", true), status("/readyz", false), status("/healthz", false)), (200, 503, 200));
        assert_eq!((status("/metrics", false), status("/", true)), (200, 404));
    }
}
