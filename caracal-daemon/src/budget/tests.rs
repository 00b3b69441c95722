use super::*;
use proptest::prelude::*;
use std::time::Duration;

mod issues;
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
async fn a_budget_of_a_host_is_for_that_host() -> Outcome {
    let near = BudgetSpec { hosts: vec!["*.example".into()], per: Per::Host, ..daily("near", 10) };
    let (budgets, _) = budgets(vec![near, daily("all", 1_000)])?;
    let at = |host: &str| Scope { host: host.into(), ..scope("a", "m") };
    let held = budgets.hold(&at("x.example"), NanoUsd(10), NanoUsd(10)).await?;
    held.charge_max();
    let refused = budgets.hold(&at("x.example"), NanoUsd(1), NanoUsd(1)).await;
    assert_eq!(refused.map(drop).map_err(|refusal| refusal.reason), Err(Reason::BudgetExceeded));
    assert!(budgets.hold(&at("y.example"), NanoUsd(10), NanoUsd(10)).await.is_ok());
    assert!(budgets.hold(&at("elsewhere.test"), NanoUsd(900), NanoUsd(900)).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_budget_of_tools_is_for_these_tools_alone() -> Outcome {
    let tools = BudgetSpec { tools: vec!["search*".into()], ..daily("searches", 10) };
    let (budgets, _) = budgets(vec![tools, daily("all", 1_000)])?;
    let tool = |tool: &str| Scope { provider: "mcp", tool: tool.into(), ..scope("a", "desk/x") };
    let held = budgets.hold(&tool("search_web"), NanoUsd(10), NanoUsd(10)).await?;
    held.charge_max();
    let refused = budgets.hold(&tool("search"), NanoUsd(1), NanoUsd(1)).await;
    assert_eq!(refused.map(drop).map_err(|refusal| refusal.reason), Err(Reason::BudgetExceeded));
    assert!(budgets.hold(&tool("lookup"), NanoUsd(100), NanoUsd(100)).await.is_ok(), "another tool");
    assert!(budgets.hold(&scope("a", "search"), NanoUsd(100), NanoUsd(100)).await.is_ok(), "no tool at all");
    Ok(())
}

#[tokio::test]
async fn a_correction_gives_money_back_to_who_waits_and_never_more_than_there_was() -> Outcome {
    let waits = BudgetSpec { wait: Wait { calls: 1, time: Duration::from_secs(600) }, ..daily("b", 100) };
    let (budgets, _) = budgets(vec![waits])?;
    let ask = scope("a", "m");
    let held = budgets.hold(&ask, NanoUsd(40), NanoUsd(40)).await?;
    let windows = held.windows.clone();
    let open = budgets.hold(&ask, NanoUsd(60), NanoUsd(60)).await?;
    held.charge_max();
    let (waiting, asks) = (budgets.clone(), ask.clone());
    let waiter = tokio::spawn(async move { waiting.hold(&asks, NanoUsd(30), NanoUsd(30)).await });
    while budgets.0.with(|state| state.waiting()) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(budgets.correct(&windows, -40), []);
    assert_eq!(waiter.await??.amount, NanoUsd(30), "the call that waited is served");
    budgets.correct(&windows, -1_000);
    drop(open);
    assert_eq!(left(&budgets, "b"), Some(100), "settled does not go below nothing");
    let up = budgets.correct(&windows, 130);
    assert_eq!(up, [], "no part of the limit is warned of here");
    assert_eq!(left(&budgets, "b"), Some(0), "what was billed counts, above the limit too");
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
async fn a_hold_is_taken_from_every_budget_above_or_from_none() -> Outcome {
    let child = BudgetSpec { parent: Some("top".into()), agents: vec!["a*".into()], ..daily("child", 1_000) };
    let small = BudgetSpec { models: vec!["dear".into()], ..daily("small", 10) };
    let (budgets, _) = budgets(vec![child, BudgetSpec { agents: vec!["nobody".into()], ..daily("top", 300) }, small])?;
    let held = budgets.hold(&scope("a1", "m"), NanoUsd(100), NanoUsd(100)).await?;
    assert_eq!(held.windows.len(), 2);
    assert_eq!(
        (left(&budgets, "child"), left(&budgets, "top"), left(&budgets, "small")),
        (Some(900), Some(200), Some(10))
    );
    let refusal = budgets.hold(&scope("a1", "dear"), NanoUsd(100), NanoUsd(100)).await.err().ok_or("fits")?;
    assert_eq!(refusal.reason, Reason::BudgetExceeded);
    assert!(
        refusal.sentence.starts_with("Caracal ")
            && refusal.sentence.contains("\"small\"")
            && refusal.sentence.contains("2026-11-25 00:00:00 UTC"),
        "{}",
        refusal.sentence
    );
    assert_eq!(
        (left(&budgets, "child"), left(&budgets, "top"), left(&budgets, "small")),
        (Some(900), Some(200), Some(10))
    );
    let refusal = budgets.hold(&scope("b", "m"), NanoUsd(1), NanoUsd(1)).await.err().ok_or("covered")?;
    assert_eq!(refusal.reason, Reason::PolicyDenied, "no budget covers it");
    budgets.allow_uncovered(true);
    let free = budgets.hold(&scope("b", "m"), NanoUsd(1), NanoUsd(5)).await?;
    assert_eq!((free.amount, free.windows.len()), (NanoUsd(5), 0));
    Ok(())
}

#[tokio::test]
async fn parts_have_limits_of_their_own() -> Outcome {
    let (budgets, _) = budgets(vec![BudgetSpec { per: Per::Agent, ..daily("each", 100) }])?;
    let one = budgets.hold(&scope("a", "m"), NanoUsd(100), NanoUsd(100)).await?;
    let two = budgets.hold(&scope("b", "m"), NanoUsd(100), NanoUsd(100)).await?;
    assert_eq!(one.windows.first().map(|key| key.scope.as_ref()), Some("a"));
    let all: Vec<(String, u64)> =
        budgets.snapshot().into_iter().map(|status| (status.key.scope.to_string(), status.held.0)).collect();
    assert_eq!(all, [("a".to_owned(), 100), ("b".to_owned(), 100)]);
    drop((one, two));
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

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "at most three messages")]
async fn who_waits_is_served_in_order_and_a_small_call_does_not_overtake() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 100)])?;
    let ask = scope("a", "m");
    let first = budgets.hold(&ask, NanoUsd(90), NanoUsd(90)).await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for (n, least) in [(1u64, 80u64), (2, 5), (3, 5)] {
        let (shared, ask, tell) = (budgets.clone(), ask.clone(), tell.clone());
        tasks.push(tokio::spawn(async move {
            let held = shared.hold(&ask, NanoUsd(least), NanoUsd(least)).await;
            let _ = tell.send((n, held.is_ok()));
            held.map(|held| held.settle(NanoUsd(1)))
        }));
        while budgets.0.with(|state| state.waiting()) < usize::try_from(n)? {
            tokio::task::yield_now().await;
        }
    }
    assert!(told.try_recv().is_err(), "10 are left and yet the small ones wait their turn");
    first.settle(NanoUsd(1));
    for want in 1..=3 {
        assert_eq!(told.recv().await, Some((want, true)));
    }
    for task in tasks {
        task.await??;
    }
    assert_eq!(left(&budgets, "b"), Some(96));
    Ok(())
}

