//! `caracald measure`: what metering, holding and settling a call cost here, in CPU time of the one thread that does it. The
//! code of the data path, without a connection and without the journal's wait. For `cargo xtask bench` and `test`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, StatusCode};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::budget::{BudgetSpec, Budgets, Ending, Hold, Per, Scope, Window, WindowKind};
use crate::clock::Clock;
use crate::meter::{Call, Meter, Operation, PriceBook, Provider, Reading};
use crate::money::NanoUsd;

/// Calls that are open at once, and measured together: one call is shorter than what asking for the time costs.
const BATCH: usize = 64;
/// Batches that are thrown away: caches and the allocator settle.
const WARM: usize = 50;

/// Measure what a hold and its end cost, in CPU time.
///
/// Calls of 64 agents under a budget of the month, one of the day below it in a zone of its own, and one for each agent below
/// that. Prints one line of JSON, microseconds for each call: half of all batches of 64 calls took no more.
#[derive(Args, Debug)]
pub struct MeasureArgs {
    /// Batches of 64 calls.
    #[arg(long, default_value_t = 1_000)]
    batches: usize,
    /// The budget of each agent is a rolling one.
    #[arg(long)]
    rolling: bool,
}

/// CPU time of each part, microseconds of a call, one entry a batch.
#[derive(Debug, Default)]
struct Spent {
    read: Vec<f64>,
    edit: Vec<f64>,
    usage: Vec<f64>,
    hold_settle: Vec<f64>,
}

/// Runs the verb.
///
/// # Errors
/// When a call is refused.
pub fn run(args: &MeasureArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spent = runtime.block_on(measure(args))?;
    println!(
        "{}",
        json!({
            "hold_settle_us_p50": part(&spent.hold_settle, 50), "hold_settle_us_p99": part(&spent.hold_settle, 99),
            "read_us_p50": part(&spent.read, 50), "edit_us_p50": part(&spent.edit, 50),
            "usage_us_p50": part(&spent.usage, 50), "calls": args.batches * BATCH,
        })
    );
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &MeasureArgs) -> anyhow::Result<Spent> {
    let meter = Meter::new(PriceBook::built_in().context("the built-in price book")?, []);
    let budgets = Budgets::new(specs(args.rolling), Clock::default(), std::collections::HashMap::new())?;
    let agents: Vec<Arc<str>> = (0..BATCH).map(|n| format!("agent-{n}").into()).collect();
    let mut spent = Spent::default();
    for batch in 0..args.batches + WARM {
        if batch == WARM {
            spent = Spent::default();
        }
        let began = cpu_us();
        let calls: Vec<Call> = (0..BATCH).map(|n| read(&meter, n)).collect::<anyhow::Result<_>>()?;
        let read_by = cpu_us();
        let mut holds: Vec<Hold> = Vec::with_capacity(BATCH);
        for (call, agent) in calls.iter().zip(&agents) {
            let held = budgets.hold(&scope(call, agent), call.least(4_096), call.most()).await;
            holds.push(held.map_err(|refusal| anyhow::anyhow!(refusal.sentence))?);
        }
        let held_by = cpu_us();
        let mut edits = Vec::with_capacity(BATCH);
        for (call, hold) in calls.iter().zip(&holds) {
            edits.push(call.edit(hold.amount).map_err(|refusal| anyhow::anyhow!(refusal.sentence))?);
        }
        let edited_by = cpu_us();
        for (hold, edited) in holds.iter_mut().zip(&edits) {
            hold.shrink(edited.hold);
            hold.sent();
        }
        let sent_by = cpu_us();
        let mut readings: Vec<Reading> = Vec::with_capacity(BATCH);
        for (call, edited) in calls.iter().zip(&edits) {
            let mut reader = call.reader(edited, StatusCode::OK, &HeaderMap::new());
            let _ = reader.feed(Bytes::from_static(ANSWER.as_bytes()));
            let _ = reader.flush();
            readings.push(reader.finish());
        }
        let answered_by = cpu_us();
        for ((hold, call), reading) in holds.into_iter().zip(&calls).zip(&readings) {
            let charge = call.bill(reading).context("the answer says what it cost")?;
            let recorded = std::future::ready(Ok::<(), ()>(()));
            let _ = hold.end_after(Ending::Settled(charge), recorded).await;
        }
        let each = |from: f64, to: f64| (to - from) / BATCH as f64;
        spent.read.push(each(began, read_by));
        spent.edit.push(each(held_by, edited_by));
        spent.usage.push(each(sent_by, answered_by));
        spent.hold_settle.push(each(read_by, held_by) + each(edited_by, sent_by) + each(answered_by, cpu_us()));
    }
    Ok(spent)
}

fn specs(rolling: bool) -> Vec<BudgetSpec> {
    let limit = NanoUsd(1_000_000_000_000_000);
    let company = BudgetSpec { window: Window::Month, ..BudgetSpec::daily("company", limit) };
    let team = BudgetSpec {
        parent: Some("company".into()),
        time_zone: "Europe/Berlin".to_owned(),
        warn_at: vec![50, 80, 95],
        ..BudgetSpec::daily("team", limit)
    };
    let seat = BudgetSpec {
        parent: Some("team".into()),
        per: Per::Agent,
        kind: if rolling { WindowKind::Rolling } else { WindowKind::Calendar },
        warn_at: vec![50, 80, 95],
        ..BudgetSpec::daily("seat", limit)
    };
    vec![company, team, seat]
}

fn scope(call: &Call, agent: &Arc<str>) -> Scope {
    Scope {
        agent: Arc::clone(agent),
        provider: call.provider.name(),
        model: call.priced_as(),
        host: "api.openai.com".into(),
        tool: call.tool().into(),
    }
}

/// A call of the size that a bare SDK makes.
fn read(meter: &Meter, n: usize) -> anyhow::Result<Call> {
    let words = "Say what this file is for and which of its parts nobody uses. ".repeat(16);
    let body = json!({
        "model": "gpt-4o-mini", "max_tokens": 1_000 + n,
        "messages": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": words}],
    });
    let body = Bytes::from(body.to_string());
    let call = meter.read_at(Provider::OpenAi, Operation::Chat, "/v1/chat/completions", &HeaderMap::new(), &body);
    call.map_err(|refusal| anyhow::anyhow!(refusal.sentence))
}

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1795000000,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"It reads the configuration."},"finish_reason":"stop"}],"usage":{"prompt_tokens":210,"completion_tokens":64,"total_tokens":274,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}"#;

/// CPU time of this thread, microseconds.
fn cpu_us() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0.0, |time| time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3)
}

/// The value below which so many percent lie; thousandths.
fn part(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |value| (value * 1_000.0).round() / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_part_takes_some_time_and_each_call_is_charged() {
        let spent = measure(&MeasureArgs { batches: 2, rolling: true }).await.expect("calls that fit");
        for values in [&spent.read, &spent.edit, &spent.usage, &spent.hold_settle] {
            assert!(values.len() == 2 && values.iter().all(|value| *value > 0.0), "{spent:?}");
        }
        assert_eq!((part(&[3.0, 1.0, 2.0], 50), part(&[], 50)), (2.0, 0.0));
    }
}
