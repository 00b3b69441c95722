//! What the view is made of: takes the charges that the ledger's commits left in PostgreSQL, in order, whole commits only.
//! Refuses nothing but what the database refuses; after an error the connection is made anew.

use super::{FleetKey, set};
use crate::ledger::books::Spend;
use crate::ledger::postgres::{Database, failed, number, signed};
use crate::ledger::store::StoreError;
use sqlx::Row as _;

/// Charges that one step reads, about: those of one commit are never parted.
const STEP_ROWS: i64 = 500;

/// A row of the table `charges`.
#[derive(Clone, Debug)]
pub(super) struct Charge {
    /// The size of the log at which its commit ended.
    pub(super) upto: u64,
    pub(super) key: FleetKey,
    pub(super) minute: String,
    pub(super) spend: Spend,
}

pub(super) async fn logs(ledger: &mut Database) -> Result<Vec<i32>, StoreError> {
    let rows = async {
        let connection = ledger.up().await?;
        let rows = sqlx::query("SELECT log FROM logs ORDER BY log").fetch_all(connection).await?;
        rows.iter().map(|row| row.try_get("log")).collect()
    };
    let rows: Result<Vec<i32>, sqlx::Error> = rows.await;
    told(ledger, rows)
}

/// The charges of whole commits behind `mark`.
pub(super) async fn charges(ledger: &mut Database, log: i32, mark: u64) -> Result<Vec<Charge>, StoreError> {
    let rows = async {
        let connection = ledger.up().await?;
        let rows = sqlx::query(
            "SELECT * FROM charges WHERE log = $1 AND upto > $2 AND upto <= (SELECT max(upto) FROM \
             (SELECT upto FROM charges WHERE log = $1 AND upto > $2 ORDER BY upto LIMIT $3) AS next) ORDER BY upto",
        );
        let rows = rows.bind(log).bind(signed(mark)).bind(STEP_ROWS).fetch_all(connection).await?;
        rows.iter().map(charge).collect()
    };
    let rows: Result<Vec<Charge>, sqlx::Error> = rows.await;
    told(ledger, rows)
}

/// Whether a commit with charges ended at this size.
pub(super) async fn is_commit(ledger: &mut Database, log: i32, size: u64) -> Result<bool, StoreError> {
    let row = async {
        let connection = ledger.up().await?;
        let row = sqlx::query("SELECT EXISTS (SELECT FROM charges WHERE log = $1 AND upto = $2) AS there");
        row.bind(log).bind(signed(size)).fetch_one(connection).await?.try_get("there")
    };
    let row: Result<bool, sqlx::Error> = row.await;
    told(ledger, row)
}

fn told<T>(ledger: &mut Database, rows: Result<T, sqlx::Error>) -> Result<T, StoreError> {
    rows.map_err(|error| {
        ledger.down();
        failed(&error)
    })
}

fn charge(row: &sqlx::postgres::PgRow) -> Result<Charge, sqlx::Error> {
    let mut spend = Spend::default();
    for name in Spend::NUMBERS {
        set(&mut spend, name, number(row, name)?);
    }
    let key = FleetKey {
        host: row.try_get("host")?,
        agent: row.try_get("agent")?,
        provider: row.try_get("provider")?,
        model: row.try_get("model")?,
    };
    Ok(Charge { upto: number(row, "upto")?, key, minute: row.try_get("minute")?, spend })
}
