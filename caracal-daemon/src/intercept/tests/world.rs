//! A whole data path on loopback: an upstream under a root of its own, the stack, and agents that connect to it.

use super::fixture::{self, Seen, Stages};
use crate::capture::Captured;
use crate::clock::Clock;
use crate::dns::resolve::Resolver;
use crate::http::pool::Pool;
use crate::intercept::{Limits, Parts, Stack, intercept};
use crate::keeper::authority::Authority;
use crate::keeper::{KeeperError, Signer};
use crate::telemetry::Telemetry;
use crate::tls::accept::Acceptor;
use crate::tls::dial::{Dialer, Settings};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The authority as the data path sees it.
#[derive(Debug)]
pub(crate) struct LocalSigner(pub(crate) Authority);

impl Signer for LocalSigner {
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        self.0.issue_leaf(name, spki)
    }

    fn sign_checkpoint(&self, _size: u64, _root: [u8; 32], _proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        Err(KeeperError::Gone("not in this test".to_owned()))
    }

    fn sign_chain_head(&self, _sequence: u64, _leaf_hash: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Gone("not in this test".to_owned()))
    }

    fn prove_chain_head(&self, _known: u64, _records: &[&[u8]]) -> Result<(), KeeperError> {
        Err(KeeperError::Gone("not in this test".to_owned()))
    }
}

/// A request's line and headers.
pub(crate) type Head = (String, Vec<(String, String)>);

/// What the upstream saw.
#[derive(Debug, Default)]
pub(crate) struct UpstreamLog {
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Raw heads of HTTP/1 requests cannot be seen behind hyper; the headers in order can.
    pub(crate) heads: Mutex<Vec<Head>>,
    /// Lets a paced answer go on, once each time: what is said early is not lost.
    pub(crate) go_on: Steps,
    /// Told when a paced answer has been written to its end.
    pub(crate) ended: Notify,
}

/// Steps that one side grants and the other takes.
#[derive(Debug)]
pub(crate) struct Steps(Semaphore);

impl Default for Steps {
    fn default() -> Steps {
        Steps(Semaphore::new(0))
    }
}

impl Steps {
    pub(crate) fn grant(&self) {
        self.0.add_permits(1);
    }

    async fn taken(&self) {
        self.0.acquire().await.expect("never closed").forget();
    }
}

pub(crate) struct World {
    pub(crate) stack: Arc<Stack>,
    pub(crate) stages: Stages,
    pub(crate) upstream: SocketAddr,
    pub(crate) log: Arc<UpstreamLog>,
    pub(crate) telemetry: Arc<Telemetry>,
    ca: CertificateDer<'static>,
    upstream_root: CertificateDer<'static>,
    _directory: tempfile::TempDir,
}

/// What the upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Both,
    Http1,
    Clear,
}

impl World {
    pub(crate) async fn new(speaks: Speaks) -> World {
        World::with(speaks, Limits::default(), false).await
    }

    /// One in which nothing can be recorded.
    pub(crate) async fn without_journal(speaks: Speaks) -> World {
        World::with(speaks, Limits::default(), true).await
    }

