//! `caracald ledger verify`: the audits of a host's ledger, of every log in PostgreSQL, of a log's files, and of one receipt.

use super::{EXIT_UNSOUND, advance, bar, block_on, database_url, read_text};
use crate::cli::events::text;
use crate::config::Config;
use crate::keeper::ledger_key;
use crate::ledger::fetch::Fetch;
use crate::ledger::files::Files;
use crate::ledger::keyring::{Frozen, Keyring};
use crate::ledger::note::{self, Checkpoint, Verifier};
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::verify::{Against, Finding, Report, verify};
use crate::ledger::{SqliteStore, StateDir, files_verify, fleet_verify, receipt};
use crate::meter::{Own, PriceBook};
use anyhow::Context as _;
use clap::Args;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// Check this receipt instead of the ledger; nothing else is read.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    receipt: Option<PathBuf>,
    /// The public keys: a file, or one key as text. By default those beside the ledger's own keys.
    #[arg(long, value_name = "FILE|KEY")]
    public_key: Option<String>,
    /// The history of the log's keys, as `ledger keys --history` prints it: what the keys that you trust have handed over to.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// A price book that records name, or a configuration whose [[mcp]] and [[api]] they name, besides what is in force and the
    /// book that is compiled in: charges are made again from it. Repeatable.
    #[arg(long, value_name = "FILE")]
    prices: Vec<PathBuf>,
    /// Check the logs of all hosts in PostgreSQL, as [postgres] of the configuration names it; the public keys are those of
    /// [worker] keys, or those that are given.
    #[arg(long, conflicts_with = "receipt")]
    fleet: bool,
    /// Check the log in this folder, as `ledger export` or any other writer of c2sp.org/tlog-tiles left it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["receipt", "fleet", "url"])]
    folder: Option<PathBuf>,
    /// Check the log at this address: the files below it are those of `--folder`.
    #[arg(long, value_name = "URL", conflicts_with_all = ["receipt", "fleet"])]
    url: Option<String>,
    /// A checkpoint that you kept: the ledger must begin with exactly its records. It is what shows that a log was rolled back.
    /// Repeatable.
    #[arg(long, value_name = "FILE", conflicts_with = "receipt")]
    checkpoint: Vec<PathBuf>,
    /// Take charges that no price book at hand makes again for wrong: exit with 3 where there is one.
    #[arg(long, conflicts_with = "receipt")]
    strict: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    fn accepts(&self, report: &Report) -> bool {
        report.findings.is_empty() && !(self.strict && report.not_repriced > 0)
    }
}

/// Runs `caracald ledger verify`.
///
/// # Errors
/// When files cannot be read; the message says which and what to do.
pub(super) fn run(args: VerifyArgs, config: &Config, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    match &args {
        VerifyArgs { fleet: true, .. } => audit_fleet(&args, config),
        VerifyArgs { receipt: Some(receipt), json, .. } => check_receipt(receipt, &keyring(&args, state)?.keys, *json),
        VerifyArgs { folder: Some(dir), .. } => {
            anyhow::ensure!(dir.is_dir(), "{} is no folder", dir.display());
            audit_files(&args, config, Files::Folder(dir.clone()))
        }
        VerifyArgs { url: Some(url), .. } => {
            let fetch = Fetch::new(crate::app::dialer(config)?, url)?;
            audit_files(&args, config, Files::Http(Box::new(fetch)))
        }
        _ => audit(&args, config, host_id),
    }
}

/// What an audit trusts.
struct Trusted {
    keys: Vec<Verifier>,
    books: Vec<Arc<PriceBook>>,
    /// Checkpoints that were kept.
    kept: Vec<Checkpoint>,
}

