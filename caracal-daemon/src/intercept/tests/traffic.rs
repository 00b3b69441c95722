//! What is allowed passes unchanged.

use super::world::{Speaks, World, full, http1_over};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn get(path: &str, host: &str) -> Request<super::world::Body> {
    Request::builder().uri(path).header("Host", host).body(full("")).expect("request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_bodies_are_byte_exact_and_connections_are_reused() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("a.test").await;
    for size in [0_usize, 1, 1_000, 70_000, 3_000_000] {
        let sent: Bytes = (0..size).map(|at| u8::try_from(at % 251).expect("byte")).collect::<Vec<u8>>().into();
        let request = Request::builder()
            .method("POST")
            .uri("/echo?q=1")
            .header("Host", "a.test")
            .body(full(sent.clone()))
            .expect("request");
        let answer = client.send_request(request).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().get("x-upstream").expect("header"), "yes");
        assert_eq!(answer.into_body().collect().await.expect("body").to_bytes(), sent, "{size} bytes");
    }
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 1, "one upstream connection for all");
    let mut other = world.http1("a.test").await;
    let answer = other.send_request(get("/echo", "a.test")).await.expect("answer");
    answer.into_body().collect().await.expect("body");
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 1, "and for another agent connection too");
    let records = world.records(|records| records.len() >= 6).await;
    assert!(
        records
            .iter()
            .all(|record| record.decision.as_deref() == Some("allow") && record.action.as_deref() == Some("request"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_spoken_on_both_sides_and_shared() {
    let world = World::new(Speaks::Both).await;
    let client = world.http2("a.test").await;
    let mut tasks = Vec::new();
    for number in 0..20_usize {
        let mut client = client.clone();
        tasks.push(tokio::spawn(async move {
            let sent = Bytes::from(vec![u8::try_from(number).expect("byte"); 10_000 * number]);
            let request =
                Request::builder().method("POST").uri("https://a.test/echo").body(full(sent.clone())).expect("request");
            let answer = client.send_request(request).await.expect("answer");
            assert_eq!(answer.into_body().collect().await.expect("body").to_bytes(), sent);
        }));
    }
    for task in tasks {
        task.await.expect("task");
    }
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 1);
    let heads = world.log.heads.lock().expect("lock");
    assert!(heads.iter().all(|(line, _)| line.ends_with("HTTP/2.0")), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_offered_only_what_the_upstream_speaks() {
    let world = World::new(Speaks::Http1).await;
    let stream = world.tls("a.test", &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut client = http1_over(stream).await;
    let answer = client.send_request(get("/echo", "a.test")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        world.log.connections.load(Ordering::Relaxed),
        1,
        "the connection that found out is the one that is used"
    );
    // An agent without ALPN is given HTTP/1.1.
    let mut client = http1_over(world.tls("a.test", &[]).await).await;
    assert_eq!(client.send_request(get("/echo", "a.test")).await.expect("answer").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_arrives_piece_by_piece() {
    let world = World::new(Speaks::Both).await;
    for h2 in [false, true] {
        let request = Request::builder().uri(if h2 { "https://a.test/paced" } else { "/paced" }).header("x-paced", "1");
        let mut answer = if h2 {
            world.http2("a.test").await.send_request(request.body(full("")).expect("request")).await.expect("answer")
        } else {
            let request = request.header("Host", "a.test").body(full("")).expect("request");
            world.http1("a.test").await.send_request(request).await.expect("answer")
        };
        // The second piece is not written before the first has arrived here.
        let first = answer.body_mut().frame().await.expect("frame").expect("data").into_data().expect("data");
        assert_eq!(first, "data: one\n\n");
        world.log.go_on.grant();
        let second = answer.body_mut().frame().await.expect("frame").expect("data").into_data().expect("data");
        assert!(second.starts_with(b"data: {\"usage\""));
        world.log.go_on.grant();
        let rest = answer.into_body().collect().await.expect("a clean end").to_bytes();
        assert!(rest.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_heads_and_encodings_pass() {
    let world = World::new(Speaks::Both).await;
    let mut h1 = world.http1("a.test").await;
    let request = Request::builder()
        .uri("/trailers")
        .header("Host", "a.test")
        .header("TE", "trailers")
        .body(full(""))
        .expect("request");
    let collected = h1.send_request(request).await.expect("answer").into_body().collect().await.expect("body");
    assert_eq!(collected.trailers().expect("trailers").get("x-checksum").expect("trailer"), "abc");
    let request = Request::builder().uri("https://a.test/trailers").body(full("")).expect("request");
    let collected = world
        .http2("a.test")
        .await
        .send_request(request)
        .await
        .expect("answer")
        .into_body()
        .collect()
        .await
        .expect("body");
    assert_eq!(collected.trailers().expect("trailers").get("x-checksum").expect("trailer"), "abc");
    let request =
        Request::builder().method("HEAD").uri("/length").header("Host", "a.test").body(full("")).expect("request");
    let answer = h1.send_request(request).await.expect("answer");
    assert_eq!(answer.headers().get("content-length").expect("length"), "1234");
    assert!(answer.into_body().collect().await.expect("body").to_bytes().is_empty());
    let gzip = Bytes::from_static(&[
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x4c, 0x4a, 6, 0, 0xc2, 0x41, 0x24, 0x35, 3, 0, 0, 0,
    ]);
    let request = Request::builder()
        .method("POST")
        .uri("/echo")
        .header("Host", "a.test")
        .header("content-encoding", "gzip")
        .body(full(gzip.clone()))
        .expect("request");
    let answer = h1.send_request(request).await.expect("answer");
    assert_eq!(answer.headers().get("content-encoding").expect("encoding"), "gzip");
    assert_eq!(answer.into_body().collect().await.expect("body").to_bytes(), gzip);
}

/// Reads until `end` has been seen.
/// Whether it ends without a byte.
async fn is_closed(stream: &mut tokio::net::TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
}

async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.windows(end.len()).any(|window| window == end.as_bytes()) {
        let mut buffer = [0; 4_096];
        let count = stream.read(&mut buffer).await.expect("read");
        assert!(count > 0, "ended early: {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_continue_is_answered_and_header_names_are_kept() {
    let world = World::new(Speaks::Http1).await;
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nX-MixedCase: One\r\nconnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 5\r\naCCept: */*\r\n\r\n")
        .await
        .expect("head");
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.expect("body");
    let answer = read_until(&mut stream, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let heads = world.log.heads.lock().expect("lock").clone();
    let names: Vec<&str> = heads[0].1.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "x-mixedcase", "expect", "content-length", "accept"], "in order, and nothing added");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_case_reaches_the_upstream() {
    // An upstream that shows the raw bytes, in the clear.
    let world = World::new(Speaks::Clear).await;
    let raw = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let original =
        std::net::SocketAddr::new("1.2.3.4".parse().expect("address"), raw.local_addr().expect("address").port());
    let mut stream = world.connect_as("rich", original).await;
    stream.write_all(b"GET /x?y HTTP/1.1\r\nhOsT: a.test\r\nX-MixedCase: One\r\n\r\n").await.expect("head");
    let (mut upstream, _) = raw.accept().await.expect("accepted");
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(head, "GET /x?y HTTP/1.1\r\nhOsT: a.test\r\nX-MixedCase: One\r\n\r\n");
    upstream.write_all(b"HTTP/1.1 200 Fine\r\nContent-LENGTH: 2\r\nX-Odd-CASE: 1\r\n\r\nok").await.expect("answer");
    let answer = read_until(&mut stream, "ok").await;
    assert_eq!(answer, "HTTP/1.1 200 Fine\r\nContent-LENGTH: 2\r\nX-Odd-CASE: 1\r\n\r\nok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_spliced() {
    let world = World::new(Speaks::Both).await;
    let mut stream = world.tls("a.test", &["http/1.1"]).await;
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await
        .expect("head");
    let head = read_until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: x"), "{head}");
    for message in ["GET / HTTP/1.1\n\n", "\u{0}\u{1}frames", "end"] {
        stream.write_all(message.as_bytes()).await.expect("message");
        assert_eq!(read_until(&mut stream, message).await, message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_and_connect_and_a_proxy_request_work() {
    let world = World::new(Speaks::Clear).await;
    let port = world.upstream.port();
    let mut client = http1_over(world.connect().await).await;
    let answer = client.send_request(get("/echo", "a.test")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::OK);
    // As to a proxy, in absolute form.
    let mut stream = world.connect_as("rich", "1.2.3.4:3128".parse().expect("address")).await;
    stream
        .write_all(format!("POST http://a.test:{port}/echo HTTP/1.1\r\nHost: a.test:{port}\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nContent-Length: 2\r\n\r\nhi").as_bytes())
        .await
        .expect("request");
    assert!(read_until(&mut stream, "\r\n\r\nhi").await.starts_with("HTTP/1.1 200"));
    let heads = world.log.heads.lock().expect("lock").clone();
    assert!(heads.iter().all(|(_, headers)| headers.iter().all(|(name, _)| !name.starts_with("proxy-"))), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_is_a_connection_of_its_own() {
    let world = World::new(Speaks::Both).await;
    let port = world.upstream.port();
    let mut stream = world.connect_as("rich", "1.2.3.4:3128".parse().expect("address")).await;
    stream
        .write_all(format!("CONNECT a.test:{port} HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n").as_bytes())
        .await
        .expect("head");
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    let inside = world.tls_over(stream, "a.test", &["h2"]).await;
    assert_eq!(inside.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .handshake(TokioIo::new(inside))
        .await
        .expect("h2");
    tokio::spawn(connection);
    let request = Request::builder().uri("https://a.test/echo").body(full("")).expect("request");
    assert_eq!(client.send_request(request).await.expect("answer").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_for_unread_connections_are_obeyed() {
    let world = World::new(Speaks::Http1).await;
    // tls-passthrough: the agent meets the upstream's own certificate.
    let config = super::world::client_config(world.upstream_root(), &["http/1.1"]);
    let name = rustls::pki_types::ServerName::try_from("pass.test").expect("name");
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, world.connect().await)
        .await
        .expect("the upstream's own TLS");
    let mut client = http1_over(stream).await;
    assert_eq!(client.send_request(get("/echo", "pass.test")).await.expect("answer").status(), StatusCode::OK);
    // tcp: the server speaks first.
    let greeter = tokio::net::TcpListener::bind("127.0.0.9:0").await.expect("listener");
    let mut stream = world.connect_as("rich", greeter.local_addr().expect("address")).await;
    let (mut upstream, _) = greeter.accept().await.expect("accepted");
    upstream.write_all(b"220 hello\r\n").await.expect("greeting");
    assert_eq!(read_until(&mut stream, "\r\n").await, "220 hello\r\n");
    stream.write_all(b"QUIT").await.expect("write");
    stream.shutdown().await.expect("shutdown");
    assert_eq!(read_until(&mut upstream, "QUIT").await, "QUIT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_rule_for_a_name_is_about_the_addresses_that_the_agent_was_told() {
    let world = World::new(Speaks::Http1).await;
    let greeter = tokio::net::TcpListener::bind("127.0.0.8:0").await.expect("listener");
    let at = greeter.local_addr().expect("address");
    let agent = super::fixture::agent("rich").cgroup;
    // Nobody was told this address, or another agent was, or for another name: no protocol that we know, and nobody is dialled.
    let elsewhere = "1.2.3.4:22".parse().expect("address");
    world.stack.pins.pin(crate::agent::CgroupId(8), "tcp.example", [at.ip()]);
    world.stack.pins.pin(agent, "other.example", [at.ip()]);
    for to in [at, elsewhere] {
        let mut stream = world.connect_as("rich", to).await;
        stream.write_all(b"\x00\x01hello").await.expect("written");
        assert!(is_closed(&mut stream).await);
    }
    // Told it: the server may speak first, at the very address of the name's two that was asked for.
    world.stack.pins.pin(agent, "tcp.example", [at.ip()]);
    let mut stream = world.connect_as("rich", at).await;
    let (mut upstream, _) = greeter.accept().await.expect("accepted");
    upstream.write_all(b"220 hello\r\n").await.expect("greeting");
    assert_eq!(read_until(&mut stream, "\r\n").await, "220 hello\r\n");
    // A name whose requests are read had the same address: what is meant shows in TLS, so nothing passes unread.
    world.stack.pins.pin(agent, "a.test", [at.ip()]);
    let mut stream = world.connect_as("rich", at).await;
    stream.write_all(b"\x00\x01hello").await.expect("written");
    assert!(is_closed(&mut stream).await);
    let allowed = |records: &[super::fixture::Seen]| {
        records.iter().filter(|seen| seen.decision.as_deref() == Some("allow")).count() == 1
    };
    let _records = world.records(allowed).await;
}
