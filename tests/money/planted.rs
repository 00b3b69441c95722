//! The proof can fail: faults are planted into a real run's records, and the audit must see each.

use crate::{LOAD, STAND_IN, rules, settled};
use serde_json::json;
use support::daemon::Daemon;
use support::ledger::{Record, audit};
use support::report;
use support::scene::Scene;

#[test]
fn each_planted_fault_turns_the_audit_red() {
    report::plain("money", "planted faults", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("1 USD"));
        let _ran = daemon.run(LOAD).args(["--clients", "4", "--requests", "8"]).ran().ok();
        let (records, honest) = settled(&scene, &daemon);
        assert_eq!((honest.lost, honest.doubled, honest.ledger), (0, 0, honest.bill));
        let bill = scene.bill();
        let outcome = records.iter().position(Record::is_outcome).expect("an outcome");
        let intent = records.iter().position(Record::is_intent).expect("an intent");

        let mut dropped = records.clone();
        dropped.remove(outcome);
        assert_eq!(audit(&dropped, &bill).lost, 1, "a dropped record");

        let mut mispriced = records.clone();
        mispriced[outcome].data["caracal.cost.nano_usd"] = json!(records[outcome].cost() + 1);
        assert_eq!(audit(&mispriced, &bill).lost, 1, "a price that is wrong by one nano-USD");

        let mut twice = records.clone();
        twice.push(records[outcome].clone());
        assert_eq!(audit(&twice, &bill).doubled, 1, "a charge written twice");

        let mut unheld = records.clone();
        unheld[intent].data["caracal.hold.nano_usd"] = json!(1);
        assert_eq!(audit(&unheld, &bill).lost, 1, "a hold below the bill");
        daemon.stop();
    });
}
