//! `caracald spend`: what was charged, by agent, model, tool, host, time or budget's window; and `spend reconcile`.

mod reconcile;
mod windows;

pub use reconcile::ReconcileArgs;
pub(crate) use windows::NotByWindow;

use crate::ledger::charges::{self, Span};
use crate::ledger::query::{self, Filter};
use crate::ledger::{Spend, SpendKey, StateDir};
use crate::money::NanoUsd;
use crate::spend::fleet::Width;
use crate::spend::{By, Sums};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

/// Show what was spent.
///
/// Sums of what the ledger has, in USD, with corrections. Root sees all; others see their own agents, by agent, model and
/// day: they cannot use --by, --agent, --since and --until.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SpendArgs {
    /// Hold the ledger against a provider's export.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// What to sum by; may be given more than once.
    #[arg(long, value_enum, value_name = "KEY", default_values_t = [By::Agent, By::Model, By::Day])]
    pub by: Vec<By>,
    /// Only this agent; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub agent: Vec<String>,
    /// From this day on, UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub since: Option<jiff::civil::Date>,
    /// Up to and with this day, UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub until: Option<jiff::civil::Date>,
    /// Of all hosts, from Redis, where the configuration has [redis].
    #[arg(long)]
    pub fleet: bool,
    /// With --fleet: only this host; may be given more than once.
    #[arg(long, value_name = "HOST", requires = "fleet")]
    pub host: Vec<String>,
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    pub json: bool,
}

/// What else `spend` does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Reconcile(ReconcileArgs),
}

impl SpendArgs {
    /// Whether nothing is asked but the sums that the daemon gives to anybody.
    pub(crate) fn is_plain(&self) -> bool {
        let all = self.agent.is_empty() && self.since.is_none() && self.until.is_none();
        all && self.by == [By::Agent, By::Model, By::Day]
    }

    /// Whether the day of a time such as `2026-11-24T10:05` is asked for.
    fn has_day(&self, time: &str) -> bool {
        let day = time.get(..10).unwrap_or(time);
        let after = self.since.is_none_or(|since| *day >= *since.to_string());
        after && self.until.is_none_or(|until| *day <= *until.to_string())
    }
}

/// Runs `caracald spend reconcile`.
///
/// # Errors
/// When the export or the ledger cannot be read.
pub fn reconcile(args: &ReconcileArgs, config: &crate::config::Config) -> anyhow::Result<ExitCode> {
    reconcile::run(args, config)
}

