//! What PostgreSQL has beside a log's records: who was enrolled, checkpoints, and what hosts signed.

use super::heads::{self, Run};
use super::hosts::Hosts;
use super::{Against, Audit};
use crate::ledger::kept::Kept;
use crate::ledger::note::{Checkpoint, Verifier};
use crate::ledger::postgres::{PostgresStore, number};
use crate::ledger::tree::Tree;
use crate::ledger::verify::Report;
use sqlx::Row as _;
use std::collections::{HashMap, VecDeque};

impl Audit {
    pub(super) async fn load(store: &mut PostgresStore, against: &Against<'_>, log: i32) -> Result<Audit, sqlx::Error> {
        let connection = store.database().up().await?;
        let rows = sqlx::query("SELECT host, enrolment, verifier FROM hosts").fetch_all(&mut *connection).await?;
        let mut enrolled = HashMap::new();
        let mut report = Report::default();
        for row in rows {
            let (host, enrolment): (String, i32) = (row.try_get("host")?, row.try_get("enrolment")?);
            match Verifier::parse(row.try_get("verifier")?) {
                Ok(key) => drop(enrolled.insert((host, enrolment), key)),
                Err(error) => report.find("host_key", format!("the key of {host}: {error}")),
            }
        }
        let rows = sqlx::query("SELECT size, note FROM checkpoints WHERE log = $1 ORDER BY size").bind(log);
        let mut checkpoints = VecDeque::new();
        for row in rows.fetch_all(&mut *connection).await? {
            checkpoints.push_back((number(&row, "size")?, row.try_get::<String, _>("note")?));
        }
        let opened =
            checkpoints.iter().map(|(_, note)| Checkpoint::open(note, against.keys).map_err(|error| error.to_string()));
        let opened = opened.collect();
        let rows = sqlx::query(
            "SELECT leaf, host, enrolment, first, last, head_sequence, head, signature FROM runs WHERE log = $1 ORDER BY leaf",
        );
        let mut runs = VecDeque::new();
        for row in rows.bind(log).fetch_all(&mut *connection).await? {
            runs.push_back(Run {
                leaf: number(&row, "leaf")?,
                host: row.try_get("host")?,
                enrolment: row.try_get("enrolment")?,
                first: number(&row, "first")?,
                last: number(&row, "last")?,
                head_sequence: number(&row, "head_sequence")?,
                head: row.try_get("head")?,
                signature: row.try_get("signature")?,
            });
        }
        let row = sqlx::query(
            "SELECT checkpoints, runs, (SELECT count(*) FROM tiles WHERE tiles.log = logs.log) AS tiles FROM logs WHERE log = $1",
        );
        let row = row.bind(log).fetch_optional(connection).await?;
        let counts = match &row {
            Some(row) => (number(row, "checkpoints")?, number(row, "runs")?, number(row, "tiles")?),
            None => (0, 0, 0),
        };
        report.checkpoints = checkpoints.len() as u64;
        report.heads = runs.len() as u64;
        let mut audit = Audit {
            origin: String::new(),
            signed: against.signed,
            books: against.books.to_vec(),
            report,
            tree: Tree::default(),
            full: Vec::new(),
            checkpoints,
            opened,
            named: heads::named(&runs),
            succeeds: false,
            runs: Some(runs),
            hosts: Hosts::default(),
            corrections: Vec::new(),
            keys: enrolled,
            kept: Kept::default(),
            counts,
            tiles: 0,
        };
        audit.opened.reverse();
        Ok(audit)
    }
}
