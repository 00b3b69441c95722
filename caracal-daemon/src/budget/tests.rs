//! Holds and windows, one after the other and many at once.

use super::*;
use std::time::Duration;

mod crowd;
mod issues;
mod model;
mod queue;
mod selection;
mod years;

const SECOND: u64 = 1_000_000_000;
const NOON: u64 = 1_795_521_600 * SECOND; // 2026-11-24T12:00:00Z

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn scope(agent: &str, model: &str) -> Scope {
    Scope {
        agent: agent.into(),
        provider: "openai",
        model: model.into(),
        host: "api.openai.com".into(),
        tool: "".into(),
    }
}

fn budgets(specs: Vec<BudgetSpec>) -> Result<(Budgets, Clock), SpecError> {
    let clock = Clock::fixed(UnixNanos(NOON));
    Ok((Budgets::new(specs, clock.clone(), HashMap::new())?, clock))
}

fn daily(name: &str, limit: u64) -> BudgetSpec {
    BudgetSpec { wait: Wait { calls: 1_000, time: Duration::from_secs(60) }, ..BudgetSpec::daily(name, NanoUsd(limit)) }
}

fn left(budgets: &Budgets, name: &str) -> Option<u64> {
    budgets.snapshot().into_iter().find(|status| status.key.budget.as_ref() == name).map(|status| status.left.0)
}

#[tokio::test]
async fn a_hold_takes_as_much_as_fits_and_leaves_room() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 1_000)])?;
    let ask = scope("a", "m");
    let first = budgets.hold(&ask, NanoUsd(100), NanoUsd(900)).await?;
    assert_eq!(first.amount, NanoUsd(500), "half of what is left");
    let second = budgets.hold(&ask, NanoUsd(400), NanoUsd(900)).await?;
    assert_eq!(second.amount, NanoUsd(400), "never below least");
    let third = budgets.hold(&ask, NanoUsd(10), NanoUsd(20)).await?;
    assert_eq!(third.amount, NanoUsd(20), "never above most");
    assert_eq!(left(&budgets, "b"), Some(80));
    first.settle(NanoUsd(70));
    second.release();
    assert_eq!(third.charge_max().0, NanoUsd(20));
    assert_eq!(left(&budgets, "b"), Some(910));
    let key = budgets.snapshot().first().map(|status| status.key.window.to_string());
    assert_eq!(key.as_deref(), Some("day/2026-11-24"));
    Ok(())
}

#[tokio::test]
async fn a_soft_budget_counts_and_warns_and_refuses_nothing() -> Outcome {
    let soft = BudgetSpec { soft: true, warn_at: vec![50, 100], ..daily("soft", 100) };
    let (budgets, _) = budgets(vec![soft, BudgetSpec { warn_at: vec![50], ..daily("hard", 1_000) }])?;
    let ask = scope("a", "m");
    let mut said = Vec::new();
    for bill in [40, 20, 300, 200] {
        let mut held = budgets.hold(&ask, NanoUsd(bill), NanoUsd(bill)).await?;
        held.sent();
        let warnings = held.settle(NanoUsd(bill));
        said.push(warnings.iter().map(|warning| (warning.key.budget.to_string(), warning.percent)).collect::<Vec<_>>());
    }
    let one = |name: &str, percent| vec![(name.to_owned(), percent)];
    assert_eq!(said, [vec![], one("soft", 50), one("soft", 100), one("hard", 50)]);
    assert_eq!((left(&budgets, "soft"), left(&budgets, "hard")), (Some(0), Some(440)));
    assert!(budgets.hold(&ask, NanoUsd(441), NanoUsd(441)).await.is_err(), "the hard one refuses");
    Ok(())
}

#[tokio::test]
async fn the_ends_of_a_hold_follow_its_state() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 1_000)])?;
    let ask = scope("a", "m");
    let mut held = budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?;
    held.shrink(NanoUsd(60));
    assert_eq!((held.amount, left(&budgets, "b")), (NanoUsd(60), Some(940)));
    held.shrink(NanoUsd(80));
    assert_eq!(held.amount, NanoUsd(60), "a hold does not grow");
    drop(held);
    assert_eq!(left(&budgets, "b"), Some(1_000), "dropped while held: released");
    let mut held = budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?;
    held.sent();
    held.shrink(NanoUsd(10));
    assert_eq!(held.amount, NanoUsd(100), "a hold that was sent keeps its amount");
    held.amount = NanoUsd(1);
    drop(held);
    assert_eq!(left(&budgets, "b"), Some(900), "eggrd: a hang-up is not free; dropped while sent: charged in full");
    Ok(())
}

#[tokio::test]
async fn litellm_rs_a_late_settle_goes_to_the_window_of_its_hold() -> Outcome {
    let (budgets, clock) = budgets(vec![daily("b", 100)])?;
    let ask = scope("a", "m");
    let mut late = budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?;
    late.sent();
    clock.set(UnixNanos(NOON + 86_400 * SECOND));
    let next = budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?;
    late.settle(NanoUsd(80));
    assert_eq!(left(&budgets, "b"), Some(0));
    next.release();
    assert_eq!(left(&budgets, "b"), Some(100));
    clock.set(UnixNanos(NOON));
    assert_eq!(left(&budgets, "b"), Some(100), "a clock that steps back opens no former window");
    Ok(())
}

#[tokio::test]
async fn litellm_34492_totals_are_restored_exactly() -> Outcome {
    let key = |window: &str| WindowKey { budget: "b".into(), scope: "".into(), window: window.into() };
    let totals = HashMap::from([(key("day/2026-11-24"), NanoUsd(70)), (key("day/2026-11-23"), NanoUsd(99))]);
    let budgets = Budgets::new(vec![daily("b", 100)], Clock::fixed(UnixNanos(NOON)), totals)?;
    assert_eq!(left(&budgets, "b"), Some(30));
    Ok(())
}

#[tokio::test]
async fn a_rolling_window_never_spends_twice() -> Outcome {
    let spec = BudgetSpec {
        window: Window::Hour,
        kind: WindowKind::Rolling,
        wait: Wait { calls: 0, time: Duration::ZERO },
        ..daily("b", 100)
    };
    let (budgets, clock) = budgets(vec![spec])?;
    let ask = scope("a", "m");
    budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?.settle(NanoUsd(100));
    for minutes in [1, 30, 59, 60] {
        clock.set(UnixNanos(NOON + minutes * 60 * SECOND));
        assert!(budgets.hold(&ask, NanoUsd(1), NanoUsd(1)).await.is_err(), "after {minutes} minutes");
    }
    clock.set(UnixNanos(NOON + 61 * 60 * SECOND));
    assert!(budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_bill_above_its_hold_is_charged_and_freezes_the_model() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 1_000)])?;
    let ask = scope("a", "m");
    let mut held = budgets.hold(&ask, NanoUsd(10), NanoUsd(10)).await?;
    held.sent();
    held.settle(NanoUsd(15));
    assert_eq!(left(&budgets, "b"), Some(985));
    let refusal = budgets.hold(&ask, NanoUsd(1), NanoUsd(1)).await.err().ok_or("not frozen")?;
    assert_eq!(refusal.reason, Reason::PriceUnknown);
    assert!(budgets.hold(&scope("a", "other"), NanoUsd(1), NanoUsd(1)).await.is_ok());
    assert!(budgets.unfreeze("openai", &ask.model) && budgets.frozen().is_empty());
    assert!(budgets.hold(&ask, NanoUsd(1), NanoUsd(1)).await.is_ok());
    Ok(())
}
