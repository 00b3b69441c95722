//! Heads that ask to leave HTTP, or declare parts of themselves away, and are something else: no way past price or rules.

use super::world::{Speaks, World};
use crate::intercept::Limits;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CALL: &str = r#"{"model":"gpt-5-mini","max_output_tokens":16,"input":"hi"}"#;

/// What is answered to a request to `host` with this first line and these lines of its head.
async fn ask(world: &World, host: &str, line: &str, heads: &str, body: &str) -> String {
    let mut stream = world.tls(host, &["http/1.1"]).await;
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{heads}\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_for_an_upgrade_too_is_a_paid_call() {
    for websockets in [true, false] {
        let world = World::with(Speaks::Http1, Limits { websockets, ..Limits::default() }, false).await;
        for (before, upgrade) in ["x", "websocket", "h2c"].into_iter().enumerate() {
            let heads = format!("Upgrade: {upgrade}\r\nContent-Length: {}\r\n", CALL.len());
            let answer = ask(&world, "api.openai.com", "POST /v1/responses", &heads, CALL).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{upgrade}: {answer}");
            let outcome = |records: &[super::fixture::Seen]| {
                records.iter().filter(|record| record.kind == "caracal.outcome.v1").count() == before + 1
            };
            let records = world.records(outcome).await;
            // 10 tokens at 0.25 and 5 at 2 USD a million.
            assert_eq!(records.last().and_then(|last| last.cost), Some(12_500), "{records:#?}");
        }
        let heads = world.log.heads.lock().expect("lock").clone();
        assert!(heads.iter().all(|(_, heads)| heads.iter().all(|(name, _)| name != "upgrade")), "{heads:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_brings_more_than_itself_goes_nowhere() {
    let world = World::with(Speaks::Http1, Limits { websockets: true, ..Limits::default() }, false).await;
    let length = format!("Content-Length: {}\r\n", CALL.len());
    let chunked = format!("{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len());
    for (line, heads, body) in [
        ("GET /v1/responses", format!("Upgrade: websocket\r\n{length}"), CALL),
        ("GET /v1/responses", "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n".to_owned(), chunked.as_str()),
        ("GET /v1/responses", "Upgrade: websocket, x\r\n".to_owned(), ""),
        ("GET /v1/responses", "Upgrade: websocket\r\nUpgrade: x\r\n".to_owned(), ""),
        ("GET /v1/responses", format!("Upgrade: x\r\n{length}"), CALL),
        ("PUT /v1/responses", format!("Upgrade: websocket\r\n{length}"), CALL),
    ] {
        let answer = ask(&world, "api.openai.com", line, &heads, body).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(matches!(status, "426" | "403"), "{line} {heads}: {answer}");
    }
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_place_of_a_socket_is_refused() {
    let world = World::with(Speaks::Http1, Limits { websockets: true, ..Limits::default() }, false).await;
    let answer = ask(&world, "api.openai.com", "GET /v1/responses", "Upgrade: websocket\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 426") && answer.contains("upstream_failed"), "{answer}");
    assert!(!answer.contains("output_tokens"), "{answer}");
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_http_is_not_spoken_past_the_rules() {
    let world = World::new(Speaks::Http1).await;
    for upgrade in ["h2c", "HTTP/2.0", "websocket, h2c"] {
        let answer = ask(&world, "a.test", "GET /echo", &format!("Upgrade: {upgrade}\r\n"), "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "the request itself is answered: {upgrade}: {answer}");
    }
    let heads = world.log.heads.lock().expect("lock").clone();
    assert!(heads.iter().all(|(_, heads)| heads.iter().all(|(name, _)| name != "upgrade")), "{heads:?}");
}

/// What `Connection` names does not go upstream, so it is not read for the price either (a tier of Bedrock's, an encoding).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_declared_away_is_not_read() {
    let world = World::new(Speaks::Http1).await;
    let mut stream = world.tls("api.openai.com", &["http/1.1"]).await;
    let mut body = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut body, CALL.as_bytes()).expect("compressed");
    let body = body.finish().expect("compressed");
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: api.openai.com\r\nConnection: close, Content-Encoding\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ambiguous_request"), "{answer}");
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}
