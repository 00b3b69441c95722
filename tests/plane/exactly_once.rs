//! Many events, everything killed at random: nothing lost, nothing doubled, the root that of the model, Redis equal.

use crate::SUBJECT;
use crate::fleet::{Clocks, Fleet};
use crate::host::Host;
use crate::judge::{Verdict, judge};
use crate::plane::{PATIENCE, Plane, text};
use crate::worker::Worker;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::netns::until;
use support::report::{self, seed};

/// What is killed in one round.
const TARGETS: [&str; 5] = ["ledger worker", "kafka", "postgres", "redis", "spend worker"];

#[test]
fn kills_lose_nothing_and_double_nothing() {
    report::case(SUBJECT, "exactly once under kills", || {
        let (events, kills) = if report::long() { (1_000_000, 100) } else { (20_000, 6) };
        let plane = Plane::start(2);
        let mut workers = vec![plane.worker("ledger"), plane.worker("ledger"), plane.worker("spend")];
        let fleet = Fleet::start(&plane, sized("CARACAL_EVENTS", events), Clocks::True);
        let total = fleet.total;
        let kills = if plane.ours { sized("CARACAL_KILLS", kills) } else { 0 };
        let states = hurt(&plane, &mut workers, kills, &fleet);
        let written = |state: &Value| state["worker"]["logs"].as_array().cloned().unwrap_or_default();
        let hit: Vec<Value> = states.iter().flat_map(written).collect();
        // Few kills may miss one; of many, the writers of both logs are among them.
        assert!(kills < 50 || (0..plane.partitions).all(|log| hit.contains(&json!(log))), "hit: {states:?}");
        let hosts = fleet.settled(&plane);
        let verdict = judge(&plane, &hosts, &[]);
        for (key, value) in [
            ("events", total),
            ("kills", states.len() as u64),
            ("lost", verdict.lost),
            ("doubled", verdict.doubled),
            ("roots_equal", u64::from(verdict.roots_equal)),
            ("redis_equal", u64::from(verdict.redis_equal)),
        ] {
            report::figure(SUBJECT, key, value);
        }
        let incidents = plane.query("SELECT code, host, what FROM incidents");
        assert_eq!((verdict, incidents), (Verdict::SOUND, Vec::new()), "seed {}\n{}", seed(), plane.log());
        workers.into_iter().for_each(Worker::stop);
        planted(&plane, &hosts);
        let mut more = Map::new();
        more.insert("seed".into(), json!(seed()));
        more.insert("states".into(), json!(states));
        more
    });
}

