//! Which budgets a call is taken from: by agent, host, model, tool and parent.

use super::*;

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
async fn each_tool_of_each_server_may_have_a_limit_of_its_own() -> Outcome {
    let (budgets, _) = budgets(vec![BudgetSpec { per: Per::Tool, ..daily("each", 10) }, daily("all", 1_000)])?;
    let tool = |server: &str, tool: &str| {
        let model = format!("{server}/{tool}");
        Scope { provider: "mcp", tool: tool.into(), ..scope("a", &model) }
    };
    let held = budgets.hold(&tool("desk", "search"), NanoUsd(10), NanoUsd(10)).await?;
    assert_eq!(held.windows.first().map(|key| (&*key.budget, &*key.scope)), Some(("each", "desk/search")));
    held.charge_max();
    let refused = budgets.hold(&tool("desk", "search"), NanoUsd(1), NanoUsd(1)).await.map(drop);
    assert_eq!(refused.map_err(|refusal| refusal.reason), Err(Reason::BudgetExceeded));
    assert!(budgets.hold(&tool("desk", "lookup"), NanoUsd(10), NanoUsd(10)).await.is_ok(), "another tool");
    assert!(budgets.hold(&tool("shop", "search"), NanoUsd(10), NanoUsd(10)).await.is_ok(), "another server's");
    let model = budgets.hold(&scope("a", "m"), NanoUsd(500), NanoUsd(500)).await?;
    assert_eq!(model.windows.len(), 1, "what is no tool's call is not counted");
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
    let limit = refusal.limit.as_ref().map(|limit| (&*limit.budget, limit.turns.map(|at| at.0)));
    // 2026-11-25T00:00:00Z.
    assert_eq!(limit, Some(("small", Some(1_795_564_800_000_000_000))));
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
