//! SDKs and agents that nobody here wrote, unmodified, with nothing but `caracald run` before their command: allowed,
//! denied, out of budget.

mod beyond;
mod claude;
mod codex;
mod endings;
mod limits;
mod sdks;
mod starter;
mod tools;

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use support::daemon::Daemon;
use support::ledger::{Record, calls};
use support::scene::Scene;
use support::stand_in::bill::Line;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");

/// The model providers and what the agents' tools touch, under a budget that is never reached.
const AMPLE: &str = r#"
[[allow]]
hosts = ["api.openai.com", "api.anthropic.com", "example.com", "github.com"]

[[budget]]
name = "ample"
limit = "50 USD"
window = "day"
"#;

/// The same providers under a budget that no call fits.
const NOTHING: &str = r#"
[[allow]]
hosts = ["api.openai.com", "api.anthropic.com"]

[[budget]]
name = "nothing"
limit = "0.000001 USD"
window = "day"
"#;

/// Runs `work` in a world with a daemon under `rules`, as one case of `agents.json`. Whatever happens, the ledger is what
/// the stand-in billed and nothing left the host by another way.
fn case(name: &str, rules: &str, work: impl FnOnce(&Scene, &Daemon<'_>)) {
    measured(name, rules, |scene, daemon| {
        work(scene, daemon);
        Map::new()
    });
}

/// The same for a refusal: how many requests the client made of it, and what it told its user.
fn denied(name: &str, rules: &str, work: impl FnOnce(&Scene, &Daemon<'_>) -> Denial) {
    measured(name, rules, |scene, daemon| {
        let denial = work(scene, daemon);
        support::report::largest("agents", "requests_on_denial", denial.requests);
        Map::from_iter([
            ("requests_on_denial".to_owned(), json!(denial.requests)),
            ("exception".to_owned(), json!(denial.exception)),
            ("request_id".to_owned(), json!(denial.request_id)),
        ])
    });
}

/// What a client made of a refusal.
struct Denial {
    /// Requests that it sent.
    requests: u64,
    /// The exception's class, or of a program what it writes before our sentence.
    exception: String,
    /// It shows the id of the refused request.
    request_id: bool,
}

impl Denial {
    /// Of what a program printed.
    #[track_caller]
    fn of(screen: &str, requests: u64) -> Denial {
        let named = |word: &&str| word.ends_with("Error") || word.ends_with("Exception");
        let class = screen.split_whitespace().find_map(|word| word.strip_suffix(':').filter(named));
        // A client that refused side traffic too may have printed our sentence of that before.
        let before = || {
            let line = screen.lines().find(|line| line.contains("Caracal") && line.contains("nothing"));
            line.and_then(|line| line.split("Caracal").next())
                .map(|before| before.trim().trim_end_matches('"').to_owned())
        };
        let exception = class.map(str::to_owned).or_else(before).expect("the sentence is on the screen");
        Denial { requests, exception, request_id: false }
    }

    /// The same of a program that printed the id that its SDK shows, behind `id: `. It must be one of ours.
    #[track_caller]
    fn with_id(self, screen: &str) -> Denial {
        let id = screen.lines().find_map(|line| line.strip_prefix("id: "));
        let ours = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(id.is_some_and(ours), "the request id {id:?}: {screen}");
        Denial { request_id: true, ..self }
    }
}

/// What an agent's refused side traffic (telemetry, update checks) costs it: each host that its session was refused, asked
/// once more through the same daemon, from the connect to the refusal's last byte. What a tool of the session was refused
/// comes last and is not among them.
fn side_traffic(daemon: &Daemon<'_>) -> Map<String, Value> {
    const OF_A_TOOL: &str = "denied.example";
    let refused = |records: &[Record]| -> BTreeSet<String> {
        let denied = records.iter().filter(|record| record.text("caracal.decision") == "deny");
        denied.filter_map(|record| record.detail["host"].as_str().map(str::to_owned)).collect()
    };
    let mut hosts = refused(&daemon.records_when(|records| refused(records).contains(OF_A_TOOL)));
    hosts.remove(OF_A_TOOL);
    let asked = |host: &String| {
        let args = ["-sS", "-o", "/dev/null", "-w", "%{time_total}"];
        let ran = daemon.run_as(&["--quiet"], "curl").args(args).arg(format!("https://{host}/")).ran().ok();
        let seconds: f64 = ran.stdout.parse().unwrap_or_else(|error| panic!("{error}: {}", ran.screen()));
        (seconds * 1e6) as u64
    };
    let slowest = hosts.iter().map(asked).max();
    let mut more = Map::from_iter([("side_hosts".to_owned(), json!(hosts))]);
    if let Some(slowest) = slowest {
        support::report::largest("agents", "side_traffic_refused_us_max", slowest);
        more.insert("side_traffic_refused_us_max".to_owned(), json!(slowest));
    }
    more
}

/// The same, with what was measured.
fn measured(name: &str, rules: &str, work: impl FnOnce(&Scene, &Daemon<'_>) -> Map<String, Value>) {
    support::report::case("agents", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, rules);
        scene.wire.clear();
        let mut more = work(&scene, &daemon);
        let bill = scene.bill();
        let records = daemon.records_when(|records| closed(records) >= bill.len());
        same(&records, &bill);
        let _ran = daemon.verify();
        scene.wire.silent();
        daemon.stop();
        more.insert("paid_calls".into(), json!(bill.len()));
        more.insert("bill_nano".into(), json!(bill.iter().map(|line| line.nano).sum::<u64>()));
        more
    });
}

fn closed(records: &[Record]) -> usize {
    calls(records).values().filter(|call| call.cost.is_some()).count()
}

/// Charge by charge, to the nano-USD: the ledger has the bill's lines and no other.
#[track_caller]
fn same(records: &[Record], bill: &[Line]) {
    // A tool stands in the ledger behind its server's name.
    let bare = |model: String| model.rsplit_once('/').map_or(model.clone(), |(_, tool)| tool.to_owned());
    let mut charged: Vec<(String, u64)> = calls(records)
        .into_values()
        .filter_map(|call| Some((bare(call.model), call.cost.filter(|cost| *cost > 0)?)))
        .collect();
    let mut billed: Vec<(String, u64)> = bill.iter().map(|line| (line.model.clone(), line.nano)).collect();
    charged.sort();
    billed.sort();
    assert_eq!(charged, billed, "left: the ledger, right: the provider's bill");
}

/// How many requests were refused with `reason`.
fn refused(daemon: &Daemon<'_>, reason: &str) -> u64 {
    let denials =
        |records: &[Record]| records.iter().filter(|record| record.is_denial(reason)).map(Record::count).sum::<u64>();
    denials(&daemon.records_when(|records| denials(records) > 0))
}
