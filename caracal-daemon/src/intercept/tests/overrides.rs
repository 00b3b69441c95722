//! Heads by which a server may take a request for another one.

use super::money::{CALL, call};
use super::world::{Body, Speaks, World, full};
use http::{Request, StatusCode};
use std::sync::atomic::Ordering;

fn request(host: &str, line: (&str, &str), head: (&str, &str)) -> Request<Body> {
    let request = Request::builder().method(line.0).uri(line.1).header("Host", host).header(head.0, head.1);
    request.body(full("")).expect("request")
}

/// `b.test` may be asked anything but to delete, and nothing below `/admin`; of `a.test` no rule reads method or path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reading_of_a_request_is_decided() {
    let world = World::new(Speaks::Both).await;
    let echo = ("POST", "/echo");
    for (host, line, head, allowed) in [
        ("b.test", ("DELETE", "/echo"), ("x-other", "1"), None),
        ("b.test", ("GET", "/admin/x"), ("x-other", "1"), None),
        ("b.test", echo, ("X-HTTP-Method-Override", "DELETE"), Some(false)),
        ("b.test", echo, ("X-HTTP-Method", "delete "), Some(false)),
        ("b.test", echo, ("X-Method-Override", "DELETE"), Some(false)),
        ("b.test", echo, ("x_http_method_override", "DELETE"), Some(false)),
        ("b.test", echo, ("X-HTTP-Method-Override", "DEL ETE"), Some(false)),
        ("b.test", echo, ("X-HTTP-Method-Override", "PATCH"), Some(true)),
        ("b.test", echo, ("X-Original-URL", "/admin/x?y"), Some(false)),
        ("b.test", echo, ("X-Rewrite-URL", "https://b.test/%61dmin/"), Some(false)),
        ("b.test", echo, ("X-Rewrite-URL", "/other"), Some(true)),
        ("a.test", echo, ("X-HTTP-Method-Override", "DELETE"), Some(true)),
        ("a.test", echo, ("X-Original-URL", "/admin/x"), Some(true)),
    ] {
        let before = world.log.requests.load(Ordering::Relaxed);
        let mut client = world.http1(host).await;
        let answer = client.send_request(request(host, line, head)).await.expect("answer");
        let reason = answer.headers().get("x-caracal-reason").map(|value| value.to_str().expect("text").to_owned());
        let expected = match allowed {
            // The control: what the head asks for is refused when it is asked plainly.
            None => (StatusCode::FORBIDDEN, Some("policy_denied")),
            Some(false) => (StatusCode::BAD_REQUEST, Some("ambiguous_request")),
            Some(true) => (StatusCode::OK, None),
        };
        assert_eq!((answer.status(), reason.as_deref()), expected, "{host} {line:?} {head:?}");
        let sent = world.log.requests.load(Ordering::Relaxed) - before;
        assert_eq!(sent, usize::from(allowed == Some(true)), "{host} {line:?} {head:?}");
    }
    // Of several readings each counts.
    let two = Request::builder().method("POST").uri("/echo").header("Host", "b.test");
    let two = two.header("X-HTTP-Method", "GET").header("X-HTTP-Method", "DELETE").body(full("")).expect("request");
    let answer = world.http1("b.test").await.send_request(two).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let count = |reason: &str, records: &[super::fixture::Seen]| -> u64 {
        records.iter().filter(|one| one.reason.as_deref() == Some(reason)).map(|one| one.count).sum()
    };
    let records = world.records(|records| count("ambiguous_request", records) >= 8).await;
    assert_eq!(count("ambiguous_request", &records), 8, "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priced_host_gets_no_such_head() {
    let world = World::new(Speaks::Both).await;
    for head in ["X-HTTP-Method-Override", "X-Original-URL"] {
        let mut client = world.http1("api.openai.com").await;
        let mut request = call(CALL, "");
        request.headers_mut().insert(
            head.to_ascii_lowercase().parse::<http::HeaderName>().expect("a name"),
            "GET".parse().expect("a value"),
        );
        let answer = client.send_request(request).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()["x-caracal-reason"], "ambiguous_request");
    }
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}
