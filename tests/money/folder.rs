//! The same without a server: instances of one host share budgets through a file, while one of them is killed and the file is held
//! by somebody else. Then an older copy is put in its place, and nobody spends until somebody has looked.

use crate::STAND_IN;
use crate::crowd::{Crowd, DAEMONS, PATIENCE, limit, requests};
use serde_json::{Map, json};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::daemon::Daemon;
use support::netns::until;
use support::programs;
use support::report;
use support::scene::Scene;

fn file(folder: &Path) -> PathBuf {
    folder.join("budgets.sqlite")
}

/// The rows of a query, columns with `|` between them, by a SQLite that is not caracald's.
fn query(folder: &Path, sql: &str) -> Vec<String> {
    let script = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print('|'.join(map(str, row)))";
    let output =
        Command::new(programs::python()).args(["-c", script]).arg(file(folder)).arg(sql).output().expect("python");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Somebody has the file for himself for two seconds.
fn held_by_somebody(folder: &Path) {
    let script = "import sqlite3, sys, time\ndb = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\ndb.execute('BEGIN IMMEDIATE')\ntime.sleep(2)";
    let status = Command::new(programs::python()).args(["-c", script]).arg(file(folder)).stdin(Stdio::null()).status();
    assert!(status.expect("python").success(), "the file could not be held");
}

#[test]
fn instances_of_one_host_never_spend_more_than_they_share_through_a_file() {
    report::case("money", "4 daemons x 64 clients over a shared file", || {
        let scenes: Vec<Scene> = (0..DAEMONS).map(|_| Scene::quiet(STAND_IN).expect("the scene stands")).collect();
        let place = tempfile::Builder::new().prefix("caracal-shared-").tempdir_in("/var/tmp").expect("a directory");
        support::netns::open_to_all(place.path()).expect("its mode");
        let folder = place.path().join("shared");
        let escrow = format!("[escrow]\nlease_ms = 30000\nfolder = \"{}\"\n", folder.display());
        let rules = crate::crowd::rules(&escrow);
        let daemons: Vec<Daemon<'_>> = scenes.iter().map(|scene| Daemon::start(scene, &rules)).collect();
        let mut crowd = Crowd::new(&scenes, daemons);
        crowd.wait_for_slices();
        let mut counts = crowd.load(requests(), |daemons| {
            held_by_somebody(&folder);
            daemons[1].kill();
            daemons[1].restart();
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
        report::figure("money", "folder_requests", counts.all());
        report::measure("money", "folder_budget_used_share", share);
        report::measure("money", "folder_budget_billed_share", billed);
        assert!(least >= 0.9, "each level runs out, {least} of one was used: {spent:?}");
        report::largest("money", "overspend_nano", overspend);
        assert_eq!(overspend, 0, "{spent:?}, limit {limit}");
        assert!(
            share >= 0.9,
            "{share} of the budget could be used: {:?}",
            query(&folder, "SELECT * FROM escrow_windows")
        );
        let told = || query(&folder, "SELECT budget, scope, spent FROM escrow_windows ORDER BY budget, scope");
        let wanted = spent.rows();
        let agrees = until("the file knows what was spent", PATIENCE, || told() == wanted);
        assert!(agrees.is_ok(), "{:?} is not {wanted:?}", told());
        assert!(query(&folder, "SELECT what FROM escrow_incidents").is_empty(), "nothing was forgotten");
        crowd.verify();
        let halted = older_copy(&folder, &crowd);
        // What was spent is spent, though the copy knew of nothing.
        let agrees = until("the file knows again what was spent", PATIENCE, || told() == wanted);
        assert!(agrees.is_ok(), "{:?} is not {wanted:?}", told());
        let again = crowd.ask_for_less();
        let after = crowd.spent();
        assert_eq!(after.over(), 0, "money was freed: {again:?}, {after:?}");
        crowd.planted(&rules);
        crowd.stop();
        let mut more = Map::from_iter([
            ("bill_nano".into(), json!(spent.bill)),
            ("ledger_nano".into(), json!(spent.ledger)),
            ("halted".into(), json!(halted)),
        ]);
        more.extend(counts.told());
        more
    });
}

/// A file from before all of this takes its place: every instance stops spending, says why, and goes on once it is accepted.
fn older_copy(folder: &Path, crowd: &Crowd<'_>) -> String {
    let owner = std::fs::metadata(file(folder)).expect("the file");
    let fresh = folder.join("fresh");
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[2], isolation_level=None)\nsqlite3.connect(sys.argv[1]).backup(db)\n\
                  for table in ('escrow_shares', 'escrow_windows', 'escrow_holders'): db.execute('DELETE FROM ' + table)\n\
                  db.execute('UPDATE escrow_file SET serial = 1')";
    let made = Command::new(programs::python()).args(["-c", script]).arg(file(folder)).arg(&fresh).status();
    assert!(made.expect("python").success());
    use std::os::unix::fs::MetadataExt as _;
    chown(&fresh, Some(owner.uid()), Some(owner.gid())).expect("its owner");
    for log in ["-wal", "-shm"] {
        let _none = std::fs::remove_file(folder.join(format!("budgets.sqlite{log}")));
    }
    std::fs::rename(&fresh, file(folder)).expect("in place");
    let why = crowd.halted();
    assert!(why.contains("halted"), "{why}");
    crowd.command(0, &["budgets", "--accept"]);
    crowd.wait_for_slices();
    why
}