/// What the arguments trust.
fn given(args: &VerifyArgs, config: &Config) -> anyhow::Result<Trusted> {
    let Keyring { keys, hand_overs, .. } = keyring(args, &StateDir::new(&config.state_dir))?;
    let books = books(&args.prices, config)?;
    let mut kept = hand_overs;
    for path in &args.checkpoint {
        kept.push(Checkpoint::open(&read_text(path)?, &keys).with_context(|| path.display().to_string())?);
    }
    Ok(Trusted { keys, books, kept })
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

/// A log that is there as files.
fn audit_files(args: &VerifyArgs, config: &Config, mut files: Files) -> anyhow::Result<ExitCode> {
    let Trusted { keys, books, kept } = given(args, config)?;
    let bar = bar("checking");
    let report = block_on(async {
        let mut progress = |done, all| advance(&bar, done, all);
        anyhow::Ok(files_verify::verify(&mut files, &keys, &kept, &books, &mut progress).await?)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("records      {} under the checkpoint", report.leaves);
        println!("tiles        {} full ones are those of the records", report.tiles);
        println!("charges      {} made again from their usage and price book", report.repriced);
        println!("kept         {} checkpoints compared", kept.len());
        print_end(&report);
    }
    Ok(verdict(args.accepts(&report)))
}

fn audit(args: &VerifyArgs, config: &Config, host_id: &str) -> anyhow::Result<ExitCode> {
    let Trusted { keys, books, kept } = given(args, config)?;
    let state = StateDir::new(&config.state_dir);
    let journal = state.journal();
    let against = Against {
        host_id,
        keys: &keys,
        journal: journal.is_dir().then_some(&*journal),
        signed: ledger_key::read_signed(&state.keeper())?,
        kept: &kept,
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
    Ok(verdict(args.accepts(&report)))
}

fn verdict(sound: bool) -> ExitCode {
    if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) }
}

/// Every log of the database, one after the other. That they are all there, the keys say.
fn audit_fleet(args: &VerifyArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let url = database_url(config)?;
    let books = books(&args.prices, config)?;
    let mut expected = expected(args, &config.worker.keys)?;
    let mut sound = true;
    let logs = block_on(async { anyhow::Ok(fleet_verify::logs(&mut Database::new(&url, Some(READER))?).await?) })?;
    anyhow::ensure!(!logs.is_empty() || !expected.is_empty(), "there is no log in the database, and no key of one");
    let mut kept = args.checkpoint.iter().map(|path| read_text(path)).collect::<anyhow::Result<Vec<String>>>()?;
    let there: BTreeSet<String> = logs.iter().map(|(_, origin)| origin.clone()).collect();
    for (log, origin) in logs {
        expected.remove(&origin);
        let dir = config.worker.keys.join(note::name_of(&origin));
        // Before the database is looked at: it has what was signed by then.
        let signed = match ledger_key::read_signed(&dir) {
            // With keys of their own, an auditor need not be able to read the worker's.
            Err(_) if args.public_key.is_some() => None,
            signed => signed?,
        };
        let ring = keyring_in(args, &dir)?;
        let mut begins = ring.hand_overs_of(&origin);
        let own = |note: &mut String| note.lines().next() == Some(&origin);
        for note in kept.extract_if(.., own) {
            begins.push(Checkpoint::open(&note, &ring.keys).with_context(|| format!("a checkpoint of {origin}"))?);
        }
        let against = fleet_verify::Against { keys: &ring.keys, signed, kept: &begins, books: &books };
        let bar = bar("checking");
        let report = block_on(async {
            let mut store = PostgresStore::reader(Database::new(&url, Some(READER))?, log);
            anyhow::Ok(fleet_verify::verify(&mut store, &against, &mut |done, all| advance(&bar, done, all)).await?)
        })?;
        bar.finish_and_clear();
        sound &= args.accepts(&report);
        if args.json {
            println!("{}", serde_json::json!({ "log": log, "origin": origin, "report": report }));
        } else {
            println!("log {log}, {}", text(Some(&origin)));
            print_report(&report);
        }
    }
    expected.retain(|origin| {
        let Some(Frozen { size, successor, .. }) = replaced(args, config, origin, &there) else { return true };
        let what = format!("it was frozen with {size} records, {successor} is in its place; another database has it");
        if args.json {
            println!("{}", serde_json::json!({ "origin": origin, "report": { "findings": [], "note": what } }));
        } else {
            println!("note         {}: {}", text(Some(origin)), text(Some(&what)));
        }
        false
    });
    // Of a checkpoint that somebody kept the log must be there.
    expected.extend(kept.iter().map(|note| note.lines().next().unwrap_or_default().to_owned()));
    for origin in expected {
        sound = false;
        if args.json {
            let what = "its keys or a checkpoint of it are here, and the database has no such log";
            let finding = serde_json::json!({ "code": "log_missing", "what": what });
            println!("{}", serde_json::json!({ "origin": origin, "report": { "findings": [finding] } }));
        } else {
            println!("WRONG        log_missing: {} is not in the database", text(Some(&origin)));
        }
    }
    Ok(verdict(sound))
}

/// The origins of logs that must be there: those whose keys were given, or have signed a tree.
/// The final statement of a log that is not in the database, where the one in its place is.
fn replaced(args: &VerifyArgs, config: &Config, origin: &str, there: &BTreeSet<String>) -> Option<Frozen> {
    let ring = keyring_in(args, &config.worker.keys.join(note::name_of(origin))).ok()?;
    ring.frozen.into_iter().find(|frozen| frozen.origin == origin && there.contains(&frozen.successor))
}

fn expected(args: &VerifyArgs, keys: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut expected = BTreeSet::new();
    if args.public_key.is_some() {
        let is_log = |key: &&Verifier| key.name().ends_with("/ledger");
        expected.extend(keyring_in(args, keys)?.keys.iter().filter(is_log).map(|key| key.name().to_owned()));
        return Ok(expected);
    }
    let dirs = match std::fs::read_dir(keys) {
        Ok(dirs) => dirs,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(expected),
        Err(error) => return Err(error).with_context(|| keys.display().to_string()),
    };
    for dir in dirs {
        let dir = dir.with_context(|| keys.display().to_string())?;
        if ledger_key::read_signed(&dir.path())?.is_some_and(|signed| signed.size > 0) {
            expected.insert(note::origin(&dir.file_name().to_string_lossy()));
        }
    }
    Ok(expected)
}

fn print_report(report: &Report) {
    println!("records      {} in the ledger, {} more in the journal", report.leaves, report.journal_records);
    println!("checkpoints  {} signed and consistent with the records", report.checkpoints);
    println!("chain heads  {} signed by the host", report.heads);
    println!("charges      {} made again from their usage and price book", report.repriced);
    print_end(report);
}

fn print_end(report: &Report) {
    if report.corrections > 0 {
        println!("corrections  {} of charges, none of more than was charged", report.corrections);
    }
    println!("root         {}", report.root);
    if report.leaves > report.covered {
        println!("note         {} of the records are behind the last checkpoint", report.leaves - report.covered);
    }
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
        println!("note         {} gaps or forks of hosts' chains are recorded in the ledger", report.anomalies);
    }
    for finding in &report.findings {
        println!("{}", line(finding));
    }
    match report.findings.len() {
        0 => println!("The ledger is sound."),
        count => println!(
            "The ledger is NOT sound: {count} findings. Keep a copy of it, and compare with exports and receipts."
        ),
    }
}

