//! PostgreSQL is filled from a dump (`pg_dump`, `psql`) in the same cluster, while the host that knows what the dump forgot is
//! down: nobody spends until an operator has looked, and what was spent is spent.

use crate::STAND_IN;
use crate::vault::{ADDRESS, Road, Vault};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, caracald};
use support::netns::until;
use support::report;
use support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(120);
const LIMIT: u64 = 20_000_000;

fn rules(url: &str) -> String {
    format!(
        "[postgres]\nurl = \"{url}\"\n[escrow]\nlease_ms = 12000\n\n[[allow]]\nhosts = [\"api.openai.com\"]\n\n\
         [[budget]]\nname = \"team\"\nlimit = \"0.02 USD\"\nwindow = \"total\"\nshared = true\nwait_ms = 12000\n"
    )
}

fn administer(vault: &Vault, dir: &Path, words: &[&str]) {
    let config = dir.join("administer.toml");
    std::fs::write(&config, rules(&vault.url())).expect("a configuration");
    let output = Command::new(caracald()).arg("--config").arg(&config).args(words).output().expect("caracald runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How many of some calls, each for another cap from `base` on, were answered.
fn answered(daemon: &Daemon<'_>, requests: &str, base: &str) -> u64 {
    let load = daemon.run(crate::LOAD).args(["--clients", "4", "--requests", requests, "--cap-base", base, "--count"]);
    let ran = load.args(["--words", "output=900"]).limit(PATIENCE).ran().ok();
    let counts: Value = serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|_| panic!("{}", ran.screen()));
    counts["answered"].as_u64().expect("a count")
}

fn billed(scenes: &[Scene]) -> u64 {
    scenes.iter().flat_map(Scene::bill).map(|line| line.nano).sum()
}

fn escrow(daemon: &Daemon<'_>) -> Value {
    daemon.json(&["status"])["data_path"]["escrow"].clone()
}

fn lends(daemon: &Daemon<'_>) -> bool {
    escrow(daemon)["lease_ms"].as_u64().unwrap_or(0) > 0
}

fn spent(vault: &Vault) -> u64 {
    vault.query("SELECT coalesce(sum(spent), 0) FROM escrow_windows")[0].parse().expect("an amount")
}

#[test]
fn a_dump_that_is_put_back_frees_no_money() {
    report::case("money", "PostgreSQL filled from a dump, the host that knows is down", || {
        let scenes: Vec<Scene> = (0..2).map(|_| Scene::quiet(STAND_IN).expect("the scene stands")).collect();
        let vault = Vault::start();
        let _roads: Vec<Road> = scenes.iter().map(|scene| Road::open(scene, &vault)).collect();
        let dir = tempfile::tempdir().expect("a directory");
        administer(&vault, dir.path(), &["setup", "postgres"]);
        let rules = rules(&format!("postgres://postgres@{ADDRESS}/postgres?sslmode=disable"));
        let mut knows = Daemon::start(&scenes[0], &rules);
        let mut other = Daemon::start(&scenes[1], &rules);
        until("both have slices", PATIENCE, || lends(&knows) && lends(&other)).expect("slices");
        assert!(answered(&other, "2", "1000") == 2 && answered(&knows, "2", "1000") == 2);
        until("PostgreSQL knows", PATIENCE, || spent(&vault) == billed(&scenes)).expect("what was spent");
        // What is done to tables every day halts nobody.
        for table in ["escrow_accepted", "escrow_holders", "escrow_windows", "escrow_shares"] {
            let _none = vault.query(&format!("VACUUM (FULL, FREEZE) {table}"));
        }
        assert!(answered(&other, "1", "1050") == 1 && answered(&knows, "1", "1050") == 1 && lends(&other));
        let dump = vault.dump();

        // One host spends most of it, says so, and is gone.
        let more = answered(&knows, "24", "1100");
        until("PostgreSQL knows", PATIENCE, || spent(&vault) == billed(&scenes)).expect("what was spent");
        let before = billed(&scenes);
        assert!(more > 4 && before > LIMIT / 2, "{more} calls, {before} of {LIMIT}");
        knows.kill();
        vault.fill(&dump);
        assert!(spent(&vault) < before / 2, "the dump forgot it");

        // A lease may run out before that, while the database is filled.
        let halted = || escrow(&other)["trouble"].as_str().is_some_and(|why| why.contains("halted"));
        until("the other host stops spending", PATIENCE, || !lends(&other) && halted()).expect("a halt");
        let why = escrow(&other)["trouble"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("halted") && why.contains("dump"), "{why}");
        assert_eq!(answered(&other, "4", "2000"), 0, "it spends nothing more");
        // Also after a start.
        other.kill();
        other.restart();
        assert_eq!(answered(&other, "4", "2100"), 0, "{}", escrow(&other));

        // As the operator is told: once each host has reported.
        knows.restart();
        until("what was spent is spent again", PATIENCE, || spent(&vault) == before).expect("what was spent");
        assert!(!lends(&knows) && !lends(&other));
        administer(&vault, dir.path(), &["budgets", "--accept"]);
        until("both have slices", PATIENCE, || lends(&knows) && lends(&other)).expect("slices");
        let last = answered(&other, "60", "2200") + answered(&knows, "60", "2300");
        let (all, overspend) = (billed(&scenes), billed(&scenes).saturating_sub(LIMIT));
        report::largest("money", "overspend_nano", overspend);
        assert_eq!(overspend, 0, "{all} of {LIMIT}");
        assert!(last > 0 && all > before, "it goes on: {last} calls, {all} of {LIMIT}");
        until("PostgreSQL knows", PATIENCE, || spent(&vault) == all).expect("what was spent");
        let _ran = (knows.verify(), other.verify());
        knows.stop();
        other.stop();
        Map::from_iter([("bill_nano".into(), json!(all)), ("halted".into(), json!(why))])
    });
}