#[tokio::test]
async fn waiting_is_bounded_in_time_and_number() -> Outcome {
    let (budgets, _) =
        budgets(vec![BudgetSpec { wait: Wait { calls: 1, time: Duration::from_millis(1_500) }, ..daily("b", 100) }])?;
    let ask = scope("a", "m");
    let held = budgets.hold(&ask, NanoUsd(100), NanoUsd(100)).await?;
    let waiting = tokio::spawn({
        let (budgets, ask) = (budgets.clone(), ask.clone());
        async move { budgets.hold(&ask, NanoUsd(1), NanoUsd(1)).await.map(|_| ()) }
    });
    while budgets.0.with(|state| state.waiting()) == 0 {
        tokio::task::yield_now().await;
    }
    let full = budgets.hold(&ask, NanoUsd(1), NanoUsd(1)).await.err().ok_or("queued")?;
    assert_eq!(full.reason, Reason::BudgetWaitTimeout);
    assert_eq!(waiting.await?.err().map(|refusal| refusal.reason), Some(Reason::BudgetWaitTimeout));
    assert_eq!(
        (budgets.0.with(|state| state.waiting()), left(&budgets, "b")),
        (0, Some(0)),
        "litellm_27639: nobody leaks"
    );
    drop(held);
    assert_eq!(left(&budgets, "b"), Some(100));
    Ok(())
}

#[tokio::test]
async fn who_leaves_the_queue_blocks_nobody() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 100)])?;
    let ask = scope("a", "m");
    let held = budgets.hold(&ask, NanoUsd(50), NanoUsd(50)).await?;
    let wait = |least: u64| {
        let (budgets, ask) = (budgets.clone(), ask.clone());
        tokio::spawn(async move { budgets.hold(&ask, NanoUsd(least), NanoUsd(least)).await.map(|held| held.amount) })
    };
    let big = wait(90);
    while budgets.0.with(|state| state.waiting()) < 1 {
        tokio::task::yield_now().await;
    }
    let small = wait(10);
    while budgets.0.with(|state| state.waiting()) < 2 {
        tokio::task::yield_now().await;
    }
    big.abort();
    assert_eq!(small.await??, NanoUsd(10));
    drop(held);
    assert_eq!(left(&budgets, "b"), Some(100));
    Ok(())
}

