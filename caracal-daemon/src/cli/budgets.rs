//! `caracald budgets`: what each budget has spent, holds and has left, and when its window turns.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

mod correct;
mod write_off;

pub use correct::CorrectArgs;
pub use write_off::{HoldersArgs, WriteOffArgs};

use super::control::Control;
use crate::config::Config;
use crate::keeper::control::Request;
use crate::ledger::postgres::Database;
use crate::ledger::worker::WorkerError;
use crate::money::NanoUsd;

/// Show every budget: limit, spent, held, left, and when its window turns.
///
/// Held is what open calls may still cost; it is spent or given back when they end. Root sees every budget; others see
/// those that all share, and their own agents' parts.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BudgetsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    json: bool,
    /// After the database of shared budgets was restored or promoted: let hosts spend from them again.
    ///
    /// Wait until every host has reported: what a host has counts from then on, though the database forgot it. Connects to
    /// [postgres] as its owner, or opens the file in [escrow] folder.
    #[arg(long, conflicts_with = "json")]
    accept: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Correct(CorrectArgs),
    Holders(HoldersArgs),
    WriteOff(WriteOffArgs),
}

/// Runs the verb.
///
/// # Errors
/// When the daemon is not running.
pub fn run(args: &BudgetsArgs, config: &Config) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Some(Verb::Correct(args)) => return correct::run(args, config),
        Some(Verb::Holders(args)) => return write_off::holders(args, config),
        Some(Verb::WriteOff(args)) => return write_off::write_off(args, config),
        None => {}
    }
    if args.accept {
        return accept(config);
    }
    let budgets = Control::connect(config)?.ask(&Request::Budgets)?;
    if args.json {
        println!("{budgets}");
        return Ok(ExitCode::SUCCESS);
    }
    match budgets.as_array().map(Vec::as_slice) {
        None | Some([]) => println!("no budgets: every paid call is refused until a [[budget]] covers it"),
        Some(rows) => println!("{}", table(rows)),
    }
    Ok(ExitCode::SUCCESS)
}

fn accept(config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked_at = match config.escrow.file() {
        Some(file) => {
            anyhow::ensure!(nix::unistd::geteuid().is_root(), crate::keeper::KeeperError::NotRoot);
            let accepted = runtime.block_on(crate::escrow::accept_file(&file));
            accepted.with_context(|| file.display().to_string())?
        }
        None => {
            let url = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
            let mut database = Database::new(&url, None)?;
            runtime.block_on(async { crate::escrow::accept(database.up().await?).await }).context("PostgreSQL")?
        }
    };
    looked_at.iter().for_each(|what| println!("accepted: {what}"));
    println!("hosts spend from shared budgets again");
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["BUDGET", "FOR", "LIMIT", "SPENT", "HELD", "LEFT", "USED", "SLICE", "WINDOW TURNS"]);
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let amount = |key: &str| NanoUsd(row[key].as_u64().unwrap_or_default());
        let (limit, spent) = (amount("limit_nano_usd"), amount("settled_nano_usd"));
        let held = amount("held_nano_usd");
        let shared = |key: &str| row["shared"][key].as_u64().map(NanoUsd);
        let elsewhere = shared("elsewhere_nano_usd").unwrap_or_default();
        // What may be spent here without asking, and what nobody has.
        let slice = match (shared("slice_nano_usd"), shared("free_nano_usd")) {
            (Some(slice), Some(free)) => {
                format!("{}, {} free", slice.saturating_sub(spent.saturating_add(held)).short_down(), free.short_down())
            }
            _ => "-".to_owned(),
        };
        let soft = if row["soft"] == true { " (soft)" } else { "" };
        table.add_row([
            text("budget").to_owned(),
            if text("scope").is_empty() { "all".to_owned() } else { text("scope").to_owned() },
            format!("{limit}{soft}"),
            spent.saturating_add(elsewhere).short(),
            held.short(),
            amount("left_nano_usd").short_down(),
            used(spent.saturating_add(held).saturating_add(elsewhere), limit),
            slice,
            row["ends_unix_nanos"].as_i64().map_or_else(|| "never".to_owned(), turns),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// How much of the limit is spent or held, percent, rounded up.
fn used(taken: NanoUsd, limit: NanoUsd) -> String {
    if limit == NanoUsd::ZERO {
        return "-".to_owned();
    }
    format!("{} %", (u128::from(taken.0) * 100).div_ceil(u128::from(limit.0)))
}

/// A time for people, in the zone of whoever reads it.
fn turns(nanos: i64) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_says_what_is_left_and_when_it_turns() {
        let row = json!({
            "budget": "day", "scope": "builder", "window": "day/2026-11-24", "limit_nano_usd": 10_000_000_000_u64,
            "settled_nano_usd": 3_000_000_000_u64, "held_nano_usd": 500_000_000, "left_nano_usd": 6_500_000_000_u64,
            "ends_unix_nanos": 1_795_564_800_000_000_000_i64, "soft": true,
            "shared": { "slice_nano_usd": 4_000_000_000_u64, "elsewhere_nano_usd": 1_000_000_000_u64, "free_nano_usd": 2_500_000_000_u64 },
        });
        let text = table(&[row]).to_string();
        for part in
            ["day", "builder", "$10.00 (soft)", "$4.00", "$0.50", "$6.50", "45 %", "$0.50, $2.50 free", "2026-11-2"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(used(NanoUsd(1), NanoUsd(1_000)), "1 %");
        assert_eq!(used(NanoUsd(1), NanoUsd(0)), "-");
    }
}
