//! What an administrator writes into the vault in PostgreSQL: limits, and that somebody has looked at what went wrong.

use crate::ledger::postgres::signed;
use crate::money::NanoUsd;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

/// This server and its tables, as [`accept`] remembers them.
pub(super) const SERVER: &str = "SELECT concat_ws(' ', 'escrow_holders'::regclass::oid, 'escrow_windows'::regclass::oid, \
     'escrow_shares'::regclass::oid) AS tables, (SELECT system_identifier::text FROM pg_control_system()) AS system, \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline, \
     (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms, \
     (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint AS started_ms";

/// Puts the limits of shared budgets into the database, as its owner. Gives those that changed. Where nobody has looked at
/// this database before, there is nothing that it could have forgotten: it is accepted.
///
/// # Errors
/// The database's.
pub async fn set_limits(connection: &mut PgConnection, limits: &[(&str, NanoUsd)]) -> Result<Vec<String>, sqlx::Error> {
    let mut changed = Vec::new();
    for (budget, limit) in limits {
        let set = sqlx::query(
            "INSERT INTO escrow_limits (budget, version, nano) SELECT $1, coalesce(max(version), 0) + 1, $2 FROM escrow_limits \
             WHERE budget = $1 HAVING (SELECT nano FROM escrow_limits WHERE budget = $1 ORDER BY version DESC LIMIT 1) \
             IS DISTINCT FROM $2",
        );
        if set.bind(*budget).bind(signed(limit.0)).execute(&mut *connection).await?.rows_affected() > 0 {
            changed.push((*budget).to_owned());
        }
    }
    let seen = sqlx::query("SELECT FROM escrow_accepted LIMIT 1").fetch_optional(&mut *connection).await?;
    if seen.is_none() {
        accept(connection).await?;
    }
    Ok(changed)
}

/// An operator has looked at what went wrong, and hosts spend from shared budgets again. Gives what it was. In a transaction of
/// its own: the row's number is told by it.
///
/// # Errors
/// The database's.
pub async fn accept(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let rows = sqlx::query(
        "SELECT what FROM escrow_incidents WHERE halts AND id > coalesce((SELECT max(upto) FROM escrow_accepted), 0) ORDER BY id",
    );
    let rows = rows.fetch_all(&mut *transaction).await?;
    let server = sqlx::query(SERVER).fetch_one(&mut *transaction).await?;
    sqlx::query(
        "INSERT INTO escrow_accepted (upto, system, timeline, made, tables) \
         SELECT coalesce(max(id), 0), $1, $2, txid_current(), $3 FROM escrow_incidents",
    )
    .bind(server.try_get::<String, _>("system")?)
    .bind(server.try_get::<String, _>("timeline")?)
    .bind(server.try_get::<String, _>("tables")?)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    rows.iter().map(|row| row.try_get("what")).collect()
}
