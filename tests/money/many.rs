//! Sixty-four clients over a budget that does not suffice for all of them.

use crate::{LOAD, STAND_IN, rules, settled};
use serde_json::{Map, Value, json};
use std::time::Duration;
use support::daemon::Daemon;
use support::report;
use support::scene::Scene;

/// Nano-USD.
const LIMIT: u64 = 20_000_000;

#[test]
fn a_budget_is_never_exceeded_by_sixty_four_clients() {
    report::case("money", "64 clients over one budget", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("0.02 USD"));
        scene.wire.clear();
        let requests = if report::long() { "20000" } else { "800" };
        let args = ["--clients", "64", "--requests", requests, "--stream", "--words", "output=60 slow=1"];
        let ran = daemon.run(LOAD).args(args).limit(Duration::from_secs(1_800)).ran().ok();
        let told: Vec<Value> = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let answered = told.iter().filter(|line| line["status"] == 200).count();
        let refused = told.iter().filter(|line| line["status"] == 400).count();
        assert_eq!(
            answered + refused,
            told.len(),
            "{:?}",
            told.iter().find(|line| line["status"] != 200 && line["status"] != 400)
        );
        assert!(
            answered > 0 && refused > 0,
            "{answered} answered, {refused} refused: the budget must run out in between"
        );
        assert_eq!(answered, scene.bill().len());
        let (_, audit) = settled(&scene, &daemon);
        let overspend = audit.bill.max(audit.ledger).saturating_sub(LIMIT);
        report::figure("money", "one_daemon_requests", audit.requests);
        report::figure("money", "bill_nano", audit.bill);
        report::figure("money", "ledger_nano", audit.ledger);
        report::largest("money", "overspend_nano", overspend);
        assert_eq!(overspend, 0, "{audit:?}");
        assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}");
        assert_eq!(audit.ledger, audit.bill, "every usage was seen, so the ledger is the bill");
        // Each charge is made again from its record and the price book.
        let verified = daemon.caught_up();
        assert_eq!((verified["repriced"].as_u64(), &verified["findings"]), (Some(answered as u64), &json!([])));
        scene.wire.silent();
        daemon.stop();
        let mut more = Map::new();
        more.insert("answered".into(), json!(answered));
        more.insert("refused".into(), json!(refused));
        more
    });
}
