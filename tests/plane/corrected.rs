//! Charges that are put right on a host, by the real daemon: PostgreSQL's ledger and Redis's view say to the nano-USD what the
//! host says, also after Redis lost all; and a provider's export held against the shared ledger names the host and the amount.

use crate::daemon::{acknowledged, publishing};
use crate::plane::{PATIENCE, Plane, text};
use crate::worker::Worker;
use crate::{LOAD, STAND_IN, SUBJECT};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Daemon, caracald};
use support::netns::until;
use support::report;
use support::scene::Scene;

/// What is added by mistake, and taken off again, nano-USD.
const SLIP: u64 = 1_000;

#[test]
fn corrections_on_a_host_reach_the_shared_ledger_and_the_view() {
    report::case(SUBJECT, "corrections reach PostgreSQL and Redis, and reconcile --fleet proposes them", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        scene.net.a.inside(|| Ok(corrected(&scene))).expect("the host's namespace")
    });
}

fn corrected(scene: &Scene) -> Map<String, Value> {
    let (plane, mut daemon, workers) = publishing(scene);
    // Calls whose usage nobody sees are charged their hold, which is more than their bill.
    let words = ["--clients", "2", "--requests", "8", "--words", "no-usage"];
    let _ran = daemon.run(LOAD).args(words).limit(PATIENCE).ran().ok();
    acknowledged(&daemon);
    let _verified = daemon.caught_up();
    let (charged, bill) = (Said::of(&daemon), scene.bill().iter().map(|line| line.nano).sum::<u64>());
    assert!(charged.charged > bill && charged.credited == 0, "{charged:?}, billed {bill}");
    same(&plane, charged);

    // The bill as a plain table, held against the ledger of all hosts.
    let day = daemon.json(&["spend", "--by", "day"])[0]["day"].as_str().expect("a day").to_owned();
    let file = export(&plane, scene, &day);
    let found = reconcile(&plane, &file, &[]);
    assert_eq!(found.0, Some(4), "{}", found.1);
    let host = plane.query("SELECT DISTINCT host FROM charges").join(" ");
    let proposals = found.1["rows"][0]["proposals"].as_array().expect("proposals").clone();
    let proposed: i64 = proposals.iter().filter_map(|one| one["nano_usd"].as_i64()).sum();
    assert_eq!(proposed, -i64::try_from(charged.charged - bill).expect("small"), "{}", found.1);
    assert!(proposals.iter().all(|one| one["host"] == json!(host)), "{host}: {proposals:?}");
    // Of another host it knows nothing.
    let other = reconcile(&plane, &file, &["--host", "nobody"]);
    assert_eq!((other.0, &other.1["rows"][0]["ledger"]["calls"]), (Some(4), &json!(0)), "{}", other.1);

    // Put right on the host, once too far and back again.
    let correct = |which: &[&str], nano: i64| {
        let sign = if nano < 0 { "-" } else { "" };
        let by =
            format!("--by={sign}{}.{:09}", nano.unsigned_abs() / 1_000_000_000, nano.unsigned_abs() % 1_000_000_000);
        let words = ["budgets", "correct", "--provider", "openai", "--day", &day, &by, "--reason", "the bill"];
        let _done = daemon.command(&words).args(which).ran().ok();
    };
    for proposal in &proposals {
        let model = proposal["model"].as_str().expect("a model");
        correct(&["--model", model, "--at-hold"], proposal["nano_usd"].as_i64().expect("an amount"));
    }
    let model = proposals[0]["model"].as_str().expect("a model").to_owned();
    correct(&["--model", &model], i64::try_from(SLIP).expect("small"));
    let slipped = until_said(&daemon, bill + SLIP);
    assert_eq!(slipped.credited, charged.charged - bill);
    same(&plane, slipped);
    assert_eq!(reconcile(&plane, &file, &[]).0, Some(4), "the slip is seen");
    correct(&["--model", &model], -i64::try_from(SLIP).expect("small"));
    let right = until_said(&daemon, bill);
    same(&plane, right);
    let agreed = reconcile(&plane, &file, &[]);
    assert_eq!(agreed.0, Some(0), "{}", agreed.1);

    // What only the records tell.
    let rows = |by: &str| daemon.json(&["spend", "--by", by]).as_array().expect("rows").clone();
    let of = |rows: &[Value], name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    let (hosts, hours, minutes) = (rows("host"), rows("hour"), rows("minute"));
    assert!(hosts.len() == 1 && hosts[0]["host"] == "api.openai.com", "{hosts:?}");
    for (rows, key, digits) in [(&hosts, "host", 14), (&hours, "hour", 13), (&minutes, "minute", 16)] {
        assert_eq!((of(rows, "charged"), of(rows, "credited")), (right.charged, right.credited), "by {key}");
        assert!(rows.iter().all(|row| row[key].as_str().is_some_and(|text| text.len() == digits)), "{rows:?}");
    }
    let tools = rows("tool");
    assert!(tools.len() == 1 && tools[0]["tool"] == "", "no tool was called: {tools:?}");

    // Redis loses all that it had: the view is made from the ledger again, corrections and all.
    plane.redis(&["FLUSHALL"]);
    same(&plane, right);
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "the audit of the shared ledger");
    let _ran = daemon.verify();
    daemon.stop();
    workers.into_iter().for_each(Worker::stop);

    let mut more = Map::new();
    more.insert("charged_nano".into(), json!(right.charged));
    more.insert("credited_nano".into(), json!(right.credited));
    more.insert("bill_nano".into(), json!(bill));
    more
}

