//! `caracald budgets correct`: charges are put right by new, signed records; nothing that was recorded changes.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::cli::control::Control;
use crate::cli::ledger::block_on;
use crate::config::{Config, Glob};
use crate::keeper::control::Request;
use crate::keeper::order::CorrectionAsked;
use crate::ledger::StateDir;
use crate::ledger::charges::{self, Charged, Span};
use crate::ledger::corrections::MAX_REASON_BYTES;
use crate::money::{NanoUsd, shown_change, signed_usd};

/// Corrections of one command: each is a record of its own.
const MOST: usize = 1_000;
/// Charges that one command chooses among.
const MOST_LOOKED_AT: usize = 100_000;

/// Put charges right, by new signed records. Root only.
///
/// A charge is named by its call, or many by what they have in common. A correction counts in the budgets and in the day's
/// spend that the charge counts in, at once and after restarts. What is taken off is never more than was charged, all
/// corrections together. Among many, charges of a whole hold (calls whose usage nobody saw) are lowered first, the largest
/// first; what is added is added to the latest.
#[derive(Args, Debug)]
pub struct CorrectArgs {
    /// By how much, in USD: `-1.25` takes off, `1.25` adds.
    #[arg(long, value_name = "USD", allow_hyphen_values = true, value_parser = signed_usd, required_unless_present = "to",
          conflicts_with = "to")]
    by: Option<i64>,
    /// What the call shall have cost, in USD; for one call.
    #[arg(long, value_name = "USD", value_parser = signed_usd, requires = "call")]
    to: Option<i64>,
    /// Why: recorded, sealed like what else names people and places.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// The call, as `caracald events --json` names it.
    #[arg(long, value_name = "ID", required_unless_present_any = ["agent", "model", "models", "provider", "budget", "host", "day"],
          conflicts_with_all = ["agent", "model", "models", "provider", "budget", "host", "day", "at_hold"])]
    call: Option<uuid::Uuid>,
    /// Charges of agents that match.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    agent: Option<Glob>,
    /// Charges of this model or tool, as it was asked for.
    #[arg(long, value_name = "NAME", conflicts_with = "models")]
    model: Option<String>,
    /// Charges of models or tools that match.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    models: Option<Glob>,
    /// Charges of this provider, as `caracald spend --by provider` names it.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Charges that counted in this budget.
    #[arg(long, value_name = "NAME")]
    budget: Option<String>,
    /// Charges of calls to hosts that match; needs the agents' detail keys.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    host: Option<Glob>,
    /// Charges of this day, UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<jiff::civil::Date>,
    /// Only charges of a whole hold.
    #[arg(long)]
    at_hold: bool,
    /// Only show what would be recorded.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    json: bool,
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    let good = (1..=MAX_REASON_BYTES).contains(&text.len());
    good.then(|| text.to_owned()).ok_or_else(|| format!("a reason has 1 to {MAX_REASON_BYTES} bytes"))
}

fn pattern(text: &str) -> Result<Glob, String> {
    Glob::try_from(text.to_owned())
}

/// Runs the verb.
///
/// # Errors
/// When nothing fits, more is asked for than was charged, or the daemon is not running.
pub(super) fn run(args: &CorrectArgs, config: &Config) -> anyhow::Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), crate::keeper::KeeperError::NotRoot);
    let found = find(args, &config.state_dir)?;
    let planned = plan(args, found)?;
    if args.dry_run {
        return show(args, &planned, "would be recorded");
    }
    let mut control = Control::connect(config)?;
    for (done, (charged, nano)) in planned.iter().enumerate() {
        let asked = CorrectionAsked {
            leaf: charged.leaf,
            call: charged.charge.call.to_string(),
            nano: *nano,
            reason: args.reason.clone(),
        };
        control
            .ask(&Request::Correct(asked))
            .with_context(|| format!("{done} of {} corrections are recorded", planned.len()))?;
    }
    show(args, &planned, "recorded")
}

