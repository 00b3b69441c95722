//! How other gateways lost a charge on the way, tried over real connections: each test carries the number of the report.
//! The trackers, at github.com: `litellm` BerriAI/litellm, `envoy` envoyproxy/ai-gateway.

use super::money::{CALL, STREAMED, call, outcome_of};
use super::world::{Speaks, World, full, http1_over};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::collections::HashMap;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_2563_2115_litellm_35958_who_leaves_after_the_usage_pays_it() {
    let world = World::new(Speaks::Both).await;
    let mut client = world.http1("api.openai.com").await;
    let mut answer = client.send_request(call(STREAMED, "x-paced")).await.expect("answer");
    answer.body_mut().frame().await.expect("frame").expect("data");
    world.log.go_on.grant();
    // The frame with the usage; the end of the stream is not waited for, as an SDK does.
    answer.body_mut().frame().await.expect("frame").expect("data");
    drop(answer);
    drop(client);
    world.log.go_on.grant();
    let outcome = outcome_of(&world).await;
    assert_eq!(outcome.settle.as_deref(), Some("settled"), "{outcome:?}");
    assert!(outcome.cost.is_some_and(|cost| cost > 0) && outcome.cost < outcome.hold, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellm_10973_without_money_what_is_free_still_works() {
    let world = World::new(Speaks::Both).await;
    let mut client = http1_over(world.tls_as("poor", "api.openai.com").await).await;
    let paid = client.send_request(call(CALL, "")).await.expect("answer");
    assert_eq!(paid.status(), StatusCode::BAD_REQUEST);
    paid.into_body().collect().await.expect("body");
    let request =
        Request::builder().uri("/v1/models").header("Host", "api.openai.com").body(full("")).expect("request");
    assert_eq!(client.send_request(request).await.expect("answer").status(), StatusCode::OK);
}

/// An agent that goes away while its intent is written: it is ended once, by the journal or by the call and never by both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellm_13280_who_leaves_at_any_moment_has_one_outcome() {
    let world = World::new(Speaks::Both).await;
    for round in 0..60u32 {
        let mut client = world.http1("api.openai.com").await;
        let sending = tokio::spawn(async move { client.send_request(call(CALL, "")).await.map(drop) });
        for _ in 0..round * 3 {
            tokio::task::yield_now().await;
        }
        sending.abort();
        let _ = sending.await;
    }
    let count = |records: &[super::fixture::Seen]| {
        let mut calls: HashMap<String, (u32, u32)> = HashMap::new();
        for record in records {
            let Some(call) = record.call.clone() else { continue };
            let entry = calls.entry(call).or_default();
            match record.kind.as_str() {
                "caracal.intent.v1" => entry.0 += 1,
                "caracal.outcome.v1" => entry.1 += 1,
                _ => {}
            }
        }
        calls
    };
    // The hold ends right after its outcome is recorded.
    let held = || world.stages.budgets.snapshot().iter().map(|status| status.held.0).sum::<u64>();
    let records = world.records(|records| count(records).values().all(|ends| ends.1 >= 1) && held() == 0).await;
    world.stages.written().await;
    let calls = count(&records);
    assert!(calls.values().all(|ends| *ends == (1, 1)), "{calls:?}");
}