/// Hosts, origins and names in a finding are bytes that a forger chose.
fn line(finding: &Finding) -> String {
    format!("WRONG        {}: {}", finding.code, text(Some(&finding.what)))
}

fn check_receipt(path: &Path, keys: &[Verifier], json: bool) -> anyhow::Result<ExitCode> {
    match receipt::check(&read_text(path)?, keys) {
        Ok(proven) => {
            let record = String::from_utf8_lossy(&proven.record);
            if json {
                let Ok(raw) = serde_json::from_str::<Box<serde_json::value::RawValue>>(&record) else {
                    return no_receipt(path, "what it proves is no record", json);
                };
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
                println!("{}", text(Some(&record)));
                let origin = text(Some(&proven.checkpoint.origin));
                println!("is record {} of the {} in {origin}.", proven.index, proven.checkpoint.size);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => no_receipt(path, &error.to_string(), json),
    }
}

fn no_receipt(path: &Path, why: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let failed = ReceiptJson { sound: false, why: Some(why), ..ReceiptJson::default() };
        println!("{}", serde_json::to_string(&failed)?);
    } else {
        println!("{}: {}", path.display(), text(Some(why)));
    }
    Ok(ExitCode::from(EXIT_UNSOUND))
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

/// The keys that were given as a file or as text, or those of this host.
fn keyring(args: &VerifyArgs, state: &StateDir) -> anyhow::Result<Keyring> {
    keyring_in(args, &state.keeper())
}

/// The same, where `dir` has the keys of the log.
fn keyring_in(args: &VerifyArgs, dir: &Path) -> anyhow::Result<Keyring> {
    let text = match args.public_key.as_deref() {
        Some(text) if text.contains('+') && !Path::new(text).exists() => text.to_owned(),
        Some(path) => read_text(Path::new(path))?,
        None => match ledger_key::read_history(dir)? {
            Some(history) => history,
            None => {
                let public = dir.join(ledger_key::PUBLIC);
                anyhow::ensure!(
                    public.exists(),
                    "{}: there are no ledger keys here; was a daemon ever started with this configuration? Keys of another \
                     place are named with --public-key",
                    public.display()
                );
                read_text(&public)?
            }
        },
    };
    let mut ring = Keyring::parse(&text)?;
    if let Some(path) = &args.history {
        ring.follow(&read_text(path)?).with_context(|| path.display().to_string())?;
    }
    Ok(ring)
}

#[cfg(test)]
mod tests;