/// The charges that are meant, in the order of the ledger.
fn find(args: &CorrectArgs, state: &Path) -> anyhow::Result<Vec<Charged>> {
    let state = StateDir::new(state);
    if let Some(call) = args.call {
        let found = block_on(async { Ok(charges::of_call(&state, call).await?) })?;
        let found = found.with_context(|| {
            format!("the ledger has no charge of call {call}; a call that has just ended is there in a second")
        })?;
        return Ok(vec![found]);
    }
    let fits = |glob: &Option<Glob>, text: Option<&str>| {
        glob.as_ref().is_none_or(|glob| text.is_some_and(|text| glob.matches(text)))
    };
    let mut found = Vec::new();
    block_on(async {
        let span = args.day.map_or(Span::ALL, |day| Span::days(Some(day), Some(day)));
        charges::each(&state, span, |charged| {
            let fields = &charged.charge.record.data;
            let host = charged.detail.as_ref().and_then(|detail| detail.host.as_deref());
            let in_budget = |name: &String| fields.windows.iter().any(|window| *window.budget == **name);
            let wanted = fits(&args.agent, fields.agent.as_deref())
                && args.model.as_ref().is_none_or(|name| fields.model.as_ref() == Some(name))
                && fits(&args.models, fields.model.as_deref())
                && fits(&args.host, host)
                && args.provider.as_ref().is_none_or(|name| fields.provider.as_ref() == Some(name))
                && args.budget.as_ref().is_none_or(in_budget)
                && (!args.at_hold || charged.charge.at_hold);
            if wanted {
                found.push(charged);
            }
            if found.len() > MOST_LOOKED_AT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
        Ok(())
    })?;
    ensure!(found.len() <= MOST_LOOKED_AT, "more than {MOST_LOOKED_AT} charges fit; name fewer, by --day for instance");
    ensure!(!found.is_empty(), "no charge in the ledger fits; `caracald spend` shows what there is");
    Ok(found)
}

/// What is added to which charge.
fn plan(args: &CorrectArgs, mut found: Vec<Charged>) -> anyhow::Result<Vec<(Charged, i64)>> {
    let by = match (args.by, args.to, found.first()) {
        (Some(by), ..) => by,
        (None, Some(to), Some(one)) => {
            to.checked_sub(i64::try_from(one.left().0)?).context("that is more than any bill; say less")?
        }
        _ => bail!("say --by or --to"),
    };
    ensure!(by != 0, "the charge is that already; nothing is to be corrected");
    if by > 0 {
        let latest = found.pop().context("no charge fits")?;
        return Ok(vec![(latest, by)]);
    }
    let there = found.iter().fold(NanoUsd::ZERO, |sum, one| sum.saturating_add(one.left()));
    let mut left = NanoUsd(by.unsigned_abs());
    ensure!(left <= there, "these {} charges are {there} in all, so {left} cannot be taken off", found.len());
    // Charges that nobody saw the usage of are the likeliest to be too high.
    found.sort_by_key(|one| (std::cmp::Reverse((one.charge.at_hold, one.left())), one.leaf));
    let mut planned = Vec::new();
    for charged in found {
        let part = charged.left().min(left);
        if part == NanoUsd::ZERO {
            continue;
        }
        left = left.saturating_sub(part);
        planned.push((charged, i64::try_from(part.0).map(i64::wrapping_neg)?));
        ensure!(
            planned.len() <= MOST,
            "more than {MOST} charges would be corrected; name fewer, by --day for instance"
        );
        if left == NanoUsd::ZERO {
            break;
        }
    }
    Ok(planned)
}

fn show(args: &CorrectArgs, planned: &[(Charged, i64)], what: &str) -> anyhow::Result<ExitCode> {
    let left = |charged: &Charged, nano: i64| charged.charge.allows(&charged.corrections, nano);
    if args.json {
        let rows = planned.iter().map(|(charged, nano)| {
            let fields = &charged.charge.record.data;
            Ok(serde_json::json!({
                "call": charged.charge.call.to_string(), "leaf": charged.leaf, "agent": fields.agent, "model": fields.model,
                "charged_nano_usd": charged.charge.cost, "by_nano_usd": nano, "left_nano_usd": left(charged, *nano)?,
                "at_hold": charged.charge.at_hold, "recorded": !args.dry_run,
            }))
        });
        println!("{}", serde_json::Value::Array(rows.collect::<anyhow::Result<_>>()?));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["CALL", "AGENT", "MODEL", "CHARGED", "BY", "LEAVES"]);
    for (charged, nano) in planned {
        let fields = &charged.charge.record.data;
        table.add_row([
            charged.charge.call.to_string(),
            fields.agent.clone().unwrap_or_default(),
            crate::cli::events::text(fields.model.as_deref()),
            charged.charge.cost.to_string(),
            shown_change(*nano),
            left(charged, *nano)?.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("corrections {what}: {}", planned.len());
    Ok(ExitCode::SUCCESS)
}
