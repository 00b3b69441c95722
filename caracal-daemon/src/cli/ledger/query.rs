//! `caracald ledger query` and `rebuild`: the past by time, agent, decision and model, and made again.

use super::{EXIT_UNSOUND, block_on, database_url};
use crate::cli::events;
use crate::clock::{Clock, UnixNanos};
use crate::config::Config;
use crate::event::DetailKeys;
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::query::Event;
use crate::ledger::rebuild::{self, Comparison};
use crate::ledger::select::{Selection, select};
use crate::ledger::{Ledger, SqliteStore, StateDir, Store, fleet_verify, note};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Rows of a table where nothing else is said.
const ROWS: usize = 50;

#[derive(Args, Debug)]
pub(super) struct QueryArgs {
    /// Only records of this time or later: 2026-11-24, 2026-11-24T10:00:00Z, or 2h, 7d for so long ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only records before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only records of this agent. Repeatable.
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    /// Only records with this decision (allow, deny), or whose call ended so (settled, charged_max, released). Repeatable.
    #[arg(long, value_name = "WORD")]
    decision: Vec<String>,
    /// Only records of this model. Repeatable.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Only records of this host. Repeatable.
    #[arg(long, value_name = "ID")]
    host: Vec<String>,
    /// Ask the logs of all hosts in PostgreSQL, one after the other, as [postgres] of the configuration names it.
    #[arg(long)]
    fleet: bool,
    /// How many of the latest; by default 50 as a table, and all as JSON lines.
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
    /// One JSON object a line: the record's exact bytes, its index, and its detail if its key is readable.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RebuildArgs {
    /// `journal`, `kafka` for the logs of all hosts (as [kafka] and [postgres] of the configuration name them), or a file of JSON
    /// lines as `ledger query --json` prints them (- for standard input).
    #[arg(long, value_name = "journal|kafka|FILE")]
    from: String,
    /// With `--from kafka`: only this log, such as fleet-0.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// Keep the ledger that is made, in this file; it must not be there yet. By default it is only compared.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `caracald ledger query`.
///
/// # Errors
/// When a time is none, or the ledger cannot be read.
pub(super) fn query(args: &QueryArgs, config: &Config, state: &StateDir) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let selection = Selection {
        since: time(&args.since)?,
        until: time(&args.until)?,
        agents: args.agent.clone(),
        decisions: args.decision.clone(),
        models: args.model.clone(),
        hosts: args.host.clone(),
    };
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut out = BufWriter::new(crate::cli::output::Output);
    let asked = Asked { selection: &selection, keys: &keys, json: args.json, limit: args.limit };
    block_on(async {
        if args.fleet {
            let url = database_url(config)?;
            asked.of_fleet(&url, &mut out).await
        } else {
            asked.of_host(state, &mut out).await
        }
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for, and how it is shown.
struct Asked<'a> {
    selection: &'a Selection,
    keys: &'a DetailKeys,
    json: bool,
    limit: Option<usize>,
}

impl Asked<'_> {
    async fn of_host(&self, state: &StateDir, out: &mut (impl std::io::Write + Send)) -> anyhow::Result<()> {
        let mut store = SqliteStore::read(&state.ledger()).await?;
        if self.json && self.limit.is_none() {
            return self.lines(&mut store, None, out).await;
        }
        let mut latest = self.latest(&mut store).await?;
        if self.json {
            return latest.iter().try_for_each(|event| Ok(writeln!(out, "{}", events::line(event)?)?));
        }
        Ok(writeln!(out, "{}", events::table(latest.make_contiguous()))?)
    }

    /// The logs one after the other as lines; or the latest of all of them.
    async fn of_fleet(&self, url: &str, out: &mut (impl std::io::Write + Send)) -> anyhow::Result<()> {
        let logs = fleet_verify::logs(&mut Database::new(url, Some(READER))?).await?;
        let mut latest: Vec<(String, Event)> = Vec::new();
        for (log, origin) in logs {
            let name = note::name_of(&origin).to_owned();
            let mut store = PostgresStore::reader(Database::new(url, Some(READER))?, log);
            if self.json && self.limit.is_none() {
                self.lines(&mut store, Some(&name), out).await?;
                continue;
            }
            latest.extend(self.latest(&mut store).await?.into_iter().map(|event| (name.clone(), event)));
            latest.sort_by_key(|(_, event)| event.record.at);
            latest.drain(..latest.len().saturating_sub(self.limit.unwrap_or(ROWS)));
        }
        if self.json {
            return latest.iter().try_for_each(|(log, event)| Ok(writeln!(out, "{}", events::line_of(log, event)?)?));
        }
        let latest: Vec<Event> = latest.into_iter().map(|(_, event)| event).collect();
        Ok(writeln!(out, "{}", events::fleet_table(&latest))?)
    }

    /// Every record that is asked for, as it is read.
    async fn lines<S: Store>(
        &self,
        store: &mut S,
        log: Option<&str>,
        out: &mut (impl std::io::Write + Send),
    ) -> anyhow::Result<()> {
        let mut failed = None;
        let mut write = |event: Event| {
            let line = log.map_or_else(|| events::line(&event), |log| events::line_of(log, &event));
            let written = line.map_err(Into::into).and_then(|line| writeln!(out, "{line}"));
            failed = written.err();
            failed.is_none()
        };
        select(store, self.selection, self.keys, &mut write).await?;
        failed.map_or(Ok(()), |error: std::io::Error| Err(error.into()))
    }

    /// The last of them, oldest first.
    async fn latest<S: Store>(&self, store: &mut S) -> anyhow::Result<VecDeque<Event>> {
        let limit = self.limit.unwrap_or(ROWS);
        let mut found = VecDeque::new();
        let mut keep = |event: Event| {
            found.push_back(event);
            if found.len() > limit {
                found.pop_front();
            }
            true
        };
        select(store, self.selection, self.keys, &mut keep).await?;
        Ok(found)
    }
}

/// A time: of RFC 3339, a day (its beginning, UTC), or so long before `now`.
fn parse_time(text: &str, now: UnixNanos) -> anyhow::Result<UnixNanos> {
    let nanos = |at: jiff::Timestamp| u64::try_from(at.as_nanosecond()).map(UnixNanos);
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return nanos(at).with_context(|| format!("{text:?} is before 1970"));
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>()
        && let Ok(at) = day.to_zoned(jiff::tz::TimeZone::UTC)
    {
        return nanos(at.timestamp()).with_context(|| format!("{text:?} is before 1970"));
    }
    let unit = text.char_indices().last().map_or((0, ' '), |last| last);
    let seconds = match unit.1 {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => 0,
    };
    match text.get(..unit.0).and_then(|count| count.parse::<u64>().ok()) {
        Some(count) if seconds > 0 => {
            let ago = count.saturating_mul(seconds).saturating_mul(1_000_000_000);
            Ok(UnixNanos(now.0.saturating_sub(ago)))
        }
        _ => bail!("{text:?} is no time: 2026-11-24, 2026-11-24T10:00:00Z, or 90s, 10m, 2h, 7d, 4w for so long ago"),
    }
}

/// Runs `caracald ledger rebuild`.
///
/// # Errors
/// When what is read is no ledger's, or the new one cannot be written.
pub(super) fn rebuild(
    args: &RebuildArgs,
    config: &Config,
    state: &StateDir,
    host_id: &str,
) -> anyhow::Result<ExitCode> {
    if args.from == "kafka" {
        return rebuild_fleet(args, config);
    }
    ensure!(args.log.is_none(), "--log is for --from kafka");
    let scratch;
    let into = match &args.into {
        Some(path) if path.exists() => bail!("{} is there already: name another file", path.display()),
        Some(path) => path.clone(),
        None => {
            // Nothing to compare with.
            super::there(state)?;
            scratch = Scratch::new(&state.data())?;
            scratch.0.join(crate::ledger::sqlite::FILE)
        }
    };
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let compared = block_on(async {
        let mut made = Ledger::open(SqliteStore::open(&into).await?, host_id).await?;
        let mut progress = |leaves: u64| bar.set_message(format!("{leaves} records made again"));
        if args.from == "journal" {
            rebuild::from_journal(&mut made, &state.journal(), &mut progress).await?;
        } else {
            let lines = open(&args.from)?;
            rebuild::from_lines(&mut made, lines, &mut progress).await.with_context(|| args.from.clone())?;
        }
        let mut stored = SqliteStore::read(&state.ledger()).await?;
        stored.freeze().await?;
        anyhow::Ok(rebuild::compare(&mut made, &mut stored).await?)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&compared)?);
    } else {
        print!("{}", told(&compared));
    }
    Ok(if compared.is_identical() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
}

/// Each log of the database, or the one that is named, from its partition.
fn rebuild_fleet(args: &RebuildArgs, config: &Config) -> anyhow::Result<ExitCode> {
    ensure!(args.into.is_none(), "--from kafka compares, and keeps nothing: leave out --into");
    let kafka = config.kafka.as_ref().context("[kafka] is missing in the configuration")?;
    let url = database_url(config)?;
    let logs = block_on(async { Ok(fleet_verify::logs(&mut Database::new(&url, Some(READER))?).await?) })?;
    let logs = logs.into_iter().map(|(log, origin)| {
        let name = note::name_of(&origin).to_owned();
        rebuild::kafka::Named { log, name }
    });
    let wanted = |one: &rebuild::kafka::Named| args.log.as_ref().is_none_or(|name| *name == one.name);
    let logs: Vec<_> = logs.filter(wanted).collect();
    ensure!(!logs.is_empty(), "PostgreSQL has no such log");
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let mut same = true;
    for named in logs {
        let scratch = Scratch::new(&std::env::temp_dir())?;
        let mut progress = |leaves: u64| bar.set_message(format!("{}: {leaves} records made again", named.name));
        let database = Database::new(&url, Some(READER))?;
        let at = scratch.0.join(crate::ledger::sqlite::FILE);
        let compared = block_on(async {
            let made = rebuild::kafka::compare_with_topic(kafka, database, &named, &at, &mut progress).await;
            made.with_context(|| named.name.clone())
        })?;
        same &= compared.is_identical();
        if args.json {
            println!("{}", serde_json::json!({ "log": named.name, "compared": compared }));
        } else {
            print!("{}\n{}", named.name, told(&compared));
        }
    }
    bar.finish_and_clear();
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
}

fn open(name: &str) -> anyhow::Result<Box<dyn BufRead>> {
    if name == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(name).with_context(|| name.to_owned())?;
    Ok(Box::new(BufReader::new(file)))
}

fn told(compared: &Comparison) -> String {
    let Comparison { rebuilt, rebuilt_root, stored, stored_root, differs_at } = compared;
    let mut text = format!("made again   {rebuilt} records, root {rebuilt_root}\n");
    match differs_at {
        Some(at) => {
            text += &format!("ledger       {stored} records, root {stored_root} over as many\n");
            text += &format!("They differ from record {at} on.\n");
        }
        None if rebuilt == stored => text += "ledger       the same records, the same root\n",
        None => {
            text += &format!("ledger       {stored} records\n");
            let common = rebuilt.min(stored);
            text += &format!("The first {common} are the same; one of them ends there.\n");
        }
    }
    text
}

/// A directory for the time of a comparison, beside the ledger: it may be large.
struct Scratch(PathBuf);

impl Scratch {
    fn new(beside: &Path) -> anyhow::Result<Scratch> {
        let path = beside.join(format!("rebuild-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_a_day_or_so_long_ago() {
        let now = UnixNanos(1_795_522_751_000_000_000);
        let time = |text: &str| parse_time(text, now).map(|at| at.0 / 1_000_000_000).ok();
        assert_eq!(time("2026-11-24T12:19:11Z"), Some(1_795_522_751));
        assert_eq!(time("2026-11-24T13:19:11+01:00"), Some(1_795_522_751));
        assert_eq!(time("2026-11-24"), Some(1_795_478_400));
        assert_eq!((time("90s"), time("2h")), (Some(1_795_522_661), Some(1_795_515_551)));
        assert_eq!((time("1d"), time("99999999w")), (Some(1_795_436_351), Some(0)));
        for wrong in ["", "h", "2", "yesterday", "1969-12-31", "-1h", "2y"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
