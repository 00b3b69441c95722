//! `caracald ledger erase`: what names people and places in an agent's records, made unreadable for ever.

use crate::cli::control::{Control, ControlError};
use crate::config::Config;
use crate::event::DetailKeys;
use crate::keeper::control::Request;
use crate::ledger::StateDir;
use anyhow::ensure;
use clap::Args;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct EraseArgs {
    /// Whose details; `_host` for those of records that belong to no agent.
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Yes: nothing brings them back, on this host or in any copy of the ledger. Keep no backup of the key.
    #[arg(long)]
    yes: bool,
}

/// Runs `caracald ledger erase`.
///
/// # Errors
/// When there is no such key, it cannot be deleted, or the caller did not say yes.
pub(super) fn run(args: &EraseArgs, config: &Config, state: &StateDir) -> anyhow::Result<ExitCode> {
    ensure!(args.yes, "the details of {} would be gone for ever, in every copy: say --yes", args.agent);
    let erased = match Control::connect(config) {
        // The daemon has the key in memory: it forgets it, and records the erasure.
        Ok(mut control) => control.ask(&Request::Erase { agent: args.agent.clone() })?.as_bool().unwrap_or_default(),
        Err(ControlError::NotRunning { .. }) => DetailKeys::read_only(&state.detail_keys()).erase(&args.agent)?,
        Err(error) => return Err(error.into()),
    };
    ensure!(erased, "there is no key of {} in {}", args.agent, state.detail_keys().display());
    println!("The details of {} are erased. The ledger verifies as before: it is made of the sealed ones.", args.agent);
    Ok(ExitCode::SUCCESS)
}
