//! `caracald events`: what happened, newest last.

use crate::event::{DetailKeys, Kind};
use crate::journal::{ReadError, Reader};
use crate::ledger::StateDir;
use crate::ledger::query::{self, Event, Filter};
use crate::money::shown_change;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
const HEADER: [&str; 8] = ["time", "agent", "event", "decision", "reason", "where", "model", "cost"];

/// Show what was decided, refused and charged.
///
/// Root reads the ledger and the journal, also while no daemon runs. Others see the records of their own agents, which the
/// daemon gives them: without --follow, and with at most one --agent.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on and print new records as they are written.
    #[arg(long, short)]
    pub follow: bool,
    /// Only records of this agent; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub agent: Vec<String>,
    /// One JSON object a line: the record, its index, and its detail if its key is readable.
    #[arg(long)]
    pub json: bool,
    /// How many of the latest records to show first.
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
}

/// Runs `caracald events` on the state directory `state`.
///
/// # Errors
/// When there is no ledger, or it or the journal cannot be read.
pub fn run(args: &EventsArgs, state: &Path) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(state);
    super::ledger::there(&state)?;
    let filter = Filter { agents: (!args.agent.is_empty()).then(|| args.agent.clone()), uid: None };
    let (events, next) =
        super::ledger::block_on(async { anyhow::Ok(query::events(&state, &filter, args.limit).await?) })?;
    let mut out = super::output::Output;
    if args.json {
        events.iter().try_for_each(|event| write_json(&mut out, event))?;
    } else {
        writeln!(out, "{}", table(&events))?;
    }
    if args.follow {
        follow(args, &state, &filter, next, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(
    args: &EventsArgs,
    state: &StateDir,
    filter: &Filter,
    next: u64,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut reader = Reader::of_files(&state.journal(), next);
    loop {
        out.flush()?;
        let batch = match reader.batch(256, 1 << 20) {
            Err(ReadError::Gone(sequence)) => {
                let oldest = reader.oldest()?.unwrap_or(sequence);
                eprintln!("records {sequence} to {oldest} came too fast to follow; `caracald events` shows them");
                reader.seek(oldest);
                continue;
            }
            other => other?,
        };
        if batch.is_empty() {
            std::thread::sleep(POLL);
        }
        for event in batch.iter().filter_map(|entry| filter.read(None, &entry.bytes, &keys)) {
            if args.json {
                write_json(out, &event)?;
            } else {
                let cells = cells(&event);
                writeln!(
                    out,
                    "{}",
                    cells.iter().filter(|cell| !cell.is_empty()).map(String::as_str).collect::<Vec<_>>().join("  ")
                )?;
            }
        }
    }
}

/// The events as a table that fits the terminal.
#[must_use]
pub fn table(events: &[Event]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(HEADER);
    for event in events {
        table.add_row(cells(event));
    }
    table.to_string()
}

/// The events of many hosts.
#[must_use]
pub fn fleet_table(events: &[Event]) -> String {
    let mut table = Table::new();
    let header = std::iter::once("host").chain(HEADER);
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for event in events {
        table.add_row(std::iter::once(text(Some(event.host()))).chain(cells(event)));
    }
    table.to_string()
}

fn cells(event: &Event) -> [String; 8] {
    let (record, data) = (&event.record, &event.record.data);
    let at = jiff::Timestamp::from_nanosecond(i128::from(record.at.0)).unwrap_or_default();
    let host = event.detail.as_ref().and_then(|detail| {
        let host = detail.host.as_deref()?;
        Some(detail.port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    });
    let sealed = if record.sealed.is_some() { "(sealed)" } else { "" };
    let many = data.count.filter(|count| *count > 1).map(|count| format!(" x{count}")).unwrap_or_default();
    let cost = match data.cost {
        Some(cost) => cost.to_string(),
        None if data.correction.is_some() => shown_change(data.correction.unwrap_or_default()),
        None => data.hold.map(|hold| format!("{hold} held")).unwrap_or_default(),
    };
    [
        format!("{at:.3}"),
        text(data.agent.as_deref()),
        format!("{}{many}", name(&record.kind)),
        text(data.decision.as_deref().or(data.settle.as_deref())),
        text(data.reason.as_deref()),
        data.message.as_deref().map_or_else(|| text(host.as_deref().or(Some(sealed))), |message| text(Some(message))),
        text(data.model.as_deref()),
        cost,
    ]
}

/// A record's kind in a word or two.
fn name(kind: &str) -> &str {
    let known = [
        Kind::Decision,
        Kind::Intent,
        Kind::Outcome,
        Kind::Correction,
        Kind::KernelDenial,
        Kind::BudgetWarning,
        Kind::Lifecycle,
    ];
    let names = ["decision", "call", "bill", "correction", "kernel denial", "budget warning", "lifecycle"];
    let found = known.iter().zip(names).find(|(known, _)| known.code() == kind);
    found.map_or(kind, |(_, name)| name)
}

/// Text from a record may come from an agent: nothing that a terminal would obey.
pub(crate) fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[derive(serde::Serialize)]
struct EventJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    record: &'a serde_json::value::RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a crate::event::Detail>,
}

fn write_json(out: &mut impl std::io::Write, event: &Event) -> anyhow::Result<()> {
    writeln!(out, "{}", line(event)?)?;
    Ok(())
}

/// One event as a line of JSON.
///
/// # Errors
/// When its record is not JSON.
pub fn line(event: &Event) -> serde_json::Result<String> {
    let record: &serde_json::value::RawValue = serde_json::from_slice(&event.bytes)?;
    serde_json::to_string(&EventJson { log: None, index: event.index, record, detail: event.detail.as_ref() })
}

/// The same, of a log of many hosts.
///
/// # Errors
/// When its record is not JSON.
pub fn line_of(log: &str, event: &Event) -> serde_json::Result<String> {
    let record: &serde_json::value::RawValue = serde_json::from_slice(&event.bytes)?;
    serde_json::to_string(&EventJson { log: Some(log), index: event.index, record, detail: event.detail.as_ref() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::write::tests::{paid, scribe};

    #[test]
    fn a_row_says_who_where_and_how_much_and_cannot_drive_a_terminal() {
        let (dir, scribe) = scribe();
        let mut draft = paid(Kind::Outcome, uuid::Uuid::nil());
        draft.data.model = Some("gpt\u{1b}[2J".into());
        let mut bytes = Vec::new();
        scribe.seal(&draft).expect("sealed").place(0, &[0; 32], &mut bytes);
        let event = Filter::default().read(Some(4), &bytes, scribe.keys()).expect("an event");
        let shown = cells(&event);
        assert_eq!(shown[1..4], ["coder", "bill", "settled"]);
        assert_eq!(shown[5], "api.openai.com:443");
        assert_eq!(shown[7], "$0.000001234");
        assert!(!table(std::slice::from_ref(&event)).contains('\u{1b}'));
        let mut line = Vec::new();
        write_json(&mut line, &event).expect("written");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!((&value["index"], &value["detail"]["port"]), (&4.into(), &443.into()));
        assert_eq!(value["record"]["type"], "caracal.outcome.v1");
        std::fs::remove_file(dir.path().join("keys/coder.key")).expect("erased");
        let keys = DetailKeys::read_only(&dir.path().join("keys"));
        let erased = Filter::default().read(None, &bytes, &keys).expect("an event");
        assert_eq!(cells(&erased)[5], "(sealed)");
    }
}
