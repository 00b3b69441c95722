//! `caracald ledger keys` and `rotate-key`: whose signatures count, now and before.

use super::read_text;
use crate::bus::checkpoints::CheckpointTopic;
use crate::config::Config;
use crate::keeper::ledger_key::{HISTORY, LedgerKey, PUBLIC, hand_over_file, read_history};
use crate::ledger::StateDir;
use crate::ledger::worker::{group_name, learn};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct KeysArgs {
    /// Every key that ever signed, with the hand-overs between them, and not only those that sign now.
    #[arg(long)]
    history: bool,
    /// Of this log of many hosts, such as fleet-0, below [worker] keys.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// Of this log of many hosts, such as fleet-0, below [worker] keys; by default this host's own.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
}

/// The directory of the keys of a log, and the log's name.
pub(super) fn place(
    log: Option<&str>,
    config: &Config,
    state: &StateDir,
    host_id: &str,
) -> anyhow::Result<(PathBuf, String)> {
    let (dir, name) = match log {
        Some(name) => {
            ensure!(crate::bus::signed_run::is_host_id(name) && !name.starts_with('.'), "{name:?} is no log's name");
            (config.worker.keys.join(name), name.to_owned())
        }
        None => (state.keeper(), host_id.to_owned()),
    };
    // Keys are made by whoever signs first, and by no mistake in a name.
    ensure!(dir.join(PUBLIC).is_file(), "there are no keys of a log in {}", dir.display());
    Ok((dir, name))
}

/// The keys of a log of many hosts, in `dir`, which know what was signed with them on other hosts, as the topic of checkpoints has it.
///
/// # Errors
/// When Kafka does not say; or the keys cannot be read.
pub(super) fn of_fleet(dir: &Path, name: &str, config: &Config) -> anyhow::Result<LedgerKey> {
    let keys = LedgerKey::open(dir, name)?;
    let Some(kafka) = &config.kafka else {
        eprintln!(
            "The configuration has no [kafka]: only what was signed on this host is known. Where other hosts have these keys, run this on \
             the one that signed last."
        );
        return Ok(keys);
    };
    let parts = name.rsplit_once('-').and_then(|(series, partition)| Some((series, partition.parse().ok()?)));
    let (series, partition) = parts.with_context(|| format!("{name:?} is not NAME-PARTITION, as fleet-0 is"))?;
    let topic = CheckpointTopic::new(kafka, &group_name(series))?;
    let (_, strange) = learn(&keys, &topic, partition)
        .context("nothing was changed. Where Kafka is gone for good, use a configuration without [kafka]")?;
    if strange > 0 {
        eprintln!(
            "{strange} messages in the topic {} are not by the keys of {name} and are passed over: look for who may write there.",
            topic.name()
        );
    }
    Ok(keys)
}

/// Runs `caracald ledger keys`.
///
/// # Errors
/// When there are none, or they cannot be read.
pub(super) fn keys(args: &KeysArgs, config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    let (dir, _) = place(args.log.as_deref(), config, state, host_id)?;
    let history = if args.history { read_history(&dir)? } else { None };
    match history {
        Some(history) => print!("{history}"),
        None => print!("{}", read_text(&dir.join(PUBLIC))?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `caracald ledger rotate-key`.
///
/// # Errors
/// When the keys cannot be read or written.
pub(super) fn rotate(args: &RotateArgs, config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    let (dir, name) = place(args.log.as_deref(), config, state, host_id)?;
    let keys = match args.log {
        Some(_) => of_fleet(&dir, &name, config)?,
        None => LedgerKey::open(&dir, &name)?,
    };
    let at = keys.rotate().context("the keys were not handed over")?;
    println!(
        "New keys sign the log {name} from now on. Those before signed up to {} records, and are deleted.",
        at.size
    );
    println!("history     {}", dir.join(HISTORY).display());
    println!("checkpoint  {} is signed by both", dir.join(hand_over_file(at.size)).display());
    println!(
        "Give auditors the history: `caracald ledger keys --history`; those who have the keys of before name it with --history."
    );
    Ok(ExitCode::SUCCESS)
}
