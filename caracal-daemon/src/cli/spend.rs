//! `caracald spend`: what was charged, by agent, model or day.

use crate::ledger::query::{self, Filter};
use crate::ledger::{Spend, SpendKey, StateDir};
use crate::spend::{By, sum};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::path::Path;
use std::process::ExitCode;

/// Show what was spent.
///
/// Sums of what the ledger has, in USD. Root sees all; others see their own agents.
#[derive(Args, Debug)]
pub struct SpendArgs {
    /// What to sum by; may be given more than once.
    #[arg(long, value_enum, value_name = "KEY", default_values_t = [By::Agent, By::Model, By::Day])]
    pub by: Vec<By>,
    /// Only this agent; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub agent: Vec<String>,
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

/// Runs `caracald spend` on the state directory `state`.
///
/// # Errors
/// When the ledger cannot be read.
pub fn run(args: &SpendArgs, state: &Path) -> anyhow::Result<ExitCode> {
    let filter = Filter { agents: (!args.agent.is_empty()).then(|| args.agent.clone()), uid: None };
    let rows = super::ledger::block_on(async { anyhow::Ok(query::spend(&StateDir::new(state), &filter).await?) })?;
    print(&rows, args)
}

/// `caracald spend --fleet`: what the view in Redis says, which is behind the ledger by as much as its worker is.
///
/// # Errors
/// When there is no `[redis]`, or it does not answer.
pub fn fleet(args: &SpendArgs, config: &crate::config::Config) -> anyhow::Result<ExitCode> {
    let mut view = super::worker::view(config)?;
    let sums = super::ledger::block_on(async { anyhow::Ok(view.sums(crate::spend::fleet::Width::Day, "").await?) })?;
    let chosen = |names: &[String], name: &String| names.is_empty() || names.contains(name);
    let rows: Vec<(SpendKey, Spend)> = sums
        .into_iter()
        .filter(|((_, _, key), _)| chosen(&args.host, &key.host) && chosen(&args.agent, &key.agent))
        .map(|((_, day, key), spend)| {
            // Two hosts' agents of one name are two agents.
            let agent = format!("{}/{}", key.host, key.agent);
            (SpendKey { agent, provider: key.provider, model: key.model, day }, spend)
        })
        .collect();
    print(&rows, args)
}

fn print(rows: &[(SpendKey, Spend)], args: &SpendArgs) -> anyhow::Result<ExitCode> {
    let rows = sum(rows, &args.by);
    if args.json {
        println!("{}", json(&rows)?);
    } else {
        println!("{}", table(&rows, &args.by));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(serde::Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    key: &'a SpendKey,
    #[serde(flatten)]
    spend: &'a Spend,
}

/// The rows as a JSON array; amounts in nano-USD.
///
/// # Errors
/// Never in practice.
pub fn json(rows: &[(SpendKey, Spend)]) -> serde_json::Result<String> {
    serde_json::to_string(&rows.iter().map(|(key, spend)| Row { key, spend }).collect::<Vec<_>>())
}

/// The rows as a table that fits the terminal, with a sum at the end.
#[must_use]
pub fn table(rows: &[(SpendKey, Spend)], by: &[By]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let keys = by.iter().map(|by| match by {
        By::Agent => "agent",
        By::Provider => "provider",
        By::Model => "model",
        By::Day => "day",
    });
    let columns = ["calls", "input", "cached", "output", "cost", "of which estimated"];
    table.set_header(keys.chain(columns));
    let mut all = Spend::default();
    for (key, spend) in rows {
        all.add(spend);
        let keys = by.iter().map(|by| match by {
            By::Agent => key.agent.clone(),
            By::Provider => key.provider.clone(),
            By::Model => key.model.clone(),
            By::Day => key.day.clone(),
        });
        table.add_row(keys.chain(numbers(spend)));
    }
    let mut label = vec![String::new(); by.len()];
    if let Some(first) = label.first_mut() {
        "total".clone_into(first);
    }
    table.add_row(label.into_iter().chain(numbers(&all)));
    for column in table.column_iter_mut().skip(by.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn numbers(spend: &Spend) -> [String; 6] {
    let used = &spend.usage;
    let written = used.cache_write_5m.saturating_add(used.cache_write_1h);
    [
        spend.calls.to_string(),
        used.input.saturating_add(written).to_string(),
        used.cache_read.to_string(),
        used.output.to_string(),
        spend.cost.to_string(),
        format!("{} calls", spend.charged_max),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;

    #[test]
    fn the_table_ends_with_the_sum() {
        let key = |agent: &str| SpendKey { agent: agent.into(), ..SpendKey::default() };
        let spend = |cost| Spend { calls: 1, cost: NanoUsd(cost), ..Spend::default() };
        let rows = [(key("a"), spend(1_500_000_000)), (key("b"), spend(20_000_000))];
        let text = table(&rows, &[By::Agent]);
        let last = text.lines().last().expect("a line");
        assert!(last.contains("total") && last.contains("$1.52"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&json(&rows).expect("written")).expect("JSON");
        assert_eq!((&value[0]["agent"], &value[0]["cost"]), (&"a".into(), &1_500_000_000u64.into()));
    }
}
