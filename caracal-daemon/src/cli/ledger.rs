//! `caracald ledger verify|prove|export|serve|query|rebuild|keys`: what an auditor types.

mod erase;
mod freeze;
mod keys;
mod prove;
mod query;
mod serve;
mod verify;

use crate::bus::signed_run::is_host_id;
use crate::config::Config;
use crate::ledger::export::ExportError;
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::{SqliteStore, StateDir, export, fleet_verify, note};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The audit found something, or a receipt does not hold.
pub const EXIT_UNSOUND: u8 = 3;

/// Verify, prove, export, question and rebuild the ledger.
///
/// A log is the records of one host, in its state directory; with [kafka], the records of many hosts that came by one partition
/// of its topic, in PostgreSQL: the fleet's logs, each named after [worker] name and the partition, such as fleet-0.
///
/// Needs root, or read access to the state directory; `verify` with `--receipt`, `--folder` or `--url` and a `--public-key` needs neither.
#[derive(Args, Debug)]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand, Debug)]
enum LedgerCommand {
    /// Check every record, tile, checkpoint and sum: of this host's ledger, of a log's files, or of all hosts; or one receipt
    /// with a public key alone.
    ///
    /// Ends with 0 when everything holds and with 3 when something does not.
    Verify(verify::VerifyArgs),
    /// Write a receipt that shows, to anybody with the public key, that a record is in the ledger.
    Prove(prove::ProveArgs),
    /// Write the ledger as static files (c2sp.org/tlog-tiles).
    Export(ExportArgs),
    /// Serve the log over HTTP (c2sp.org/tlog-tiles), read-only, for auditors anywhere: `verify --url` and other tools read it.
    Serve(serve::ServeArgs),
    /// Show records by time, host, agent, decision and model, oldest first; as JSON lines they can be replayed.
    Query(query::QueryArgs),
    /// Make the ledger again from its records and compare the roots.
    ///
    /// Ends with 0 when both are the same and with 3 when they differ; it says where.
    Rebuild(query::RebuildArgs),
    /// Print the public keys of the ledger. Give them to an auditor before they are needed.
    Keys(keys::KeysArgs),
    /// Erase what names people and places in an agent's records: delete the key that seals it. The ledger verifies as before.
    Erase(erase::EraseArgs),
    /// Close the log with a final signed statement, and begin another one in its place: for keys that somebody else has.
    ///
    /// The new log has keys and a name of its own; its first record names the old one, its size and its root.
    Freeze(freeze::FreezeArgs),
    /// Make new signing keys and hand over to them: the old keys sign the hand-over, and nothing after it.
    ///
    /// Whoever signs meanwhile, a daemon or a worker, goes on with the new keys. What was signed before stays provable.
    RotateKey(keys::RotateArgs),
}

#[derive(Args, Debug)]
struct ExportArgs {
    /// The directory; files that are there already and full are kept.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Export the logs of all hosts in PostgreSQL, each to DIR/NAME, as [postgres] of the configuration names it.
    #[arg(long)]
    fleet: bool,
}

/// Runs `caracald ledger` on the state directory of the host `host_id`.
///
/// # Errors
/// When files cannot be read or written; the message says which and what to do.
pub fn run(args: LedgerArgs, config: &Config, host_id: &str) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(&config.state_dir);
    match args.command {
        LedgerCommand::Verify(args) => verify::run(args, config, &state, host_id),
        LedgerCommand::Prove(args) => prove::run(&args, config, &state),
        LedgerCommand::Export(args) if args.fleet => export_fleet(&args, config),
        LedgerCommand::Export(args) => write_export(&args, &state),
        LedgerCommand::Serve(args) => serve::run(&args, config, &state),
        LedgerCommand::Query(args) => query::query(&args, config, &state),
        LedgerCommand::Rebuild(args) => query::rebuild(&args, config, &state, host_id),
        LedgerCommand::Keys(args) => keys::keys(&args, config, &state, host_id),
        LedgerCommand::Erase(args) => erase::run(&args, config, &state),
        LedgerCommand::Freeze(args) => freeze::run(&args, config, &state, host_id),
        LedgerCommand::RotateKey(args) => keys::rotate(&args, config, &state, host_id),
    }
}

