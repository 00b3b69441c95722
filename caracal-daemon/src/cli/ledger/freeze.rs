//! `caracald ledger freeze`: the end of a log whose keys somebody else has, and the beginning of the one in its place.

use super::block_on;
use super::keys::{self, place};
use crate::clock::Clock;
use crate::config::Config;
use crate::keeper::ledger_key::{LedgerKey, PREDECESSOR, log_name};
use crate::keeper::serve::{Places, lock};
use crate::ledger::store::Store as _;
use crate::ledger::{SqliteStore, StateDir, note, succession};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct FreezeArgs {
    /// Of this log of many hosts, such as fleet-0, below [worker] keys; by default this host's own. Stop its worker, or the daemon.
    #[arg(long, value_name = "NAME", requires = "successor")]
    log: Option<String>,
    /// The log that takes its place, such as anew-0: partition 0 of a [worker] with the name anew and a database of its own.
    #[arg(long, value_name = "NAME", requires = "log")]
    successor: Option<String>,
    /// Yes: the log's keys sign nothing more.
    #[arg(long)]
    yes: bool,
}

/// Runs `caracald ledger freeze`. Run again after it was cut off, it goes on.
///
/// # Errors
/// When the daemon runs, the ledger is not the one that was signed, or a file cannot be written.
pub(super) fn run(args: &FreezeArgs, config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    ensure!(args.yes, "the keys of this log would sign nothing more, for ever: say --yes");
    match (&args.log, &args.successor) {
        (Some(log), Some(successor)) => of_fleet(log, successor, config, state, host_id),
        _ => of_host(config, state, host_id),
    }
}

fn of_fleet(log: &str, successor: &str, config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    let (dir, name) = place(Some(log), config, state, host_id)?;
    ensure!(successor != log && crate::bus::signed_run::is_host_id(successor), "{successor:?} is no other log's name");
    let (frozen, note) = keys::of_fleet(&dir, &name, config)?.freeze(&note::origin(successor))?;
    let next = config.worker.keys.join(successor);
    // Its keys, whose directory this is.
    LedgerKey::open(&next, successor)?;
    let leaf = next.join(PREDECESSOR);
    if !leaf.exists() {
        std::fs::write(&leaf, succession::first_leaf(successor, &frozen, &note, Clock::system().now()))?;
        let owner = std::fs::metadata(&dir)?;
        for entry in std::fs::read_dir(&next)?.flatten().map(|entry| entry.path()).chain([next.clone()]) {
            chown(&entry, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    println!("The log {log} ends with {} records; {successor} begins by saying so.", frozen.size);
    println!("Give auditors `caracald ledger keys --history --log {log}`, and the keys of {successor}.");
    Ok(ExitCode::SUCCESS)
}

fn of_host(config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), crate::keeper::KeeperError::NotRoot);
    let (dir, _) = place(None, config, state, host_id)?;
    let _alone = lock(&Places::of(config)).context("stop the daemon first")?;
    let name = log_name(&dir, host_id)?;
    let next = note::next_name(&name);
    let (ledger, made) = (state.ledger(), state.ledger().with_extension("next"));
    let key = LedgerKey::open(&dir, host_id)?;
    let signed = key.signed();
    let swapped = block_on(async { Ok(origin_of(&ledger).await? == Some(note::origin(&next))) })?;
    if !swapped {
        let frozen = block_on(async {
            // For writing: its write-ahead log is merged when it is closed.
            let mut old = SqliteStore::open(&ledger).await?;
            succession::must_be(&mut old, signed).await?;
            let (frozen, note) = key.freeze(&note::origin(&next))?;
            remove(&made)?;
            let first = succession::first_leaf(host_id, &frozen, &note, Clock::system().now());
            succession::replay(&mut old, &made, (host_id, &frozen.successor), first).await?;
            old.finish().await;
            old.close().await?;
            Ok(frozen)
        })?;
        for database in [&ledger, &made] {
            let log = PathBuf::from(format!("{}-wal", database.display()));
            ensure!(!log.exists(), "{} is in use: end whoever reads it, and run this again", log.display());
        }
        ensure!(frozen.successor == note::origin(&next), "the log was frozen for {}", frozen.successor);
        let owner = std::fs::metadata(&ledger)?;
        chown(&made, Some(owner.uid()), Some(owner.gid()))?;
        let old = ledger.with_file_name(format!("ledger-{name}.sqlite"));
        std::fs::hard_link(&ledger, &old).or_else(|error| if old.exists() { Ok(()) } else { Err(error) })?;
        std::fs::rename(&made, &ledger)?;
        std::fs::File::open(state.data())?.sync_all()?;
    }
    key.make_room(&next)?;
    LedgerKey::open(&dir, host_id)?;
    println!("The log {name} ends with {} records, and {next} took its place: its first record says so.", signed.size);
    println!(
        "The old ledger is ledger-{name}.sqlite beside the new one; its keys' history is in {}.",
        dir.join(format!("frozen-{name}")).display()
    );
    println!("Give auditors that history and `caracald ledger keys`, and start the daemon.");
    Ok(ExitCode::SUCCESS)
}

async fn origin_of(ledger: &Path) -> anyhow::Result<Option<String>> {
    Ok(SqliteStore::read(ledger).await?.load().await?.position.map(|position| position.origin))
}

/// A database that was begun, and what SQLite keeps beside it.
fn remove(database: &Path) -> anyhow::Result<()> {
    for end in ["", "-wal", "-shm"] {
        match std::fs::remove_file(PathBuf::from(format!("{}{end}", database.display()))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
