//! `caracald budgets holders` and `write-off`: who has slices of shared budgets, and the end of one that is gone for good.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::correct::reason;
use crate::budget::escrow::{Ended, Held, Stated, Vault, Which, WriteOff};
use crate::config::Config;
use crate::escrow::{PostgresVault, SqliteVault};
use crate::event::WindowKey;
use crate::ledger::worker::WorkerError;
use crate::money::NanoUsd;

/// List who has slices of shared budgets: each host's id, its lease, and what it has of which window.
///
/// Connects to [postgres] as its owner, or opens the file in [escrow] folder.
#[derive(Args, Debug)]
pub struct HoldersArgs {
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    json: bool,
}

/// Write off the slices of a host that is gone for good.
///
/// All that it had counts as spent, unless --spent or --unspent says otherwise of one window; what was not spent is then
/// everybody's again. Refused while the host may be alive: its lease has to run out first. A host that comes back is fenced
/// until it is started again; what it did spend counts then, if that is more. Every write-off is an entry in the vault's
/// incidents. Connects to [postgres] as its owner, or opens the file in [escrow] folder.
#[derive(Args, Debug)]
pub struct WriteOffArgs {
    /// Whose, as `caracald budgets holders` names it.
    #[arg(long, value_name = "ID")]
    holder: String,
    /// Only windows of this budget.
    #[arg(long, value_name = "NAME")]
    budget: Option<String>,
    /// Only of this agent's part; an empty one is the part of all.
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// Only this window, such as `day/2026-11-24`.
    #[arg(long, value_name = "WINDOW")]
    window: Option<String>,
    /// What the host has spent of the one window that is meant, in USD, all in all.
    #[arg(long, value_name = "USD", conflicts_with = "unspent")]
    spent: Option<NanoUsd>,
    /// What it has not spent of the one window that is meant, in USD.
    #[arg(long, value_name = "USD")]
    unspent: Option<NanoUsd>,
    /// Why: recorded.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    json: bool,
}

