//! Reads what `caracald events --json` prints, and holds it against the stand-in's bill.

use crate::stand_in::bill::Line;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One record, as far as the contracts look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// CloudEvents `type`.
    pub kind: String,
    /// CloudEvents `time`: RFC 3339, UTC.
    pub time: String,
    /// Fields of `data`.
    pub data: Value,
    /// The opened detail, where `events` shows it.
    pub detail: Value,
}

impl Record {
    /// Reads JSON lines, or one JSON array.
    ///
    /// # Panics
    /// When a line is no record.
    #[must_use]
    pub fn read(text: &str) -> Vec<Record> {
        let values = match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(all)) => all,
            Ok(one) => vec![one],
            Err(_) => text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
                .collect(),
        };
        values.into_iter().map(Record::from).collect()
    }

    fn from(value: Value) -> Record {
        // `events` may show the leaf alone, or the leaf with its opened detail beside it.
        let leaf = if value["record"].is_object() { &value["record"] } else { &value };
        let kind = leaf["type"].as_str().unwrap_or_else(|| panic!("a record without a type: {value}"));
        let time = leaf["time"].as_str().unwrap_or_default().to_owned();
        Record { kind: kind.to_owned(), time, data: leaf["data"].clone(), detail: value["detail"].clone() }
    }

    /// A field of `data`, as text.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.data[key].as_str().unwrap_or_default()
    }

    /// A field of `data`, as a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.data[key].as_u64().or_else(|| self.data[key].as_str()?.parse().ok())
    }

    /// Durable before a paid call is sent.
    #[must_use]
    pub fn is_intent(&self) -> bool {
        self.kind == "caracal.intent.v1"
    }

    /// How a paid call ended.
    #[must_use]
    pub fn is_outcome(&self) -> bool {
        self.kind == "caracal.outcome.v1"
    }

    /// A refusal with this reason.
    #[must_use]
    pub fn is_denial(&self, reason: &str) -> bool {
        self.text("caracal.decision") == "deny" && self.text("caracal.reason") == reason
    }

    /// How many equal events it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.number("caracal.count").unwrap_or(1)
    }

    /// The hold, nano-USD.
    #[must_use]
    pub fn hold(&self) -> u64 {
        self.number("caracal.hold.nano_usd").unwrap_or(0)
    }

    /// The charge, nano-USD.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.number("caracal.cost.nano_usd").unwrap_or(0)
    }
}

/// One paid call, from both of its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The hold, nano-USD.
    pub hold: u64,
    /// What it was charged; `None` while it is open.
    pub cost: Option<u64>,
    /// `settled`, `charged_max` or `released`.
    pub settle: String,
    /// The output cap that went upstream, tokens.
    pub cap: Option<u64>,
    /// The model.
    pub model: String,
    /// How many outcomes it has. More than one is a double charge.
    pub outcomes: usize,
}

/// One budget, as `caracald budgets --json` says it, nano-USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spending {
    /// Spent.
    pub settled: u64,
    /// Set aside by open calls.
    pub held: u64,
}

impl Spending {
    /// The sum of a budget's parts; `None` when nothing was asked of it yet.
    #[must_use]
    pub fn of(budgets: &Value, name: &str) -> Option<Spending> {
        let rows = budgets.as_array()?.iter().filter(|row| row["budget"] == name);
        let part = |row: &Value| Some((row["settled_nano_usd"].as_u64()?, row["held_nano_usd"].as_u64()?));
        let parts: Vec<(u64, u64)> = rows.filter_map(part).collect();
        let sum = |of: fn(&(u64, u64)) -> u64| parts.iter().map(of).sum();
        (!parts.is_empty()).then(|| Spending { settled: sum(|part| part.0), held: sum(|part| part.1) })
    }
}

/// The calls of these records by their id.
#[must_use]
pub fn calls(records: &[Record]) -> BTreeMap<String, Call> {
    let mut calls: BTreeMap<String, Call> = BTreeMap::new();
    for record in records.iter().filter(|record| record.is_intent() || record.is_outcome()) {
        let call = calls.entry(record.text("caracal.call").to_owned()).or_default();
        if record.is_intent() {
            call.hold = record.hold();
            call.cap = record.number("gen_ai.request.max_tokens");
            record.text("gen_ai.request.model").clone_into(&mut call.model);
        } else {
            call.cost = Some(record.cost());
            record.text("caracal.settle").clone_into(&mut call.settle);
            call.outcomes += 1;
        }
    }
    calls
}

