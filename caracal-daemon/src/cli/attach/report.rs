//! What `attach` found and did, as a table; `status` shows the same.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Says that a cgroup is attached, what its processes held, and what they trust.
pub(super) fn attached(value: &Value, json: bool) {
    if json {
        println!("{value}");
        return;
    }
    let learns =
        if value["learn"] == true { "; it learns until it is detached: the host allow list is lifted" } else { "" };
    println!("attached {} as agent {}{learns}", text(&value["cgroup"]), text(&value["agent"]));
    let live = &value["live"];
    if let Some(table) = sockets(live) {
        println!("{table}");
        println!("{}", text(&live["summary"]));
    }
    trust(&live["trust"]);
    if live["settled"] == false {
        println!("its processes passed sockets around all the while: look at `caracald status` again");
    }
}

/// The sockets of an attached workload that are worth a line: all but those that are left as they are. `None`: none.
pub(in crate::cli) fn sockets(live: &Value) -> Option<Table> {
    let all = live["sockets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = table(["PROCESS", "PID", "FD", "SOCKET", "STATE", "FROM", "TO", "MADE", "DONE", "WHY"]);
    for socket in all.iter().filter(|socket| socket["done"] != "left") {
        let shared = match socket["processes"].as_u64() {
            Some(count) if count > 1 => format!("{} (+{})", text(&socket["pid"]), count - 1),
            _ => text(&socket["pid"]),
        };
        let fields = ["process", "", "fd", "kind", "state", "local", "peer", "made", "done", "why"];
        table.add_row(fields.map(|field| if field.is_empty() { shared.clone() } else { text(&socket[field]) }));
    }
    (!table.is_empty()).then_some(table)
}

/// What was done for trust, and each process's verdict.
pub(in crate::cli) fn trust(report: &Value) {
    for place in report["places"].as_array().into_iter().flatten() {
        println!("{}", text(place));
    }
    let mut table = table(["PROCESS", "PID", "RUNTIME", "TRUSTS THE CA", "WHAT"]);
    for process in report["processes"].as_array().into_iter().flatten() {
        table.add_row(["process", "pid", "runtime", "verdict", "what"].map(|field| text(&process[field])));
    }
    if !table.is_empty() {
        println!("{table}");
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
