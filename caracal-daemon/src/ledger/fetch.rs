//! Reads a log's files over HTTP, one after the other on one connection, dialled like everything else (`tls/dial.rs`). Takes a
//! path; gives bounded bytes. Follows no redirect: a log is where its operator says.

use super::files::FilesError;
use crate::tls::dial::{Dialer, Route, Wanted};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// How long a file may take.
const PATIENCE: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("caracald/", env!("CARGO_PKG_VERSION"));

/// A log's address, and a connection to it.
pub struct Fetch {
    dialer: Dialer,
    base: String,
    host: String,
    port: u16,
    tls: bool,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Fetch").field("base", &self.base).finish_non_exhaustive()
    }
}

/// What went wrong, and whether a new connection may mend it.
struct Failed {
    why: String,
    again: bool,
}

impl Fetch {
    /// For the log below `base`, such as `https://log.example/caracal`. Nothing is sent yet.
    ///
    /// # Errors
    /// When it is no such address.
    pub fn new(dialer: Dialer, base: &str) -> Result<Fetch, FilesError> {
        let wrong = || FilesError::Address(base.to_owned());
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|_| uri.query().is_none() && !base.contains('@')).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Fetch { dialer, base: base.trim_end_matches('/').to_owned(), host, port, tls, sender: None })
    }

    /// The bytes at `path`; `None` if there are none, or more than `most`.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with anything but the file or that there is none.
    pub async fn get(&mut self, path: &str, most: usize) -> Result<Option<Vec<u8>>, FilesError> {
        let url = format!("{}/{path}", self.base);
        // A server may close a connection between two requests at any time.
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = timeout(PATIENCE, self.ask(&url, most)).await;
            let failed = match answer {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(failed)) => failed,
                Err(_) => Failed { why: format!("no answer within {} s", PATIENCE.as_secs()), again: false },
            };
            self.sender = None;
            if !failed.again || tries == 3 {
                return Err(FilesError::Http { url, why: failed.why });
            }
        }
    }

    async fn ask(&mut self, url: &str, most: usize) -> Result<Option<Vec<u8>>, Failed> {
        let stop = |why: String| Failed { why, again: false };
        let uri: Uri = url.parse().map_err(|error| stop(format!("{error}")))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(target)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, AGENT)
            .body(Empty::new())
            .map_err(|error| stop(error.to_string()))?;
        let lost = |error: hyper::Error| Failed { why: error.to_string(), again: true };
        let sender = self.sender().await?;
        sender.ready().await.map_err(lost)?;
        let answer = sender.send_request(request).await.map_err(lost)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                // Read, so that the connection can be used again.
                let read = Limited::new(answer.into_body(), 64 << 10).collect().await;
                if read.is_err() {
                    self.sender = None;
                }
                return Ok(None);
            }
            other => return Err(stop(format!("the server answered {other}"))),
        }
        match Limited::new(answer.into_body(), most).collect().await {
            Ok(body) => Ok(Some(body.to_bytes().to_vec())),
            Err(error) if error.is::<LengthLimitError>() => {
                self.sender = None;
                Ok(None)
            }
            Err(error) => Err(Failed { why: error.to_string(), again: true }),
        }
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Empty<Bytes>>, Failed> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(self.connect().await?);
        }
        self.sender.as_mut().ok_or_else(|| Failed { why: "no connection".into(), again: true })
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Failed> {
        // Whoever audits names the log, on whatever network it is.
        let route = Route { host: &self.host, port: self.port, private: true, netns: None, first: None };
        let refused = |refusal: crate::refusal::Refusal| Failed { why: refusal.sentence, again: false };
        if self.tls {
            let (stream, _) = self.dialer.tls(route, Wanted::Http1).await.map_err(refused)?;
            handshake(stream).await
        } else {
            handshake(self.dialer.tcp(route).await.map_err(refused)?).await
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let made = Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| Failed { why: error.to_string(), again: true })?;
    // Its error reaches whoever waits for an answer.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}
