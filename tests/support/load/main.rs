//! `load`: many clients at once against a model API, each request with an output cap of its own or as an agent writes it.
//!
//! ```text
//! load --clients N --requests N [--shape chat|claude|claude-new|codex] [--model NAME] [--cap-base N] [--cap-cycle N] [--same]
//!      [--adverse] [--stream] [--stream-every N] [--words "slow=5 output=40"] [--until FILE] [--until-refused] [--count] [--progress FILE]
//! load --exchange CAP [--shape ...]
//! ```
//! Chat request i asks for at most `cap-base + i` tokens (`i` counts anew after `cap-cycle`): by that number bill and ledger
//! are compared. Even clients speak HTTP/2, odd ones HTTP/1.1. With `--until` it goes on until FILE exists, whatever
//! `--requests` says; with `--until-refused` no request begins once one was answered 400. `--same`: each request is the first one. `--adverse`: now
//! and then one is billed all of its cap, tells no usage, breaks off with a reset, or asks for two choices.
//! Roots come from SSL_CERT_FILE. One JSON line for each request: `{"i":..,"cap":..,"status":..,"complete":..,"text":..}`;
//! `status` is 0 when there was no answer. With `--count` one line for all: how many had which status. `--progress` names a file
//! that is told so every second. `--exchange` prints the largest request with that cap for `caracald prices bill`.

mod shape;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::json;
use shape::Shape;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone)]
struct Args {
    clients: u64,
    requests: u64,
    shape: Shape,
    host: String,
    model: String,
    cap_base: u64,
    cap_cycle: u64,
    same: bool,
    adverse: bool,
    stream: bool,
    stream_every: Option<u64>,
    words: String,
    until: Option<PathBuf>,
    until_refused: bool,
    count: bool,
    progress: Option<PathBuf>,
    exchange: Option<u64>,
}

impl Args {
    /// The output cap of chat request `i`, tokens.
    fn cap(&self, i: u64) -> u64 {
        self.cap_base + i % self.cap_cycle
    }
}

fn args() -> Result<Args> {
    let mut out = Args {
        clients: 8,
        requests: 8,
        shape: Shape::Chat,
        host: String::new(),
        model: "gpt-4o-mini".into(),
        cap_base: 1_000,
        cap_cycle: u64::MAX,
        same: false,
        adverse: false,
        stream: false,
        stream_every: None,
        words: String::new(),
        until: None,
        until_refused: false,
        count: false,
        progress: None,
        exchange: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let switch = match flag.as_str() {
            "--stream" => Some(&mut out.stream),
            "--same" => Some(&mut out.same),
            "--adverse" => Some(&mut out.adverse),
            "--until-refused" => Some(&mut out.until_refused),
            "--count" => Some(&mut out.count),
            _ => None,
        };
        if let Some(switch) = switch {
            *switch = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--clients" => out.clients = value.parse()?,
            "--requests" => out.requests = value.parse()?,
            "--shape" => out.shape = Shape::named(&value)?,
            "--model" => out.model = value,
            "--cap-base" => out.cap_base = value.parse()?,
            "--cap-cycle" => out.cap_cycle = value.parse()?,
            "--stream-every" => out.stream_every = Some(value.parse()?),
            "--words" => out.words = value,
            "--until" => out.until = Some(value.into()),
            "--progress" => out.progress = Some(value.into()),
            "--exchange" => out.exchange = Some(value.parse()?),
            _ => anyhow::bail!("unknown option {flag}"),
        }
    }
    out.host = out.shape.host().into();
    Ok(out)
}

/// A connection to the provider.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

fn tls(alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>> {
    let file = std::env::var_os("SSL_CERT_FILE").context("SSL_CERT_FILE is not set")?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        // Some of a system's roots are too old for the verifier.
        let _old = roots.add(certificate?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

#[expect(clippy::disallowed_methods, reason = "what connects here is what is tried")]
async fn connect(host: &str, config: Arc<rustls::ClientConfig>, two: bool) -> Result<Sender> {
    let stream = TcpStream::connect((host, 443)).await?;
    let stream =
        tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from(host.to_owned())?, stream).await?;
    let io = TokioIo::new(stream);
    if two {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        return Ok(Sender::Two(sender));
    }
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(Sender::One(sender))
}

/// Status and body, whole or broken off.
async fn call(sender: &mut Sender, request: Request<Full<Bytes>>) -> (u16, bool, Vec<u8>) {
    let Ok(response) = sender.send(request).await else { return (0, false, Vec::new()) };
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (status, false, bytes) };
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    (status, true, bytes)
}

/// What all clients share.
struct Run {
    args: Args,
    next: AtomicU64,
    /// A request was answered 400.
    refused: AtomicBool,
    /// How many had which status: 200, 400, none, another.
    counts: [AtomicU64; 4],
}

impl Run {
    /// The number of the next request, if there is one.
    fn next(&self) -> Option<u64> {
        let args = &self.args;
        if args.until_refused && self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let done = args.until.as_ref().is_some_and(|file| file.exists());
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        (!done && (args.until.is_some() || i < args.requests)).then_some(i)
    }

    fn note(&self, status: u16) {
        let at = match status {
            200 => 0,
            400 => 1,
            0 => 2,
            _ => 3,
        };
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.refused.fetch_or(status == 400, Ordering::Relaxed);
    }

    fn counted(&self) -> String {
        let [answered, refused, none, other] = [0, 1, 2, 3].map(|at| self.counts[at].load(Ordering::Relaxed));
        json!({"answered": answered, "refused": refused, "unanswered": none, "other": other}).to_string()
    }
}

async fn client(run: Arc<Run>, two: bool, config: Arc<rustls::ClientConfig>) -> Result<()> {
    let args = &run.args;
    let mut sender = None;
    while let Some(i) = run.next() {
        let mut line = json!({"i": i, "cap": args.cap(i), "status": 0, "complete": false, "text": ""});
        if sender.is_none() {
            sender = connect(&args.host, Arc::clone(&config), two).await.ok();
        }
        match &mut sender {
            None => {
                run.note(0);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some(open) => {
                let (status, complete, bytes) = call(open, args.shape.request(args, i, two)?).await;
                run.note(status);
                line["status"] = json!(status);
                line["complete"] = json!(complete);
                if status != 200 {
                    line["text"] = json!(String::from_utf8_lossy(&bytes));
                }
                if !complete {
                    sender = None;
                }
            }
        }
        if !args.count {
            println!("{line}");
        }
    }
    Ok(())
}

/// Tells the file how far it is, every second.
async fn progress(run: Arc<Run>, file: PathBuf) {
    loop {
        let _full = std::fs::write(&file, run.counted());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = args()?;
    if let Some(cap) = args.exchange {
        println!("{}", args.shape.exchange(&args, cap));
        return Ok(());
    }
    let (one, two) = (tls(b"http/1.1")?, tls(b"h2")?);
    let run =
        Arc::new(Run { args, next: AtomicU64::new(0), refused: AtomicBool::new(false), counts: Default::default() });
    let telling = run.args.progress.clone().map(|file| tokio::spawn(progress(Arc::clone(&run), file)));
    let clients: Vec<_> = (0..run.args.clients)
        .map(|n| {
            let second = run.args.shape.two(n);
            let config = Arc::clone(if second { &two } else { &one });
            tokio::spawn(client(Arc::clone(&run), second, config))
        })
        .collect();
    for client in clients {
        client.await??;
    }
    if let Some(telling) = telling {
        telling.abort();
    }
    if run.args.count {
        println!("{}", run.counted());
    }
    Ok(())
}
