//! `caracald spend reconcile`: the ledger held against a provider's export, this host's or that of many hosts in PostgreSQL.
//! Reads both, changes neither.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::cli::exit;
use crate::cli::ledger::{block_on, database_url, there};
use crate::config::Config;
use crate::ledger::charges::{self, Charged, Span};
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::{StateDir, fleet_verify};
use crate::money::{NanoUsd, shown_change};
use crate::spend::export::{self, Export, MAX_BYTES};
use crate::spend::reconcile::{Part, Proposal, Reconciliation, Row, host_of};

/// Keys and workspaces that are shown of one day and model.
const MOST_PARTS: usize = 10;

/// Hold the ledger against a provider's export: by day and model, tokens and money.
///
/// Takes OpenAI's and Anthropic's usage and cost reports, as JSON of their APIs or CSV of their dashboards, and a plain CSV
/// (`day,provider,model,requests,input_tokens,cache_read_tokens,cache_write_tokens,output_tokens,amount_usd`, any of the
/// numbers). Only days and providers that the export is about are compared. Exits 0 when the two agree, 4 when not.
#[derive(Args, Debug)]
pub struct ReconcileArgs {
    /// The export; `-` reads standard input.
    file: PathBuf,
    /// Against the ledger of all hosts, in [postgres].
    #[arg(long)]
    fleet: bool,
    /// With --fleet: only this host; may be given more than once.
    #[arg(long, value_name = "HOST", requires = "fleet")]
    host: Vec<String>,
    /// Only from this day on, UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    since: Option<jiff::civil::Date>,
    /// Only up to and with this day, UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    until: Option<jiff::civil::Date>,
    /// How far the money of a day and a model may be apart, USD: providers round.
    #[arg(long, value_name = "USD", default_value = "0.01")]
    tolerance: NanoUsd,
    /// Print the commands that would bring the ledger's charges to the provider's, too. Nothing is run.
    #[arg(long)]
    correct: bool,
    /// Show what agrees as well.
    #[arg(long)]
    all: bool,
    /// Print JSON: amounts in nano-USD.
    #[arg(long)]
    json: bool,
}

/// Runs the verb on the ledger in the state directory, or on that of all hosts.
///
/// # Errors
/// When the export or the ledger cannot be read.
pub(crate) fn run(args: &ReconcileArgs, config: &Config) -> anyhow::Result<ExitCode> {
    if args.fleet {
        let url = database_url(config)?;
        return compare(args, |span, add| block_on(of_fleet(args, &url, span, add)));
    }
    of_host(args, &StateDir::new(&config.state_dir))
}

fn of_host(args: &ReconcileArgs, state: &StateDir) -> anyhow::Result<ExitCode> {
    there(state)?;
    compare(args, |span, add| {
        let each = |charged: Charged| {
            add(&charged);
            ControlFlow::Continue(())
        };
        block_on(async { Ok(charges::each(state, span, each).await?) })
    })
}

/// The charges of every log in the database, one log after the other.
async fn of_fleet(args: &ReconcileArgs, url: &str, span: Span, add: &mut dyn FnMut(&Charged)) -> anyhow::Result<()> {
    let logs = fleet_verify::logs(&mut Database::new(url, Some(READER))?).await?;
    ensure!(!logs.is_empty(), "there is no log in the database: no `caracald worker ledger` has run yet");
    for (log, _) in logs {
        let mut store = PostgresStore::reader(Database::new(url, Some(READER))?, log);
        let each = |charged: Charged| {
            let host = host_of(&charged.charge.record.source);
            if args.host.is_empty() || args.host.iter().any(|wanted| wanted == host) {
                add(&charged);
            }
            ControlFlow::Continue(())
        };
        charges::each_of_log(&mut store, span, each).await?;
    }
    Ok(())
}

/// Holds the export against the charges that `read` gives.
fn compare(
    args: &ReconcileArgs,
    read: impl FnOnce(Span, &mut dyn FnMut(&Charged)) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let export = within(
        args,
        export::read(&text(&args.file)?)
            .map_err(|error| anyhow::anyhow!("{}: {error} ({})", args.file.display(), error.code()))?,
    );
    ensure!(!export.told.is_empty(), "{}: no day in it is asked for", args.file.display());
    let mut both = if args.fleet { Reconciliation::of_fleet(&export) } else { Reconciliation::new(&export) };
    let days = export.days();
    let day = |text: Option<&&str>| text.and_then(|day| day.parse().ok());
    let span = Span::days(day(days.first()), day(days.last()));
    read(span, &mut |charged: &Charged| both.add(charged))?;
    let rows = both.rows();
    let differing = rows.iter().filter(|row| row.differs(args.tolerance)).count();
    let shown: Vec<&Row> = rows.iter().filter(|row| args.all || row.differs(args.tolerance)).collect();
    if args.json {
        println!("{}", json(args, &export, &shown, differing)?);
    } else {
        print(args, &export, &shown, rows.len(), differing);
    }
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::DIFFERS) })
}

