//! Who waits for money that others hold: in turn, bounded, and served as soon as it is there.

use super::*;

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
