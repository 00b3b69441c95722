//! A ledger in PostgreSQL that an earlier version wrote: for each version of the tables, those that it had, with its rows. `setup
//! postgres` brings them up, the audit finds nothing, and a worker goes on where the earlier one was.

use crate::SUBJECT;
use crate::host::{Host, hex};
use crate::plane::{PATIENCE, Plane, now, run, text};
use aws_lc_rs::digest::{SHA384, digest};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::netns::until;
use support::report;

/// Sums of all that is charged, and where hosts and open calls stand: what must be the same, however batches were cut.
const SUMS: &str = "SELECT 'total', host, budget, sum(nano), sum(credited) FROM totals GROUP BY 2, 3 UNION ALL \
    SELECT 'charge', host, model || minute, sum(nano), sum(calls + credited + sent + received) FROM charges GROUP BY 2, 3 UNION ALL \
    SELECT 'chain', host, state::text, last_ms, 0 FROM chains UNION ALL \
    SELECT 'open', host, call, leaf, 0 FROM open_intents UNION ALL \
    SELECT 'log', encode(root, 'hex'), origin, size, next_offset FROM logs UNION ALL \
    SELECT 'incident', host, code, kafka_offset, 0 FROM incidents ORDER BY 1, 2, 3";

#[test]
fn a_ledger_of_each_earlier_version_goes_on() {
    report::plain(SUBJECT, "tables of each earlier version are brought up, and go on", || {
        let mut plane = Plane::start(1);
        let mut dice = StdRng::seed_from_u64(14);
        let (mut host, mut gone) = (Host::new("host"), Host::new("gone"));
        let keys = [&host, &gone].map(Host::public_key).concat();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let topic = plane.topic.clone();
        let mut send = |host: &mut Host, size: usize| {
            let at = now("now").text;
            let records: Vec<_> = (0..size).map(|_| host.record(dice.random(), &at)).collect();
            runtime.block_on(host.message(&records).send(&producer, &topic));
        };
        let worker = plane.worker("ledger");
        for _ in 0..4 {
            send(&mut host, 150);
            send(&mut gone, 50);
        }
        plane.settled(800);
        // One that nobody knows: an incident; and one that is retired.
        send(&mut Host::new("stranger"), 3);
        until("an incident", PATIENCE, || plane.count("SELECT count(*) FROM incidents") == 1).expect("one");
        plane.caracald(&["hosts", "retire", "gone"]);
        worker.stop();
        let (newest, before) = (plane.postgres.clone(), std::fs::read_to_string(plane.config()).expect("read"));
        let (open, keys) = (plane.count("SELECT count(*) FROM open_intents"), plane.keys());
        assert!(open > 0, "no call is open");
        let migrations = migrations();
        let mut earlier = Vec::new();
        for version in 1..migrations.len() {
            plane.query(&format!("CREATE DATABASE version_{version}"));
            let place = format!("{}/version_{version}", newest.rsplit_once('/').expect("a database").0);
            let keys_then = keys.with_file_name(format!("keys-{version}"));
            run("cp", &["-a", text(&keys), text(&keys_then)]);
            plane.postgres.clone_from(&place);
            as_of(&plane, &migrations[..version], &newest);
            assert_eq!(plane.count("SELECT count(*) FROM open_intents"), open, "version {version}");
            plane.postgres.clone_from(&newest);
            earlier.push((version, place, keys_then));
        }

        // The database of this version goes on first, and says what there should be.
        let worker = plane.worker("ledger");
        send(&mut host, 70);
        plane.settled(870);
        worker.stop();
        let wanted = plane.query(SUMS);
        for (version, place, keys_then) in earlier {
            let config = before.replace(&newest, &place).replace(text(&keys), text(&keys_then));
            std::fs::write(plane.config(), config).expect("written");
            plane.postgres = place;
            plane.caracald(&["setup", "postgres"]);
            plane.caracald(&["setup", "postgres"]);
            assert!(
                plane.agrees(&["ledger", "verify", "--fleet"]),
                "version {version} as it was, in tables of this one"
            );
            let worker = plane.worker("ledger");
            plane.settled(870);
            assert_eq!(plane.query(SUMS), wanted, "version {version}\n{}", plane.log());
            worker.stop();
            assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "version {version} went on");
            plane.postgres.clone_from(&newest);
        }
        std::fs::write(plane.config(), before).expect("written");
    });
}

/// The numbered SQL, in order.
fn migrations() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres");
    let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// Makes the tables of these migrations in the plane's database, as sqlx writes down what it ran, and fills each table that there
/// was then, in each of its columns, with the rows of `donor`. A migration that renames something needs a word here on what
/// stood there before.
fn as_of(plane: &Plane, migrations: &[PathBuf], donor: &str) {
    let quiet = ["-XAtq", "-v", "ON_ERROR_STOP=1", &plane.postgres];
    plane.query(
        "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT \
         NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL)",
    );
    for (version, path) in (1..).zip(migrations) {
        run("psql", &[&quiet[..], &["--single-transaction", "-f", text(path)]].concat());
        let sum = hex(digest(&SHA384, &std::fs::read(path).expect("SQL")).as_ref());
        plane.query(&format!(
            "INSERT INTO _sqlx_migrations VALUES ({version}, 'earlier', now(), true, decode('{sum}', 'hex'), 0)"
        ));
    }
    let tables = plane.query(
        "SELECT relname, string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_class c JOIN pg_attribute a ON \
         attrelid = c.oid WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND \
         relname <> '_sqlx_migrations' AND attnum > 0 AND NOT attisdropped AND attidentity = '' GROUP BY c.oid, relname \
         ORDER BY c.oid",
    );
    for table in tables {
        let (name, columns) = table.split_once('|').expect("two columns");
        let out = format!("COPY (SELECT {columns} FROM {name}) TO STDOUT");
        let mut from = Command::new("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", donor, "-c", &out])
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let rows = from.stdout.take().expect("a pipe");
        let mut to = Command::new("psql");
        let copied = to.args(quiet).args(["-c", &format!("COPY {name} ({columns}) FROM STDIN")]).stdin(rows).status();
        assert!(copied.expect("psql runs").success() && from.wait().expect("its end").success(), "{name}");
    }
}
