//! Budgets against a model of them: any order of holds, ends and days.

use super::*;
use proptest::prelude::*;

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