    pub(crate) async fn with(speaks: Speaks, limits: Limits, broken: bool) -> World {
        let directory = tempfile::tempdir().expect("directory");
        let clock = Clock::system();
        let log = Arc::new(UpstreamLog::default());
        let (upstream, upstream_root) = start_upstream(speaks, log.clone()).await;
        let stages = Stages::new(directory.path(), &clock, broken);
        let authority = Authority::open(&directory.path().join("ca"), clock.clone()).expect("authority");
        let ca = authority.certificate().clone();
        let loopback = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let names = ["a.test", "b.test", "denied.test", "public.test", "pass.test", "api.openai.com"];
        let names: HashMap<String, Vec<IpAddr>> =
            names.iter().map(|name| ((*name).to_owned(), loopback.clone())).collect();
        let more = ("tcp.example".to_owned(), [7, 8].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))).to_vec());
        let resolver = Arc::new(Resolver::fixed(names.into_iter().chain([more]).collect()));
        let settings = Settings { roots: vec![upstream_root.clone()], ..Settings::default() };
        let dialer = Arc::new(Dialer::new(settings, resolver.clone()).expect("dialer"));
        let telemetry = Arc::new(Telemetry::default());
        let stack = Stack::new(Parts {
            clock: clock.clone(),
            policy: stages.policy.clone(),
            meter: stages.meter.clone(),
            budgets: stages.budgets.clone(),
            rates: stages.rates.clone(),
            journal: stages.journal.clone(),
            resolver,
            pool: Pool::new(dialer, clock.clone()),
            acceptor: Acceptor::new(Arc::new(LocalSigner(authority)), clock).expect("acceptor"),
            telemetry: telemetry.clone(),
            limits,
            netns: 1,
        });
        World { stack, stages, upstream, log, telemetry, ca, upstream_root, _directory: directory }
    }

    /// A socket of an agent that connected to `original`, captured.
    #[expect(clippy::disallowed_methods, reason = "a test's own socket on loopback")]
    pub(crate) async fn connect_as(&self, agent: &str, original: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
        let captured = Captured {
            stream: accepted.expect("accepted").0,
            original,
            agent: fixture::agent(agent),
            process: fixture::process(),
        };
        tokio::spawn(intercept(self.stack.clone(), captured));
        let client = client.expect("connected");
        client.set_nodelay(true).expect("nodelay");
        client
    }

    /// A socket that wanted to reach the upstream's port at a public address.
    pub(crate) async fn connect(&self) -> TcpStream {
        self.connect_as("rich", SocketAddr::new(IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)), self.upstream.port())).await
    }

    /// TLS over it, trusting the local CA.
    pub(crate) async fn tls(&self, name: &str, alpn: &[&str]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = self.connect().await;
        self.tls_over(stream, name, alpn).await
    }

    /// The same for another agent, speaking HTTP/1.
    pub(crate) async fn tls_as(&self, agent: &str, name: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        let original = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)), self.upstream.port());
        let stream = self.connect_as(agent, original).await;
        self.tls_over(stream, name, &["http/1.1"]).await
    }

    pub(crate) async fn tls_over<S>(&self, stream: S, name: &str, alpn: &[&str]) -> tokio_rustls::client::TlsStream<S>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let config = client_config(&self.ca, alpn);
        let name = ServerName::try_from(name.to_owned()).expect("name");
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("handshake")
    }

    /// An HTTP/1 client over TLS to `name`.
    pub(crate) async fn http1(&self, name: &str) -> Client {
        http1_over(self.tls(name, &["http/1.1"]).await).await
    }

    /// An HTTP/2 client over TLS to `name`.
    pub(crate) async fn http2(&self, name: &str) -> hyper::client::conn::http2::SendRequest<Body> {
        let stream = self.tls(name, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .expect("h2");
        tokio::spawn(connection);
        sender
    }

    /// The records, once they are as `done` wants them.
    pub(crate) async fn records(&self, done: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        for _ in 0..6_000 {
            let records = self.stages.records();
            if done(&records) {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the records did not become as expected: {:#?}", self.stages.records());
    }

    /// The root that the upstream's certificates stand under: what an agent trusts when nobody is in between.
    pub(crate) fn upstream_root(&self) -> &CertificateDer<'static> {
        &self.upstream_root
    }
}

/// An HTTP/1 client that waits until its connection is free.
pub(crate) struct Client(hyper::client::conn::http1::SendRequest<Body>);

impl Client {
    pub(crate) async fn send_request(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }
}

pub(crate) async fn http1_over<S>(stream: S) -> Client
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .expect("h1");
    tokio::spawn(connection.with_upgrades());
    Client(sender)
}

pub(crate) fn client_config(root: &CertificateDer<'static>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A port of loopback that refuses, and what keeps others from listening on it meanwhile.
pub(crate) fn port_without_listener() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let port = socket.local_addr().expect("address").port();
    (socket, port)
}

async fn start_upstream(speaks: Speaks, log: Arc<UpstreamLog>) -> (SocketAddr, CertificateDer<'static>) {
    let ca_key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&ca_key).expect("root").der().clone();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().expect("key");
    let names =
        ["a.test", "b.test", "denied.test", "public.test", "pass.test", "api.openai.com"].map(str::to_owned).to_vec();
    let leaf = rcgen::CertificateParams::new(names).expect("parameters").signed_by(&key, &issuer).expect("leaf");
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .expect("certificate");
    config.alpn_protocols = match speaks {
        Speaks::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Speaks::Http1 | Speaks::Clear => vec![b"http/1.1".to_vec()],
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            log.connections.fetch_add(1, Ordering::Relaxed);
            let (acceptor, log) = (acceptor.clone(), log.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| upstream(request, log.clone()));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                if speaks == Speaks::Clear {
                    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.ok();
                } else if let Ok(stream) = acceptor.accept(stream).await {
                    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.ok();
                }
            });
        }
    });
    (address, root)
}

