//! Four hosts with sixty-four clients each over budgets of three levels that they share, while a daemon and PostgreSQL are
//! killed and one host is cut off from it: the sum of the providers' bills is never above a limit.

use crate::STAND_IN;
use crate::crowd::{Crowd, DAEMONS, PATIENCE, Spent, limit, requests};
use crate::vault::{ADDRESS, Road, Vault};
use serde_json::{Map, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, caracald};
use support::netns::until;
use support::report;
use support::scene::Scene;

fn rules(url: &str) -> String {
    crate::crowd::rules(&format!("[postgres]\nurl = \"{url}\"\n[escrow]\nlease_ms = 30000\n"))
}

fn administer(vault: &Vault, dir: &Path, words: &[&str]) -> String {
    let config = dir.join("administer.toml");
    std::fs::write(&config, rules(&vault.url())).expect("a configuration");
    let output = Command::new(caracald()).arg("--config").arg(&config).args(words).output().expect("caracald runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn four_hosts_never_spend_more_than_they_share() {
    report::case("money", "4 daemons x 64 clients over shared budgets", || {
        let scenes: Vec<Scene> = (0..DAEMONS).map(|_| Scene::quiet(STAND_IN).expect("the scene stands")).collect();
        let mut vault = Vault::start();
        let roads: Vec<Road> = scenes.iter().map(|scene| Road::open(scene, &vault)).collect();
        let dir = tempfile::tempdir().expect("a directory");
        administer(&vault, dir.path(), &["setup", "postgres"]);
        let rules = rules(&format!("postgres://postgres@{ADDRESS}/postgres?sslmode=disable"));
        let daemons: Vec<Daemon<'_>> = scenes.iter().map(|scene| Daemon::start(scene, &rules)).collect();
        let mut crowd = Crowd::new(&scenes, daemons);
        crowd.wait_for_slices();

        // In the middle: PostgreSQL is killed and started, a daemon is killed and started, a host is cut off.
        let mut counts = crowd.load(requests(), |daemons| {
            vault.kill();
            std::thread::sleep(Duration::from_millis(500));
            vault.go_on();
            roads[2].cut();
            daemons[1].kill();
            daemons[1].restart();
            roads[2].mend();
        });
        counts.add(crowd.until_nothing_is_left());
        assert!(counts.answered > 0 && counts.refused > 0, "{counts:?}: the budget must run out in between");

        let limit = limit();
        let spent = crowd.spent();
        let overspend = spent.over();
        // What was charged: a call whose usage nobody saw counts with its hold, as it must. What was billed is told beside it.
        let share = spent.ledger as f64 / limit as f64;
        let billed = spent.bill as f64 / limit as f64;
        let least = spent.least_used();
        report::figure("money", "daemons", DAEMONS as u64);
        report::figure("money", "requests", counts.all());
        report::measure("money", "budget_used_share", share);
        report::measure("money", "budget_billed_share", billed);
        report::measure("money", "level_used_share_least", least);
        report::largest("money", "overspend_nano", overspend);
        assert_eq!(overspend, 0, "{spent:?}, limit {limit}");
        assert!(share >= 0.9, "{share} of the budget could be used: {:?}", vault.query("SELECT * FROM escrow_windows"));
        assert!(least >= 0.9, "each level runs out, {least} of one was used: {spent:?}");
        agrees(&vault, &spent);
        assert!(roads.iter().all(|road| road.opened() > 0), "each host spoke with PostgreSQL");
        crowd.verify();
        crowd.planted(&rules);
        crowd.stop();
        let mut more =
            Map::from_iter([("bill_nano".into(), json!(spent.bill)), ("ledger_nano".into(), json!(spent.ledger))]);
        more.extend(counts.told());
        more
    });
}

/// PostgreSQL says the same as the ledgers, once each host has told it, and no window is above its limit.
fn agrees(vault: &Vault, ledgers: &Spent) {
    let spent =
        || vault.query("SELECT budget || '|' || scope || '|' || spent FROM escrow_windows ORDER BY budget, scope");
    let wanted = ledgers.rows();
    let told = until("PostgreSQL knows what was spent", PATIENCE, || spent() == wanted);
    assert!(told.is_ok(), "{:?} is not {wanted:?}", spent());
    let above = vault.query(
        "SELECT w.budget, w.allotted, l.nano FROM escrow_windows w JOIN escrow_limits l USING (budget) WHERE allotted > nano",
    );
    assert!(above.is_empty(), "{above:?}");
    assert!(vault.query("SELECT what FROM escrow_incidents").is_empty(), "nothing was forgotten");
}
