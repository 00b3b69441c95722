//! The store of many hosts: PostgreSQL, one log for each partition of the topic. A commit moves the log, its records, tiles,
//! checkpoint, chains and the offset together, or nothing, and only for the writer that took the log over last.

mod write;

use super::books::{OpenIntent, Total};
use super::chain::Chain;
use super::fleet::{FleetState, FleetStore, Part};
use super::store::{Batch, Chunk, Position, State, Store, StoreError, split_hashes};
use crate::event::{Hash, WindowKey};
use crate::journal::Start;
use crate::money::NanoUsd;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::types::Json;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::collections::HashMap;
use write::{write_chains, write_evidence};

/// The numbered SQL.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/postgres");
/// What a worker may do; whoever it logs in as must be a member.
pub const WRITER: &str = "caracal_ledger";
/// What a reader may do.
pub const READER: &str = "caracal_reader";
/// What a host with shared budgets may do.
pub const HOST: &str = "caracal_host";

/// A way into the database. Reconnects after an error.
#[derive(Debug)]
pub struct Database {
    options: PgConnectOptions,
    role: Option<&'static str>,
    connection: Option<PgConnection>,
}

impl Database {
    /// The database at `url`; `role` is put on once connected. Connects when it is first used.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, role: Option<&'static str>) -> Result<Database, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|error| failed(&error))?;
        let options = options.application_name("caracald").options([("synchronous_commit", "on")]);
        Ok(Database { options, role, connection: None })
    }

    /// A connection that is up.
    ///
    /// # Errors
    /// When there is none.
    pub async fn up(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.connection.is_none() {
            let mut connection = self.options.connect().await?;
            if let Some(role) = self.role {
                let set = match role {
                    WRITER => "SET ROLE caracal_ledger",
                    HOST => "SET ROLE caracal_host",
                    _ => "SET ROLE caracal_reader",
                };
                sqlx::query(set).execute(&mut connection).await?;
            }
            self.connection = Some(connection);
        }
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// After an error: what is left of the connection is thrown away.
    pub fn down(&mut self) {
        self.connection = None;
    }
}

/// One log.
#[derive(Debug)]
pub struct PostgresStore {
    database: Database,
    log: i32,
    fence: i64,
}

impl PostgresStore {
    /// Takes over the log of partition `part` of `topic`, and makes it if need be: no other writer commits to it any more.
    ///
    /// # Errors
    /// When the database cannot be reached, or `setup postgres` was not run.
    pub async fn take_over(
        mut database: Database,
        origin: &str,
        topic: &str,
        part: i32,
    ) -> Result<PostgresStore, StoreError> {
        let taken = take_over(&mut database, origin, topic, part).await;
        let (log, fence) = taken.map_err(|error| failed(&error))?;
        Ok(PostgresStore { database, log, fence })
    }

    /// Opens the log with this number to read it.
    #[must_use]
    pub fn reader(database: Database, log: i32) -> PostgresStore {
        PostgresStore { database, log, fence: -1 }
    }

    /// Its number.
    #[must_use]
    pub fn log(&self) -> i32 {
        self.log
    }

    /// The database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// The database, when the log is not read any more.
    #[must_use]
    pub fn into_database(self) -> Database {
        self.database
    }

    /// Ends with an error: the connection may be broken or inside a transaction.
    fn fail(&mut self, error: &sqlx::Error) -> StoreError {
        self.database.down();
        failed(error)
    }

    async fn try_load(&mut self) -> Result<State, sqlx::Error> {
        let log = self.log;
        let connection = self.database.up().await?;
        let mut state = State::default();
        let row = sqlx::query("SELECT origin, size, root, edges FROM logs WHERE log = $1").bind(log);
        let Some(row) = row.fetch_optional(&mut *connection).await? else { return Ok(state) };
        state.position = Some(Position {
            origin: row.try_get("origin")?,
            size: number(&row, "size")?,
            root: hash(&row, "root")?,
            cursor: Start::default(),
        });
        for edge in row.try_get::<Vec<Vec<u8>>, _>("edges")? {
            state.edges.push(split_hashes(&edge).map_err(|error| sqlx::Error::Decode(error.into()))?);
        }
        state.checkpoint = last_checkpoint(connection, log).await?;
        Ok(state)
    }

