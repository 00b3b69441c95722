//! The goals, how each is computed from the measurement, and the table at the end.

use super::{
    PeerName::{Caracal, Floor, Squid},
    measure::Results,
};
use crate::report::{Case, Report, Verdict};

/// One line of the table.
pub(super) struct Goal {
    /// The figure's name in bench.json.
    pub(super) key: &'static str,
    what: &'static str,
    unit: &'static str,
    bar: f64,
    /// Whether less is better.
    at_most: bool,
    pub(super) value: fn(&Results) -> Option<f64>,
}

/// CPU first: requests per second and times move by half with whatever else the machine does, CPU ratios by a tenth.
pub(super) const GOALS: &[Goal] = &[
    Goal {
        key: "cpu_x_floor_32",
        what: "CPU per request, 32 connections",
        unit: "x floor",
        bar: 2.5,
        at_most: true,
        value: |results| results.between(Caracal, Floor, "paid-32", |a, b| a.cpu_us / b.cpu_us),
    },
    Goal {
        key: "cpu_x_squid_32",
        what: "CPU per request, 32 connections",
        unit: "x squid",
        bar: 0.62,
        at_most: true,
        value: |results| results.between(Caracal, Squid, "paid-32", |a, b| a.cpu_us / b.cpu_us),
    },
    Goal {
        key: "stream_cpu_x_floor",
        what: "CPU per stream",
        unit: "x floor",
        bar: 1.2,
        at_most: true,
        value: |results| results.between(Caracal, Floor, "stream-8", |a, b| a.cpu_us / b.cpu_us),
    },
    Goal {
        key: "fresh_cpu_x_floor",
        what: "CPU per new TLS connection",
        unit: "x floor",
        bar: 1.35,
        at_most: true,
        value: |results| results.between(Caracal, Floor, "fresh-8", |a, b| a.cpu_us / b.cpu_us),
    },
    Goal {
        key: "rps_x_squid_32",
        what: "requests per second, 32 connections",
        unit: "x squid",
        bar: 2.0,
        at_most: false,
        value: |results| results.between(Caracal, Squid, "paid-32", |a, b| a.rps() / b.rps()),
    },
    Goal {
        key: "rps_x_squid_256",
        what: "requests per second, 256 connections",
        unit: "x squid",
        bar: 2.5,
        at_most: false,
        value: |results| results.between(Caracal, Squid, "paid-256", |a, b| a.rps() / b.rps()),
    },
    Goal {
        key: "p50_free_over_floor_us",
        what: "p50 at one connection, nothing held",
        unit: "us over floor",
        bar: 40.0,
        at_most: true,
        value: |results| over_floor(results, "free-1"),
    },
    Goal {
        key: "p50_held_over_floor_syncs",
        what: "p50 at one connection, money held",
        unit: "syncs over floor",
        bar: 2.0,
        at_most: true,
        value: |results| Some(over_floor(results, "paid-1")? / (results.fdatasync_us as f64)),
    },
    Goal {
        key: "fresh_x_floor",
        what: "new TLS connections per second",
        unit: "x floor",
        bar: 0.75,
        at_most: false,
        value: |results| results.between(Caracal, Floor, "fresh-8", |a, b| a.rps() / b.rps()),
    },
    Goal {
        key: "stream_first_byte_over_floor_us",
        what: "first byte of a stream, less one sync",
        unit: "us over floor",
        bar: 100.0,
        at_most: true,
        value: |results| {
            // The sync before the first byte goes upstream is the price of the promise, and depends on the disk.
            Some(first_byte_over_floor(results)? - results.fdatasync_us as f64)
        },
    },
    Goal {
        key: "hold_settle_us_p50",
        what: "a hold and its end, beside the sync",
        unit: "us of CPU",
        bar: 5.0,
        at_most: true,
        value: |results| results.hold_settle_us,
    },
    Goal {
        key: "price_reload_ms",
        what: "`policy reload`, the whole price book with it",
        unit: "ms",
        bar: 100.0,
        at_most: true,
        value: |results| results.price_reload_ms,
    },
    Goal {
        key: "rss_idle_mb",
        what: "memory, idle",
        unit: "MB",
        bar: 50.0,
        at_most: true,
        value: |results| Some(results.idle_kb(Caracal)? / 1024.0),
    },
    Goal {
        key: "rss_256_mb",
        what: "memory, 256 connections",
        unit: "MB",
        bar: 100.0,
        at_most: true,
        value: |results| Some(results.median(Caracal, "paid-256", |sample| sample.rss_kb as f64)? / 1024.0),
    },
];

