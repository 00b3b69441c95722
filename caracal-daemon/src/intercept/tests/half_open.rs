//! Connections that begin something and do not end it are closed, and recorded; silence is only closed.

use super::fixture::Seen;
use super::world::{Speaks, World, full};
use crate::http::framing::MOST_HEAD;
use crate::intercept::Limits;
use http::Request;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// So long that a test which waits for one of them ends by its own limit, not by this.
const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(100);

fn limits() -> Limits {
    Limits { handshake: LONG, first_byte: LONG, head: LONG, ..Limits::default() }
}

async fn closed<S: AsyncRead + Unpin>(mut stream: S) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    rest
}

async fn one_record(world: &World) -> Seen {
    let records = world.records(|records| !records.is_empty()).await;
    assert_eq!((records.len(), records[0].count), (1, 1), "{records:?}");
    assert_eq!(records[0].decision.as_deref(), Some("deny"));
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
    records[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_first_message_is_closed_and_recorded() {
    // Half a ClientHello; half a word that could become a method.
    for (bytes, reason) in
        [(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "tls_agent"), (b"GE", "protocol_unknown")]
    {
        let world = World::with(Speaks::Both, Limits { handshake: SHORT, ..limits() }, false).await;
        let mut stream = world.connect().await;
        stream.write_all(bytes).await.expect("written");
        closed(stream).await;
        assert_eq!(one_record(&world).await.reason.as_deref(), Some(reason));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_stops_in_the_middle_is_closed_and_recorded() {
    let world = World::with(Speaks::Both, Limits { handshake: Duration::from_secs(3), ..limits() }, false).await;
    let mut stream = world.connect().await;
    // A whole ClientHello, and nothing that answers the other side's part.
    let config = super::world::client_config(world.upstream_root(), &["http/1.1"]);
    let name = rustls::pki_types::ServerName::try_from("a.test").expect("name");
    let mut client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a hello");
    stream.write_all(&hello).await.expect("written");
    assert!(!closed(stream).await.is_empty(), "the other side said its part");
    assert_eq!(one_record(&world).await.reason.as_deref(), Some("tls_agent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_is_closed_and_recorded() {
    let world = World::with(Speaks::Http1, Limits { head: SHORT, ..limits() }, false).await;
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost: a.te").await.expect("written");
    closed(stream).await;
    assert_eq!(one_record(&world).await.reason.as_deref(), Some("head_invalid"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_closed_and_is_no_refusal() {
    let world = World::with(Speaks::Http1, Limits { first_byte: SHORT, ..limits() }, false).await;
    assert!(closed(world.connect().await).await.is_empty());
    closed(world.tls("a.test", &["http/1.1"]).await).await;
    // Between two requests.
    let world = World::with(Speaks::Http1, Limits { head: SHORT, ..limits() }, false).await;
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("written");
    assert!(closed(stream).await.starts_with(b"HTTP/1.1 200"));
    let records = world.records(|records| !records.is_empty()).await;
    assert!(records.iter().all(|record| record.decision.as_deref() == Some("allow")), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_a_longest() {
    let world = World::new(Speaks::Both).await;
    let long = "a".repeat(MOST_HEAD + 1);
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    let head = format!("GET /echo HTTP/1.1\r\nHost: a.test\r\nX: {long}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    let said = String::from_utf8(closed(stream).await).expect("text");
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("x-caracal-reason: head_invalid"), "{said}");
    assert!(said.contains("its head is longer than 64 KB"), "{said}");
    assert_eq!(one_record(&world).await.reason.as_deref(), Some("head_invalid"));
    // Over HTTP/2 the stack itself says so (RFC 6585, 5), and goes on with what comes next.
    let mut client = world.http2("a.test").await;
    for (value, status) in [(long.as_str(), 431), ("a", 200)] {
        let request = Request::builder().uri("https://a.test/echo").header("x", value).body(full("")).expect("request");
        let answer = client.send_request(request).await.expect("answer");
        assert_eq!(answer.status(), status);
    }
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 1);
}
