//! `caracald dlq list|show|redrive`: what came over the bus and was no record.

use crate::bus::dead_letters::{DeadLetters, Letter, list};
use crate::config::{Config, Kafka};
use crate::ledger::worker::WorkerError;
use anyhow::ensure;
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;
use std::process::ExitCode;

/// Look at messages of the bus that are no records, and send them again.
#[derive(Args, Debug)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Subcommand, Debug)]
enum DlqCommand {
    /// One line a message.
    List {
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// One message whole: its headers and its payload.
    Show {
        /// As `list` shows it: PARTITION/OFFSET.
        place: String,
    },
    /// Send messages again to the topic that they came from. What the ledger has by now, it drops.
    Redrive {
        /// Which: PARTITION/OFFSET, one or more.
        places: Vec<String>,
        /// All with this code, such as `unknown_host` once the host is enrolled.
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
    },
}

/// Runs the verb.
///
/// # Errors
/// When Kafka cannot be reached, or there is no such message.
pub fn run(args: DlqArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let kafka = config.kafka.as_ref().ok_or(WorkerError::Missing("kafka"))?;
    match args.command {
        DlqCommand::List { json } => show_all(kafka, json)?,
        DlqCommand::Show { place } => {
            let mut found = None;
            list(kafka, |letter| {
                if name(&letter) == place {
                    found = Some(letter);
                }
            })?;
            let letter = found.ok_or_else(|| anyhow::anyhow!("there is no message {place}; `caracald dlq list`"))?;
            println!("{}", line(&letter));
            for (key, value) in &letter.raw.headers {
                println!("{key}: {}", String::from_utf8_lossy(value).escape_debug());
            }
            let payload = letter.raw.payload.unwrap_or_default();
            println!("\n{}", String::from_utf8_lossy(&payload).escape_debug());
        }
        DlqCommand::Redrive { places, code } => redrive(kafka, &places, code.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show_all(kafka: &Kafka, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["MESSAGE", "CODE", "HOST", "FROM", "WHY"]);
    list(kafka, |letter| {
        if json {
            println!("{}", line(&letter));
        } else {
            let from = format!("{}/{}/{}", letter.from.0, letter.from.1, letter.from.2);
            table.add_row([name(&letter), letter.code.clone(), host(&letter), from, letter.what.clone()]);
        }
    })?;
    if !json {
        println!("{table}");
    }
    Ok(())
}

fn redrive(kafka: &Kafka, places: &[String], code: Option<&str>) -> anyhow::Result<()> {
    ensure!(!places.is_empty() || code.is_some(), "name messages as PARTITION/OFFSET, or a --code");
    let mut chosen = Vec::new();
    list(kafka, |letter| {
        if places.contains(&name(&letter)) || code == Some(letter.code.as_str()) {
            chosen.push(letter);
        }
    })?;
    ensure!(chosen.len() >= places.len(), "not all of these messages are there; `caracald dlq list`");
    let again = DeadLetters::new(kafka)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for letter in &chosen {
        runtime.block_on(again.redrive(letter))?;
    }
    println!("{} messages were sent again", chosen.len());
    Ok(())
}

fn name(letter: &Letter) -> String {
    format!("{}/{}", letter.place.0, letter.place.1)
}

fn host(letter: &Letter) -> String {
    String::from_utf8_lossy(letter.raw.key.as_deref().unwrap_or_default()).escape_debug().take(128).collect()
}

fn line(letter: &Letter) -> serde_json::Value {
    let (topic, partition, offset) = &letter.from;
    json!({
        "message": name(letter), "code": letter.code, "host": host(letter), "what": letter.what,
        "topic": topic, "partition": partition, "offset": offset,
        "bytes": letter.raw.payload.as_ref().map_or(0, Vec::len),
    })
}
