//! `caracald hosts enrol|list|retire`: whose chains the ledger of many hosts takes.

use crate::config::Config;
use crate::ledger::hosts::{self, Enrolled};
use crate::ledger::postgres::Database;
use crate::ledger::worker::WorkerError;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use std::path::PathBuf;
use std::process::ExitCode;

/// Say whose chains the ledger of many hosts takes.
#[derive(Args, Debug)]
pub struct HostsArgs {
    #[command(subcommand)]
    command: HostsCommand,
}

#[derive(Subcommand, Debug)]
enum HostsCommand {
    /// Take the chains of the hosts whose public keys stand in these files: what `caracald ledger keys` prints on each.
    ///
    /// A host that is enrolled with another key gets a new enrolment: its old key is taken no longer.
    Enrol {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Every host, up to where the ledger has it, and whether it is silent: enrolled, not retired, and nothing heard of it for
    /// longer than `[worker] silent_after_ms`.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// End with 1 when a host is silent.
        #[arg(long)]
        check: bool,
    },
    /// Take nothing more from a host. What is in the ledger stays.
    Retire {
        /// The host, as `hosts list` names it.
        host: String,
    },
}

/// Runs the verb.
///
/// # Errors
/// When PostgreSQL cannot be reached, or a file has no host's key.
pub fn run(args: HostsArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let url = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
    let mut database = Database::new(&url, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.command {
        HostsCommand::Enrol { keys } => {
            for path in keys {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let added =
                    runtime.block_on(hosts::enrol(&mut database, &text)).with_context(|| path.display().to_string())?;
                for (host, enrolment) in &added {
                    println!("{host} is enrolled (enrolment {enrolment})");
                }
                if added.is_empty() {
                    println!("{}: enrolled already", path.display());
                }
            }
        }
        HostsCommand::List { json, check } => {
            let all = runtime.block_on(hosts::list(&mut database))?;
            let after = config.worker.silent_after_ms;
            if json {
                println!("{}", serde_json::to_string(&all.iter().map(|one| listed(one, after)).collect::<Vec<_>>())?);
            } else {
                println!("{}", table(&all, after));
            }
            return Ok(ExitCode::from(u8::from(check && all.iter().any(|one| one.is_silent(after)))));
        }
        HostsCommand::Retire { host } => {
            anyhow::ensure!(
                runtime.block_on(hosts::retire(&mut database, &host))?,
                "{host} is not enrolled, or retired already"
            );
            println!("{host} is retired");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of `list --json`.
#[derive(serde::Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    one: &'a Enrolled,
    silent: bool,
}

fn listed(one: &Enrolled, after_ms: u64) -> Listed<'_> {
    Listed { one, silent: one.is_silent(after_ms) }
}

fn table(all: &[Enrolled], after_ms: u64) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["HOST", "ENROLMENT", "LOG", "RECORDS", "LAST", ""]);
    for one in all {
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let time = |ms: Option<u64>| {
            let at = jiff::Timestamp::from_millisecond(i64::try_from(ms?).ok()?);
            at.ok().map(|at| at.to_string())
        };
        let state = match time(one.heard_ms).filter(|_| one.is_silent(after_ms)) {
            Some(heard) => format!("SILENT since {heard}"),
            None if one.retired => "retired".to_owned(),
            None => String::new(),
        };
        table.add_row([
            one.host.clone(),
            one.enrolment.to_string(),
            one.log.map(|log| log.to_string()).unwrap_or_default(),
            number(one.next),
            time(one.last_ms).unwrap_or_default(),
            state,
        ]);
    }
    table
}