/// The upstream's pages.
async fn upstream(mut request: Request<Incoming>, log: Arc<UpstreamLog>) -> Result<Response<Body>, Infallible> {
    log.requests.fetch_add(1, Ordering::Relaxed);
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let line = format!("{} {} {:?}", request.method(), request.uri().path(), request.version());
    log.heads.lock().expect("lock").push((line, headers.collect()));
    let path = request.uri().path().to_owned();
    let answer = match path.as_str() {
        "/echo" | "/v1/models" => {
            let encoding = request.headers().get("content-encoding").cloned();
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let mut answer = Response::new(full(body));
            if let Some(encoding) = encoding {
                answer.headers_mut().insert("content-encoding", encoding);
            }
            answer.headers_mut().insert("X-Upstream", "yes".parse().expect("value"));
            answer
        }
        "/trailers" => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-checksum", "abc".parse().expect("value"));
            let frames = [Frame::data(Bytes::from("body")), Frame::trailers(trailers)];
            let mut answer = Response::new(Frames(frames.into_iter().collect()).boxed_unsync());
            answer.headers_mut().insert("trailer", "x-checksum".parse().expect("value"));
            answer
        }
        "/paced" | "/v1/chat/completions" if request.headers().contains_key("x-paced") => {
            let (sender, body) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                sender.send(Frame::data(Bytes::from("data: one\n\n"))).await.ok();
                log.go_on.taken().await;
                sender.send(Frame::data(Bytes::from("data: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15},\"choices\":[]}\n\n"))).await.ok();
                log.go_on.taken().await;
                drop(sender);
                log.ended.notify_one();
            });
            let mut answer = Response::new(Channel(body).boxed_unsync());
            answer.headers_mut().insert("content-type", "text/event-stream".parse().expect("value"));
            answer
        }
        // More than any cap, in whole events and pieces of them, and then what it costs.
        "/v1/chat/completions" if request.headers().contains_key("x-greedy") => {
            let told = request.headers()["x-greedy"] == "1";
            let (sender, body) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                let word = "x".repeat(120);
                let event =
                    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word} \"}}}}]}}\n\n");
                let answer = event.repeat(12_000);
                for piece in answer.as_bytes().chunks(5_001) {
                    if sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.is_err() {
                        return;
                    }
                }
                if told {
                    sender.send(Frame::data(Bytes::from("data: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":99000,\"total_tokens\":99010},\"choices\":[]}\n\ndata: [DONE]\n\n"))).await.ok();
                }
            });
            let mut answer = Response::new(Channel(body).boxed_unsync());
            answer.headers_mut().insert("content-type", "text/event-stream".parse().expect("value"));
            answer
        }
        "/v1/chat/completions" if request.headers().contains_key("x-filtered") => {
            let code = request.headers()["x-filtered"].to_str().unwrap_or_default().to_owned();
            let mut answer = Response::new(full(format!("{{\"error\":{{\"message\":\"no\",\"code\":\"{code}\"}}}}")));
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        }
        "/v1/chat/completions" if request.headers().contains_key("x-fail") => {
            let mut answer = Response::new(full("{\"error\":{\"message\":\"slow down\"}}"));
            *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            answer
        }
        "/v1/chat/completions" => {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            assert!(!body.is_empty());
            let mut answer = Response::new(full(
                "{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}}",
            ));
            answer.headers_mut().insert("content-type", "application/json".parse().expect("value"));
            answer
        }
        // A server that ignores what it does not know of an upgrade answers the request that it finds.
        "/v1/responses" => {
            let answer = r#"{"id":"r1","status":"completed","model":"gpt-5-mini","usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15}}"#;
            let mut answer = Response::new(full(answer));
            answer.headers_mut().insert("content-type", "application/json".parse().expect("value"));
            answer
        }
        "/ws" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                let (mut read, mut write) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
            let mut answer = Response::new(full(""));
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert("upgrade", "websocket".parse().expect("value"));
            answer.headers_mut().insert("connection", "Upgrade".parse().expect("value"));
            answer.headers_mut().insert("sec-websocket-accept", "x".parse().expect("value"));
            answer
        }
        "/length" => {
            let mut answer = Response::new(full(""));
            answer.headers_mut().insert("content-length", "1234".parse().expect("value"));
            answer
        }
        _ => {
            let mut answer = Response::new(full("no such page"));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        }
    };
    Ok(answer)
}

struct Frames(std::collections::VecDeque<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front().map(Ok))
    }
}

struct Channel(tokio::sync::mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