/// Runs `caracald spend` on the state directory `state`.
///
/// # Errors
/// When there is no ledger, or it cannot be read.
pub fn run(args: &SpendArgs, state: &Path) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(state);
    super::ledger::there(&state)?;
    if args.by.contains(&By::Window) {
        return windows::run(args, &state);
    }
    let chosen = |agent: &str| args.agent.is_empty() || args.agent.iter().any(|name| name == agent);
    let sums = super::ledger::block_on(async {
        if !args.by.iter().any(|by| by.needs_records()) {
            let rows = query::spend(&state, &Filter::default()).await?;
            let rows = rows.into_iter().filter(|(key, _)| chosen(&key.agent) && args.has_day(&key.day));
            return anyhow::Ok(Sums::of(&args.by, rows));
        }
        let mut sums = Sums::new(&args.by);
        charges::each(&state, Span::days(args.since, args.until), |charged| {
            if chosen(charged.charge.record.data.agent.as_deref().unwrap_or_default()) {
                sums.add_charge(&charged);
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(sums)
    })?;
    print(&sums, args.json)
}

/// `caracald spend --fleet`: what the view in Redis says, which is behind the ledger by as much as its worker is.
///
/// # Errors
/// When there is no `[redis]`, it does not answer, or something is asked that it does not tell.
pub fn fleet(args: &SpendArgs, config: &crate::config::Config) -> anyhow::Result<ExitCode> {
    if args.by.contains(&By::Host) {
        anyhow::bail!("--fleet has no sums by host that was called: ask each host for them, without --fleet");
    }
    if args.by.contains(&By::Window) {
        anyhow::bail!("--fleet has no sums by window: ask each host for them, without --fleet");
    }
    // The widest buckets that tell: the narrow ones go after a while.
    let width = if args.by.contains(&By::Minute) {
        Width::Minute
    } else if args.by.contains(&By::Hour) {
        Width::Hour
    } else {
        Width::Day
    };
    let mut view = super::worker::view(config)?;
    let sums = super::ledger::block_on(async { anyhow::Ok(view.sums(width, "").await?) })?;
    let chosen = |names: &[String], name: &String| names.is_empty() || names.contains(name);
    let rows = sums
        .into_iter()
        .filter(|((_, time, key), _)| {
            chosen(&args.host, &key.host) && chosen(&args.agent, &key.agent) && args.has_day(time)
        })
        .map(|((_, time, key), spend)| {
            // Two hosts' agents of one name are two agents.
            let agent = format!("{}/{}", key.host, key.agent);
            (SpendKey { agent, provider: key.provider, model: key.model, day: time }, spend)
        });
    print(&Sums::of(&args.by, rows), args.json)
}

fn print(sums: &Sums, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        println!("{}", json(sums)?);
    } else {
        println!("{}", table(sums));
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows as a JSON array; amounts in nano-USD. `cost` is what is spent: `charged` less `credited`.
///
/// # Errors
/// Never in practice.
pub fn json(sums: &Sums) -> serde_json::Result<String> {
    let row = |(keys, spend): (&[String], &Spend)| {
        let mut row = serde_json::json!({
            "calls": spend.calls, "cost": spend.net(), "charged": spend.cost, "credited": spend.credited,
            "charged_max": spend.charged_max, "usage": spend.usage, "sent": spend.sent, "received": spend.received,
        });
        for (by, value) in sums.by().iter().zip(keys) {
            row[by.name()] = value.as_str().into();
        }
        row
    };
    serde_json::to_string(&sums.rows().map(row).collect::<Vec<_>>())
}

/// The rows as a table that fits the terminal, with a sum at the end.
#[must_use]
pub fn table(sums: &Sums) -> String {
    let by = sums.by();
    let mut all = Spend::default();
    sums.rows().for_each(|(_, spend)| all.add(spend));
    // Columns that say nothing of any row are left out.
    let corrected = all.credited > NanoUsd::ZERO;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut header: Vec<&str> = by.iter().map(|by| by.name()).collect();
    header.extend(["calls", "input", "cached", "output", "bytes", "cost"]);
    header.extend(corrected.then_some("credited"));
    header.push("of which estimated");
    table.set_header(header);
    for (keys, spend) in sums.rows() {
        let keys = keys.iter().map(|key| if key.is_empty() { "-".to_owned() } else { super::events::text(Some(key)) });
        table.add_row(keys.chain(numbers(spend, corrected)));
    }
    let mut label = vec![String::new(); by.len()];
    if let Some(first) = label.first_mut() {
        "total".clone_into(first);
    }
    table.add_row(label.into_iter().chain(numbers(&all, corrected)));
    right(&mut table, by.len());
    table.to_string()
}

/// Numbers stand to the right: the columns behind the first `keys`.
fn right(table: &mut Table, keys: usize) {
    for column in table.column_iter_mut().skip(keys) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn numbers(spend: &Spend, corrected: bool) -> Vec<String> {
    let used = &spend.usage;
    let written = used.cache_write_5m.saturating_add(used.cache_write_1h);
    let mut cells = vec![
        spend.calls.to_string(),
        used.input.saturating_add(written).to_string(),
        used.cache_read.to_string(),
        used.output.to_string(),
        bytes(spend.sent.saturating_add(spend.received)),
        spend.net().to_string(),
    ];
    cells.extend(corrected.then(|| spend.credited.to_string()));
    cells.push(format!("{} calls", spend.charged_max));
    cells
}

/// Bytes for people, rounded up: `812`, `13 KB`, `4 MB`.
fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let unit = UNITS.iter().find(|(size, _)| count >= 10 * size);
    unit.map_or_else(|| count.to_string(), |(size, name)| format!("{} {name}", count.div_ceil(*size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_the_sum_and_corrections_count() {
        let key = |agent: &str| SpendKey { agent: agent.into(), ..SpendKey::default() };
        let spend = |cost| Spend { calls: 1, cost: NanoUsd(cost), sent: 20_000, received: 480, ..Spend::default() };
        let rows = [(key("a"), spend(1_500_000_000)), (key("b"), spend(20_000_000))];
        let sums = Sums::of(&[By::Agent], rows);
        let text = table(&sums);
        let last = text.lines().last().expect("a line");
        assert!(last.contains("total") && last.contains("$1.52") && last.contains("40 KB"), "{text}");
        assert!(!text.contains("credited"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&json(&sums).expect("written")).expect("JSON");
        assert_eq!((&value[0]["agent"], &value[0]["cost"]), (&"a".into(), &1_500_000_000u64.into()));
        let back = Spend { credited: NanoUsd(500_000_000), ..Spend::default() };
        let sums = Sums::of(&[By::Agent], [(key("a"), spend(1_500_000_000)), (key("a"), back)]);
        assert!(table(&sums).contains("$1.00") && table(&sums).contains("$0.50"), "{}", table(&sums));
        let value: serde_json::Value = serde_json::from_str(&json(&sums).expect("written")).expect("JSON");
        assert_eq!((&value[0]["cost"], &value[0]["charged"]), (&1_000_000_000u64.into(), &1_500_000_000u64.into()));
    }
}
