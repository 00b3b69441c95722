//! Evidence is insert-only: each guarded table against UPDATE, DELETE and TRUNCATE by each role and by the owner. Roles lack
//! the right; the owner, who has it, is stopped by the triggers.

use crate::SUBJECT;
use crate::host::{Host, Message};
use crate::plane::{PATIENCE, Plane, now, text};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::process::Command;
use support::netns::until;
use support::report;

/// The tables of evidence.
const GUARDED: [&str; 8] = ["hosts", "retired", "events", "tiles", "checkpoints", "runs", "incidents", "charges"];
/// Whoever serves the plane logs in as a member of one of them.
const ROLES: [&str; 3] = ["caracal_ledger", "caracal_reader", "caracal_host"];
/// SQLSTATE: a right that is lacking, and what a trigger raises.
const DENIED: &str = "42501";
const RAISED: &str = "P0001";

#[test]
fn evidence_is_neither_changed_nor_deleted_by_anybody() {
    report::case(SUBJECT, "evidence is insert-only for each role and for the owner", || {
        let plane = Plane::start(1);
        filled(&plane);
        let before = contents(&plane);
        let guarded: BTreeSet<String> = plane
            .query(
                "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid \
                 WHERE proname = 'keep' AND NOT tgrelid::regclass::text LIKE 'escrow%'",
            )
            .into_iter()
            .collect();
        let named: BTreeSet<String> = GUARDED.iter().chain(&["events_0"]).map(|name| (*name).to_owned()).collect();
        assert_eq!(guarded, named, "a table that is guarded is tried here");
        let mut tried = 0;
        for table in &guarded {
            assert!(plane.count(&format!("SELECT count(*) FROM {table}")) > 0, "{table} has rows that could be hurt");
            for sql in hurts(&plane, table) {
                for role in ROLES {
                    assert_eq!(refused(&plane, Some(role), &sql), Some(DENIED.into()), "{role}: {sql}");
                }
                assert_eq!(refused(&plane, None, &sql), Some(RAISED.into()), "the owner: {sql}");
                tried += ROLES.len() + 1;
            }
        }
        // A reader writes nowhere; a worker enrols no hosts; nobody's role takes a guard off.
        for table in plane
            .query("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
        {
            let insert = format!("INSERT INTO {table} DEFAULT VALUES");
            for sql in hurts(&plane, &table).into_iter().chain([insert]) {
                assert_eq!(refused(&plane, Some("caracal_reader"), &sql), Some(DENIED.into()), "a reader: {sql}");
                tried += 1;
            }
        }
        for (role, sql) in ROLES.iter().flat_map(|role| {
            [
                "INSERT INTO hosts VALUES ('forged', 1, 'x')",
                "INSERT INTO retired VALUES ('h', 1)",
                "ALTER TABLE events DISABLE TRIGGER ALL",
                "DROP TRIGGER events_stay ON events",
                "SET session_replication_role = replica",
            ]
            .map(|sql| (*role, sql))
        }) {
            assert_eq!(refused(&plane, Some(role), sql), Some(DENIED.into()), "{role}: {sql}");
            tried += 1;
        }
        assert_eq!(contents(&plane), before, "nothing is changed");
        assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "caracald's own audit");
        // What a role is for, it may do: the refusals above are not those of a database that refuses everything.
        let incident = "INSERT INTO incidents VALUES (0, 1000000, 'c', 'h', 'w')";
        assert_eq!(refused(&plane, Some("caracal_ledger"), incident), None, "a worker writes incidents");
        assert_eq!(refused(&plane, Some("caracal_reader"), "SELECT count(*) FROM events"), None, "a reader reads");
        Map::from_iter([("tried".into(), json!(tried))])
    });
}

/// Brings rows into each of the tables by the ways that lead there.
fn filled(plane: &Plane) {
    let (mut host, gone) = (Host::new("h"), Host::new("gone"));
    let keys = host.public_key() + &gone.public_key();
    plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
    plane.caracald(&["hosts", "retire", "gone"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (producer, mut dice, at) = (plane.producer(), StdRng::seed_from_u64(5), now("now").text);
    let worker = plane.worker("ledger");
    // More than a tile, with calls that end.
    for _ in 0..3 {
        let records: Vec<_> = (0..100).map(|_| host.record(dice.random(), &at)).collect();
        let message = host.message(&records);
        runtime.block_on(message.send(&producer, &plane.topic));
        let junk = Message { payload: b"no records".to_vec(), ..message };
        runtime.block_on(junk.send(&producer, &plane.topic));
    }
    plane.settled(300);
    until("incidents", PATIENCE, || plane.count("SELECT count(*) FROM incidents") == 3).expect("incidents");
    worker.stop();
}

/// What must not be done to a table.
fn hurts(plane: &Plane, table: &str) -> [String; 3] {
    let column = plane.query(&format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND attidentity = '' \
         ORDER BY attnum LIMIT 1"
    ));
    let column = column.concat();
    // CASCADE: otherwise a foreign key would say no before the trigger does.
    [
        format!("UPDATE {table} SET \"{column}\" = \"{column}\""),
        format!("DELETE FROM {table}"),
        format!("TRUNCATE {table} CASCADE"),
    ]
}

/// The SQLSTATE that PostgreSQL refuses this with; `None` where it does it.
fn refused(plane: &Plane, role: Option<&str>, sql: &str) -> Option<String> {
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", &plane.postgres]);
    if let Some(role) = role {
        psql.args(["-c", &format!("SET ROLE {role}")]);
    }
    let output = psql.args(["-c", sql]).output().expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), !said.contains("ERROR:"), "{sql}: {said}");
    said.split_once("ERROR:").map(|(_, rest)| rest.trim_start().split(':').next().unwrap_or_default().to_owned())
}

/// What all of the tables hold.
fn contents(plane: &Plane) -> Vec<String> {
    let one = |table: &str| {
        plane.query(&format!(
            "SELECT count(*), md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {table} t"
        ))
    };
    GUARDED.iter().flat_map(|table| one(table)).collect()
}