fn over_floor(results: &Results, plan: &str) -> Option<f64> {
    results.between(Caracal, Floor, plan, |a, b| a.seen.p50_us as f64 - b.seen.p50_us as f64)
}

/// The same with the sync in it.
pub(super) fn first_byte_over_floor(results: &Results) -> Option<f64> {
    results
        .between(Caracal, Floor, "stream-1", |a, b| a.seen.first_byte_p50_us as f64 - b.seen.first_byte_p50_us as f64)
}

/// Prints what was measured and which goals are met, from the report alone.
pub(super) fn print(report: &Report) {
    println!();
    println!(
        "{:24} {:>10} {:>9} {:>9} {:>9} {:>12} {:>9}",
        "peer shape", "req/s", "CPU us", "p50 us", "p99 us", "1st byte us", "RSS MB"
    );
    let measured = |case: &&Case| case.verdict == Verdict::Passed && case.more.contains_key("rps");
    for case in report.cases.iter().filter(measured) {
        let number = |key: &str| case.more.get(key).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
        println!(
            "{:24} {:>10.0} {:>9.1} {:>9.0} {:>9.0} {:>12.0} {:>9.1}",
            case.name,
            number("rps"),
            number("cpu_us"),
            number("p50_us"),
            number("p99_us"),
            number("first_byte_p50_us"),
            number("rss_kb") / 1024.0
        );
    }
    println!();
    println!("{:40} {:>9} {:>9} {:18} ", "caracald, everything on", "measured", "bar", "");
    for goal in GOALS {
        let sign = if goal.at_most { "<=" } else { ">=" };
        let value = report.figures.get(goal.key).and_then(serde_json::Number::as_f64);
        let (measured, verdict) = match value {
            None => ("-".to_owned(), "not measured"),
            Some(value) if (value <= goal.bar) == goal.at_most || value == goal.bar => (format!("{value:.2}"), "met"),
            Some(value) => (format!("{value:.2}"), "NOT met"),
        };
        println!("{:40} {measured:>9} {sign}{:>7} {:18} {verdict}", goal.what, goal.bar, goal.unit);
    }
    where_time_goes(report);
    println!();
    for (name, value) in &report.figures {
        if !GOALS.iter().any(|goal| goal.key == name) {
            println!("{name} {value}");
        }
    }
    for case in report.red() {
        println!("{:?} {}: {}", case.verdict, case.name, case.why.as_deref().unwrap_or_default());
    }
}

/// CPU per request by kind of thread, and by purpose where it was sampled.
fn where_time_goes(report: &Report) {
    println!();
    println!("{:40} {:>9} {:>9}", "where caracald's time goes", "user us", "system us");
    for case in report.cases.iter().filter(|case| case.name.starts_with("caracal ")) {
        let threads = case.more.get("threads").and_then(serde_json::Value::as_object);
        let spent =
            |value: &serde_json::Value, at: usize| value.get(at).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        for (name, value) in threads.into_iter().flatten() {
            let (user, system) = (spent(value, 0), spent(value, 1));
            if user + system >= 0.5 {
                println!("{:40} {user:>9.1} {system:>9.1}", format!("{}: {name}", case.name));
            }
        }
    }
    for case in &report.cases {
        for kind in ["purposes", "functions"] {
            let Some(shares) = case.more.get(kind).and_then(serde_json::Value::as_array) else { continue };
            println!("{}, {kind}", case.name);
            for share in shares {
                let name = share.get(0).and_then(serde_json::Value::as_str).unwrap_or_default();
                let percent = share.get(1).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
                println!("{percent:>8.1} %  {}", name.get(..90).unwrap_or(name));
            }
        }
    }
}