    async fn try_fleet(&mut self) -> Result<FleetState, sqlx::Error> {
        let log = self.log;
        let connection = self.database.up().await?;
        let mut state = FleetState::default();
        let row = sqlx::query("SELECT next_offset FROM logs WHERE log = $1").bind(log);
        if let Some(row) = row.fetch_optional(&mut *connection).await? {
            state.next_offset = number(&row, "next_offset")?;
        }
        let rows =
            sqlx::query("SELECT host, state FROM chains WHERE log = $1").bind(log).fetch_all(&mut *connection).await?;
        for row in rows {
            let chain: Json<Chain> = row.try_get("state")?;
            state.hosts.entry(row.try_get("host")?).or_default().chain = chain.0;
        }
        let rows = sqlx::query("SELECT host, call, intent FROM open_intents WHERE log = $1").bind(log);
        for row in rows.fetch_all(&mut *connection).await? {
            let intent: OpenIntent =
                serde_json::from_str(row.try_get("intent")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
            state.hosts.entry(row.try_get("host")?).or_default().open.insert(row.try_get("call")?, intent);
        }
        Ok(state)
    }

    /// True if it was committed, false if the log is another writer's by now.
    async fn try_commit(&mut self, batch: &Batch) -> Result<bool, sqlx::Error> {
        let (log, fence) = (self.log, self.fence);
        let none = Part::default();
        let part = batch.fleet.as_ref().unwrap_or(&none);
        let connection = self.database.up().await?;
        let mut transaction = connection.begin().await?;
        let position = &batch.position;
        let edges: Vec<&[u8]> = batch.edges.iter().map(|edge| edge.as_flattened()).collect();
        let moved = sqlx::query(
            "UPDATE logs SET size = $2, root = $3, edges = $4, next_offset = $5, checkpoints = checkpoints + $6, \
             runs = runs + $7 WHERE log = $1 AND size = $8 AND fence = $9 AND next_offset = $10",
        )
        .bind(log)
        .bind(signed(position.size))
        .bind(&position.root[..])
        .bind(edges)
        .bind(signed(part.offsets.1))
        .bind(i64::from(batch.checkpoint.is_some()))
        .bind(signed(part.runs.len() as u64))
        .bind(signed(batch.before))
        .bind(fence)
        .bind(signed(part.offsets.0))
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() != 1 {
            return Ok(false);
        }
        write_evidence(&mut transaction, log, batch, part).await?;
        write_chains(&mut transaction, log, position.size, part).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

async fn last_checkpoint(connection: &mut PgConnection, log: i32) -> Result<Option<(u64, String)>, sqlx::Error> {
    let row = sqlx::query("SELECT size, note FROM checkpoints WHERE log = $1 ORDER BY size DESC LIMIT 1").bind(log);
    let row = row.fetch_optional(connection).await?;
    row.map(|row| Ok((number(&row, "size")?, row.try_get("note")?))).transpose()
}

async fn take_over(database: &mut Database, origin: &str, topic: &str, part: i32) -> Result<(i32, i64), sqlx::Error> {
    let connection = database.up().await?;
    sqlx::query("INSERT INTO logs VALUES ($1, $2, 0, $3, '{}', 0, $4, $1, 0, 0, 0) ON CONFLICT DO NOTHING")
        .bind(part)
        .bind(origin)
        .bind(&super::tree::empty_root()[..])
        .bind(topic)
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query("UPDATE logs SET fence = fence + 1 WHERE topic = $1 AND part = $2 RETURNING log, fence")
        .bind(topic)
        .bind(part)
        .fetch_one(&mut *connection)
        .await?;
    Ok((row.try_get("log")?, row.try_get("fence")?))
}

impl Store for PostgresStore {
    async fn load(&mut self) -> Result<State, StoreError> {
        match self.try_load().await {
            Ok(state) => Ok(state),
            Err(error) => Err(self.fail(&error)),
        }
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        match self.try_commit(batch).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Conflict),
            Err(error) => Err(self.fail(&error)),
        }
    }

    async fn freeze(&mut self) -> Result<(), StoreError> {
        let began = async {
            let connection = self.database.up().await?;
            sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(connection).await.map(drop)
        };
        let began = began.await;
        began.map_err(|error| self.fail(&error))
    }

    async fn checkpoint(&mut self) -> Result<Option<(u64, String)>, StoreError> {
        let log = self.log;
        let found = async { last_checkpoint(self.database.up().await?, log).await };
        let found = found.await;
        found.map_err(|error| self.fail(&error))
    }

    async fn chunks_within(&mut self, first: u64, span: (u64, u64), limit: u32) -> Result<Vec<Chunk>, StoreError> {
        let log = self.log;
        let found = async {
            let connection = self.database.up().await?;
            let rows = sqlx::query(
                "SELECT first, count, min_ms, max_ms, data FROM events WHERE log = $1 AND first >= $2 AND max_ms >= $3 \
                 AND min_ms <= $4 ORDER BY first LIMIT $5",
            );
            let rows =
                rows.bind(log).bind(signed(first)).bind(signed(span.0)).bind(signed(span.1)).bind(i64::from(limit));
            rows.fetch_all(connection).await?.iter().map(chunk).collect()
        };
        let found: Result<Vec<Chunk>, sqlx::Error> = found.await;
        found.map_err(|error| self.fail(&error))
    }

    async fn chunk(&mut self, index: u64) -> Result<Option<Chunk>, StoreError> {
        let log = self.log;
        let found = async {
            let connection = self.database.up().await?;
            let row = sqlx::query(
                "SELECT first, count, min_ms, max_ms, data FROM events WHERE log = $1 AND first <= $2 AND first > $2 - 256 \
                 ORDER BY first DESC LIMIT 1",
            );
            let row = row.bind(log).bind(signed(index)).fetch_optional(connection).await?;
            row.as_ref().map(chunk).transpose()
        };
        let found = found.await;
        let found = found.map_err(|error| self.fail(&error))?;
        Ok(found.filter(|chunk| index < chunk.first + chunk.count))
    }

    async fn tile(&mut self, level: u32, n: u64) -> Result<Vec<Hash>, StoreError> {
        let (log, small) = (self.log, i16::try_from(level).unwrap_or(i16::MAX));
        let found = async {
            let connection = self.database.up().await?;
            let full = sqlx::query("SELECT data FROM tiles WHERE log = $1 AND level = $2 AND n = $3");
            let full = full.bind(log).bind(small).bind(signed(n)).fetch_optional(&mut *connection).await?;
            if let Some(row) = full {
                return row.try_get::<Vec<u8>, _>("data");
            }
            let row = sqlx::query("SELECT size, edges FROM logs WHERE log = $1").bind(log);
            let Some(row) = row.fetch_optional(connection).await? else { return Ok(Vec::new()) };
            let open = number(&row, "size")?.checked_shr(super::tree::TILE_HEIGHT * (level + 1)).unwrap_or(0);
            let edges: Vec<Vec<u8>> = row.try_get("edges")?;
            let edge = usize::try_from(level).ok().and_then(|level| edges.into_iter().nth(level));
            Ok(edge.filter(|_| open == n).unwrap_or_default())
        };
        let found = found.await;
        split_hashes(&found.map_err(|error| self.fail(&error))?)
    }

    async fn totals(&mut self) -> Result<HashMap<WindowKey, Total>, StoreError> {
        let log = self.log;
        let rows = async {
            let connection = self.database.up().await?;
            let rows = sqlx::query(
                r#"SELECT budget, scope, "window", sum(nano)::bigint AS nano, sum(credited)::bigint AS credited FROM totals
                   WHERE log = $1 GROUP BY 1, 2, 3"#,
            );
            rows.bind(log).fetch_all(connection).await?.iter().map(window_total).collect()
        };
        let rows: Result<HashMap<WindowKey, Total>, sqlx::Error> = rows.await;
        rows.map_err(|error| self.fail(&error))
    }
}

impl FleetStore for PostgresStore {
    async fn fleet(&mut self) -> Result<FleetState, StoreError> {
        match self.try_fleet().await {
            Ok(state) => Ok(state),
            Err(error) => Err(self.fail(&error)),
        }
    }

