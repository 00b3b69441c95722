//! `caracald ledger verify|prove|export`: what an auditor types.

use crate::config::Config;
use crate::keeper::ledger_key;
use crate::ledger::note::Verifier;
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::receipt::ReceiptError;
use crate::ledger::verify::{Against, Report, verify};
use crate::ledger::{SqliteStore, StateDir, export, fleet_verify, receipt};
use crate::meter::{Own, PriceBook};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The audit found something, or a receipt does not hold.
pub const EXIT_UNSOUND: u8 = 3;
/// How often `prove` looks for a record, four times a second, before it says that there is none.
const PROVE_TRIES: u32 = 8;

/// Verify, prove and export the ledger.
///
/// Needs root, or read access to the state directory; `verify --receipt --public-key` needs neither.
#[derive(Args, Debug)]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand, Debug)]
enum LedgerCommand {
    /// Check every record, tile, checkpoint and sum, or one receipt with a public key alone.
    ///
    /// Ends with 0 when everything holds and with 3 when something does not.
    Verify(VerifyArgs),
    /// Write a receipt that shows, to anybody with the public key, that a record is in the ledger.
    Prove(ProveArgs),
    /// Write the ledger as static files (c2sp.org/tlog-tiles).
    Export(ExportArgs),
    /// Print the public keys of the ledger. Give them to an auditor before they are needed.
    Keys,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// Check this receipt instead of the ledger; nothing else is read.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    receipt: Option<PathBuf>,
    /// The public keys: a file, or one key as text. By default those beside the ledger's own keys.
    #[arg(long, value_name = "FILE|KEY")]
    public_key: Option<String>,
    /// A price book that records name, or a configuration whose [[mcp]] and [[api]] they name, besides what is in force and the
    /// book that is compiled in: charges are made again from it. Repeatable.
    #[arg(long, value_name = "FILE")]
    prices: Vec<PathBuf>,
    /// Check the logs of all hosts in PostgreSQL, as [postgres] of the configuration names it; the public keys are those of
    /// [worker] keys, or those that are given.
    #[arg(long, conflicts_with_all = ["receipt", "prices"])]
    fleet: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ProveArgs {
    /// The record's id, or its index in the ledger.
    #[arg(value_name = "ID|INDEX")]
    record: String,
    /// Where to write the receipt; by default to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct ExportArgs {
    /// The directory; files that are there already and full are kept.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `caracald ledger` on the state directory of the host `host_id`.
///
/// # Errors
/// When files cannot be read or written; the message says which and what to do.
pub fn run(args: LedgerArgs, config: &Config, host_id: &str) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(&config.state_dir);
    match args.command {
        LedgerCommand::Verify(args) if args.fleet => audit_fleet(&args, config),
        LedgerCommand::Verify(VerifyArgs { receipt: Some(receipt), public_key, json, .. }) => {
            check_receipt(&receipt, &keys(public_key.as_deref(), &state)?, json)
        }
        LedgerCommand::Verify(args) => audit(&args, config, host_id),
        LedgerCommand::Prove(args) => prove(&args, &state),
        LedgerCommand::Export(args) => write_export(&args, &state),
        LedgerCommand::Keys => {
            print!("{}", read_text(&state.public_keys())?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn audit(args: &VerifyArgs, config: &Config, host_id: &str) -> anyhow::Result<ExitCode> {
    let state = &StateDir::new(&config.state_dir);
    let keys = keys(args.public_key.as_deref(), state)?;
    let books = books(&args.prices, config)?;
    let journal = state.journal();
    let against = Against {
        host_id,
        keys: &keys,
        journal: journal.is_dir().then_some(&*journal),
        signed: ledger_key::read_signed(&state.keeper())?,
        books: &books,
    };
    let bar = bar("checking");
    let report = block_on(async {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        anyhow::Ok(verify(&mut store, &against, &mut |done, all| advance(&bar, done, all)).await?)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
}

/// The price books that charges are made again from: the one that is compiled in, the configured one, what the configuration
/// prices itself, and those that are given, each a book or a configuration.
fn books(given: &[PathBuf], config: &Config) -> anyhow::Result<Vec<Arc<PriceBook>>> {
    let mut books = vec![Arc::new(PriceBook::built_in()?), Own::of(config).book()];
    if config.prices.file.is_some() {
        books.push(Arc::new(PriceBook::parse(&crate::app::price_book_text(config)?)?));
    }
    for path in given {
        let text = read_text(path)?;
        let book = match PriceBook::parse(&text) {
            Ok(book) => Arc::new(book),
            // A configuration as it once was, for what it priced by the call.
            Err(error) => match Config::parse(&text, path) {
                Ok(config) => Own::of(&config).book(),
                Err(_) => return Err(error).with_context(|| path.display().to_string()),
            },
        };
        books.push(book);
    }
    Ok(books)
}

/// Every log of the database, one after the other.
fn audit_fleet(args: &VerifyArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let url = config.postgres.as_ref().context("[postgres] is missing in the configuration")?.url()?;
    let mut sound = true;
    let logs = block_on(async { anyhow::Ok(fleet_verify::logs(&mut Database::new(&url, Some(READER))?).await?) })?;
    for (log, origin) in logs {
        let name = origin.split('/').nth(1).unwrap_or_default();
        let text = match &args.public_key {
            Some(given) if Path::new(given).is_file() => read_text(Path::new(given))?,
            Some(given) => given.clone(),
            None => read_text(&config.worker.keys.join(name).join(ledger_key::PUBLIC))?,
        };
        let keys = Verifier::parse_all(&text)?;
        let bar = bar("checking");
        let report = block_on(async {
            let mut store = PostgresStore::reader(Database::new(&url, Some(READER))?, log);
            anyhow::Ok(fleet_verify::verify(&mut store, &keys, &mut |done, all| advance(&bar, done, all)).await?)
        })?;
        bar.finish_and_clear();
        sound &= report.findings.is_empty();
        if args.json {
            println!("{}", serde_json::json!({ "log": log, "origin": origin, "report": report }));
        } else {
            println!("log {log}, {origin}");
            print_report(&report);
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
}

fn print_report(report: &Report) {
    println!("records      {} in the ledger, {} more in the journal", report.leaves, report.journal_records);
    println!("checkpoints  {} signed and consistent with the records", report.checkpoints);
    println!("chain heads  {} signed by the host", report.heads);
    println!("charges      {} made again from their usage and price book", report.repriced);
    if report.corrections > 0 {
        println!("corrections  {} of charges, none of more than was charged", report.corrections);
    }
    println!("root         {}", report.root);
    if report.torn_bytes > 0 {
        println!("note         {} bytes of the journal's tail are torn; the next start cuts them", report.torn_bytes);
    }
    if report.not_repriced > 0 {
        println!(
            "note         {} charges are by other price books; name these with --prices, or the configuration of [[mcp]] and [[api]] as it was",
            report.not_repriced
        );
    }
    if report.anomalies > 0 {
        println!("note         {} gaps or forks of the host's chain are recorded in the ledger", report.anomalies);
    }
    for finding in &report.findings {
        println!("WRONG        {}: {}", finding.code, finding.what);
    }
    match report.findings.len() {
        0 => println!("The ledger is sound."),
        count => println!(
            "The ledger is NOT sound: {count} findings. Keep a copy of it, and compare with exports and receipts."
        ),
    }
}

fn check_receipt(path: &Path, keys: &[Verifier], json: bool) -> anyhow::Result<ExitCode> {
    match receipt::check(&read_text(path)?, keys) {
        Ok(proven) => {
            let record = String::from_utf8_lossy(&proven.record);
            if json {
                let raw: Box<serde_json::value::RawValue> = serde_json::from_str(&record)?;
                let origin = &proven.checkpoint.origin;
                println!(
                    "{}",
                    serde_json::to_string(&ReceiptJson {
                        sound: true,
                        index: Some(proven.index),
                        origin: Some(origin),
                        size: Some(proven.checkpoint.size),
                        record: Some(raw),
                        why: None,
                    })?
                );
            } else {
                println!("{record}");
                println!(
                    "is record {} of the {} in {}.",
                    proven.index, proven.checkpoint.size, proven.checkpoint.origin
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let why = error.to_string();
            if json {
                let failed = ReceiptJson { sound: false, why: Some(&why), ..ReceiptJson::default() };
                println!("{}", serde_json::to_string(&failed)?);
            } else {
                println!("{}: {why}", path.display());
            }
            Ok(ExitCode::from(EXIT_UNSOUND))
        }
    }
}

#[derive(Default, serde::Serialize)]
struct ReceiptJson<'a> {
    sound: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Box<serde_json::value::RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

fn prove(args: &ProveArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    let text = block_on(receipt_soon(args, state))?;
    match &args.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
            eprintln!(
                "wrote {}; `caracald ledger verify --receipt {0} --public-key FILE` checks it anywhere",
                path.display()
            );
        }
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The receipt; a record that `events` shows may reach the ledger, and a checkpoint, only within the next second.
async fn receipt_soon(args: &ProveArgs, state: &StateDir) -> anyhow::Result<String> {
    let mut tries = 1;
    loop {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        match receipt::prove(&mut store, &args.record).await {
            Err(ReceiptError::NotFound(_) | ReceiptError::NotSigned(_)) if tries < PROVE_TRIES => tries += 1,
            other => return Ok(other?),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn write_export(args: &ExportArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    let bar = bar("exporting");
    let size = block_on(async {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        anyhow::Ok(export::export(&mut store, &args.dir, &mut |done, all| advance(&bar, done, all)).await?)
    })?;
    bar.finish_and_clear();
    println!("exported {size} records to {}", args.dir.display());
    Ok(ExitCode::SUCCESS)
}

/// The keys that were given as a file or as text, or those of this host.
fn keys(given: Option<&str>, state: &StateDir) -> anyhow::Result<Vec<Verifier>> {
    let text = match given {
        Some(text) if text.contains('+') && !Path::new(text).exists() => text.to_owned(),
        Some(path) => read_text(Path::new(path))?,
        None => read_text(&state.public_keys())?,
    };
    Ok(Verifier::parse_all(&text)?)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
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
        assert_eq!(code(run_line(dir.path(), &["export", out.to_str().expect("a path")])), sound);
        let missing = run_line(nowhere.path(), &["verify", "--public-key", &key]).expect_err("no ledger");
        assert!(missing.to_string().contains("there is no ledger here"), "{missing}");
    }
}
