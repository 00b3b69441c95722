//! A host that shares a budget is gone with a slice of it: an operator writes it off, the others have what it did not spend, and
//! when it comes back after all it goes on without counting twice.

use crate::{LOAD, STAND_IN};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::daemon::Daemon;
use support::netns::{Ran, until};
use support::programs;
use support::report;
use support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(120);
const LIMIT: u64 = 1_000_000_000;

fn rules(folder: &Path) -> String {
    format!(
        "[escrow]\nlease_ms = 12000\nfolder = \"{}\"\n\n[[allow]]\nhosts = [\"api.openai.com\"]\n\n\
         [[budget]]\nname = \"team\"\nlimit = \"1 USD\"\nwindow = \"total\"\nshared = true\nwait_ms = 20000\n",
        folder.display()
    )
}

fn load(daemon: &Daemon<'_>, calls: &str) {
    let args = ["--clients", "2", "--requests", calls, "--words", "output=40"];
    let ran = daemon.run(LOAD).args(args).limit(PATIENCE).ran().ok();
    let answered = ran.stdout.lines().filter(|line| line.contains("\"status\":200")).count();
    assert_eq!(answered.to_string(), calls, "every call is answered\n{}", ran.screen());
}

fn billed(scene: &Scene) -> u64 {
    scene.bill().iter().map(|line| line.nano).sum()
}

/// Each holder that the vault knows.
fn holders(daemon: &Daemon<'_>) -> Vec<Value> {
    daemon.json(&["budgets", "holders"]).as_array().expect("holders").clone()
}

fn write_off(daemon: &Daemon<'_>, holder: &Value, more: &[&str]) -> Ran {
    let holder = holder["holder"].as_str().expect("an id");
    let words =
        ["budgets", "write-off", "--holder", holder, "--budget", "team", "--reason", "its disk is gone", "--json"];
    daemon.command(&words).args(more).ran()
}

fn usd(nano: u64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// What the budget says on this host: its slice, what others have spent, what nobody has.
fn parts(daemon: &Daemon<'_>) -> [u64; 3] {
    let budgets = daemon.json(&["budgets"]);
    ["slice_nano_usd", "elsewhere_nano_usd", "free_nano_usd"]
        .map(|part| budgets[0]["shared"][part].as_u64().unwrap_or_else(|| panic!("no {part}: {budgets}")))
}

#[test]
fn a_lost_hosts_slice_is_written_off_and_it_may_come_back() {
    report::plain("money", "budgets write-off gives a lost host's slice back, and only that", || {
        let scenes: Vec<Scene> = (0..2).map(|_| Scene::quiet(STAND_IN).expect("the scene stands")).collect();
        let place = tempfile::Builder::new().prefix("caracal-lost-").tempdir_in("/var/tmp").expect("a directory");
        support::netns::open_to_all(place.path()).expect("its mode");
        let folder = place.path().join("shared");
        let mut lost = Daemon::start(&scenes[0], &rules(&folder));
        let mut left = Daemon::start(&scenes[1], &rules(&folder));
        load(&left, "4");
        let mut known = Vec::new();
        // A daemon's first word to the file comes beside its `ready`.
        until("both are known", PATIENCE, || {
            known = holders(&left);
            known.len() == 2
        })
        .expect("two");
        // Both live; a file that is new may have forgotten it, and says that first.
        let alive = until("it is refused because they live", PATIENCE, || {
            let refused: Vec<Ran> = known.iter().map(|holder| write_off(&left, holder, &[])).collect();
            assert!(refused.iter().all(|ran| ran.code == Some(1)), "{}", refused[0].screen());
            refused.iter().all(|ran| ran.screen().contains("write_off_alive"))
        });
        assert!(alive.is_ok(), "{}", write_off(&left, &known[0], &[]).screen());
        load(&lost, "8");
        lost.kill();
        let (spent, of_left) = (billed(&scenes[0]), billed(&scenes[1]));

        let mut gone = Value::Null;
        until("its lease runs out", PATIENCE, || {
            gone = holders(&left).into_iter().find(|one| one["lease_ms"] == 0).unwrap_or_default();
            !gone.is_null()
        })
        .expect("a lease that ends");
        let slice = &gone["slices"][0];
        let (granted, said) = (slice["granted"].as_u64().expect("granted"), slice["spent"].as_u64().expect("spent"));
        assert!(said <= spent && spent < granted, "{slice}, billed {spent}");
        // Not more than it had, and nobody but root.
        let greedy = write_off(&left, &gone, &["--spent", &usd(granted + 1)]);
        assert_eq!(greedy.code, Some(1), "{}", greedy.screen());
        let agent = scenes[1].agent(support::daemon::caracald()).arg("--config").arg(left.config());
        let agent = agent.args(["budgets", "write-off", "--holder", "x", "--reason", "mine"]).ran();
        assert_ne!(agent.code, Some(0), "{}", agent.screen());

        let done = write_off(&left, &gone, &["--spent", &usd(spent)]).ok();
        let done: Value = serde_json::from_str(&done.stdout).expect("JSON");
        assert_eq!((done[0]["granted"].as_u64(), done[0]["spent"].as_u64()), (Some(granted), Some(spent)), "{done}");
        let mut found = [0; 3];
        let told = until("the other host hears of it", PATIENCE, || {
            found = parts(&left);
            found[1] == spent && found.iter().sum::<u64>() == LIMIT
        });
        assert!(told.is_ok(), "{found:?}: {spent} is spent elsewhere, and all is {LIMIT}");

        // It was not lost after all.
        lost.restart();
        load(&lost, "2");
        let again = billed(&scenes[0]);
        assert!(again > spent, "it spends again");
        let told = until("both know what both spent", PATIENCE, || {
            found = parts(&left);
            let other = parts(&lost);
            (found[1], other[1]) == (again, of_left)
        });
        assert!(told.is_ok(), "{found:?}: {again} is spent there, {of_left} here");
        let script = "import sqlite3, sys\nprint(sqlite3.connect(sys.argv[1]).execute('SELECT what FROM escrow_incidents').fetchall())";
        let what = Command::new(programs::python()).args(["-c", script]).arg(folder.join("budgets.sqlite")).output();
        let what = String::from_utf8(what.expect("python").stdout).expect("text");
        assert_eq!(
            what.matches("written off (uid 0: its disk is gone)").count(),
            1,
            "on record, and nothing else: {what}"
        );

        let _ran = (lost.verify(), left.verify());
        lost.stop();
        left.stop();
    });
}
