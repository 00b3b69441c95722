//! The provider's bill and the ledger brought together: what differs is found, put right by records, and stays so.

use crate::{LOAD, STAND_IN, rules, settled};
use serde_json::Value;
use std::time::Duration;
use support::daemon::{Daemon, caracald};
use support::netns::{Ran, until};
use support::report;
use support::scene::Scene;

/// What the one budget has spent, nano-USD.
#[track_caller]
fn spent(daemon: &Daemon<'_>) -> u64 {
    let budgets = daemon.json(&["budgets"]);
    budgets[0]["settled_nano_usd"].as_u64().unwrap_or_else(|| panic!("no budget: {budgets}"))
}

/// The provider's bill as a plain table; the ledger's day, since a call counts there when it ends.
fn export(scene: &Scene, daemon: &Daemon<'_>, day: &str) -> std::path::PathBuf {
    let mut csv = "day,provider,model,amount_usd\n".to_owned();
    for line in scene.bill() {
        let (whole, rest) = (line.nano / 1_000_000_000, line.nano % 1_000_000_000);
        csv.push_str(&format!("{day},openai,{},{whole}.{rest:09}\n", line.model));
    }
    let file = daemon.config().with_file_name("bill.csv");
    std::fs::write(&file, csv).expect("the export");
    file
}

fn reconcile(daemon: &Daemon<'_>, file: &std::path::Path) -> Ran {
    let file = file.display().to_string();
    daemon.command(&["spend", "reconcile", &file, "--tolerance", "0", "--correct", "--json"]).ran()
}

#[test]
fn charges_at_their_hold_come_down_to_the_bill_and_stay_there() {
    report::plain("money", "spend reconcile and budgets correct bring the ledger to the provider's bill", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("1 USD"));
        let _ran = daemon.run(LOAD).args(["--clients", "2", "--requests", "8", "--words", "no-usage"]).ran().ok();
        let (_, audit) = settled(&scene, &daemon);
        assert!(audit.bill < audit.ledger, "nothing was charged above its bill: {audit:?}");
        let _verified = daemon.caught_up();
        assert_eq!(spent(&daemon), audit.ledger);
        let rows = daemon.json(&["spend", "--by", "day", "--by", "model"]);
        let day = rows[0]["day"].as_str().expect("a day").to_owned();
        let file = export(&scene, &daemon, &day);

        let found = reconcile(&daemon, &file);
        assert_eq!(found.code, Some(4), "{}", found.screen());
        let found: Value = serde_json::from_str(&found.stdout).expect("JSON");
        let row = &found["rows"][0];
        assert!(row["causes"].to_string().contains("whole hold"), "{row}");
        let proposal = &row["proposals"][0];
        let by = proposal["nano_usd"].as_i64().expect("an amount");
        assert_eq!(by, -i64::try_from(audit.ledger - audit.bill).expect("small"), "{row}");
        let amount = format!("--by=-0.{:09}", by.unsigned_abs());
        let model = proposal["model"].as_str().expect("a model");
        let which = ["budgets", "correct", "--provider", "openai", "--model", model, "--day", &day, "--at-hold"];
        let correct = |more: &[&str]| daemon.command(&which).args(more).args(["--reason", "the bill"]).ran();

        // Not more than was charged, and nobody but root.
        let greedy = correct(&["--by=-5"]);
        assert_eq!(greedy.code, Some(1), "{}", greedy.screen());
        let agent = scene.agent(caracald()).arg("--config").arg(daemon.config()).args(which);
        let agent = agent.args([amount.as_str(), "--reason", "mine"]).ran();
        assert_eq!(agent.code, Some(77), "{}", agent.screen());
        assert_eq!(spent(&daemon), audit.ledger);

        let _shown = correct(&[&amount, "--dry-run"]).ok();
        assert_eq!(spent(&daemon), audit.ledger, "a dry run changes nothing");
        let _done = correct(&[&amount]).ok();
        assert_eq!(spent(&daemon), audit.bill, "at once, in the running daemon");
        // The charges are down to what was billed, so the same again is too much for them, and the ledger is equal.
        until("the ledger has the corrections", Duration::from_secs(60), || reconcile(&daemon, &file).code == Some(0))
            .expect("the sides agree");
        let verified = daemon.json(&["ledger", "verify"]);
        assert!(verified["corrections"].as_u64() >= Some(1), "{verified}");
        assert_eq!(verified["findings"], serde_json::json!([]));

        daemon.kill();
        daemon.restart();
        assert_eq!(spent(&daemon), audit.bill, "and after a restart");
        let rows = daemon.json(&["spend", "--by", "model"]);
        let cost: u64 = rows.as_array().expect("rows").iter().filter_map(|row| row["cost"].as_u64()).sum();
        assert_eq!(cost, audit.bill);
        assert_eq!(rows[0]["charged"].as_u64(), Some(audit.ledger), "what was charged stays on record");
        let _ran = daemon.verify();
        daemon.stop();
    });
}
