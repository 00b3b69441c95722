//! `status`: what is governed and whether the door is open.

use std::process::ExitCode;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::attach;
use super::control::Control;
use crate::config::Config;
use crate::keeper::control::Request;

/// Show what is governed and whether the door is open. Exits 1 while the door is shut.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the daemon is not running.
pub fn run(args: &StatusArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let status = Control::connect(config)?.ask(&Request::Status)?;
    if args.json {
        println!("{status}");
    } else {
        print(&status, config);
    }
    Ok(if status["door"] == "open" { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(status: &Value, config: &Config) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    println!("door {}, level {}, slice {}", text(&status["door"]), text(&status["level"]), text(&status["slice"]));
    let enforced = &status["enforced"];
    if let Some(lacks) = enforced["lacks"].as_str() {
        println!("not full: {lacks}");
    }
    let uncovered = enforced["uncovered"].as_array().map(Vec::as_slice).unwrap_or_default();
    println!("not covered: {}", uncovered.iter().map(|one| text(&one["means"])).collect::<Vec<_>>().join("; "));
    let lines = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for fault in lines(&status["truth"]["faults"]) {
        println!("shut: {}", text(&fault));
    }
    for note in lines(&status["truth"]["notes"]) {
        println!("note: {}", text(&note));
    }
    for untried in lines(&status["truth"]["untried"]) {
        println!("note: no canary in {}: {}", text(&untried["cgroup"]), text(&untried["why"]));
    }
    let path = &status["data_path"];
    if let Some(error) = path["error"].as_str() {
        println!("data path: {error}");
    }
    if let Some(error) = path["policy_error"].as_str() {
        println!("policy: {error}");
    }
    if let (Some(days), Some(book)) = (path["price_book_days"].as_u64(), path["price_book"].as_str())
        && days > config.prices.max_age_days
    {
        println!("prices: the book {book} is {days} days old; `caracald prices diff` compares it with another");
    }
    for (name, key) in [("connections", "connections"), ("requests", "requests"), ("refusals", "refusals")] {
        if let Some(count) = path[key].as_u64() {
            print!("{name} {count}  ");
        }
    }
    println!();
    if let (Some(most), Some(configured)) = (path["connections_most"].as_u64(), path["connections_configured"].as_u64())
        && most < configured
    {
        println!(
            "connections: at most {most} at once, and not the {configured} of [limits]: the daemon has too few descriptors. Raise \
             LimitNOFILE, or lower [limits]; `caracald doctor` says how many it needs"
        );
    }
    let kafka = &path["kafka"];
    if let Some(backlog) = kafka["backlog"].as_u64() {
        let why = kafka["trouble"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        println!("kafka: {backlog} records to publish, the oldest for {} ms{why}", text(&kafka["lag_ms"]));
    }
    if let Some(why) = path["escrow"]["trouble"].as_str() {
        println!("shared budgets: {why} (lease {} ms)", text(&path["escrow"]["lease_ms"]));
    }
    let agents = status["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if agents.is_empty() {
        println!("no agents");
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["AGENT", "CGROUP", "UID", "RUNNING", "REDIRECTED", "REFUSED BY KERNEL"]);
        for agent in agents {
            table.add_row([
                text(&agent["agent"]),
                text(&agent["cgroup"]),
                text(&agent["uid"]),
                if agent["populated"] == true { "yes".to_owned() } else { "no".to_owned() },
                text(&agent["redirected"]),
                text(&agent["refused_by_kernel"]),
            ]);
        }
        println!("{table}");
        for agent in agents {
            if let Some(table) = attach::sockets(&agent["live"]) {
                println!("agent {} held, or was passed:\n{table}", text(&agent["agent"]));
            }
            attach::trust(&agent["live"]["trust"]);
        }
        for agent in agents.iter().filter(|agent| agent["learn"] == true) {
            println!("agent {} learns: the host allow list is lifted for it", text(&agent["agent"]));
        }
        for agent in agents.iter().filter(|agent| !agent["root_process"].is_null()) {
            println!(
                "degraded: process {} of agent {} is root in the host's mount namespace and could remove the pins",
                text(&agent["root_process"]),
                text(&agent["agent"])
            );
        }
    }
    if let Some(why) = status["namespaces"]["why"].as_str() {
        println!("network namespaces refused: {}, the last because {why}", text(&status["namespaces"]["refused"]));
    }
    for process in path["untrusting"].as_array().map(Vec::as_slice).unwrap_or_default() {
        println!(
            "does not trust the local CA: {} (process {}, agent {}): start it with `caracald run`, or restart it with the CA's variables",
            text(&process["comm"]),
            text(&process["tgid"]),
            text(&process["agent"]),
        );
    }
}
