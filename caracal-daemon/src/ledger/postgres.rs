//! The store of many hosts: PostgreSQL, one log for each partition of the topic. A commit moves the log, its records, tiles,
//! checkpoint, chains and the offset together, or nothing, and only for the writer that took the log over last.

use super::books::{OpenIntent, Spend, SpendKey, Total};
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
        let row = sqlx::query("SELECT size, note FROM checkpoints WHERE log = $1 ORDER BY size DESC LIMIT 1").bind(log);
        let row = row.fetch_optional(&mut *connection).await?;
        state.checkpoint =
            row.map(|row| Ok::<_, sqlx::Error>((number(&row, "size")?, row.try_get("note")?))).transpose()?;
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

async fn write_evidence(
    connection: &mut PgConnection,
    log: i32,
    batch: &Batch,
    part: &Part,
) -> Result<(), sqlx::Error> {
    if !batch.chunks.is_empty() {
        // The partitions of the first leaf and of the last: a batch is much smaller than one.
        let last = batch.position.size.saturating_sub(1);
        if batch.before.trailing_zeros() >= 24 || batch.before >> 24 != last >> 24 {
            for leaf in [batch.before, last] {
                sqlx::query("SELECT make_partition($1)").bind(signed(leaf)).execute(&mut *connection).await?;
            }
        }
        let of = |value: fn(&Chunk) -> u64| batch.chunks.iter().map(|chunk| signed(value(chunk))).collect::<Vec<_>>();
        let counts: Vec<i32> =
            batch.chunks.iter().map(|chunk| i32::try_from(chunk.count).unwrap_or(i32::MAX)).collect();
        let data: Vec<&[u8]> = batch.chunks.iter().map(|chunk| chunk.data.as_slice()).collect();
        sqlx::query(
            "INSERT INTO events SELECT $1, * FROM unnest($2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::bytea[])",
        )
        .bind(log)
        .bind(of(|chunk| chunk.first))
        .bind(counts)
        .bind(of(|chunk| chunk.min_ms))
        .bind(of(|chunk| chunk.max_ms))
        .bind(data)
        .execute(&mut *connection)
        .await?;
    }
    if !batch.tiles.is_empty() {
        let levels: Vec<i16> = batch.tiles.iter().map(|tile| i16::try_from(tile.level).unwrap_or(i16::MAX)).collect();
        let data: Vec<&[u8]> = batch.tiles.iter().map(|tile| tile.hashes.as_flattened()).collect();
        sqlx::query("INSERT INTO tiles SELECT $1, * FROM unnest($2::smallint[], $3::bigint[], $4::bytea[])")
            .bind(log)
            .bind(levels)
            .bind(batch.tiles.iter().map(|tile| signed(tile.n)).collect::<Vec<_>>())
            .bind(data)
            .execute(&mut *connection)
            .await?;
    }
    if let Some((size, note)) = &batch.checkpoint {
        sqlx::query("INSERT INTO checkpoints VALUES ($1, $2, $3)")
            .bind(log)
            .bind(signed(*size))
            .bind(note)
            .execute(&mut *connection)
            .await?;
    }
    for incident in &part.incidents {
        sqlx::query("INSERT INTO incidents VALUES ($1, $2, $3, $4, $5)")
            .bind(log)
            .bind(signed(incident.offset))
            .bind(incident.code)
            .bind(&incident.host)
            .bind(&incident.what)
            .execute(&mut *connection)
            .await?;
    }
    if part.runs.is_empty() {
        return Ok(());
    }
    let of =
        |value: fn(&super::fleet::RunRow) -> u64| part.runs.iter().map(|run| signed(value(run))).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO runs SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::int[], $5::bigint[], $6::bigint[], \
         $7::bigint[], $8::bytea[], $9::bytea[], $10::bigint[])",
    )
    .bind(log)
    .bind(of(|run| run.leaf))
    .bind(part.runs.iter().map(|run| run.host.as_str()).collect::<Vec<_>>())
    .bind(part.runs.iter().map(|run| i32::try_from(run.enrolment).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(of(|run| run.records.0))
    .bind(of(|run| run.records.1))
    .bind(of(|run| run.head.sequence))
    .bind(part.runs.iter().map(|run| &run.head.leaf[..]).collect::<Vec<_>>())
    .bind(part.runs.iter().map(|run| run.head.signature.as_slice()).collect::<Vec<_>>())
    .bind(of(|run| run.offset))
    .execute(&mut *connection)
    .await
    .map(drop)
}

async fn write_chains(connection: &mut PgConnection, log: i32, size: u64, part: &Part) -> Result<(), sqlx::Error> {
    for (host, (chain, last_ms)) in &part.chains {
        sqlx::query(
            "INSERT INTO chains VALUES ($1, $2, $3, $4) ON CONFLICT (log, host) DO UPDATE SET state = excluded.state, \
             last_ms = greatest(chains.last_ms, excluded.last_ms)",
        )
        .bind(log)
        .bind(host)
        .bind(Json(chain))
        .bind(signed(*last_ms))
        .execute(&mut *connection)
        .await?;
    }
    for (host, changes) in &part.changes {
        if !changes.closed.is_empty() {
            sqlx::query("DELETE FROM open_intents WHERE log = $1 AND host = $2 AND call = ANY($3)")
                .bind(log)
                .bind(host)
                .bind(&changes.closed)
                .execute(&mut *connection)
                .await?;
        }
        if !changes.opened.is_empty() {
            let intents = changes.opened.values().map(|(_, intent)| serde_json::to_string(intent));
            let intents = intents.collect::<Result<Vec<_>, _>>().map_err(|error| sqlx::Error::Encode(error.into()))?;
            sqlx::query(
                "INSERT INTO open_intents SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[], $5::text[]) \
                 ON CONFLICT (log, host, call) DO UPDATE SET leaf = excluded.leaf, intent = excluded.intent",
            )
            .bind(log)
            .bind(host)
            .bind(changes.opened.keys().map(String::as_str).collect::<Vec<_>>())
            .bind(changes.opened.values().map(|(leaf, _)| signed(*leaf)).collect::<Vec<_>>())
            .bind(intents)
            .execute(&mut *connection)
            .await?;
        }
        if !changes.totals.is_empty() {
            let (keys, totals): (Vec<&WindowKey>, Vec<Total>) =
                changes.totals.iter().map(|(key, total)| (key, *total)).unzip();
            sqlx::query(
                "INSERT INTO totals SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) \
                 ON CONFLICT (log, host, budget, scope, \"window\") DO UPDATE SET nano = totals.nano + excluded.nano, \
                 credited = totals.credited + excluded.credited",
            )
            .bind(log)
            .bind(host)
            .bind(keys.iter().map(|key| &*key.budget).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| &*key.scope).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| &*key.window).collect::<Vec<_>>())
            .bind(totals.iter().map(|total| signed(total.charged.0)).collect::<Vec<_>>())
            .bind(totals.iter().map(|total| signed(total.credited.0)).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
        }
        if let Some(minutes) = changes.minutes.as_ref().filter(|minutes| !minutes.is_empty()) {
            write_charges(connection, log, size, host, minutes).await?;
        }
    }
    Ok(())
}

async fn write_charges(
    connection: &mut PgConnection,
    log: i32,
    size: u64,
    host: &str,
    minutes: &std::collections::BTreeMap<SpendKey, Spend>,
) -> Result<(), sqlx::Error> {
    let text = |value: fn(&SpendKey) -> &str| minutes.keys().map(value).collect::<Vec<_>>();
    let mut query = sqlx::query(
        "INSERT INTO charges SELECT $1, $2, $3, * FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], \
         $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], \
         $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[])",
    )
    .bind(log)
    .bind(signed(size))
    .bind(host)
    .bind(text(|key| &key.agent))
    .bind(text(|key| &key.provider))
    .bind(text(|key| &key.model))
    .bind(text(|key| &key.day));
    let values: Vec<[u64; Spend::NUMBERS.len()]> = minutes.values().map(Spend::numbers).collect();
    for at in 0..Spend::NUMBERS.len() {
        let column: Vec<i64> = values.iter().filter_map(|row| row.get(at).map(|value| signed(*value))).collect();
        query = query.bind(column);
    }
    query.execute(connection).await.map(drop)
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
