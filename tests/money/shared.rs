//! Four hosts with sixty-four clients each over budgets of three levels that they share, while a daemon and PostgreSQL are
//! killed and one host is cut off from it: the sum of the providers' bills is never above a limit.

use crate::vault::{ADDRESS, Road, Vault};
use crate::{LOAD, STAND_IN};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, caracald};
use support::ledger::calls;
use support::netns::{Ran, Run, until};
use support::report;
use support::scene::Scene;

const DAEMONS: usize = 4;
const CLIENTS: &str = "64";
const PATIENCE: Duration = Duration::from_secs(180);

/// The limits of the three levels, nano-USD. The lowest one is what all together may spend: each host's agent has one name.
fn limits() -> [u64; 3] {
    if report::long() {
        [30_000_000_000, 28_000_000_000, 26_000_000_000]
    } else {
        [120_000_000, 110_000_000, 100_000_000]
    }
}

fn rules(url: &str) -> String {
    let [company, team, seat] =
        limits().map(|nano| format!("{}.{:09} USD", nano / 1_000_000_000, nano % 1_000_000_000));
    format!(
        "[postgres]\nurl = \"{url}\"\n[escrow]\nlease_ms = 30000\n[[allow]]\nhosts = [\"api.openai.com\"]\n\
         [[budget]]\nname = \"company\"\nlimit = \"{company}\"\nwindow = \"total\"\nshared = true\nwait_ms = 20000\n\
         [[budget]]\nname = \"team\"\nparent = \"company\"\nlimit = \"{team}\"\nwindow = \"total\"\nshared = true\nwait_ms = 20000\n\
         [[budget]]\nname = \"seat\"\nparent = \"team\"\nlimit = \"{seat}\"\nwindow = \"total\"\nper = \"agent\"\nshared = true\nwait_ms = 20000\n"
    )
}