/// Another size, for whoever looks for something.
fn sized(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Kills one after the other while events flow, and starts it again. Gives the state that each blow hit: of a ledger's worker
/// also which of the two it was and which logs it wrote; an idle one has none.
fn hurt(plane: &Plane, workers: &mut [Worker], kills: u64, fleet: &Fleet) -> Vec<Value> {
    let mut dice = StdRng::seed_from_u64(seed());
    let mut states = Vec::new();
    let mut leaves = 0;
    for round in 0..kills {
        // Spread over the events: what was let loose before is done, and each blow hits what is let loose now.
        let share = |rounds: u64| fleet.total * rounds / (kills + 2);
        let taken = || plane.count("SELECT sum(size) FROM logs") >= share(round + 1).min(leaves + 1);
        let flows = || fleet.sent() >= share(round + 1) && taken();
        fleet.allow(share(round + 1));
        assert!(until("events flow", PATIENCE, flows).is_ok(), "after {round} kills\n{}", plane.log());
        fleet.allow(share(round + 2));
        std::thread::sleep(Duration::from_millis(dice.random_range(0..300)));
        // Each at least once, then by lot.
        let at = if round < TARGETS.len() as u64 { round as usize } else { dice.random_range(0..TARGETS.len()) };
        let target = TARGETS[at];
        let mut state = hit(plane);
        leaves = state["leaves"].as_u64().unwrap_or(0);
        state["killed"] = json!(target);
        state["sent"] = json!(fleet.sent());
        match target {
            "ledger worker" => {
                let which = dice.random_range(0..2);
                state["worker"] = json!({ "which": which, "logs": workers[which].logs() });
                workers[which].kill();
                workers[which] = plane.worker("ledger");
            }
            "spend worker" => {
                workers[2].kill();
                workers[2] = plane.worker("spend");
            }
            service => {
                plane.services(&["kill", service]);
                std::thread::sleep(Duration::from_millis(dice.random_range(0..500)));
                plane.services(&["start", service]);
            }
        }
        states.push(state);
        if round % 10 == 9 {
            println!("{} of {kills} kills, {} of {} records, {leaves} leaves", round + 1, fleet.sent(), fleet.total);
        }
    }
    states
}

/// What a blow hits: how far the logs are, and what each of the workers' connections does at that moment.
fn hit(plane: &Plane) -> Value {
    let rows = plane.query(
        "SELECT coalesce(sum(size), 0), coalesce(sum(runs), 0), (SELECT coalesce(string_agg(state || ': ' || \
         regexp_replace(left(query, 60), '\\s+', ' ', 'g'), '; '), 'no connection') FROM pg_stat_activity \
         WHERE application_name = 'caracald') FROM logs",
    );
    let mut parts = rows.first().expect("a row").splitn(3, '|');
    let mut number = || parts.next().and_then(|text| text.parse::<u64>().ok());
    let (leaves, runs) = (number(), number());
    json!({ "leaves": leaves, "runs": runs, "database": parts.next() })
}

/// The files of each log are sound with its public keys and nothing else, and a flipped bit is seen.
fn exported(plane: &Plane) {
    let files = plane.file("export.keys", "").with_file_name("export");
    plane.caracald(&["ledger", "export", "--fleet", text(&files)]);
    for partition in 0..plane.partitions {
        let log = files.join(format!("test-{partition}"));
        assert!(log.exists(), "log {partition} is exported, too");
        let keys = plane.file("export.keys", &plane.log_keys(partition));
        let words = ["ledger", "verify", "--folder", text(&log), "--public-key", text(&keys)];
        assert!(plane.agrees(&words), "the exported log {partition}");
        let bundle = some_file(&log.join("tile/entries"));
        let kept = std::fs::read(&bundle).expect("a bundle");
        let mut flipped = kept.clone();
        flipped[kept.len() / 2] ^= 1;
        std::fs::write(&bundle, flipped).expect("written");
        assert!(!plane.agrees(&words), "a flipped bit of {}", bundle.display());
        std::fs::write(&bundle, kept).expect("put back");
    }
}

fn some_file(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).expect("a directory");
    let path = entries.next().expect("a file").expect("an entry").path();
    if path.is_dir() { some_file(&path) } else { path }
}

/// Each fault must turn the verdict: otherwise it says nothing.
fn planted(plane: &Plane, hosts: &[Host]) {
    let unguarded = |sql: &str| {
        plane.query(&format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT"));
    };
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "the audit of a sound ledger");
    exported(plane);
    // A row of records is gone, and comes back.
    unguarded(
        "CREATE TABLE away AS SELECT * FROM events WHERE (log, first) IN (SELECT log, first FROM events ORDER BY first DESC LIMIT 1); DELETE FROM events WHERE (log, first) IN (SELECT log, first FROM away)",
    );
    assert!(judge(plane, hosts, &[]).lost > 0, "a row that is gone is lost records");
    assert!(!plane.agrees(&["ledger", "verify", "--fleet"]), "caracald's own audit sees it, too");
    unguarded("INSERT INTO events SELECT * FROM away");
    // The same row once more, behind the others.
    unguarded("INSERT INTO events SELECT log, first + 256, count, min_ms, max_ms, data FROM away");
    assert!(judge(plane, hosts, &[]).doubled > 0, "a row that is there twice is doubled records");
    unguarded("DELETE FROM events WHERE (log, first) IN (SELECT log, first + 256 FROM away); DROP TABLE away");
    // Another root.
    unguarded("UPDATE logs SET root = sha256(root)");
    assert!(!judge(plane, hosts, &[]).roots_equal, "another root is seen");
    // One nano-USD too much in the view: both the judge and caracald see it.
    assert!(plane.agrees(&["worker", "spend", "--check"]));
    let day = plane.redis(&["--raw", "KEYS", "*:spend:day:*"]).pop().expect("a day");
    let fields = plane.redis(&["--raw", "HKEYS", &day]);
    let nano = fields.iter().find(|field| field.ends_with("\"nano\"]")).expect("an amount");
    plane.redis(&["HINCRBY", &day, nano, "1"]);
    assert!(!judge(plane, hosts, &[]).redis_equal, "one nano-USD more is seen");
    assert!(!plane.agrees(&["worker", "spend", "--check"]));
    plane.caracald(&["worker", "spend", "--rebuild", "--once"]);
    assert!(plane.agrees(&["worker", "spend", "--check"]));
    assert!(judge(plane, hosts, &[]).redis_equal, "a view that was made anew is equal");
    // The tables themselves say no.
    let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plane.query("DELETE FROM events")));
    assert!(guarded.is_err(), "events are append-only, whoever asks");
}
