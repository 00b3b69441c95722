//! The load: keeps connections, opens new ones, or reads streams, for a fixed time.
//!
//! It runs in a process of its own, so that a peer can put it wherever its clients must be (a governed cgroup). It
//! prints `start` when every connection stands and is warm, then one line of JSON when the time is over.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
};
use tokio_rustls::TlsConnector;

use super::{answer::Answer, crypto, provider};

/// The model that is asked for: an ordinary one, with a price.
pub(super) const MODEL: &str = "gpt-4o-mini";
/// Requests that each connection sends before the clock starts.
const WARM: usize = 20;
/// ... unless that takes longer.
const WARM_TIME: Duration = Duration::from_millis(300);
/// How long a call may take: a peer that loses one would have the load wait for ever.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Bytes that are read at once: one TLS record.
const BUFFER: usize = 16 * 1024;

/// What is sent, where, and for how long.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where to connect.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Ask for a tunnel first (CONNECT): the address is a forward proxy.
    #[arg(long)]
    pub(crate) tunnel: bool,
    /// Speak HTTP without TLS.
    #[arg(long)]
    pub(crate) plain: bool,
    /// The authorities that may sign what the peer shows (PEM).
    #[arg(long, env = "SSL_CERT_FILE")]
    pub(crate) trust: PathBuf,
    #[arg(long, value_enum)]
    pub(crate) shape: Shape,
    /// Connections at once.
    #[arg(long)]
    pub(crate) connections: usize,
    /// How long to measure.
    #[arg(long)]
    pub(crate) milliseconds: u64,
}

/// What one connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Shape {
    /// A kept connection: paid calls one after the other.
    Paid,
    /// A kept connection: calls that cost nothing.
    Free,
    /// A new connection for each call.
    Fresh,
    /// A kept connection: streamed calls.
    Stream,
}

/// What the load saw.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// From the request's last byte to the first byte of the answer's body.
    pub(crate) first_byte_p50_us: u64,
    pub(crate) errors: u64,
    /// The first error, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Runs the load and prints what it saw.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seen = super::runtime()?.block_on(load(arguments))?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// A connection, with TLS or without.
type Stream = Box<dyn Io>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Target {
    address: SocketAddr,
    tunnel: bool,
    plain: bool,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    shape: Shape,
    request: Vec<u8>,
}

/// One call: how long it took, and when its body began.
struct Call {
    whole: Duration,
    first: Duration,
}

async fn load(arguments: &Arguments) -> Result<Seen> {
    let target = Arc::new(Target {
        address: arguments.address,
        tunnel: arguments.tunnel,
        plain: arguments.plain,
        name: ServerName::try_from(crypto::HOST)?,
        tls: crypto::client(&arguments.trust)?,
        shape: arguments.shape,
        request: request(arguments.shape),
    });
    let time = Duration::from_millis(arguments.milliseconds);
    let ready = Arc::new(Barrier::new(arguments.connections + 1));
    let mut tasks = Vec::new();
    for _ in 0..arguments.connections {
        let (target, ready) = (Arc::clone(&target), Arc::clone(&ready));
        tasks.push(tokio::spawn(async move { client(&target, &ready, time).await }));
    }
    ready.wait().await;
    println!("start");
    let started = Instant::now();
    let (mut calls, mut errors, mut error) = (Vec::new(), 0, None);
    for task in tasks {
        let (mut done, failed) = task.await?;
        calls.append(&mut done);
        if let Some(failed) = failed {
            errors += 1;
            error.get_or_insert_with(|| format!("{failed:#}"));
        }
    }
    Ok(seen(calls, started.elapsed(), errors, error))
}

/// One client until the time is over or something fails.
async fn client(target: &Target, ready: &Barrier, time: Duration) -> (Vec<Call>, Option<anyhow::Error>) {
    let mut buffer = vec![0; BUFFER];
    let warm = warm_up(target).await;
    ready.wait().await;
    let mut calls = Vec::new();
    let mut kept = match warm {
        Ok(kept) => kept,
        Err(error) => return (calls, Some(error)),
    };
    let started = Instant::now();
    while started.elapsed() < time {
        match one(target, &mut kept, &mut buffer).await {
            Ok(call) => calls.push(call),
            Err(error) => return (calls, Some(error)),
        }
    }
    (calls, None)
}

