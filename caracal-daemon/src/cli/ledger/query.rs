//! `caracald ledger query` and `rebuild`: the past by time, agent, decision and model, and made again.

use super::{EXIT_UNSOUND, block_on};
use crate::cli::events;
use crate::clock::{Clock, UnixNanos};
use crate::event::DetailKeys;
use crate::ledger::query::Event;
use crate::ledger::rebuild::{self, Comparison};
use crate::ledger::select::{Selection, select};
use crate::ledger::{Ledger, SqliteStore, StateDir};
use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, IsTerminal as _, Write as _};
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
    /// How many of the latest; by default 50 as a table, and all as JSON lines.
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
    /// One JSON object a line: the record's exact bytes, its index, and its detail if its key is readable.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RebuildArgs {
    /// `journal`, or a file of JSON lines as `ledger query --json` prints them (- for standard input).
    #[arg(long, value_name = "journal|FILE")]
    from: String,
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
pub(super) fn query(args: &QueryArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let selection = Selection {
        since: time(&args.since)?,
        until: time(&args.until)?,
        agents: args.agent.clone(),
        decisions: args.decision.clone(),
        models: args.model.clone(),
    };
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut out = BufWriter::new(std::io::stdout());
    let written = match (args.json, args.limit) {
        (true, None) => block_on(lines(state, &selection, &keys, &mut out)).map(drop),
        (json, limit) => {
            let latest = block_on(latest(state, &selection, &keys, limit.unwrap_or(ROWS)))?;
            if json {
                latest.iter().try_for_each(|event| Ok(writeln!(out, "{}", events::line(event)?)?))
            } else {
                writeln!(out, "{}", events::table(&latest)).map_err(Into::into)
            }
        }
    };
    let written = written.and_then(|()| Ok(out.flush()?));
    match written {
        // Whoever reads has had enough, as `head` does.
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

async fn lines(
    state: &StateDir,
    selection: &Selection,
    keys: &DetailKeys,
    out: &mut (impl std::io::Write + Send),
) -> anyhow::Result<()> {
    let mut failed = None;
    let mut store = SqliteStore::read(&state.ledger()).await?;
    let mut write = |event: Event| {
        let written = events::line(&event).map_err(Into::into).and_then(|line| writeln!(out, "{line}"));
        failed = written.err();
        failed.is_none()
    };
    select(&mut store, selection, keys, &mut write).await?;
    failed.map_or(Ok(()), |error: std::io::Error| Err(error.into()))
}

async fn latest(
    state: &StateDir,
    selection: &Selection,
    keys: &DetailKeys,
    limit: usize,
) -> anyhow::Result<Vec<Event>> {
    let mut found = VecDeque::new();
    let mut store = SqliteStore::read(&state.ledger()).await?;
    let mut keep = |event: Event| {
        found.push_back(event);
        if found.len() > limit {
            found.pop_front();
        }
        true
    };
    select(&mut store, selection, keys, &mut keep).await?;
    Ok(found.into())
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
pub(super) fn rebuild(args: &RebuildArgs, state: &StateDir, host_id: &str) -> anyhow::Result<ExitCode> {
    let scratch;
    let into = match &args.into {
        Some(path) if path.exists() => bail!("{} is there already: name another file", path.display()),
        Some(path) => path.clone(),
        None => {
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
        anyhow::Ok(rebuild::compare(&mut made, &mut SqliteStore::read(&state.ledger()).await?).await?)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&compared)?);
    } else {
        print!("{}", told(&compared));
    }
    Ok(if compared.is_identical() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
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
