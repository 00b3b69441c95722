//! `caracald ledger prove`: the receipt of a record, of this host's ledger or of a log of many hosts.

use super::{block_on, database_url};
use crate::config::Config;
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::receipt::ReceiptError;
use crate::ledger::{SqliteStore, StateDir, fleet_verify, note, receipt};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often a record is looked for, four times a second, before it is said that there is none.
const TRIES: u32 = 8;

#[derive(Args, Debug)]
pub(super) struct ProveArgs {
    /// The record's id, or its index in the ledger.
    #[arg(value_name = "ID|INDEX")]
    record: String,
    /// Look for the id in the logs of all hosts in PostgreSQL, as [postgres] of the configuration names it.
    #[arg(long, conflicts_with = "log")]
    fleet: bool,
    /// Look in this log of many hosts in PostgreSQL, such as fleet-0, for the id or the index.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// Where to write the receipt; by default to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs `caracald ledger prove`.
///
/// # Errors
/// When there is no such record, no checkpoint covers it, or a file or database cannot be reached.
pub(super) fn run(args: &ProveArgs, config: &Config, state: &StateDir) -> anyhow::Result<ExitCode> {
    let text = block_on(receipt_soon(args, config, state))?;
    match &args.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
            eprintln!(
                "wrote {}; `caracald ledger verify --receipt {0} --public-key FILE` checks it anywhere",
                path.display()
            );
        }
        None => print!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The receipt; a record that `events` shows may reach the ledger, and a checkpoint, only within the next second.
async fn receipt_soon(args: &ProveArgs, config: &Config, state: &StateDir) -> anyhow::Result<String> {
    let mut tries = 1;
    loop {
        let found = if args.fleet || args.log.is_some() {
            of_fleet(args, &database_url(config)?).await?
        } else {
            let mut store = SqliteStore::read(&state.ledger()).await?;
            receipt::prove(&mut store, &args.record).await
        };
        match found {
            Err(ReceiptError::NotFound(_) | ReceiptError::NotSigned(_)) if tries < TRIES => tries += 1,
            other => return Ok(other?),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The receipt out of the log that is named, or of the first one that has the record.
async fn of_fleet(args: &ProveArgs, url: &str) -> anyhow::Result<Result<String, ReceiptError>> {
    ensure!(
        args.log.is_some() || args.record.parse::<u64>().is_err(),
        "each log has a record {}: name the log with --log, such as fleet-0",
        args.record
    );
    let mut logs = fleet_verify::logs(&mut Database::new(url, Some(READER))?).await?;
    if let Some(name) = &args.log {
        logs.retain(|(_, origin)| note::name_of(origin) == name);
        ensure!(!logs.is_empty(), "there is no log {name}: `caracald ledger verify --fleet` names them");
    }
    for (log, _) in logs {
        let mut store = PostgresStore::reader(Database::new(url, Some(READER))?, log);
        match receipt::prove(&mut store, &args.record).await {
            Err(ReceiptError::NotFound(_)) => {}
            other => return Ok(other),
        }
    }
    Ok(Err(ReceiptError::NotFound(args.record.clone())))
}