/// What was charged, and what corrections took off, nano-USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    charged: u64,
    credited: u64,
}

impl Said {
    /// As the host's own ledger has it; its budget has the same.
    fn of(daemon: &Daemon<'_>) -> Said {
        let rows = daemon.json(&["spend", "--by", "model"]);
        let sum = |name: &str| rows.as_array().expect("rows").iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
        Said { charged: sum("charged"), credited: sum("credited") }
    }

    /// As PostgreSQL has it, in its sums by minute and in those of the budget's window.
    fn in_postgres(plane: &Plane) -> [Said; 2] {
        ["charges", "totals WHERE budget = 'purse'"].map(|table| Said {
            charged: plane.count(&format!("SELECT sum(nano) FROM {table}")),
            credited: plane.count(&format!("SELECT sum(credited) FROM {table}")),
        })
    }

    /// As Redis has it.
    fn in_redis(plane: &Plane) -> Said {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for key in plane.redis(&["--raw", "KEYS", "*:spend:day:*"]) {
            for pair in plane.redis(&["--raw", "HGETALL", &key]).chunks_exact(2) {
                let field: Value = serde_json::from_str(&pair[0]).expect("a field");
                let name = field[4].as_str().expect("a number's name").to_owned();
                *sums.entry(name).or_default() += pair[1].parse::<u64>().expect("an integer");
            }
        }
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0);
        Said { charged: sum("nano"), credited: sum("credited") }
    }
}

/// Waits until the host's ledger has corrections that leave this.
fn until_said(daemon: &Daemon<'_>, left: u64) -> Said {
    let mut said = Said::of(daemon);
    let waited = until("the host's ledger has the correction", PATIENCE, || {
        said = Said::of(daemon);
        said.charged - said.credited == left
    });
    assert!(waited.is_ok(), "{said:?}, and {left} should be left");
    let budgets = daemon.json(&["budgets"]);
    assert_eq!(budgets[0]["settled_nano_usd"].as_u64(), Some(left), "the running daemon's budget: {budgets}");
    said
}

/// Waits until the plane says what the host says.
fn same(plane: &Plane, host: Said) {
    let mut found = Vec::new();
    let waited = until("the plane says what the host says", PATIENCE, || {
        found = Said::in_postgres(plane).to_vec();
        found.push(Said::in_redis(plane));
        found.iter().all(|said| *said == host)
    });
    assert!(waited.is_ok(), "the host says {host:?}; charges, totals and Redis say {found:?}\n{}", plane.log());
}

/// The provider's bill as a plain table.
fn export(plane: &Plane, scene: &Scene, day: &str) -> PathBuf {
    let mut csv = "day,provider,model,amount_usd\n".to_owned();
    for line in scene.bill() {
        let (whole, rest) = (line.nano / 1_000_000_000, line.nano % 1_000_000_000);
        csv.push_str(&format!("{day},openai,{},{whole}.{rest:09}\n", line.model));
    }
    plane.file("bill.csv", &csv)
}

/// Its exit code and what it printed.
fn reconcile(plane: &Plane, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(caracald());
    command.arg("--config").arg(plane.config()).args(["spend", "reconcile", "--fleet", text(file)]);
    let output =
        command.args(["--tolerance", "0", "--all", "--correct", "--json"]).args(more).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&printed)
        .unwrap_or_else(|_| panic!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}
