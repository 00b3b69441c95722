//! `caracald spend --by window`: what was charged to each window of each budget, as the ledger's totals have it.
//!
//! A charge stands in a window of each budget that it was held in, so the rows of two budgets have no sum. A window has no
//! agent and no day of its own, so nothing can be asked of it by these.

use super::{By, SpendArgs, right};
use crate::event::WindowKey;
use crate::ledger::books::Total;
use crate::ledger::{StateDir, query};
use crate::money::NanoUsd;
use comfy_table::{ContentArrangement, Table, presets};
use std::process::ExitCode;

/// Something was asked that the totals of windows do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--by window stands alone: a window's sum is not divided by {0}; leave that out, or sum by agent, model or day without --by window"
)]
pub(crate) struct NotByWindow(&'static str);

/// Prints the sums by window.
///
/// # Errors
/// When something else is asked beside, or the ledger cannot be read.
pub(super) fn run(args: &SpendArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    alone(args)?;
    let rows = crate::cli::ledger::block_on(async { anyhow::Ok(query::windows(state).await?) })?;
    println!("{}", if args.json { json(&rows)? } else { table(&rows) });
    Ok(ExitCode::SUCCESS)
}

fn alone(args: &SpendArgs) -> Result<(), NotByWindow> {
    let asked = [
        (args.by.iter().any(|by| *by != By::Window), "another --by"),
        (!args.agent.is_empty(), "--agent"),
        (args.since.is_some(), "--since"),
        (args.until.is_some(), "--until"),
    ];
    asked.into_iter().find(|(asked, _)| *asked).map_or(Ok(()), |(_, what)| Err(NotByWindow(what)))
}

/// The rows as a JSON array; amounts in nano-USD. `cost` is what is spent: `charged` less `credited`.
fn json(rows: &[(WindowKey, Total)]) -> serde_json::Result<String> {
    let row = |(key, total): &(WindowKey, Total)| {
        serde_json::json!({
            "budget": &*key.budget, "scope": &*key.scope, "window": &*key.window,
            "cost": total.net(), "charged": total.charged, "credited": total.credited,
        })
    };
    serde_json::to_string(&rows.iter().map(row).collect::<Vec<_>>())
}

fn table(rows: &[(WindowKey, Total)]) -> String {
    // As in the sums by other keys, what says nothing of any row is left out.
    let corrected = rows.iter().any(|(_, total)| total.credited > NanoUsd::ZERO);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut header = vec!["budget", "scope", "window", "cost", "charged"];
    header.extend(corrected.then_some("credited"));
    table.set_header(header);
    for (key, total) in rows {
        let text = |part: &str| if part.is_empty() { "-".to_owned() } else { crate::cli::events::text(Some(part)) };
        let mut cells = [&key.budget, &key.scope, &key.window].map(|part| text(part)).to_vec();
        cells.extend([total.net().to_string(), total.charged.to_string()]);
        cells.extend(corrected.then(|| total.credited.to_string()));
        table.add_row(cells);
    }
    right(&mut table, 3);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(words: &[&str]) -> SpendArgs {
        let cli = crate::cli::Cli::try_parse_from([&["caracald", "spend", "--by", "window"], words].concat());
        match cli.expect("arguments").verb {
            crate::cli::Verb::Spend(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_window_does_not_tell_is_refused() {
        assert_eq!(alone(&args(&[])), Ok(()));
        assert_eq!(alone(&args(&["--json", "--by", "window"])), Ok(()));
        for (words, named) in [
            (["--by", "agent"], "another --by"),
            (["--agent", "a"], "--agent"),
            (["--since", "2026-11-24"], "--since"),
            (["--until", "2026-11-24"], "--until"),
        ] {
            assert_eq!(alone(&args(&words)), Err(NotByWindow(named)), "{words:?}");
        }
    }

    #[test]
    fn rows_say_what_is_spent_and_what_was_charged() {
        let key = |scope: &str, window: &str| WindowKey {
            budget: "purse".into(),
            scope: scope.into(),
            window: window.into(),
        };
        let total = |charged, credited| Total { charged: NanoUsd(charged), credited: NanoUsd(credited) };
        let mut rows = vec![(key("", "day/2026-11-24"), total(1_500_000_000, 0))];
        assert!(table(&rows).contains("$1.50") && !table(&rows).contains("credited"), "{}", table(&rows));
        rows.push((key("desk/search", "total"), total(2_000_000_000, 250_000_000)));
        let text = table(&rows);
        for part in ["purse", "day/2026-11-24", "desk/search", "$1.75", "$2.00", "$0.25", "credited"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let value: serde_json::Value = serde_json::from_str(&json(&rows).expect("written")).expect("JSON");
        let row = &value[1];
        assert_eq!((&row["scope"], &row["window"]), (&"desk/search".into(), &"total".into()));
        assert_eq!((&row["cost"], &row["charged"]), (&1_750_000_000u64.into(), &2_000_000_000u64.into()));
    }
}
