//! The provider that every peer calls: answers at once, with usage, and keeps no books.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::crypto;

/// Events of one stream, the last ones being usage and the end.
pub(super) const EVENTS: usize = 52;
/// Bytes of a request that are read at most.
const LONGEST_REQUEST: usize = 64 * 1024;

/// Where the provider listens.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Address for HTTPS.
    #[arg(long)]
    listen: SocketAddr,
    /// Directory with leaf.pem and leaf.key.
    #[arg(long)]
    identity: PathBuf,
    /// Address for a name server that gives every name the provider's IPv4 address.
    #[arg(long)]
    dns: Option<SocketAddr>,
}

type Body = BoxBody<Bytes, Infallible>;

/// Serves until it is killed. Prints `ready` when it listens.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let acceptor = TlsAcceptor::from(crypto::server(&arguments.identity)?);
    let listener = TcpListener::bind(arguments.listen).await.context("the provider cannot listen")?;
    if let Some(dns) = arguments.dns {
        let socket = UdpSocket::bind(dns).await.context("the name server cannot listen")?;
        let listen = arguments.listen;
        tokio::spawn(async move { names(&socket, listen).await });
    }
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(acceptor.clone(), stream));
    }
}

/// One connection. A client that goes away is no event here: the load counts its own errors.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream) {
    if let Ok(tls) = acceptor.accept(stream).await {
        let service = service_fn(answer);
        drop(http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let body = http_body_util::Limited::new(request.into_body(), LONGEST_REQUEST).collect().await;
    let Ok(body) = body.map(http_body_util::Collected::to_bytes) else {
        let mut response = Response::new(Full::default().boxed());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(response);
    };
    let streamed = body.windows(13).any(|window| window == b"\"stream\":true");
    let (kind, body) = if streamed {
        ("text/event-stream", events())
    } else {
        ("application/json", Full::new(Bytes::from_static(completion().as_bytes())).boxed())
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// 0.8 KB, the size of a short answer of a real provider.
fn completion() -> &'static str {
    concat!(
        r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","#,
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog. "#,
        r#"The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. The quick brown fox "#,
        r#"jumps over the lazy dog. The quick brown fox jumps over the lazy dog.","refusal":null,"annotations":[]},"#,
        r#""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":190,"completion_tokens":50,"#,
        r#""total_tokens":240,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"#,
        r#""completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"#,
        r#""rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_bench"}"#
    )
}

/// Each event is a write of its own, as a model's tokens are.
fn events() -> Body {
    let (send, receive) = mpsc::channel::<Frame<Bytes>>(1);
    tokio::spawn(async move {
        for number in 0..EVENTS {
            if send.send(Frame::data(Bytes::from_static(event(number).as_bytes()))).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    Events(receive).boxed()
}

/// The receiving end of [`events`] as a body.
struct Events(mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

const TOKEN: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
    r#""model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"content":" fox"},"finish_reason":null}],"#,
    r#""usage":null}"#,
    "\n\n"
);
const USAGE: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
    r#""model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":190,"completion_tokens":50,"#,
    r#""total_tokens":240}}"#,
    "\n\n"
);

fn event(number: usize) -> &'static str {
    match EVENTS - number {
        1 => "data: [DONE]\n\n",
        2 => USAGE,
        _ => TOKEN,
    }
}

/// Answers every question for an IPv4 address with ours, every other with nothing.
async fn names(socket: &UdpSocket, listen: SocketAddr) {
    let mut question = [0_u8; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        if let Some(answer) = question.get(..length).and_then(|question| name_answer(question, listen)) {
            drop(socket.send_to(&answer, from).await);
        }
    }
}

/// RFC 1035: the question's head and first question come back, with one address where one was asked for.
fn name_answer(question: &[u8], listen: SocketAddr) -> Option<Vec<u8>> {
    let SocketAddr::V4(listen) = listen else { return None };
    let mut end = 12;
    loop {
        let label = usize::from(*question.get(end)?);
        end += 1 + label;
        if label == 0 {
            break;
        }
    }
    let asks_for_v4 = question.get(end..end + 2)? == [0, 1];
    end += 4;
    let mut answer = question.get(..2)?.to_vec();
    // An authoritative answer with recursion; one question; one answer or none.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(asks_for_v4), 0, 0, 0, 0]);
    answer.extend(question.get(12..end)?);
    if asks_for_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(listen.ip().octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_providers_address() {
        let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x03api\x06openai\x03com\x00\x00\x01\x00\x01");
        let answer = name_answer(&question, "203.0.113.10:443".parse().unwrap()).unwrap();
        assert_eq!(answer[..2], [7, 7]);
        assert_eq!(answer[answer.len() - 4..], [203, 0, 113, 10]);
        assert!(name_answer(&question[..14], "203.0.113.10:443".parse().unwrap()).is_none());
    }

    #[test]
    fn the_answer_has_the_size_and_the_usage_of_a_real_one() {
        let answer: serde_json::Value = serde_json::from_str(completion()).unwrap();
        assert_eq!(answer["usage"]["total_tokens"], 240);
        assert!((700..1000).contains(&completion().len()));
        assert_eq!((0..EVENTS).filter(|number| event(*number) == TOKEN).count(), EVENTS - 2);
    }
}