/// Ledger and bill, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Paid calls that the stand-in billed.
    pub requests: u64,
    /// What it billed, nano-USD.
    pub bill: u64,
    /// What the ledger charged, nano-USD.
    pub ledger: u64,
    /// Billed calls without a charge that covers them.
    pub lost: u64,
    /// Calls charged twice, and charges without a call that could have been billed.
    pub doubled: u64,
}

/// Holds every call of the ledger against the bill. Each request of the load has an output cap of its own, which both
/// sides wrote down: that, and nothing that `caracald` adds, says which charge belongs to which bill.
///
/// # Panics
/// When two calls of the bill have the same cap: the load is wrong.
#[must_use]
pub fn audit(records: &[Record], bill: &[Line]) -> Audit {
    let mut out =
        Audit { requests: bill.len() as u64, bill: bill.iter().map(|line| line.nano).sum(), ..Audit::default() };
    let mut by_cap: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
    for call in calls(records).into_values() {
        out.ledger += call.cost.unwrap_or(0);
        out.doubled += call.outcomes.saturating_sub(1) as u64;
        by_cap.entry(call.cap.unwrap_or(0)).or_default().push(call);
    }
    let mut seen = BTreeSet::new();
    for line in bill {
        let cap = line.cap.unwrap_or(0);
        assert!(seen.insert(cap), "two requests of the load had the cap {cap}");
        let held = by_cap.get(&cap).map(Vec::as_slice).unwrap_or_default();
        let covered = held.iter().filter(|call| covers(call, line)).count();
        out.lost += u64::from(covered == 0);
    }
    // A bill that was read where none was written is somebody else's bill, charged again.
    let phantom = |call: &&Call| call.settle == "settled" && !seen.contains(&call.cap.unwrap_or(0));
    out.doubled += by_cap.values().flatten().filter(phantom).count() as u64;
    // One cap is one request of the load: a second charged call for it is a second charge.
    out.doubled += by_cap
        .values()
        .map(|calls| calls.iter().filter(|call| call.cost.unwrap_or(0) > 0).count().saturating_sub(1) as u64)
        .sum::<u64>();
    out
}

/// A settled call equals its bill; any other is charged at least the bill and at most its hold.
fn covers(call: &Call, line: &Line) -> bool {
    match (call.settle.as_str(), call.cost) {
        ("settled", Some(cost)) => cost == line.nano && line.nano <= call.hold,
        ("charged_max", Some(cost)) => line.nano <= cost && cost <= call.hold,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(cost: u64, times: usize) -> Vec<Record> {
        let record = |kind: &str, data: Value| Record {
            kind: format!("caracal.{kind}.v1"),
            time: String::new(),
            data,
            detail: Value::Null,
        };
        let mut out = vec![record(
            "intent",
            json!({"caracal.call": "a", "caracal.hold.nano_usd": 900, "gen_ai.request.max_tokens": 11}),
        )];
        for _ in 0..times {
            out.push(record(
                "outcome",
                json!({"caracal.call": "a", "caracal.cost.nano_usd": cost, "caracal.settle": "settled"}),
            ));
        }
        out
    }

    fn bill(nano: u64) -> Line {
        serde_json::from_value(json!({"call": 0, "id": null, "provider": "openai", "model": "gpt-4o", "path": "/", "stream": false,
            "cap": 11, "tokens": super::super::stand_in::bill::Tokens::default(), "nano": nano, "cut": false, "usage_sent": true}))
        .unwrap()
    }

    #[test]
    fn a_ledger_that_agrees_has_nothing_lost_or_doubled() {
        let audit = audit(&records(500, 1), &[bill(500)]);
        assert_eq!((audit.bill, audit.ledger, audit.lost, audit.doubled), (500, 500, 0, 0));
    }

    #[test]
    fn a_wrong_price_a_dropped_record_and_a_second_charge_show() {
        assert_eq!(audit(&records(499, 1), &[bill(500)]).lost, 1);
        assert_eq!(audit(&[], &[bill(500)]).lost, 1);
        assert_eq!(audit(&records(500, 0), &[bill(500)]).lost, 1);
        assert_eq!(audit(&records(500, 2), &[bill(500)]).doubled, 1);
    }
}
