//! Who may write a chain: hosts that an administrator enrolled, with the key that signs their heads.

use super::keyring::Keyring;
use super::note::{Verifier, host_key_name};
use super::postgres::{Database, failed};
use super::store::StoreError;
use crate::bus::signed_run::{SignedRun, Unfit, is_host_id};
use sqlx::Row as _;
use std::collections::HashMap;

/// The hosts that are enrolled, each under its latest enrolment.
#[derive(Clone, Debug, Default)]
pub struct Hosts(HashMap<String, (u32, Option<Verifier>)>);

/// One enrolment, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Enrolled {
    /// The host.
    pub host: String,
    /// The number of its enrolment.
    pub enrolment: u32,
    /// Its verifier key.
    pub verifier: String,
    /// It is taken no longer.
    pub retired: bool,
    /// The log that has its records, where one has.
    pub log: Option<i32>,
    /// Sequence number of the record to come.
    pub next: Option<u64>,
    /// Time of its latest record, Unix milliseconds: its own clock's, and none that was to come when the record came.
    pub last_ms: Option<u64>,
    /// Since when nothing was heard of it, Unix milliseconds: its latest record in any log, or else its enrolment. `None` for an
    /// enrolment that is not in force.
    pub heard_ms: Option<u64>,
    /// How long ago that was, milliseconds of the database's clock.
    pub quiet_ms: Option<u64>,
}

impl Enrolled {
    /// Whether nothing was heard of it for longer than `after_ms`, though it is enrolled and not retired.
    #[must_use]
    pub fn is_silent(&self, after_ms: u64) -> bool {
        self.quiet_ms.is_some_and(|quiet| quiet > after_ms)
    }
}

impl Hosts {
    /// Reads them.
    ///
    /// # Errors
    /// The database's.
    pub async fn load(database: &mut Database) -> Result<Hosts, StoreError> {
        let mut hosts = Hosts::default();
        for one in list(database).await? {
            // In order: a later enrolment takes the place of the one before, also when it is retired.
            let verifier = (!one.retired).then(|| Verifier::parse(&one.verifier)).transpose();
            let verifier =
                verifier.map_err(|error| StoreError::Damaged(format!("the key of {}: {error}", one.host)))?;
            hosts.0.insert(one.host, (one.enrolment, verifier));
        }
        Ok(hosts)
    }

    /// Holds a run against its host's key; gives the number of the enrolment.
    ///
    /// # Errors
    /// Why it is none.
    pub fn check(&self, run: &SignedRun) -> Result<u32, Unfit> {
        let Some((enrolment, Some(verifier))) = self.0.get(&run.host) else { return Err(Unfit::UnknownHost) };
        run.check(verifier).map(|()| *enrolment)
    }
}

/// Enrols the hosts whose keys stand in `text`, as `caracald ledger keys` prints them; those that are enrolled with that key
/// already stay as they are. Gives what was added.
///
/// # Errors
/// When there is no host's key in it, or the database's.
pub async fn enrol(database: &mut Database, text: &str) -> Result<Vec<(String, u32)>, StoreError> {
    let mut added = Vec::new();
    let keys = Keyring::parse(text).map_err(|error| StoreError::Damaged(error.to_string()))?.keys;
    let hosts = keys.iter().filter_map(|key| {
        let host = key.name().strip_prefix("caracal/")?.strip_suffix("/host")?;
        (is_host_id(host) && key.name() == host_key_name(host)).then_some((host, key))
    });
    let known = list(database).await?;
    let mut found = false;
    for (host, key) in hosts {
        found = true;
        let last = known.iter().rfind(|one| one.host == host);
        if last.is_some_and(|last| last.verifier == key.to_string() && !last.retired) {
            continue;
        }
        let enrolment = last.map_or(1, |last| last.enrolment.saturating_add(1));
        let connection = database.up().await.map_err(|error| failed(&error))?;
        let done = sqlx::query("INSERT INTO hosts (host, enrolment, verifier) VALUES ($1, $2, $3)")
            .bind(host)
            .bind(i32::try_from(enrolment).unwrap_or(i32::MAX))
            .bind(key.to_string())
            .execute(connection)
            .await;
        done.map_err(|error| failed(&error))?;
        added.push((host.to_owned(), enrolment));
    }
    if found {
        Ok(added)
    } else {
        Err(StoreError::Damaged("there is no key of a host in it; `caracald ledger keys` prints one".into()))
    }
}

/// Takes no more from this host. False if it is not enrolled.
///
/// # Errors
/// The database's.
pub async fn retire(database: &mut Database, host: &str) -> Result<bool, StoreError> {
    let connection = database.up().await.map_err(|error| failed(&error))?;
    let done = sqlx::query(
        "INSERT INTO retired (host, enrolment) SELECT host, max(enrolment) FROM hosts WHERE host = $1 GROUP BY host \
         ON CONFLICT DO NOTHING",
    )
    .bind(host)
    .execute(connection)
    .await;
    done.map(|done| done.rows_affected() > 0).map_err(|error| failed(&error))
}

/// Every enrolment, in order.
///
/// # Errors
/// The database's.
pub async fn list(database: &mut Database) -> Result<Vec<Enrolled>, StoreError> {
    let rows = async {
        let connection = database.up().await?;
        let rows = sqlx::query(
            "SELECT hosts.host, hosts.enrolment, verifier, retired.host IS NOT NULL AS retired, log, \
             (state->>'next')::bigint AS next, last_ms, \
             CASE WHEN retired.host IS NULL AND hosts.enrolment = max(hosts.enrolment) OVER whole \
             THEN greatest(max(last_ms) OVER whole, (extract(epoch FROM enrolled_at) * 1000)::bigint) END AS heard_ms, \
             (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms \
             FROM hosts LEFT JOIN retired USING (host, enrolment) LEFT JOIN chains ON chains.host = hosts.host \
             WINDOW whole AS (PARTITION BY hosts.host) ORDER BY hosts.host, hosts.enrolment, log",
        );
        let rows = rows.fetch_all(connection).await?;
        let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        rows.iter()
            .map(|row| {
                let heard_ms = positive(row.try_get("heard_ms")?);
                let now = positive(row.try_get("now_ms")?).unwrap_or(0);
                Ok(Enrolled {
                    host: row.try_get("host")?,
                    enrolment: u32::try_from(row.try_get::<i32, _>("enrolment")?).unwrap_or(u32::MAX),
                    verifier: row.try_get("verifier")?,
                    retired: row.try_get("retired")?,
                    log: row.try_get("log")?,
                    next: positive(row.try_get("next")?),
                    last_ms: positive(row.try_get("last_ms")?),
                    heard_ms,
                    quiet_ms: heard_ms.map(|heard| now.saturating_sub(heard)),
                })
            })
            .collect()
    };
    let rows: Result<Vec<Enrolled>, sqlx::Error> = rows.await;
    if rows.is_err() {
        database.down();
    }
    rows.map_err(|error| failed(&error))
}