fn text(file: &Path) -> anyhow::Result<String> {
    let name = || file.display().to_string();
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).with_context(name)?.take(MAX_BYTES + 1).read_to_string(&mut text)
    };
    read.with_context(name)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "{}: longer than {} MiB; export fewer days", name(), MAX_BYTES >> 20);
    Ok(text)
}

/// The part of an export that is asked for.
fn within(args: &ReconcileArgs, mut export: Export) -> Export {
    export.retain(|day| {
        args.since.is_none_or(|since| *day >= *since.to_string())
            && args.until.is_none_or(|until| *day <= *until.to_string())
    });
    export
}

fn json(args: &ReconcileArgs, export: &Export, shown: &[&Row], differing: usize) -> serde_json::Result<String> {
    let row = |row: &&Row| {
        let mut value = serde_json::to_value(row)?;
        value["difference"] = serde_json::json!({
            "nano_usd": row.money().map(whole),
            "tokens": row.tokens().into_iter().map(|(kind, more)| (kind.to_owned(), more.map(whole).into())).collect::<serde_json::Map<_, _>>(),
        });
        value["differs"] = row.differs(args.tolerance).into();
        value["causes"] = causes(args, row).into();
        if args.correct {
            value["proposals"] = serde_json::to_value(row.proposals(args.tolerance))?;
        }
        Ok(value)
    };
    let rows: Vec<serde_json::Value> = shown.iter().map(row).collect::<serde_json::Result<_>>()?;
    serde_json::to_string(&serde_json::json!({
        "export": export.form, "days": export.days(), "providers": export.providers(),
        "tolerance_nano_usd": args.tolerance, "differing": differing, "rows": rows,
    }))
}

/// JSON's numbers end somewhere; no difference comes near.
fn whole(more: i128) -> i64 {
    i64::try_from(more).unwrap_or(if more < 0 { i64::MIN } else { i64::MAX })
}

fn print(args: &ReconcileArgs, export: &Export, shown: &[&Row], all: usize, differing: usize) {
    let days = export.days();
    let (first, last) = (days.first().copied().unwrap_or(""), days.last().copied().unwrap_or(""));
    println!("{}, {first} to {last}: {differing} of {all} days and models differ", export.form);
    if shown.is_empty() {
        return;
    }
    println!("{}", table(shown));
    for row in shown {
        for cause in causes(args, row) {
            println!("{} {}: {cause}", row.day, name(row));
        }
        for part in row.parts.iter().take(MOST_PARTS) {
            println!("{} {}: {}", row.day, name(row), of_part(part));
        }
        if row.parts.len() > MOST_PARTS {
            println!(
                "{} {}: and {} more keys or workspaces (--json)",
                row.day,
                name(row),
                row.parts.len() - MOST_PARTS
            );
        }
    }
    if args.correct {
        let commands: Vec<String> = shown.iter().flat_map(|row| commands(args, row)).collect();
        if commands.is_empty() {
            println!("No correction is proposed: what differs is no charge of a whole hold, or not in this ledger.");
        }
        commands.iter().for_each(|command| println!("{command}"));
    }
}

/// What the provider billed to one key and workspace: the ledger does not know them.
fn of_part(part: &Part) -> String {
    let mut said = Vec::new();
    for (what, name) in [("key", &part.key), ("workspace", &part.workspace)] {
        said.extend((!name.is_empty()).then(|| format!("{what} {name}")));
    }
    let billed = &part.billed;
    let mut told: Vec<String> = billed.amount.map(|amount| money(amount.nano())).into_iter().collect();
    for (what, count) in [("requests", billed.requests), ("tokens in", billed.input), ("tokens out", billed.output)] {
        told.extend(count.map(|count| format!("{count} {what}")));
    }
    crate::cli::events::text(Some(&format!("{} was billed {}", said.join(", "), told.join(", "))))
}

fn name(row: &Row) -> String {
    let model = if row.model.is_empty() { "all models" } else { &row.model };
    crate::cli::events::text(Some(&format!("{} {model}", row.provider)))
}