fn write_export(args: &ExportArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    let bar = bar("exporting");
    let size = block_on(async {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        store.freeze().await?;
        anyhow::Ok(export::export(&mut store, &args.dir, &mut |done, all| advance(&bar, done, all)).await?)
    })?;
    bar.finish_and_clear();
    println!("exported {size} records to {}", args.dir.display());
    Ok(ExitCode::SUCCESS)
}

/// Every log of the database. What is committed meanwhile is not in it: the checkpoint of the beginning says what is.
fn export_fleet(args: &ExportArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let url = database_url(config)?;
    let logs = block_on(async { anyhow::Ok(fleet_verify::logs(&mut Database::new(&url, Some(READER))?).await?) })?;
    for (log, origin) in logs {
        let name = Some(note::name_of(&origin)).filter(|name| is_host_id(name) && !name.starts_with('.'));
        let name = name.with_context(|| format!("log {log} has the origin {origin:?}, which is no ledger's"))?;
        let (dir, bar) = (args.dir.join(name), bar("exporting"));
        let exported = block_on(async {
            let mut store = PostgresStore::reader(Database::new(&url, Some(READER))?, log);
            match export::export(&mut store, &dir, &mut |done, all| advance(&bar, done, all)).await {
                Err(ExportError::Empty) => Ok(None),
                other => anyhow::Ok(Some(other?)),
            }
        })?;
        bar.finish_and_clear();
        let Some(size) = exported else {
            println!("{origin} has no checkpoint yet");
            continue;
        };
        println!("exported {size} records of {origin} to {}", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// That there is a ledger. What is asked of none would be answered with nothing, as if nothing had happened.
pub(crate) fn there(state: &StateDir) -> anyhow::Result<()> {
    let ledger = state.ledger();
    anyhow::ensure!(
        ledger.is_file(),
        "{}: there is no ledger here; was a daemon ever started with this configuration? Its `state_dir` says where",
        ledger.display()
    );
    Ok(())
}

/// Where the logs of all hosts are. A secret: never show it.
pub(crate) fn database_url(config: &Config) -> anyhow::Result<String> {
    Ok(config.postgres.as_ref().context("[postgres] is missing in the configuration")?.url()?)
}

/// Runs `work` to its end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A progress bar on a terminal; nothing elsewhere.
fn bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} records, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

fn advance(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all);
    bar.set_position(done);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ledger: LedgerArgs,
    }

    fn run_line(state: &Path, words: &[&str]) -> anyhow::Result<ExitCode> {
        let line = Line::try_parse_from(std::iter::once(&"ledger").chain(words)).expect("a command line");
        run(line.ledger, &Config { state_dir: state.to_owned(), ..Config::default() }, "h")
    }

    fn code(result: anyhow::Result<ExitCode>) -> String {
        format!("{:?}", result.expect("it ran"))
    }

    #[test]
    fn the_commands_prove_verify_and_export() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, keys) = block_on(async { Ok(crate::ledger::tests::sample(dir.path()).await) }).expect("a ledger");
        let sound = format!("{:?}", ExitCode::SUCCESS);
        let unsound = format!("{:?}", ExitCode::from(EXIT_UNSOUND));
        for words in [&["verify"][..], &["verify", "--json"], &["keys"]] {
            assert_eq!(code(run_line(dir.path(), words)), sound, "{words:?}");
        }
        let receipt = dir.path().join("a.tlog-proof");
        let file = receipt.to_str().expect("a path");
        assert_eq!(code(run_line(dir.path(), &["prove", "7", "--out", file])), sound);
        let nowhere = tempfile::tempdir().expect("a directory");
        let key = keys[0].to_string();
        let check = ["verify", "--receipt", file, "--public-key", &key];
        assert_eq!(code(run_line(nowhere.path(), &check)), sound, "nothing but the key and the receipt is read");
        let text = std::fs::read_to_string(&receipt).expect("the receipt");
        std::fs::write(&receipt, text.replace("index 7", "index 8")).expect("changed");
        assert_eq!(code(run_line(nowhere.path(), &check)), unsound);
        let out = dir.path().join("export");
        let out = out.to_str().expect("a path");
        assert_eq!(code(run_line(dir.path(), &["export", out])), sound);
        let kept = format!("{out}/checkpoint");
        let public = dir.path().join("keeper/ledger.pub");
        let folder =
            ["verify", "--folder", out, "--public-key", public.to_str().expect("a path"), "--checkpoint", &kept];
        assert_eq!(code(run_line(nowhere.path(), &folder)), sound, "nothing but the keys and the files is read");
        assert_eq!(code(run_line(nowhere.path(), &["verify", "--folder", out, "--public-key", &key])), unsound);
        let lines = dir.path().join("lines.jsonl");
        let (state, mut text) = (StateDir::new(dir.path()), String::new());
        let (events, _) = block_on(async {
            Ok(crate::ledger::query::events(&state, &crate::ledger::query::Filter::default(), 1_000).await?)
        })
        .expect("events");
        for event in events.iter().filter(|event| event.index.is_some()) {
            text += &(crate::cli::events::line(event).expect("a line") + "\n");
        }
        std::fs::write(&lines, &text).expect("written");
        let from = lines.to_str().expect("a path");
        assert_eq!(code(run_line(dir.path(), &["rebuild", "--from", from, "--json"])), sound);
        assert_eq!(code(run_line(dir.path(), &["rebuild", "--from", "journal"])), unsound, "it has more");
        for words in [&["query"][..], &["query", "--json"], &["query", "--since", "2020-01-01", "--limit", "3"]] {
            assert_eq!(code(run_line(dir.path(), words)), sound, "{words:?}");
        }
        let left: Vec<_> = std::fs::read_dir(dir.path().join("data")).expect("the data").flatten().collect();
        assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("rebuild")), "{left:?}");
        let missing = run_line(nowhere.path(), &["verify", "--public-key", &key]).expect_err("no ledger");
        assert!(missing.to_string().contains("there is no ledger here"), "{missing}");
    }

    #[test]
    fn without_a_ledger_nothing_is_answered_and_what_to_do_is_said() {
        let nowhere = tempfile::tempdir().expect("a directory");
        let said = |words: &[&str]| {
            let error = run_line(nowhere.path(), words).expect_err("no ledger");
            let text = format!("{error:#}");
            assert!(text.contains("was a daemon ever started with this configuration"), "{words:?}: {text}");
            text
        };
        assert!(said(&["verify"]).contains("--public-key"));
        assert!(said(&["rebuild", "--from", "journal"]).contains("there is no ledger here"));
        let none = |result: anyhow::Result<ExitCode>| {
            let text = result.expect_err("no ledger").to_string();
            assert!(text.contains("there is no ledger here"), "{text}");
        };
        let parsed = |words: &[&str]| crate::cli::Cli::try_parse_from(words).expect("a command line").verb;
        for words in [
            &["caracald", "spend"][..],
            &["caracald", "spend", "--by", "tool"],
            &["caracald", "spend", "reconcile", "-"],
        ] {
            let crate::cli::Verb::Spend(args) = parsed(words) else { unreachable!("spend") };
            none(crate::cli::spend::run(&args, nowhere.path()));
        }
        let crate::cli::Verb::Events(args) = parsed(&["caracald", "events"]) else { unreachable!("events") };
        none(crate::cli::events::run(&args, nowhere.path()));
    }
}
