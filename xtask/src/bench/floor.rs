//! The floor: what a proxy costs that ends TLS on both sides, keeps upstream connections, and does nothing else.
//!
//! It decides nothing and writes nothing. Every other peer is measured against it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::crypto;

/// Idle upstream connections that are kept at most.
const KEPT: usize = 512;

/// Where the floor listens and where it forwards to.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Address for HTTPS.
    #[arg(long)]
    listen: SocketAddr,
    /// Directory with leaf.pem and leaf.key.
    #[arg(long)]
    identity: PathBuf,
    /// The provider's address.
    #[arg(long)]
    upstream: SocketAddr,
    /// The provider's authority.
    #[arg(long)]
    trust: PathBuf,
}

type Sender = client::SendRequest<Incoming>;

/// Upstream connections, newest first: the ones that are surely alive.
struct Upstream {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    idle: Mutex<Vec<Sender>>,
}

/// Serves until it is killed. Prints `ready` when it listens.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let acceptor = TlsAcceptor::from(crypto::server(&arguments.identity)?);
    let upstream = Arc::new(Upstream {
        address: arguments.upstream,
        name: ServerName::try_from(crypto::HOST)?,
        tls: TlsConnector::from(crypto::client(&arguments.trust)?),
        idle: Mutex::new(Vec::new()),
    });
    let listener = TcpListener::bind(arguments.listen).await.context("the floor cannot listen")?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(acceptor.clone(), stream, Arc::clone(&upstream)));
    }
}

/// One connection. Its end, good or bad, is seen by the load.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, upstream: Arc<Upstream>) {
    if let Ok(tls) = acceptor.accept(stream).await {
        let service = service_fn(move |request| forward(Arc::clone(&upstream), request));
        drop(server::Builder::new().serve_connection(TokioIo::new(tls), service).await);
    }
}

async fn forward(upstream: Arc<Upstream>, request: Request<Incoming>) -> Result<Response<Lent>> {
    let mut sender = upstream.sender().await?;
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Lent { body, lent: Some((sender, upstream)) }))
}

impl Upstream {
    async fn sender(&self) -> Result<Sender> {
        while let Some(mut sender) = self.pop() {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        self.dial().await
    }

    fn pop(&self) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn push(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(sender);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the benchmark's own proxy: nothing here is governed")]
    async fn dial(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let tls = self.tls.connect(self.name.clone(), stream).await?;
        let (sender, connection) = client::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// An answer's body that gives its connection back when it has ended.
struct Lent {
    body: Incoming,
    lent: Option<(Sender, Arc<Upstream>)>,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let ended = matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        if ended && let Some((sender, upstream)) = self.lent.take() {
            upstream.push(sender);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