/// Both sides side by side: the ledger's number, and what the provider has more or less of it.
fn table(rows: &[&Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["DAY", "MODEL", "CALLS", "INPUT", "CACHED", "OUTPUT", "LEDGER", "PROVIDER", "MORE OR LESS"]);
    for row in rows {
        let own = &row.ledger;
        let side = |number: u64, more: Option<i128>| match more {
            None => format!("{number} ?"),
            Some(0) => number.to_string(),
            Some(more) => format!("{number} {more:+}"),
        };
        let [(_, input), (_, read), _, (_, output)] = row.tokens();
        let calls = row.billed.requests.map(|requests| i128::from(requests) - i128::from(own.calls));
        table.add_row([
            row.day.clone(),
            name(row),
            side(own.calls, calls),
            side(own.input, input),
            side(own.cache_read, read),
            side(own.output, output),
            own.nano_usd.to_string(),
            row.billed.amount.map_or_else(|| "?".to_owned(), |amount| money(amount.nano())),
            row.money().map_or_else(|| "?".to_owned(), |more| shown_change(whole(more))),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn money(nano: i128) -> String {
    u64::try_from(nano).map_or_else(|_| shown_change(whole(nano)), |nano| NanoUsd(nano).to_string())
}

/// What most likely made the sides differ.
fn causes(args: &ReconcileArgs, row: &Row) -> Vec<String> {
    if !row.differs(args.tolerance) {
        return Vec::new();
    }
    let mut causes = Vec::new();
    let (count, nano) = row.at_hold();
    if count > 0 {
        causes.push(format!(
            "{count} of {} calls were charged their whole hold, {nano} in all: nobody saw what they used (`caracald events --json`, settle charged_max)",
            row.ledger.calls
        ));
    }
    let billed =
        [row.billed.requests, row.billed.input, row.billed.output].into_iter().flatten().any(|count| count > 0)
            || row.billed.amount.is_some_and(|amount| amount.nano() > 0);
    match (row.ledger.calls, billed) {
        (0, true) => {
            let covered = if args.fleet { "these hosts" } else { "this host" };
            causes.push(format!(
                "the ledger has no such call: it was made elsewhere, or the export covers more than {covered}"
            ));
        }
        (1.., false) => causes.push("the provider has no such call: it counts another day (a call counts here when it ends, UTC), or another name".to_owned()),
        _ => {}
    }
    causes
}

fn commands(args: &ReconcileArgs, row: &Row) -> Vec<String> {
    let command = |proposal: Proposal| {
        let only = if proposal.at_hold { " --at-hold" } else { "" };
        // A charge is put right where it was made.
        let place = proposal.host.as_ref().map_or_else(String::new, |host| format!(" # on {host}"));
        let amount = shown_change(proposal.nano_usd).replace('$', "");
        format!(
            "sudo caracald budgets correct --provider {} --model {} --day {}{only} --by={amount} --reason {}{place}",
            quoted(&row.provider),
            quoted(&proposal.model),
            row.day,
            quoted(&format!("reconciled with {}", args.file.file_name().unwrap_or_default().display())),
        )
    };
    // An agent chooses the names that it asks for: one that a shell, a terminal or a reader could take for something else is
    // left to `--call`.
    let plain = |proposal: &Proposal| {
        let host = proposal.host.as_ref().is_none_or(|host| is_plain(host));
        host && is_plain(&row.provider) && is_plain(&proposal.model)
    };
    row.proposals(args.tolerance).into_iter().filter(plain).map(command).collect()
}

fn is_plain(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain)
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    if is_plain(word) {
        return word.to_owned();
    }
    format!("'{}'", crate::cli::events::text(Some(word)).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::sample;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReconcileArgs,
    }

    fn code(state: &StateDir, csv: &str, more: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), csv).expect("written");
        let words = ["reconcile", file.path().to_str().expect("a path")];
        let line = Line::try_parse_from(words.iter().chain(more)).expect("a command line");
        format!("{:?}", of_host(&line.args, state).expect("it ran"))
    }

    #[test]
    fn the_exit_code_says_whether_the_sides_agree() {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, _) = block_on(async { Ok(sample(dir.path()).await) }).expect("a ledger");
        let mut charges = 0_u64;
        block_on(async {
            charges::each(&state, Span::ALL, |_| {
                charges += 1;
                ControlFlow::Continue(())
            })
            .await?;
            Ok(())
        })
        .expect("read");
        assert!(charges > 100);
        let csv = |calls: u64, nano: u64| {
            format!(
                "day,provider,model,input_tokens,output_tokens,amount_usd\n2026-09-21,openai,gpt-5-2025-08-07,{},{},0.{nano:09}\n",
                calls * 100,
                calls * 50,
            )
        };
        let (same, differs) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::from(exit::DIFFERS)));
        let cost = charges * 1_234;
        assert_eq!(code(&state, &csv(charges, cost), &["--tolerance", "0"]), same);
        assert_eq!(code(&state, &csv(charges, cost + 1), &["--tolerance", "0", "--json", "--correct"]), differs);
        assert_eq!(code(&state, &csv(charges, cost + 1), &["--all"]), same);
        assert_eq!(code(&state, &csv(charges + 1, cost), &["--correct"]), differs);
    }

    #[test]
    fn a_name_that_is_not_plain_is_in_no_command() {
        let line = Line::try_parse_from(["reconcile", "bill.csv"]).expect("a command line");
        let mut row = Row { day: "2026-11-24".into(), provider: "openai".into(), ..Row::default() };
        row.billed.amount = export::Amount::parse("1");
        for (model, printed) in [("gpt-4o", 1), ("gpt-*", 0), ("a b", 0), ("--by=9", 0), ("m\u{1b}[2K", 0), ("", 0)] {
            row.ledger.models = [model.to_owned()].into();
            assert_eq!(row.proposals(NanoUsd::ZERO).len(), 1);
            assert_eq!(commands(&line.args, &row).len(), printed, "{model:?}");
        }
    }

    #[test]
    fn words_are_safe_in_a_shell() {
        assert_eq!(quoted("gpt-4o"), "gpt-4o");
        assert_eq!(quoted("a b'; rm"), r"'a b'\''; rm'");
        assert_eq!(quoted(""), "''");
    }
}
