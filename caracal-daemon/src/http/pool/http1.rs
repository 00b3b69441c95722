//! An HTTP/1 connection to an upstream. It has no task of its own: whoever waits for its answer drives it, so that no other
//! thread is woken for a request, nor for each piece of its answer, and all that has come is there at once.
//!
//! It gets a task where its driver may be waiting for something else: while a request's body streams up, and once it has
//! left HTTP.

use crate::http::body::Upload;
use crate::http::pool::together::Together;
use crate::http::pool::{MOST_ANSWER_HEAD, TrySend};
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite};

/// What reads and writes a connection. `None`: a task does, or it has ended.
type Driver = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// A connection and what drives it.
pub(super) struct Http1 {
    sender: SendRequest<Upload>,
    driver: Driver,
    together: Together,
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Http1 {
    /// Begins HTTP on a stream.
    ///
    /// # Errors
    /// hyper's.
    pub(super) async fn begin<S>(stream: S) -> Result<Http1, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = Builder::new()
            .preserve_header_case(true)
            .max_header_size(MOST_ANSWER_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // Its error reaches whoever waits for an answer.
        let driver = async move { drop(connection.with_upgrades().await) };
        Ok(Http1 { sender, driver: Some(Box::pin(driver)), together: Together::default() })
    }

    /// Sends a request; gives the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, TrySend> {
        if matches!(request.body(), Upload::Stream(body) if !body.is_end_stream()) {
            // An agent may send all of it before it reads an answer that is longer than what is held here.
            self.detach();
        }
        let (driver, together) = (&mut self.driver, &self.together);
        let mut answer = pin!(self.sender.try_send_request(request));
        let answer = poll_fn(|context| {
            together.poll(context, |context| answer.as_mut().poll(context), |context| drive(driver, context))
        });
        let answer = answer.await.map_err(TrySend::from)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.detach();
        }
        Ok(answer)
    }

    /// Polls `wait` for what comes over the connection, which is read and written meanwhile.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        wait: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.together.poll(context, wait, |context| drive(&mut self.driver, context))
    }

    /// Whether it has no task of its own.
    pub(super) fn is_driven(&self) -> bool {
        self.driver.is_some()
    }

    /// Gives it a task of its own.
    fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(driver);
        }
    }

    /// Whether it takes a request now. Looks whether the upstream has closed it, and forgets who drove it.
    pub(super) fn is_ready(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until it takes a request.
    ///
    /// # Errors
    /// When it is closed.
    pub(super) async fn ready(&mut self) -> Result<(), hyper::Error> {
        let (driver, sender) = (&mut self.driver, &mut self.sender);
        let together = &self.together;
        poll_fn(|context| {
            together.poll(context, |context| sender.poll_ready(context), |context| drive(driver, context))
        })
        .await
    }

    /// Lets an idle connection end as its protocol wants it, which it does once nobody can send on it.
    pub(super) fn close(mut self) {
        self.detach();
    }
}

fn drive(driver: &mut Driver, context: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
        *driver = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";

    fn asked() -> Request<Upload> {
        let mut request = Request::new(Upload::Whole(Some(Bytes::from_static(b"now?"))));
        request.headers_mut().insert("content-length", http::HeaderValue::from_static("4"));
        request
    }

    /// Reads one request of [`asked`].
    async fn read(upstream: &mut DuplexStream) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"now?") {
            let mut byte = [0; 1];
            upstream.read_exact(&mut byte).await.expect("a byte");
            seen.extend(byte);
        }
    }

    #[tokio::test]
    async fn whoever_waits_drives_it_and_nobody_else() {
        let (near, mut upstream) = duplex(16);
        let mut connection = Http1::begin(near).await.expect("a connection");
        for _ in 0..2 {
            let answering = async {
                read(&mut upstream).await;
                upstream.write_all(ANSWER).await.expect("it is read");
            };
            let ((), answer) = tokio::join!(answering, connection.send(asked()));
            let mut body = answer.ok().expect("an answer").into_body();
            let mut whole = Vec::new();
            while let Some(bytes) = next(&mut connection, &mut body).await {
                whole.extend_from_slice(&bytes);
            }
            assert_eq!(whole, b"yes");
            assert!(connection.is_ready(), "it takes the next request");
            assert!(connection.is_driven());
        }
    }

    /// The next bytes of `body`.
    async fn next(connection: &mut Http1, body: &mut Incoming) -> Option<Bytes> {
        poll_fn(|context| connection.poll(context, |context| Pin::new(&mut *body).poll_frame(context)))
            .await
            .map(|frame| frame.expect("no error").into_data().expect("bytes"))
    }

    #[tokio::test]
    async fn one_that_its_upstream_has_closed_is_not_ready() {
        let (near, upstream) = duplex(1_024);
        let mut connection = Http1::begin(near).await.expect("a connection");
        assert!(connection.ready().await.is_ok() && connection.is_ready());
        drop(upstream);
        assert!(!connection.is_ready() && connection.is_closed());
        let Err(TrySend { message, .. }) = connection.send(asked()).await else { panic!("it is closed") };
        assert!(message.is_some(), "not a byte of it went out");
    }

    #[tokio::test]
    async fn closed_while_idle_it_says_goodbye() {
        let (near, mut upstream) = duplex(1_024);
        let mut connection = Http1::begin(near).await.expect("a connection");
        assert!(connection.ready().await.is_ok());
        connection.close();
        assert_eq!(upstream.read(&mut [0; 1]).await.expect("an end"), 0);
    }
}
