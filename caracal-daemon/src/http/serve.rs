//! Takes a stream and the protocol agreed on; runs HTTP on it and asks a service for each answer.

use crate::http::body::BodyError;
use crate::http::framing::{self, Framed, Wire};
use crate::tls::dial::Alpn;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;
/// Receive window of one HTTP/2 stream, bytes.
const STREAM_WINDOW: u32 = 256 * 1_024;
/// Receive window of one HTTP/2 connection, bytes.
const CONNECTION_WINDOW: u32 = 1_024 * 1_024;
/// Bytes of an answer that are held for one slow HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1_024;

/// Serves one connection to its end; once `leaving` turns true, to the end of the requests that it has. An HTTP/1 connection may
/// wait `head_time` for its next whole head.
///
/// # Errors
/// The connection's.
pub async fn serve<S, F, Fut, B>(
    stream: S,
    (alpn, head_time): (Alpn, Duration),
    wire: Arc<Wire>,
    mut leaving: watch::Receiver<bool>,
    service: F,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = BodyError> + Send + 'static,
{
    let (begun, mut has_begun) = watch::channel(false);
    let service = service_fn(move |request| {
        begun.send_replace(true);
        service(request).map(Ok::<_, Infallible>)
    });
    // A connection that has brought no request yet is owed an answer to its first: closed now, it would have failed.
    let ends = async move {
        let _ = leaving.wait_for(|leaving| *leaving).await;
        let _ = has_begun.wait_for(|begun| *begun).await;
    };
    match alpn {
        Alpn::Http1 => {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head_time)
                .preserve_header_case(true)
                .auto_date_header(false)
                .max_header_size(framing::MOST_HEAD + 1)
                .half_close(false)
                .serve_connection(TokioIo::new(Framed::new(stream, wire)), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = &mut connection => return ended,
                () = ends => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
        Alpn::H2 => {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MOST_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::try_from(framing::MOST_HEAD).unwrap_or(u32::MAX))
                .max_send_buf_size(SEND_BUFFER)
                .auto_date_header(false)
                .keep_alive_interval(Duration::from_secs(60))
                .keep_alive_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = &mut connection => return ended,
                () = ends => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}
