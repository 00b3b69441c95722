//! `load`: many clients at once against the Chat Completions API, each request with an output cap of its own.
//!
//! ```text
//! load --clients N --requests N [--host NAME] [--model NAME] [--cap-base N] [--stream] [--words "slow=5 output=40"]
//!      [--until FILE] [--mark FILE]
//! ```
//! Request i asks for at most `cap-base + i` tokens: by that number bill and ledger are compared. Even clients speak
//! HTTP/2, odd ones HTTP/1.1. With `--until` it goes on until FILE exists, whatever `--requests` says. Roots come from
//! SSL_CERT_FILE. One JSON line for each request: `{"i":..,"cap":..,"status":..,"complete":..,"text":..}`; `status` is 0
//! when there was no answer.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone)]
struct Args {
    clients: u64,
    requests: u64,
    host: String,
    model: String,
    cap_base: u64,
    stream: bool,
    words: String,
    until: Option<PathBuf>,
}

fn args() -> Result<Args> {
    let mut out = Args {
        clients: 8,
        requests: 8,
        host: "api.openai.com".into(),
        model: "gpt-4o-mini".into(),
        cap_base: 1_000,
        stream: false,
        words: String::new(),
        until: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        if flag == "--stream" {
            out.stream = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--clients" => out.clients = value.parse()?,
            "--requests" => out.requests = value.parse()?,
            "--host" => out.host = value,
            "--model" => out.model = value,
            "--cap-base" => out.cap_base = value.parse()?,
            "--words" => out.words = value,
            "--until" => out.until = Some(value.into()),
            _ => anyhow::bail!("unknown option {flag}"),
        }
    }
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

fn request(args: &Args, i: u64, two: bool) -> Result<Request<Full<Bytes>>> {
    let prompt = format!("Count for me. [[id={i} {}]]", args.words);
    let mut body = json!({"model": args.model, "max_tokens": args.cap_base + i, "messages": [{"role": "user", "content": prompt}]});
    if args.stream {
        body["stream"] = json!(true);
        // Half of the clients do not ask for the usage: the daemon must.
        if i.is_multiple_of(2) {
            body["stream_options"] = json!({"include_usage": true});
        }
    }
    let request = Request::post(if two {
        format!("https://{}/v1/chat/completions", args.host)
    } else {
        "/v1/chat/completions".into()
    });
    let request = if two { request } else { request.header("host", &args.host) };
    Ok(request
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-stand-in")
        .body(Full::from(body.to_string()))?)
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

async fn client(args: Arc<Args>, next: Arc<AtomicU64>, two: bool, config: Arc<rustls::ClientConfig>) -> Result<()> {
    let mut sender = None;
    loop {
        let done = args.until.as_ref().is_some_and(|file| file.exists());
        let i = next.fetch_add(1, Ordering::Relaxed);
        if done || (args.until.is_none() && i >= args.requests) {
            return Ok(());
        }
        let mut line = json!({"i": i, "cap": args.cap_base + i, "status": 0, "complete": false, "text": ""});
        if sender.is_none() {
            sender = connect(&args.host, Arc::clone(&config), two).await.ok();
        }
        match &mut sender {
            None => tokio::time::sleep(Duration::from_millis(50)).await,
            Some(open) => {
                let (status, complete, bytes) = call(open, request(&args, i, two)?).await;
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
        println!("{line}");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Arc::new(args()?);
    let next = Arc::new(AtomicU64::new(0));
    let (one, two) = (tls(b"http/1.1")?, tls(b"h2")?);
    let clients: Vec<_> = (0..args.clients)
        .map(|n| {
            let even = n.is_multiple_of(2);
            let config = Arc::clone(if even { &two } else { &one });
            tokio::spawn(client(Arc::clone(&args), Arc::clone(&next), even, config))
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}
