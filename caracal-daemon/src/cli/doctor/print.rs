//! The answer for people: a line for each way out, a line for each check, and the level in a sentence.

use super::coverage::{Cover, Row};
use super::{Asked, Check, Need, State, level};
use crate::config::Require;
use crate::keeper::level::NEVER;
use std::io::Write;

pub(super) fn answer(checks: &[Check], rows: &[Row], asked: &Asked, out: &mut dyn Write) -> std::io::Result<()> {
    ways(rows, asked, out)?;
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["", "check", "needed", "found", "what to do"]);
    for check in checks {
        let state = match check.state {
            State::Yes => "ok",
            State::No => "NO",
            State::Unknown => "?",
        };
        let need = match check.need {
            Need::Required => "always",
            Need::Full => "for full",
            Need::Useful => "useful",
        };
        table.add_row([state, &check.name, need, &check.found, &check.remedy]);
    }
    writeln!(out, "{table}\n")?;
    let says = match level(checks) {
        "full" => {
            "This host can enforce the level full: sockets of every family, and descriptors, unix sockets and deputies as well."
        }
        "network" => {
            "This host can enforce the level network: all that a process's own IP sockets can send. \
             Open under `attach`: AF_PACKET and AF_XDP (for who has CAP_NET_RAW, as many containers do: drop it), AF_VSOCK, \
             descriptors and unix sockets received from outside, deputies."
        }
        // Nothing is known to be missing.
        _ if !checks.iter().any(|check| check.need == Need::Required && check.state == State::No) => {
            "What this host can enforce cannot be told from here: see the lines marked ? that are always needed."
        }
        _ => "This host can enforce nothing yet: see the lines marked NO and ? that are always needed.",
    };
    match (asked.level, level(checks)) {
        (Require::Full, "none" | "network") => {
            writeln!(
                out,
                "A daemon with require = \"full\" does not start here; what is printed is the level network."
            )?;
        }
        (Require::Network, "network") if !checks.iter().any(lacks_full) => {
            writeln!(
                out,
                "Its kernel takes the programs of full: `caracald doctor --level full` tries what that closes."
            )?;
        }
        _ => {}
    }
    let never: Vec<&str> = NEVER.iter().map(|(_, means)| *means).collect();
    writeln!(out, "{says}\nNo level covers: {}.", never.join("; "))
}

/// A program or a property that the level `full` needs and that is not there.
fn lacks_full(check: &Check) -> bool {
    check.need == Need::Full && check.state != State::Yes && check.name != "ways out by others"
}

/// The coverage table: a line for each way out.
fn ways(rows: &[Row], asked: &Asked, out: &mut dyn Write) -> std::io::Result<()> {
    if rows.iter().all(|row| row.attach == Cover::Unknown) {
        return Ok(());
    }
    writeln!(out, "Ways out, tried at the level {}:\n", asked.tried.name())?;
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["way out", "class", "attach", "run", "refused by, or would be closed by"]);
    for row in rows {
        let word = |cover| match cover {
            Cover::Covered => "closed",
            Cover::Uncovered => "OPEN",
            Cover::Absent => "-",
            Cover::Unknown => "?",
        };
        let refused = row.refused_by.join(", ");
        let by = row.closer.map_or(refused, |closer| format!("-> {closer}"));
        table.add_row([row.name, &row.class.to_string(), word(row.attach), word(row.run), &by]);
    }
    writeln!(out, "{table}\n")
}