#[tokio::test]
async fn a_reload_keeps_what_was_spent_and_serves_who_waits() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 100)])?;
    let ask = scope("a", "m");
    budgets.hold(&ask, NanoUsd(30), NanoUsd(30)).await?.settle(NanoUsd(30));
    let mut held = budgets.hold(&ask, NanoUsd(70), NanoUsd(70)).await?;
    held.sent();
    let waiting = tokio::spawn({
        let (budgets, ask) = (budgets.clone(), ask.clone());
        async move { budgets.hold(&ask, NanoUsd(50), NanoUsd(50)).await.map(|held| held.amount) }
    });
    while budgets.0.with(|state| state.waiting()) < 1 {
        tokio::task::yield_now().await;
    }
    assert!(budgets.reload(vec![daily("b", 1), daily("b", 1)]).is_err(), "the former ones stay");
    budgets.reload(vec![daily("b", 200)])?;
    assert_eq!(waiting.await??, NanoUsd(50));
    held.settle(NanoUsd(60));
    assert_eq!(left(&budgets, "b"), Some(110));
    budgets.reload(vec![daily("b", 50)])?;
    assert_eq!(left(&budgets, "b"), Some(0), "bifrost_5770: a lower limit below what is spent");
    Ok(())
}

#[tokio::test]
async fn a_lone_client_uses_the_budget_up() -> Outcome {
    for (least, most, actual) in [(10u64, 900u64, 7u64), (40, 5_000, 3), (25, 25, 25)] {
        let (budgets, _) =
            budgets(vec![BudgetSpec { wait: Wait { calls: 0, time: Duration::ZERO }, ..daily("b", 1_000) }])?;
        let mut spent = 0;
        while let Ok(mut held) = budgets.hold(&scope("a", "m"), NanoUsd(least), NanoUsd(most)).await {
            held.sent();
            held.settle(NanoUsd(actual));
            spent += actual;
        }
        assert!(spent > 1_000 - least && spent <= 1_000, "{spent} of 1000 with least {least}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn litellm_40002_sixty_four_clients_never_overspend() -> Outcome {
    let limit = 20_000;
    let specs =
        vec![daily("top", limit), BudgetSpec { parent: Some("top".into()), per: Per::Agent, ..daily("each", 9_000) }];
    let (budgets, _) = budgets(specs)?;
    let mut tasks = Vec::new();
    for n in 0..64u64 {
        let budgets = budgets.clone();
        tasks.push(tokio::spawn(async move {
            let ask = scope(if n % 2 == 0 { "even" } else { "odd" }, "m");
            let mut spent = 0;
            for round in 0..40u64 {
                let least = 1 + (n * 7 + round) % 40;
                let Ok(mut held) = budgets.hold(&ask, NanoUsd(least), NanoUsd(least * 9)).await else {
                    break;
                };
                if budgets.snapshot().iter().any(|status| status.settled.0 + status.held.0 > status.limit.0) {
                    return Err("settled and held are above the limit");
                }
                tokio::task::yield_now().await;
                match (n + round) % 5 {
                    0 => held.release(),
                    1 => {
                        spent += {
                            held.sent();
                            held.charge_max().0.0
                        }
                    }
                    2 => {
                        held.sent();
                        spent += held.amount.0;
                        drop(held);
                    }
                    _ => {
                        held.shrink(NanoUsd(least));
                        held.sent();
                        held.settle(NanoUsd(least));
                        spent += least;
                    }
                }
            }
            Ok(spent)
        }));
    }
    let mut spent = 0;
    for task in tasks {
        spent += task.await??;
    }
    let top = budgets.snapshot().into_iter().find(|status| status.key.budget.as_ref() == "top").ok_or("no top")?;
    assert_eq!((top.held.0, top.settled.0), (0, spent), "nothing is lost and nothing is held for ever");
    assert!(spent <= limit);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_clients_that_ask_for_all_are_each_served() -> Outcome {
    let (budgets, _) = budgets(vec![daily("b", 640)])?;
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let budgets = budgets.clone();
        tasks.push(tokio::spawn(async move {
            let mut held = budgets.hold(&scope("a", "m"), NanoUsd(10), NanoUsd(100_000)).await?;
            held.sent();
            tokio::task::yield_now().await;
            held.settle(NanoUsd(10));
            Ok::<(), Refusal>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    assert_eq!(left(&budgets, "b"), Some(0));
    Ok(())
}

/// What a hold can go through.
#[derive(Clone, Debug)]
enum Step {
    Hold { agent: usize, least: u64, more: u64 },
    Settle { at: usize, share: u64 },
    Charge { at: usize },
    Release { at: usize },
    DropHeld { at: usize },
    DropSent { at: usize },
    Shrink { at: usize, share: u64 },
    Days { n: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..2, 0u64..60, 0u64..200).prop_map(|(agent, least, more)| Step::Hold { agent, least, more }),
        2 => (any::<usize>(), 0u64..=100).prop_map(|(at, share)| Step::Settle { at, share }),
        1 => any::<usize>().prop_map(|at| Step::Charge { at }),
        1 => any::<usize>().prop_map(|at| Step::Release { at }),
        1 => any::<usize>().prop_map(|at| Step::DropHeld { at }),
        1 => any::<usize>().prop_map(|at| Step::DropSent { at }),
        1 => (any::<usize>(), 0u64..=100).prop_map(|(at, share)| Step::Shrink { at, share }),
        1 => (0u64..2).prop_map(|n| Step::Days { n }),
    ]
}

/// The model: per day and per (day, agent), settled and held.
#[derive(Default)]
struct Ledger(HashMap<(u64, Option<usize>), (u64, u64)>);

impl Ledger {
    fn change(&mut self, day: u64, agent: usize, settled: u64, taken: u64, given: u64) {
        for key in [(day, None), (day, Some(agent))] {
            let cell = self.0.entry(key).or_default();
            *cell = (cell.0 + settled, cell.1 + taken - given);
        }
    }

    fn left(&self, day: u64, agent: Option<usize>, limit: u64) -> u64 {
        let (settled, held) = self.0.get(&(day, agent)).copied().unwrap_or_default();
        limit - settled - held
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn budgets_do_what_their_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(async {
            let none = Wait { calls: 0, time: Duration::ZERO };
            let specs = vec![
                BudgetSpec { wait: none, ..daily("top", 500) },
                BudgetSpec { parent: Some("top".into()), per: Per::Agent, wait: none, ..daily("each", 300) },
            ];
            let (budgets, clock) = budgets(specs).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let (mut model, mut day) = (Ledger::default(), 0u64);
            let mut open: Vec<(Hold, u64, usize)> = Vec::new();
            for step in steps {
                let at = match &step {
                    Step::Settle { at, .. } | Step::Charge { at } | Step::Release { at } | Step::DropHeld { at } | Step::DropSent { at } | Step::Shrink { at, .. } => *at,
                    Step::Hold { .. } | Step::Days { .. } => 0,
                };
                match step {
                    Step::Days { n } => {
                        day += n;
                        clock.set(UnixNanos(NOON + day * 86_400 * SECOND));
                    }
                    Step::Hold { agent, least, more } => {
                        let left = model.left(day, None, 500).min(model.left(day, Some(agent), 300));
                        let name = if agent == 0 { "a" } else { "b" };
                        let got = budgets.hold(&scope(name, "m"), NanoUsd(least), NanoUsd(least + more)).await;
                        prop_assert_eq!(got.is_ok(), least <= left);
                        if let Ok(held) = got {
                            prop_assert_eq!(held.amount.0, (least + more).min(least.max(left / 2)));
                            model.change(day, agent, 0, held.amount.0, 0);
                            open.push((held, day, agent));
                        }
                    }
                    _ if open.is_empty() => {}
                    step => {
                        let (mut held, of, agent) = open.swap_remove(at % open.len());
                        let amount = held.amount.0;
                        match step {
                            Step::Settle { share, .. } => {
                                held.sent();
                                held.settle(NanoUsd(amount * share / 100));
                                model.change(of, agent, amount * share / 100, 0, amount);
                            }
                            Step::Charge { .. } => {
                                prop_assert_eq!(held.charge_max().0.0, amount);
                                model.change(of, agent, amount, 0, amount);
                            }
                            Step::DropSent { .. } => {
                                held.sent();
                                drop(held);
                                model.change(of, agent, amount, 0, amount);
                            }
                            Step::Shrink { share, .. } => {
                                held.shrink(NanoUsd(amount * share / 100));
                                model.change(of, agent, 0, 0, amount - amount * share / 100);
                                open.push((held, of, agent));
                            }
                            Step::Release { .. } => {
                                held.release();
                                model.change(of, agent, 0, 0, amount);
                            }
                            _ => {
                                drop(held);
                                model.change(of, agent, 0, 0, amount);
                            }
                        }
                    }
                }
                for status in budgets.snapshot() {
                    prop_assert!(status.settled.0 + status.held.0 <= status.limit.0);
                    let agent = match status.key.scope.as_ref() { "a" => Some(0), "b" => Some(1), _ => None };
                    if agent.is_some() || status.key.budget.as_ref() == "top" {
                        prop_assert_eq!(status.left.0, model.left(day, agent, status.limit.0));
                    }
                }
            }
            Ok(())
        })?;
    }
}