    async fn leaf_of(&mut self, host: &str, sequence: u64, began: u64) -> Result<Option<u64>, StoreError> {
        let log = self.log;
        let found = async {
            let connection = self.database.up().await?;
            let row = sqlx::query(
                "SELECT leaf, first FROM runs WHERE log = $1 AND host = $2 AND last >= $3 AND first <= $3 AND leaf >= $4 \
                 ORDER BY leaf LIMIT 1",
            );
            let row = row.bind(log).bind(host).bind(signed(sequence)).bind(signed(began));
            let row = row.fetch_optional(connection).await?;
            row.map(|row| Ok::<_, sqlx::Error>(number(&row, "leaf")? + sequence - number(&row, "first")?)).transpose()
        };
        let found = found.await;
        found.map_err(|error| self.fail(&error))
    }
}

pub(super) fn chunk(row: &PgRow) -> Result<Chunk, sqlx::Error> {
    Ok(Chunk {
        first: number(row, "first")?,
        count: u64::try_from(row.try_get::<i32, _>("count")?).map_err(|error| sqlx::Error::Decode(error.into()))?,
        min_ms: number(row, "min_ms")?,
        max_ms: number(row, "max_ms")?,
        data: row.try_get("data")?,
    })
}

fn window_total(row: &PgRow) -> Result<(WindowKey, Total), sqlx::Error> {
    let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
    let key = WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? };
    Ok((key, total(row)?))
}

pub(super) fn total(row: &PgRow) -> Result<Total, sqlx::Error> {
    Ok(Total { charged: NanoUsd(number(row, "nano")?), credited: NanoUsd(number(row, "credited")?) })
}

/// PostgreSQL's integers are signed; what does not fit is capped, and no count or amount comes near.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn number(row: &PgRow, name: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(name)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(super) fn hash(row: &PgRow, name: &str) -> Result<Hash, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(name)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))
}

/// The URL is not in the message: it may hold a password.
pub(crate) fn failed(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Database { path: "in PostgreSQL".into(), why: why.to_string() }
}
