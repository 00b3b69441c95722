//! What a paid call costs is held, sent, settled and recorded, however it ends.

use super::fixture::Seen;
use super::world::{Body, Speaks, World, full, http1_over, port_without_listener};
use crate::intercept::Limits;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::sync::atomic::Ordering;

pub(super) const CALL: &str =
    r#"{"model":"gpt-4o-mini","max_tokens":5000,"messages":[{"role":"user","content":"hi"}]}"#;
pub(super) const STREAMED: &str = r#"{"model":"gpt-4o-mini","max_tokens":5000,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;

pub(super) fn call(body: &'static str, header: &str) -> Request<Body> {
    let request = Request::builder().method("POST").uri("/v1/chat/completions").header("Host", "api.openai.com");
    let request = request.header("content-type", "application/json");
    let request = if header.is_empty() { request } else { request.header(header, "1") };
    request.body(full(body)).expect("request")
}

fn outcome(records: &[Seen]) -> Option<&Seen> {
    records.iter().find(|record| record.kind == "caracal.outcome.v1")
}

pub(super) async fn outcome_of(world: &World) -> Seen {
    let records = world.records(|records| outcome(records).is_some()).await;
    let intent =
        records.iter().find(|record| record.kind == "caracal.intent.v1").expect("an intent before the outcome");
    let outcome = outcome(&records).expect("an outcome");
    assert_eq!(intent.call, outcome.call);
    assert!(intent.call.is_some());
    assert_eq!(records.iter().filter(|record| record.kind == "caracal.outcome.v1").count(), 1);
    outcome.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_settled_before_its_answer_ends() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let answer = client.send_request(call(CALL, "")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.expect("body").to_bytes();
    assert!(body.ends_with(b"}}"));
    // The last byte is here, so the outcome is in the journal's hands.
    world.stages.written().await;
    let records = world.stages.records();
    let outcome = outcome(&records).expect("the outcome came before the last byte");
    assert_eq!(outcome.settle.as_deref(), Some("settled"));
    assert!(outcome.cost.is_some_and(|cost| cost > 0) && outcome.cost <= outcome.hold, "{outcome:?}");
    assert_eq!(outcome.bytes.1, Some(body.len() as u64), "the answer's length is on record");
    assert!(outcome.bytes.0.is_some_and(|sent| sent == CALL.len() as u64), "{outcome:?}");
}

/// Who has seen the usage is charged by it, whatever becomes of the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_settled_before_its_usage_goes_out() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let mut answer = client.send_request(call(STREAMED, "x-paced")).await.expect("answer");
    answer.body_mut().frame().await.expect("frame").expect("data");
    world.log.go_on.grant();
    let frame = answer.body_mut().frame().await.expect("frame").expect("the usage").into_data().expect("data");
    assert!(frame.starts_with(b"data: {\"usage\"") && frame.ends_with(b"\n\n"), "{frame:?}");
    // The upstream says no more, and the outcome is in the journal's hands.
    world.stages.written().await;
    let records = world.stages.records();
    let outcome = outcome(&records).expect("the outcome came before the usage");
    // 10 tokens at 0.15 and 5 at 0.60 USD a million.
    assert_eq!((outcome.settle.as_deref(), outcome.cost), (Some("settled"), Some(4_500)));
    world.log.go_on.grant();
    assert!(answer.into_body().collect().await.expect("the end").to_bytes().is_empty());
    assert_eq!(outcome_of(&world).await.cost, Some(4_500), "and no other outcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_costs_nothing() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let answer = client.send_request(call(CALL, "x-fail")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    answer.into_body().collect().await.expect("body");
    let outcome = outcome_of(&world).await;
    assert_eq!((outcome.settle.as_deref(), outcome.cost), (Some("released"), Some(0)));
}

/// Azure bills a prompt that its filter refused, and not one that was wrong; OpenAI neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_prompt_is_charged_its_hold_where_the_provider_bills_it() {
    use crate::meter::{Extra, PriceBook, Provider};
    let own = "[[model]]\nprovider='azure'\nnames=['gpt-4o-mini']\noperations=['chat']\nsource='x'\nmax_input=1000\n\
               max_output=1000\nrates=[{tier='standard',input='1',output='1'}]\n";
    for (host, code, settle, reason) in [
        ("a.test", "content_filter", "charged_max", "prompt_filtered"),
        ("a.test", "invalid_value", "released", "provider_refused"),
        ("api.openai.com", "content_filter", "released", "provider_refused"),
    ] {
        let world = World::new(Speaks::Both).await;
        let book = PriceBook::parse(&format!("{}\n{own}", PriceBook::BUILT_IN)).expect("a book");
        world.stages.meter.replace(book);
        let azure = Extra { host: "a.test".into(), provider: Provider::Azure, base: Some("/v1".into()) };
        world.stages.meter.replace_bases(vec![azure]);
        let mut client = world.http1(host).await;
        let request = Request::builder().method("POST").uri("/v1/chat/completions").header("x-filtered", code);
        let request = request.header("Host", host).header("content-type", "application/json");
        let answer = client.send_request(request.body(full(CALL)).expect("request")).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(code), "the agent gets the provider's own words");
        let outcome = outcome_of(&world).await;
        assert_eq!(
            (outcome.settle.as_deref(), outcome.reason.as_deref()),
            (Some(settle), Some(reason)),
            "{host} {code}"
        );
        let cost = if settle == "released" { Some(0) } else { outcome.hold };
        assert!(outcome.cost == cost && outcome.hold > Some(0), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_up_pays_what_the_provider_bills() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let mut answer = client.send_request(call(STREAMED, "x-paced")).await.expect("answer");
    answer.body_mut().frame().await.expect("frame").expect("data");
    drop(answer);
    drop(client);
    // The upstream is read on to its end: the second piece is taken, and the usage in it counts.
    world.log.go_on.grant();
    world.log.go_on.grant();
    world.log.ended.notified().await;
    let outcome = outcome_of(&world).await;
    assert_eq!(outcome.settle.as_deref(), Some("settled"));
    assert!(outcome.cost < outcome.hold, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_outlives_its_bounds_is_charged_in_full() {
    let limits = Limits { drain_time: std::time::Duration::from_millis(50), ..Limits::default() };
    let world = World::with(Speaks::Both, limits, false).await;
    let mut client = world.http1("api.openai.com").await;
    let mut answer = client.send_request(call(STREAMED, "x-paced")).await.expect("answer");
    answer.body_mut().frame().await.expect("frame").expect("data");
    drop(answer);
    drop(client);
    let outcome = outcome_of(&world).await;
    assert_eq!((outcome.settle.as_deref(), outcome.reason.as_deref()), (Some("charged_max"), Some("agent_gone")));
    assert_eq!(outcome.cost, outcome.hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_breaks_off_is_charged_in_full() {
    let world = World::new(Speaks::Clear).await;
    let raw = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let original =
        std::net::SocketAddr::new("1.2.3.4".parse().expect("address"), raw.local_addr().expect("address").port());
    let mut client = http1_over(world.connect_as("rich", original).await).await;
    let upstream = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = raw.accept().await.expect("accepted");
        let mut buffer = [0; 4_096];
        assert!(stream.read(&mut buffer).await.expect("request") > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.expect("half an answer");
    });
    let answer = client.send_request(call(CALL, "")).await.expect("answer");
    assert!(answer.into_body().collect().await.is_err(), "the same failure, streamed");
    upstream.await.expect("upstream");
    let outcome = outcome_of(&world).await;
    assert_eq!((outcome.settle.as_deref(), outcome.reason.as_deref()), (Some("charged_max"), Some("upstream_failed")));
    assert_eq!(outcome.cost, outcome.hold);
}

/// Bytes behind the announced length are nobody's answer: the call is settled by its own, and the connection is not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_an_answers_length_are_not_the_next_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;
    const FREE: &str = r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
    let world = World::new(Speaks::Clear).await;
    let raw = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let original =
        std::net::SocketAddr::new("1.2.3.4".parse().expect("address"), raw.local_addr().expect("address").port());
    let upstream = tokio::spawn(async move {
        let mut streams = Vec::new();
        for behind in [true, false] {
            let (mut stream, _) = raw.accept().await.expect("accepted");
            let mut buffer = [0; 4_096];
            assert!(stream.read(&mut buffer).await.expect("request") > 0);
            let head = |body: &str| {
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            // Behind the first answer stands another, that says it cost nothing.
            let said = head(ANSWER) + &if behind { head(FREE) } else { String::new() };
            stream.write_all(said.as_bytes()).await.expect("an answer");
            streams.push(stream);
        }
        streams
    });
    for _ in 0..2 {
        let mut client = http1_over(world.connect_as("rich", original).await).await;
        let answer = client.send_request(call(CALL, "")).await.expect("answer");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body, ANSWER);
    }
    let _streams = upstream.await.expect("two connections");
    let outcomes = |records: &[Seen]| {
        let outcomes = records.iter().filter(|record| record.kind == "caracal.outcome.v1");
        outcomes.map(|record| (record.settle.clone(), record.cost)).collect::<Vec<_>>()
    };
    let records = world.records(|records| outcomes(records).len() == 2).await;
    // 10 tokens at 0.15 and 5 at 0.60 USD a million.
    assert!(outcomes(&records).iter().all(|one| *one == (Some("settled".to_owned()), Some(4_500))), "{records:?}");
}

/// A stream that costs more than is held ends in the provider's own error, whole events before it, and is settled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_passes_its_hold_is_ended_in_words_and_charged_truly() {
    for told in ["1", "0"] {
        let world = World::new(Speaks::Both).await;
        let mut client = world.http1("api.openai.com").await;
        let request = |header| Request::builder().method("POST").uri("/v1/chat/completions").header("x-greedy", header);
        let request = |header| request(header).header("Host", "api.openai.com").body(full(STREAMED)).expect("request");
        let answer = client.send_request(request(told)).await.expect("answer");
        let body = answer.into_body().collect().await.expect("a clean end").to_bytes();
        world.stages.written().await;
        let outcome = outcome(&world.stages.records()).cloned().expect("the outcome came before the last byte");
        assert_eq!(outcome.reason.as_deref(), Some("hold_passed"));
        // 10 tokens at 0.15 and 99,000 at 0.60 USD a million.
        match told {
            "1" => assert_eq!((outcome.settle.as_deref(), outcome.cost), (Some("settled"), Some(59_401_500))),
            _ => assert_eq!(outcome.settle.as_deref(), Some("charged_max")),
        }
        assert!(outcome.cost > outcome.hold, "{outcome:?}");
        let text = std::str::from_utf8(&body).expect("text");
        let data: Vec<serde_json::Value> = text
            .split("\n\n")
            .filter_map(|event| event.trim_start().strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("every event is whole"))
            .collect();
        let (error, before) = data.split_last().expect("events");
        assert!(before.len() > 100 && before.iter().all(|event| event["choices"].is_array()));
        assert!(error["error"]["message"].as_str().is_some_and(|said| said.starts_with("Caracal ended this answer")));
        // What is asked again is refused, once, in words.
        let again = client.send_request(request(told)).await.expect("answer");
        assert_eq!(again.status(), StatusCode::BAD_REQUEST);
        assert_eq!(again.headers().get("x-caracal-reason").expect("reason"), "price_unknown");
    }
}

/// The same where nobody listens any more: what is charged is the bill, and not the hold that it has passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_passes_its_hold_unheard_is_charged_truly() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let request = Request::builder().method("POST").uri("/v1/chat/completions").header("x-greedy", "0");
    let request = request.header("Host", "api.openai.com").body(full(STREAMED)).expect("request");
    let mut answer = client.send_request(request).await.expect("answer");
    answer.body_mut().frame().await.expect("frame").expect("data");
    drop(answer);
    drop(client);
    let outcome = outcome_of(&world).await;
    assert_eq!((outcome.settle.as_deref(), outcome.reason.as_deref()), (Some("charged_max"), Some("hold_passed")));
    assert!(outcome.cost > outcome.hold, "{outcome:?}");
    assert_eq!(world.stages.budgets.frozen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_not_sent_is_released() {
    let world = World::new(Speaks::Clear).await;
    let (_held, port) = port_without_listener();
    let original = std::net::SocketAddr::new("1.2.3.4".parse().expect("address"), port);
    let mut client = http1_over(world.connect_as("rich", original).await).await;
    let answer = client.send_request(call(CALL, "")).await.expect("answer");
    assert_eq!(answer.headers().get("x-caracal-reason").expect("reason"), "upstream_connect");
    let outcome = outcome_of(&world).await;
    assert_eq!(
        (outcome.settle.as_deref(), outcome.reason.as_deref(), outcome.cost),
        (Some("released"), Some("not_sent"), Some(0))
    );
}

/// The budgets of the fixture, each with money enough.
fn fill_budgets(world: &World) {
    let rich = |name: &str| crate::budget::BudgetSpec::daily(name, crate::money::NanoUsd(1_000_000_000_000));
    world.stages.budgets.reload(vec![rich("all"), rich("poor")]).expect("budgets");
}

/// Syncs of the journal so far that somebody waited for.
fn waited_syncs(world: &World) -> u64 {
    world.stages.journal.tail().waited_syncs.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_call_is_one_native_400_and_its_repeats_cost_no_hold_and_no_sync() {
    let world = World::new(Speaks::Both).await;
    let mut client = http1_over(world.tls_as("poor", "api.openai.com").await).await;
    let mut ask = async || {
        let answer = client.send_request(call(CALL, "")).await.expect("answer");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        (parts.status, parts.headers.get("x-caracal-reason").cloned(), String::from_utf8_lossy(&body).into_owned())
    };
    for round in 0..20 {
        if round == 10 {
            // There is money now, and nobody looks: the refusal was remembered, no hold was tried.
            fill_budgets(&world);
        }
        let (status, reason, body) = ask().await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(reason.expect("a reason"), "budget_exceeded");
        assert!(body.contains("Caracal"), "{body}");
    }
    assert_eq!(world.log.connections.load(Ordering::Relaxed), 0);
    let records = world.records(|records| records.iter().map(|record| record.count).sum::<u64>() >= 20).await;
    assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 20);
    assert!(
        records.iter().all(|record| record.decision.as_deref() == Some("deny") && record.kind == "caracal.decision.v1"),
        "{records:?}"
    );
    assert!(records.len() <= 4, "equal refusals are counted: {records:?}");
    assert_eq!(waited_syncs(&world), 0, "a refusal was waited for");
    // What was remembered is all that stood between the call and its money; a paid call waits for one sync.
    world.stack.forget_refusals();
    let (status, _, body) = ask().await;
    assert_eq!((status, waited_syncs(&world)), (StatusCode::OK, 1), "{body}");
}

/// A server of tools at `a.test`, and an API at `b.test`, priced by the call.
const PRICED: &str = r#"
[[allow]]
hosts = ["a.test", "b.test"]

[[mcp]]
name = "tools"
host = "a.test"
prices = { search = "0.01 USD" }

[[api]]
name = "geo"
host = "b.test"
call = "0.01 USD"
"#;

/// The `number`th try of the same call: of a tool, whose client counts its requests, or of an API.
fn priced(host: &str, number: usize) -> Request<Body> {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"search","arguments":{{"n":{number}}}}}}}"#
    );
    let body = if host == "a.test" { body } else { "{}".to_owned() };
    let request = Request::builder().method("POST").uri("/call").header("Host", host);
    request.header("content-type", "application/json").body(full(body)).expect("request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_tool_or_api_is_remembered_without_a_second_hold_or_a_durable_record() {
    for host in ["a.test", "b.test"] {
        let world = World::new(Speaks::Both).await;
        let config =
            crate::config::Config::parse(PRICED, std::path::Path::new("caracal.toml")).expect("a configuration");
        world.stages.meter.replace_own(crate::meter::Own::of(&config));
        let mut client = http1_over(world.tls_as("poor", host).await).await;
        let mut ask = async |number: usize| {
            let answer = client.send_request(priced(host, number)).await.expect("answer");
            let reason =
                answer.headers().get("x-caracal-reason").map(|reason| reason.to_str().expect("text").to_owned());
            let body = answer.into_body().collect().await.expect("body").to_bytes();
            (reason, serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
        };
        for number in 0..10 {
            let (reason, body) = ask(number).await;
            assert_eq!(reason.as_deref(), Some("budget_exceeded"), "{body}");
            if host == "a.test" {
                assert_eq!(body["id"], number, "the answer is of this request: {body}");
            }
        }
        fill_budgets(&world);
        assert_eq!(ask(10).await.0.as_deref(), Some("budget_exceeded"));
        assert_eq!(world.log.connections.load(Ordering::Relaxed), 0);
        let records = world.records(|records| records.iter().map(|record| record.count).sum::<u64>() >= 11).await;
        assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 11);
        // Counted decisions, which nobody waits for; an intent would be durable.
        assert!(records.iter().all(|record| record.kind == "caracal.decision.v1"), "{records:?}");
        assert!(records.len() <= 4, "{records:?}");
        assert_eq!(waited_syncs(&world), 0, "a refusal was waited for");
        world.stack.forget_refusals();
        assert_eq!(ask(11).await.0, None);
        assert_eq!(world.log.requests.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_durable_intent_no_call_is_sent() {
    let world = World::without_journal(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let answer = client.send_request(call(CALL, "")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer.headers().get("x-caracal-reason").expect("reason"), "journal_unavailable");
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_paths_of_a_priced_host() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let request = |path: &str| Request::builder().uri(path.to_owned()).header("Host", "api.openai.com");
    let free = client.send_request(request("/v1/models").body(full("")).expect("request")).await.expect("answer");
    assert_eq!(free.status(), StatusCode::OK);
    free.into_body().collect().await.expect("body");
    let unknown = client.send_request(request("/v1/fancy").body(full("")).expect("request")).await.expect("answer");
    assert_eq!(unknown.headers().get("x-caracal-reason").expect("reason"), "path_unknown");
    assert_eq!(unknown.status(), StatusCode::FORBIDDEN);
    unknown.into_body().collect().await.expect("body");
    let upgrade = request("/v1/responses")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    let answer = client.send_request(upgrade.body(full("")).expect("request")).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    answer.into_body().collect().await.expect("body");
    // The connection goes on.
    let again = client.send_request(request("/v1/models").body(full("")).expect("request")).await.expect("answer");
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(world.log.requests.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_comes_near_is_recorded_and_refuses_nothing() {
    let world = World::new(Speaks::Both).await;
    for _ in 0..2 {
        let mut client = http1_over(world.tls_as("watched", "api.openai.com").await).await;
        let answer = client.send_request(call(CALL, "")).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.expect("body");
    }
    let outcomes = |records: &[Seen]| records.iter().filter(|record| record.kind == "caracal.outcome.v1").count();
    let records = world.records(|records| outcomes(records) == 2).await;
    let warnings: Vec<_> = records.iter().filter(|record| record.kind == "caracal.budget_warning.v1").collect();
    assert_eq!(warnings.len(), 1, "said once: {records:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_comes_too_often_is_told_when_to_come_again() {
    let world = World::new(Speaks::Both).await;
    let mut client = http1_over(world.tls_as("hasty", "api.openai.com").await).await;
    for _ in 0..2 {
        let answer = client.send_request(call(CALL, "")).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.expect("body");
    }
    let dialled = world.log.requests.load(Ordering::Relaxed);
    for _ in 0..3 {
        let answer = client.send_request(call(CALL, "")).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!(header("x-caracal-reason").as_deref(), Some("rate_limited"));
        assert_eq!(header("x-should-retry"), None, "this one is worth asking again");
        let seconds: u64 = header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        assert!((1..=1_800).contains(&seconds), "{seconds}");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("json");
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    }
    assert_eq!(world.log.requests.load(Ordering::Relaxed), dialled, "nobody was asked");
    // What is no call has limits of its own.
    let mut client = http1_over(world.tls_as("hasty", "a.test").await).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = Request::builder().uri("/").header("Host", "a.test").body(full("")).expect("request");
        let answer = client.send_request(request).await.expect("answer");
        statuses.push(answer.status().as_u16());
        answer.into_body().collect().await.expect("body");
    }
    assert_eq!(statuses, [404, 404, 429], "two reached the upstream, which has nothing there");
}
