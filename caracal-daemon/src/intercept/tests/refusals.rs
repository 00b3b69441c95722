//! What is not allowed is answered in HTTP, and counted.

use super::world::{Speaks, World, full, http1_over, port_without_listener};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn get(path: &str, host: &str) -> Request<super::world::Body> {
    Request::builder().uri(path).header("Host", host).body(full("")).expect("request")
}

async fn text(answer: http::Response<hyper::body::Incoming>) -> (StatusCode, String, String) {
    let reason = answer
        .headers()
        .get("x-caracal-reason")
        .map(|reason| reason.to_str().expect("text").to_owned())
        .unwrap_or_default();
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("body").to_bytes();
    (status, reason, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_host_is_told_so_inside_tls() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("denied.test").await;
    let (status, reason, body) = text(client.send_request(get("/", "denied.test")).await.expect("answer")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(!reason.is_empty());
    assert!(body.contains("Caracal refused GET denied.test") && body.contains("no rule allows denied.test"), "{body}");
    let mut h2 = world.http2("denied.test").await;
    let request = Request::builder()
        .method("POST")
        .uri("https://denied.test/x")
        .body(full(vec![0_u8; 600_000]))
        .expect("request");
    assert_eq!(text(h2.send_request(request).await.expect("answer")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 0, "nobody was dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_refusals_become_one_record_with_an_exact_count() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("denied.test").await;
    for _ in 0..25 {
        assert_eq!(
            text(client.send_request(get("/", "denied.test")).await.expect("answer")).await.0,
            StatusCode::FORBIDDEN
        );
    }
    let records = world.records(|records| records.iter().map(|record| record.count).sum::<u64>() >= 25).await;
    assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 25);
    assert!(records.len() <= 3, "{records:?}");
    assert!(records.iter().all(|record| record.decision.as_deref() == Some("deny")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_than_the_server_name_is_misdirected() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("a.test").await;
    let (status, reason, _) = text(client.send_request(get("/echo", "b.test")).await.expect("answer")).await;
    assert_eq!((status, reason.as_str()), (StatusCode::MISDIRECTED_REQUEST, "host_mismatch"));
    let request = Request::builder().uri("https://b.test/echo").body(full("")).expect("request");
    let answer = world.http2("a.test").await.send_request(request).await.expect("answer");
    assert_eq!(text(answer).await.0, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}

/// Writes `request` to the upstream's host and gives the whole answer.
async fn raw(world: &World, request: &str) -> String {
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_heads_are_refused_and_recorded() {
    let world = World::new(Speaks::Http1).await;
    let heads = [
        "POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "GET /echo HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n",
        "GET /echo HTTP/1.1\nHost: a.test\n\n",
        "GET http://b.test/echo HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    ];
    for head in heads {
        let answer = raw(&world, head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer:?}");
        assert!(answer.contains("x-caracal-reason: ambiguous_request"), "{head:?}: {answer:?}");
    }
    // A refused head in a pipeline ends the connection; the request before it is answered.
    let pipeline = "GET /echo HTTP/1.1\r\nHost: a.test\r\n\r\nGET /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nxGET /echo HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let answer = raw(&world, pipeline).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 400"), "{answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer:?}");
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 1, "one request of all these reached the upstream");
    let records = world
        .records(|records| {
            records
                .iter()
                .filter(|record| record.reason.as_deref() == Some("ambiguous_request"))
                .map(|record| record.count)
                .sum::<u64>()
                >= 7
        })
        .await;
    let count: u64 = records
        .iter()
        .filter(|record| record.reason.as_deref() == Some("ambiguous_request"))
        .map(|record| record.count)
        .sum();
    assert_eq!(count, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_mark_cannot_be_forged() {
    let world = World::new(Speaks::Http1).await;
    let answer =
        raw(&world, "GET /echo HTTP/1.1\r\nHost: a.test\r\nx-caracal-refused: 0\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_need_a_rule_that_says_so() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("public.test").await;
    let (status, reason, body) = text(client.send_request(get("/echo", "public.test")).await.expect("answer")).await;
    assert_eq!((status, reason.as_str()), (StatusCode::FORBIDDEN, "private_address"));
    assert!(body.contains("private = true"), "{body}");
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_protocol_is_closed_and_recorded() {
    let world = World::new(Speaks::Both).await;
    let mut stream = world.connect().await;
    stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("write");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty());
    let records = world.records(|records| !records.is_empty()).await;
    assert_eq!(records[0].reason.as_deref(), Some("protocol_unknown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distrust_is_counted_however_it_shows() {
    let world = World::new(Speaks::Both).await;
    // With an alert: the client trusts other roots only.
    let config = super::world::client_config(world.upstream_root(), &["http/1.1"]);
    let name = rustls::pki_types::ServerName::try_from("a.test").expect("name");
    let result = tokio_rustls::TlsConnector::from(config).connect(name, world.connect().await).await;
    assert!(result.is_err());
    // In silence: the handshake ends and not one byte follows.
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream.shutdown().await.expect("close");
    let records = world.records(|records| records.iter().map(|record| record.count).sum::<u64>() >= 2).await;
    assert!(records.iter().all(|record| record.reason.as_deref() == Some("tls_agent")), "{records:?}");
    let broken = world.stack.trust().broken_off();
    assert_eq!(broken.len(), 1);
    assert_eq!((broken[0].untrusted, broken[0].trusted, broken[0].last_host.as_deref()), (2, 0, Some("a.test")));
    assert!(broken[0].is_untrusting());
    assert_eq!(world.telemetry.untrusted.load(Ordering::Relaxed), 2);
    // A request that goes through shows that it was not the process as such.
    let mut client = world.http1("a.test").await;
    client.send_request(get("/echo", "a.test")).await.expect("answer");
    assert!(!world.stack.trust().broken_off()[0].is_untrusting());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_journal_nothing_is_forwarded() {
    let world = World::without_journal(Speaks::Both).await;
    let mut client = world.http1("a.test").await;
    let answer = client.send_request(get("/echo", "a.test")).await.expect("answer");
    assert_eq!(answer.headers().get("retry-after").expect("retry-after"), "5");
    let (status, reason, _) = text(answer).await;
    assert_eq!((status, reason.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable"));
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_there_is_a_gateway_error() {
    let world = World::new(Speaks::Both).await;
    let (_held, port) = port_without_listener();
    let original = std::net::SocketAddr::new("1.2.3.4".parse().expect("address"), port);
    let mut client = http1_over(world.connect_as("rich", original).await).await;
    let (status, reason, _) = text(client.send_request(get("/", "a.test")).await.expect("answer")).await;
    assert_eq!((status, reason.as_str()), (StatusCode::GATEWAY_TIMEOUT, "upstream_connect"));
    let mut client = http1_over(world.connect().await).await;
    let (status, reason, _) = text(client.send_request(get("/", "unknown.test")).await.expect("answer")).await;
    assert_eq!((status, reason.as_str()), (StatusCode::BAD_GATEWAY, "upstream_resolve"));
    // In the clear to a port that speaks TLS, and so on: never a hang, never a panic.
    let (status, reason, _) = text(client.send_request(get("/", "a.test")).await.expect("answer")).await;
    assert_eq!((status, reason.as_str()), (StatusCode::BAD_GATEWAY, "upstream_failed"));
}