/// Runs `holders`.
///
/// # Errors
/// When there is no vault, or it does not answer.
pub(super) fn holders(args: &HoldersArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let mut found = ask(config, Question::Holders)?.holders;
    found.sort_by(|one, other| (&one.host, &one.holder).cmp(&(&other.host, &other.holder)));
    if args.json {
        println!("{}", serde_json::Value::from_iter(found.iter().map(json)));
    } else if found.is_empty() {
        println!("no host has a slice of a shared budget yet");
    } else {
        println!("{}", table(&found));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `write-off`.
///
/// # Errors
/// When the holder may be alive, the amount does not fit, or the vault does not answer.
pub(super) fn write_off(args: &WriteOffArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let order = WriteOff {
        holder: args.holder.as_str().into(),
        which: Which { budget: args.budget.clone(), scope: args.scope.clone(), window: args.window.clone() },
        stated: args.spent.map(Stated::Spent).or(args.unspent.map(Stated::Unspent)),
        why: format!("uid {}: {}", nix::unistd::getuid(), args.reason),
        lease_ms: config.escrow.lease_ms,
    };
    let ended = ask(config, Question::WriteOff(order))?.ended;
    if args.json {
        println!("{}", serde_json::to_string(&ended)?);
        return Ok(ExitCode::SUCCESS);
    }
    if ended.is_empty() {
        println!("it had spent all that it had: nothing is to be written off. It is fenced until it is started again");
    }
    for Ended { key, granted, spent, .. } in &ended {
        let back = granted.saturating_sub(*spent);
        println!("{}: {spent} of {granted} count as spent, {back} are everybody's again", name(key));
    }
    Ok(ExitCode::SUCCESS)
}

enum Question {
    Holders,
    WriteOff(WriteOff),
}

#[derive(Default)]
struct Answer {
    holders: Vec<Held>,
    ended: Vec<Ended>,
}

fn ask(config: &Config, question: Question) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match config.escrow.file() {
        Some(file) => {
            ensure!(nix::unistd::geteuid().is_root(), crate::keeper::KeeperError::NotRoot);
            ensure!(file.is_file(), "{}: no host has used it yet", file.display());
            runtime.block_on(put(SqliteVault::new(&file), question)).with_context(|| file.display().to_string())
        }
        None => {
            let url = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
            runtime.block_on(put(PostgresVault::as_owner(&url)?, question)).context("PostgreSQL")
        }
    }
}

async fn put(mut vault: impl Vault, question: Question) -> anyhow::Result<Answer> {
    Ok(match question {
        Question::Holders => Answer { holders: vault.holders().await?, ..Answer::default() },
        Question::WriteOff(order) => {
            let ended = vault.write_off(&order).await?;
            let ended = ended.map_err(|why| anyhow!("nothing is written off: {why} ({})", why.code()))?;
            Answer { ended, ..Answer::default() }
        }
    })
}

fn name(key: &WindowKey) -> String {
    let scope: &str = if key.scope.is_empty() { "all" } else { &key.scope };
    crate::cli::events::text(Some(&format!("{} for {scope}, {}", key.budget, key.window)))
}

fn json(held: &Held) -> serde_json::Value {
    let share = |(key, share): &(WindowKey, crate::budget::escrow::Share)| {
        serde_json::json!({
            "budget": key.budget, "scope": key.scope, "window": key.window, "granted": share.granted,
            "spent": share.settled, "lost": share.lost,
        })
    };
    serde_json::json!({
        "holder": held.holder, "host": held.host, "lease_ms": held.lease_ms,
        "slices": held.shares.iter().map(share).collect::<Vec<_>>(),
    })
}

fn table(found: &[Held]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["HOLDER", "HOST", "LEASE", "BUDGET", "FOR", "WINDOW", "HAS", "SPENT", "UNSPENT"]);
    for held in found {
        let lease =
            if held.lease_ms == 0 { "run out".to_owned() } else { format!("{} s", held.lease_ms.div_ceil(1_000)) };
        let text = |text: &str| crate::cli::events::text(Some(text));
        let who = [text(&held.holder), text(&held.host), lease];
        if held.shares.is_empty() {
            table.add_row(who.clone());
        }
        for (key, share) in &held.shares {
            let scope = if key.scope.is_empty() { "all".to_owned() } else { text(&key.scope) };
            let unspent = share.granted.saturating_sub(share.settled);
            let amounts = [share.granted.to_string(), share.settled.to_string(), unspent.to_string()];
            table.add_row(who.iter().cloned().chain([text(&key.budget), scope, text(&key.window)]).chain(amounts));
        }
    }
    for column in table.column_iter_mut().skip(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::escrow::Share;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: WriteOffArgs,
    }

    fn line(words: &[&str]) -> Result<WriteOffArgs, clap::Error> {
        Line::try_parse_from(["write-off"].iter().chain(words)).map(|line| line.args)
    }

    #[test]
    fn one_amount_and_a_reason() {
        let good = ["--holder", "x", "--unspent", "1.25 USD", "--reason", "its disk is gone"];
        assert_eq!(line(&good).expect("a command").unspent, Some(NanoUsd(1_250_000_000)));
        assert!(line(&[&good[..], &["--spent", "1"]].concat()).is_err(), "two amounts");
        assert!(line(&["--holder", "x"]).is_err(), "no reason");
        assert!(line(&["--holder", "x", "--reason", " "]).is_err(), "an empty one");
        assert!(line(&["--reason", "y"]).is_err(), "nobody");
    }

    #[test]
    fn the_table_says_who_is_gone_and_what_it_had() {
        let key = WindowKey { budget: "team".into(), scope: "".into(), window: "day/2026-11-24".into() };
        let share = Share { granted: NanoUsd(5_000_000_000), settled: NanoUsd(2_000_000_000), ..Share::default() };
        let held = Held { holder: "019a".into(), host: "host-1".into(), lease_ms: 0, shares: vec![(key, share)] };
        let alive = Held { holder: "019b".into(), host: "host-2".into(), lease_ms: 4_500, shares: Vec::new() };
        let text = table(&[held.clone(), alive]).to_string();
        for part in
            ["019a", "host-1", "run out", "team", "all", "day/2026-11-24", "$5.00", "$2.00", "$3.00", "019b", "5 s"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(json(&held)["slices"][0]["spent"], 2_000_000_000_u64);
    }
}