fn administer(vault: &Vault, dir: &Path, words: &[&str]) -> String {
    let config = dir.join("administer.toml");
    std::fs::write(&config, rules(&vault.url())).expect("a configuration");
    let output = Command::new(caracald()).arg("--config").arg(&config).args(words).output().expect("caracald runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// At most so many at once: each asks for one token more than the one before, and none for so many that it is clamped.
const MOST: usize = 3_000;

/// A refusal is remembered for a while: whoever asks anew asks for another number of tokens.
fn load(daemon: &Daemon<'_>, requests: usize, base: usize) -> Run {
    let (requests, base) = (requests.min(MOST).to_string(), base.to_string());
    let words = ["--stream", "--words", "output=60 slow=1"];
    let load = daemon.run(LOAD).args(["--clients", CLIENTS, "--requests", &requests, "--cap-base", &base]).args(words);
    load.limit(Duration::from_secs(7_200))
}

/// How many were answered and refused, and how many had no answer.
fn told(ran: &Ran) -> [usize; 3] {
    let lines: Vec<Value> = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = |status: u64| lines.iter().filter(|line| line["status"] == status).count();
    let (answered, refused, none) = (count(200), count(400), count(0));
    assert_eq!(answered + refused + none, lines.len(), "an answer of another kind: {}", ran.screen());
    [answered, refused, none]
}

/// What the providers billed, and what the ledgers charged, once every call is closed.
fn spent(scenes: &[Scene], daemons: &[Daemon<'_>]) -> (u64, u64) {
    let mut sums = (0, 0);
    for (scene, daemon) in scenes.iter().zip(daemons) {
        let bill = scene.bill();
        let records = daemon.records_when(|records| {
            let calls = calls(records);
            calls.len() >= bill.len() && calls.values().all(|call| call.cost.is_some())
        });
        let calls = calls(&records);
        assert!(calls.values().all(|call| call.outcomes == 1), "a call was charged twice");
        sums.0 += bill.iter().map(|line| line.nano).sum::<u64>();
        sums.1 += calls.values().filter_map(|call| call.cost).sum::<u64>();
    }
    assert!(sums.0 <= sums.1, "bill {}, ledger {}: something was not charged", sums.0, sums.1);
    sums
}

#[test]
fn four_hosts_never_spend_more_than_they_share() {
    report::case("money", "4 daemons x 64 clients over shared budgets", || {
        let scenes: Vec<Scene> = (0..DAEMONS).map(|_| Scene::new(STAND_IN).expect("the scene stands")).collect();
        let mut vault = Vault::start();
        let roads: Vec<Road> = scenes.iter().map(|scene| Road::open(scene, &vault)).collect();
        let dir = tempfile::tempdir().expect("a directory");
        administer(&vault, dir.path(), &["setup", "postgres"]);
        let rules = rules(&format!("postgres://postgres@{ADDRESS}/postgres?sslmode=disable"));
        let mut daemons: Vec<Daemon<'_>> = scenes.iter().map(|scene| Daemon::start(scene, &rules)).collect();
        let live =
            |daemon: &Daemon<'_>| daemon.json(&["status"])["data_path"]["escrow"]["lease_ms"].as_u64().unwrap_or(0) > 0;
        until("every host has its slices", PATIENCE, || daemons.iter().all(live)).expect("slices");

        let requests = if report::long() { 250_000 } else { 700 };
        let mut ran = hurt(&scenes, &mut daemons, &mut vault, &roads, requests);
        // Until nobody gets anything any more.
        for round in 0..10 {
            let base = 1_000 + requests.min(MOST) + 64 * round;
            let again = together(daemons.iter().map(|daemon| vec![load(daemon, 64, base)]).collect());
            let served: usize = again.iter().map(|ran| told(ran)[0]).sum();
            ran.extend(again);
            if served == 0 {
                break;
            }
        }
        let counts =
            ran.iter().map(told).fold([0; 3], |sum, told| [sum[0] + told[0], sum[1] + told[1], sum[2] + told[2]]);
        let [answered, refused, unanswered] = counts;
        assert!(answered > 0 && refused > 0, "{counts:?}: the budget must run out in between");

        let limit = limits()[2];
        let (bill, ledger) = spent(&scenes, &daemons);
        let overspend = bill.max(ledger).saturating_sub(limit);
        let share = ledger * 100 / limit;
        for (key, value) in [
            ("daemons", DAEMONS as u64),
            ("budget_used_share", share),
            ("shared_requests", counts.iter().sum::<usize>() as u64),
        ] {
            report::figure("money", key, value);
        }
        report::largest("money", "overspend_nano", overspend);
        assert_eq!(overspend, 0, "bill {bill}, ledger {ledger}, limit {limit}");
        assert!(
            share >= 90,
            "{share} % of the budget could be used: {:?}",
            vault.query("SELECT * FROM escrow_windows")
        );
        agrees(&vault, ledger);
        assert!(roads.iter().all(|road| road.opened() > 0), "each host spoke with PostgreSQL");
        planted(&scenes, &daemons, &rules, limit);
        daemons.iter_mut().for_each(Daemon::stop);
        let mut more = Map::new();
        for (key, value) in [("answered", answered), ("refused", refused), ("unanswered", unanswered)] {
            more.insert(key.into(), json!(value));
        }
        more.insert("bill_nano".into(), json!(bill));
        more.insert("ledger_nano".into(), json!(ledger));
        more
    });
}

/// The loads of all hosts at once, those of one host after each other.
fn together(loads: Vec<Vec<Run>>) -> Vec<Ran> {
    std::thread::scope(|scope| {
        let running: Vec<_> = loads.into_iter().map(|loads| scope.spawn(|| one_by_one(loads))).collect();
        running.into_iter().flat_map(|one| one.join().expect("a load")).collect()
    })
}

fn one_by_one(loads: Vec<Run>) -> Vec<Ran> {
    loads.into_iter().map(Run::ran).collect()
}

/// The load, and in its middle: PostgreSQL is killed and started, a daemon is killed and started, a host is cut off.
fn hurt(scenes: &[Scene], daemons: &mut [Daemon<'_>], vault: &mut Vault, roads: &[Road], requests: usize) -> Vec<Ran> {
    let of = |daemon: &Daemon<'_>| (0..requests.div_ceil(MOST)).map(|_| load(daemon, requests, 1_000)).collect();
    let loads: Vec<Vec<Run>> = daemons.iter().map(of).collect();
    std::thread::scope(|scope| {
        let running: Vec<_> = loads.into_iter().map(|loads| scope.spawn(|| one_by_one(loads))).collect();
        let billed = || scenes.iter().map(|scene| scene.bill().len()).sum::<usize>() >= 50;
        until("calls are billed", PATIENCE, billed).expect("calls");
        vault.kill();
        std::thread::sleep(Duration::from_millis(500));
        vault.go_on();
        roads[2].cut();
        daemons[1].kill();
        daemons[1].restart();
        roads[2].mend();
        let mut ran: Vec<Ran> = running.into_iter().flat_map(|one| one.join().expect("a load")).collect();
        // Of the daemon that was killed, its clients' connections went with it.
        ran.push(load(&daemons[1], requests, 1_000).ran());
        ran
    })
}

/// PostgreSQL says the same as the ledgers, once each host has told it, and no window is above its limit.
fn agrees(vault: &Vault, ledger: u64) {
    let spent = || vault.query("SELECT budget || '|' || spent FROM escrow_windows ORDER BY budget");
    let wanted: Vec<String> = ["company", "seat", "team"].map(|budget| format!("{budget}|{ledger}")).to_vec();
    let told = until("PostgreSQL knows what was spent", PATIENCE, || spent() == wanted);
    assert!(told.is_ok(), "{:?} is not {wanted:?}", spent());
    let above = vault.query(
        "SELECT w.budget, w.allotted, l.nano FROM escrow_windows w JOIN escrow_limits l USING (budget) WHERE allotted > nano",
    );
    assert!(above.is_empty(), "{above:?}");
    assert!(vault.query("SELECT what FROM escrow_incidents").is_empty(), "nothing was forgotten");
}

/// Hosts that do not share the limit must turn the verdict: otherwise it says nothing.
fn planted(scenes: &[Scene], daemons: &[Daemon<'_>], rules: &str, limit: u64) {
    for daemon in daemons {
        daemon.configure(&rules.replace("shared = true", "shared = false"));
        let _ran = daemon.command(&["policy", "reload"]).ran().ok();
    }
    let _ran = together(daemons.iter().map(|daemon| vec![load(daemon, 200, 3_800)]).collect());
    let (bill, ledger) = spent(scenes, daemons);
    assert!(bill.max(ledger) > limit, "money that is not shared is seen: bill {bill}, ledger {ledger}, limit {limit}");
}