async fn warm_up(target: &Target) -> Result<Option<Stream>> {
    let (mut kept, mut buffer) = (None, vec![0; BUFFER]);
    let started = Instant::now();
    for _ in 0..if target.shape == Shape::Fresh { 1 } else { WARM } {
        one(target, &mut kept, &mut buffer).await?;
        if started.elapsed() > WARM_TIME {
            break;
        }
    }
    Ok(kept)
}

/// One call, within bounds.
async fn one(target: &Target, kept: &mut Option<Stream>, buffer: &mut [u8]) -> Result<Call> {
    let called = tokio::time::timeout(GIVE_UP, call(target, kept, buffer)).await;
    called.with_context(|| format!("no whole answer within {} s", GIVE_UP.as_secs()))?
}

/// One call, on the kept connection or a new one. For [`Shape::Fresh`] the connection is part of the call.
async fn call(target: &Target, kept: &mut Option<Stream>, buffer: &mut [u8]) -> Result<Call> {
    let started = Instant::now();
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => connect(target).await?,
    };
    stream.write_all(&target.request).await?;
    stream.flush().await?;
    let sent = Instant::now();
    let mut answer = Answer::default();
    let mut first = None;
    while !answer.ended() {
        let length = stream.read(buffer).await?;
        ensure!(length > 0, "the connection ended before the answer did");
        answer.take(buffer.get(..length).unwrap_or_default())?;
        if first.is_none() && answer.body_bytes() > 0 {
            first = Some(sent.elapsed());
        }
    }
    ensure!(answer.status() == Some(200), "the answer was {:?}: {}", answer.status(), answer.text());
    if target.shape == Shape::Stream {
        // A proxy that reads events may fold the first or the last one into another, but not lose tokens.
        let enough = answer.events() + 2 >= provider::EVENTS && answer.says_done();
        ensure!(enough, "a stream ended after {} events", answer.events());
    }
    let whole = started.elapsed();
    if target.shape == Shape::Fresh {
        // Best effort: the answer is complete, only the goodbye is missing.
        drop(stream.shutdown().await);
    } else {
        *kept = Some(stream);
    }
    Ok(Call { whole, first: first.unwrap_or(whole) })
}

#[expect(clippy::disallowed_methods, reason = "the benchmark's own client: what it dials is what is measured")]
async fn connect(target: &Target) -> Result<Stream> {
    let mut stream = TcpStream::connect(target.address).await.context("the peer cannot be reached")?;
    stream.set_nodelay(true)?;
    if target.tunnel {
        let host = crypto::HOST;
        stream.write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 4096 {
                bail!("the proxy answers CONNECT with more than a head");
            }
            head.push(stream.read_u8().await?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200"), "the proxy answers CONNECT with {}", String::from_utf8_lossy(&head));
    }
    if target.plain {
        return Ok(Box::new(stream));
    }
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    Ok(Box::new(connector.connect(target.name.clone(), stream).await.context("the handshake fails")?))
}

/// 0.9 KB for a paid call, the size of a short prompt with its head.
fn request(shape: Shape) -> Vec<u8> {
    let host = crypto::HOST;
    if shape == Shape::Free {
        return format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk-bench\r\n\r\n")
            .into_bytes();
    }
    let options = if shape == Shape::Stream { r#""stream":true,"stream_options":{"include_usage":true},"# } else { "" };
    let prompt = "Say in one sentence what the quick brown fox does, and to whom. ".repeat(11);
    let body = format!(
        r#"{{"model":"{MODEL}","max_completion_tokens":64,{options}"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk-bench\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn seen(calls: Vec<Call>, elapsed: Duration, errors: u64, error: Option<String>) -> Seen {
    let mut whole: Vec<Duration> = calls.iter().map(|call| call.whole).collect();
    let mut first: Vec<Duration> = calls.iter().map(|call| call.first).collect();
    whole.sort_unstable();
    first.sort_unstable();
    Seen {
        requests: calls.len() as u64,
        seconds: elapsed.as_secs_f64(),
        p50_us: percentile(&whole, 50),
        p99_us: percentile(&whole, 99),
        first_byte_p50_us: percentile(&first, 50),
        errors,
        error,
    }
}

/// Microseconds; 0 of nothing.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0, |value| u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
}
