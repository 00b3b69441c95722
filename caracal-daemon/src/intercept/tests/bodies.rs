//! What is read whole before it is priced has a bound in bytes and in time, for all agents and for each.

use super::money::{CALL, STREAMED, call};
use super::world::{Speaks, World};
use crate::http::body::Patience;
use crate::intercept::Limits;
use http_body_util::BodyExt;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MIB: usize = 1 << 20;

/// Four shares of a mebibyte.
fn narrow() -> Limits {
    Limits { priced_bodies: 4 * MIB, ..Limits::default() }
}

fn head(length: usize, more: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    )
}

/// A body of this length.
fn padded(length: usize) -> Vec<u8> {
    let mut body = CALL.as_bytes().to_vec();
    body.resize(length, b' ');
    body
}

/// The answer to what was written, to its end.
async fn answer<S: AsyncRead + Unpin>(mut stream: S) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).expect("text").to_lowercase()
}

/// Sends a call of this many bytes but for the last one, and waits until they are held.
async fn all_but_one<S: AsyncWrite + Unpin>(world: &World, mut stream: S, length: usize) -> S {
    let before = world.stack.room.taken();
    stream.write_all(head(length, "").as_bytes()).await.expect("a head");
    stream.write_all(&padded(length - 1)).await.expect("a body");
    held(world, before + length - 1).await;
    stream
}

async fn held(world: &World, bytes: usize) {
    for _ in 0..6_000 {
        if world.stack.room.taken() == bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} bytes are held, not {bytes}", world.stack.room.taken());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_holds_its_share_of_bodies_and_others_theirs() {
    let world = World::with(Speaks::Both, narrow(), false).await;
    let name = "api.openai.com";
    let held_back = all_but_one(&world, world.tls_as("rich", name).await, 900_000).await;
    // What goes beyond is answered at once, whole, and takes nothing.
    let mut beyond = world.tls_as("rich", name).await;
    beyond.write_all(head(300_000, "").as_bytes()).await.expect("a head");
    beyond.write_all(&padded(300_000)).await.expect("a body");
    let said = answer(beyond).await;
    assert!(said.starts_with("http/1.1 429"), "{said}");
    assert!(said.contains("x-caracal-reason: too_many_bodies") && said.contains("retry-after: 5"), "{said}");
    held(&world, 899_999).await;
    // Another agent's calls go on.
    let mut other = world.tls_as("other", name).await;
    other.write_all(&[head(300_000, "").into_bytes(), padded(300_000)].concat()).await.expect("a call");
    let said = answer(other).await;
    assert!(said.starts_with("http/1.1 200"), "{said}");
    let records = world.records(|records| records.iter().any(|one| one.reason.is_some())).await;
    let refused: Vec<_> = records.iter().filter(|one| one.reason.as_deref() == Some("too_many_bodies")).collect();
    assert_eq!(refused.iter().map(|one| one.count).sum::<u64>(), 1, "{records:?}");
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 1);
    // The room of one that left is the next one's.
    drop(held_back);
    held(&world, 0).await;
    let mut again = world.tls_as("rich", name).await;
    again.write_all(&[head(300_000, "").into_bytes(), padded(300_000)].concat()).await.expect("a call");
    let said = answer(again).await;
    assert!(said.starts_with("http/1.1 200"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_body_decodes_to_counts() {
    let world = World::with(Speaks::Both, narrow(), false).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&padded(2 * MIB)).expect("packed");
    let packed = packed.finish().expect("packed");
    assert!(packed.len() < MIB / 8);
    for _ in 0..2 {
        // Twice: what may change by itself is not remembered.
        let mut stream = world.tls_as("rich", "api.openai.com").await;
        let call = [head(packed.len(), "Content-Encoding: gzip\r\n").into_bytes(), packed.clone()].concat();
        stream.write_all(&call).await.expect("a call");
        let said = answer(stream).await;
        assert!(said.contains("x-caracal-reason: too_many_bodies"), "{said}");
        held(&world, 0).await;
    }
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_on_its_way_holds_no_body() {
    let world = World::new(Speaks::Both).await;
    // As it came, and edited: the price of a stream without usage is asked for.
    let silent: &'static str =
        r#"{"model":"gpt-4o-mini","max_tokens":5000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    for body in [STREAMED, silent] {
        let mut client = world.http1("api.openai.com").await;
        let mut answer = client.send_request(call(body, "x-paced")).await.expect("answer");
        answer.body_mut().frame().await.expect("frame").expect("data");
        held(&world, 0).await;
        world.log.go_on.grant();
        world.log.go_on.grant();
        answer.into_body().collect().await.expect("body");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let name = "api.openai.com";
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(3_600));
    for patience in [Patience { idle: short, whole: long }, Patience { idle: long, whole: short }] {
        let world = World::with(Speaks::Both, Limits { patience, ..Limits::default() }, false).await;
        let mut stream = world.tls_as("rich", name).await;
        stream.write_all(&[head(10_000, "").into_bytes(), padded(9_999)].concat()).await.ok();
        let said = answer(stream).await;
        assert!(said.starts_with("http/1.1 400") && said.contains("x-caracal-reason: body_timeout"), "{said}");
        held(&world, 0).await;
        let records = world.records(|records| !records.is_empty()).await;
        assert_eq!(records[0].reason.as_deref(), Some("body_timeout"), "{records:?}");
        assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_a_model_has_a_longest() {
    let world = World::new(Speaks::Both).await;
    for (length, reason) in [(256, "price_unknown"), (257, "ambiguous_request"), (MIB, "ambiguous_request")] {
        let body = format!(r#"{{"model":"{}","max_tokens":5,"messages":[]}}"#, "m".repeat(length));
        let mut stream = world.tls_as("rich", "api.openai.com").await;
        stream.write_all(&[head(body.len(), ""), body].concat().into_bytes()).await.expect("a call");
        let said = answer(stream).await;
        assert!(said.contains(&format!("x-caracal-reason: {reason}")), "{length}: {said}");
        assert!(said.len() < 4_096, "a name is not said back");
        if length > 256 {
            assert!(said.contains(&format!("at most 256 bytes, and this one has {length}")), "{said}");
        }
    }
}
