//! Many clients at once: never above the limit, nothing lost, nobody starved.

use super::*;

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
