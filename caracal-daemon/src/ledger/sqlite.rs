//! The embedded store: SQLite, write-ahead log, every commit synced. A record costs a part of one row of 256.

mod read;
mod write;

use super::books::{OpenIntent, Spend, SpendKey, Total};
use super::store::{Batch, Chunk, Position, State, Store, StoreError, split_hashes};
use crate::event::{Hash, WindowKey};
use crate::journal::Start;
use crate::money::NanoUsd;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use write::{move_position, write_evidence, write_money};

/// The database's name in the state directory.
pub const FILE: &str = "ledger.sqlite";
/// A new database's page. A chunk of records fills some twenty of them, and each is written to the log and once more to
/// its place: larger pages are fewer writes, smaller ones cost less where a commit changes a few bytes.
const PAGE_BYTES: u32 = 16 << 10;
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/sqlite");

/// A ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: SqliteConnection,
}

impl SqliteStore {
    /// Opens the ledger in `path` for its one writer, and makes it if need be. The thread that does SQLite's work
    /// runs at a low priority.
    ///
    /// # Errors
    /// When the file cannot be opened, or is from a newer version.
    pub async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
        private_file(path).map_err(|error| database(path, &error))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .page_size(PAGE_BYTES)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let mut connection = connect_quietly(options).await.map_err(|error| database(path, &error))?;
        MIGRATIONS.run(&mut connection).await.map_err(|error| database(path, &error))?;
        Ok(SqliteStore { path: path.to_owned(), connection })
    }

    /// Opens the ledger in `path` to read it, beside its writer or without one.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub async fn read(path: &Path) -> Result<SqliteStore, StoreError> {
        if !path.is_file() {
            return Err(database(path, &"there is no ledger here"));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .pragma("query_only", "ON")
            .busy_timeout(Duration::from_secs(10));
        let connection = options.connect().await.map_err(|error| database(path, &error))?;
        Ok(SqliteStore { path: path.to_owned(), connection })
    }

    /// Ends; the last one to do so merges the write-ahead log into the file and removes it.
    ///
    /// # Errors
    /// The database's.
    pub async fn close(self) -> Result<(), StoreError> {
        let path = self.path;
        self.connection.close().await.map_err(|error| database(&path, &error))
    }

    /// Holds one view of the ledger from now on, whatever is committed meanwhile.
    ///
    /// # Errors
    /// The database's.
    pub async fn freeze(&mut self) -> Result<(), StoreError> {
        let began = sqlx::query("BEGIN").execute(&mut self.connection).await.map(drop);
        began.map_err(|error| database(&self.path, &error))
    }

    /// Lets go of the view of [`SqliteStore::freeze`].
    ///
    /// # Errors
    /// The database's.
    pub async fn thaw(&mut self) -> Result<(), StoreError> {
        let ended = sqlx::query("COMMIT").execute(&mut self.connection).await.map(drop);
        ended.map_err(|error| database(&self.path, &error))
    }
}

impl Store for SqliteStore {
    async fn load(&mut self) -> Result<State, StoreError> {
        let path = self.path.clone();
        load(&mut self.connection).await.map_err(|error| database(&path, &error))
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let path = self.path.clone();
        let fail = |error: sqlx::Error| database(&path, &error);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        if !move_position(&mut transaction, batch).await.map_err(fail)? {
            return Err(StoreError::Conflict);
        }
        write_evidence(&mut transaction, batch).await.map_err(fail)?;
        write_money(&mut transaction, batch).await.map_err(fail)?;
        transaction.commit().await.map_err(fail)
    }

    async fn freeze(&mut self) -> Result<(), StoreError> {
        SqliteStore::freeze(self).await
    }

    async fn checkpoint(&mut self) -> Result<Option<(u64, String)>, StoreError> {
        let found = last_checkpoint(&mut self.connection).await;
        found.map_err(|error| database(&self.path, &error))
    }

    async fn chunks_within(&mut self, first: u64, span: (u64, u64), limit: u32) -> Result<Vec<Chunk>, StoreError> {
        SqliteStore::chunks_within(self, first, span, limit).await
    }

    async fn chunk(&mut self, index: u64) -> Result<Option<Chunk>, StoreError> {
        let below = index.saturating_add(1);
        Ok(self.chunks_before(below, 1).await?.pop().filter(|chunk| index < chunk.first + chunk.count))
    }

    async fn tile(&mut self, level: u32, n: u64) -> Result<Vec<Hash>, StoreError> {
        let path = self.path.clone();
        let fail = |error: sqlx::Error| database(&path, &error);
        let full = sqlx::query("SELECT data FROM tiles WHERE level = ? AND n = ?").bind(level).bind(signed(n));
        if let Some(row) = full.fetch_optional(&mut self.connection).await.map_err(fail)? {
            return split_hashes(&row.try_get::<Vec<u8>, _>("data").map_err(fail)?);
        }
        let edge = sqlx::query("SELECT edges.data, log.size FROM edges, log WHERE level = ?").bind(level);
        let Some(row) = edge.fetch_optional(&mut self.connection).await.map_err(fail)? else { return Ok(Vec::new()) };
        let size = number(&row, "size").map_err(fail)?;
        let open = size.checked_shr(super::tree::TILE_HEIGHT * (level + 1)).unwrap_or(0);
        if open != n {
            return Ok(Vec::new());
        }
        split_hashes(&row.try_get::<Vec<u8>, _>("data").map_err(fail)?)
    }

    /// Merges the write-ahead log into the file and empties it (`PRAGMA wal_checkpoint(TRUNCATE)`).
    async fn finish(&mut self) {
        let merged = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut self.connection).await;
        match merged.and_then(|row| row.try_get::<i64, _>(0)) {
            Ok(0) => {}
            // A reader holds it: nothing is lost, SQLite reads the log at the next start.
            Ok(_) => tracing::info!("the ledger's write-ahead log is in use and stays"),
            Err(error) => tracing::warn!(%error, "the ledger's write-ahead log could not be merged"),
        }
    }

    async fn totals(&mut self) -> Result<HashMap<WindowKey, Total>, StoreError> {
        let rows = sqlx::query("SELECT * FROM totals").fetch_all(&mut self.connection).await;
        let rows = self.rows(rows, |row| {
            let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
            Ok((WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? }, total_row(row)?))
        })?;
        Ok(rows.into_iter().collect())
    }
}

/// The file is made before SQLite makes it, so that nobody else can ever read it.
fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// Connects from a thread of low priority: SQLite's own thread inherits it.
async fn connect_quietly(options: SqliteConnectOptions) -> Result<SqliteConnection, String> {
    let (done, waiting) = tokio::sync::oneshot::channel();
    let connect = move || {
        super::lower_priority();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let connected = runtime
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.block_on(options.connect()).map_err(|error| error.to_string()));
        let _ = done.send(connected);
    };
    std::thread::Builder::new().name("ledger-open".into()).spawn(connect).map_err(|error| error.to_string())?;
    waiting.await.map_err(|error| error.to_string())?
}

async fn last_checkpoint(connection: &mut SqliteConnection) -> Result<Option<(u64, String)>, sqlx::Error> {
    let row = sqlx::query("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1");
    let row = row.fetch_optional(connection).await?;
    row.map(|row| Ok((number(&row, "size")?, row.try_get("note")?))).transpose()
}

async fn load(connection: &mut SqliteConnection) -> Result<State, sqlx::Error> {
    let mut state = State::default();
    let row =
        sqlx::query("SELECT origin, size, root, next_sequence, prev FROM log").fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(state) };
    state.position = Some(Position {
        origin: row.try_get("origin")?,
        size: number(&row, "size")?,
        root: hash(&row, "root")?,
        cursor: Start { sequence: number(&row, "next_sequence")?, prev: hash(&row, "prev")? },
    });
    for row in sqlx::query("SELECT level, data FROM edges ORDER BY level").fetch_all(&mut *connection).await? {
        let data: Vec<u8> = row.try_get("data")?;
        let level = usize::try_from(row.try_get::<i64, _>("level")?).unwrap_or(usize::MAX);
        let hashes = split_hashes(&data).ok().filter(|_| level == state.edges.len());
        state.edges.push(hashes.ok_or_else(|| sqlx::Error::Decode("an open tile is damaged".into()))?);
    }
    for row in sqlx::query("SELECT intent FROM open_intents ORDER BY leaf").fetch_all(&mut *connection).await? {
        let intent: OpenIntent =
            serde_json::from_str(row.try_get("intent")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        state.open.push(intent);
    }
    state.checkpoint = last_checkpoint(&mut *connection).await?;
    let row = sqlx::query("SELECT max(sequence) AS sequence FROM host_heads").fetch_one(&mut *connection).await?;
    state.head = row.try_get::<Option<i64>, _>("sequence")?.and_then(|sequence| u64::try_from(sequence).ok());
    Ok(state)
}

fn spend_row(row: &SqliteRow) -> Result<(SpendKey, Spend), sqlx::Error> {
    let key = SpendKey {
        agent: row.try_get("agent")?,
        provider: row.try_get("provider")?,
        model: row.try_get("model")?,
        day: row.try_get("day")?,
    };
    let mut spend = Spend::default();
    for (value, name) in spend.numbers_mut().into_iter().zip(Spend::NUMBERS) {
        *value = since(row, name)?;
    }
    Ok((key, spend))
}

fn total_row(row: &SqliteRow) -> Result<Total, sqlx::Error> {
    Ok(Total { charged: NanoUsd(number(row, "nano")?), credited: NanoUsd(since(row, "credited")?) })
}

fn chunk(row: &SqliteRow) -> Result<Chunk, sqlx::Error> {
    Ok(Chunk {
        first: number(row, "first")?,
        count: number(row, "count")?,
        min_ms: number(row, "min_ms")?,
        max_ms: number(row, "max_ms")?,
        data: row.try_get("data")?,
    })
}

/// SQLite's integers are signed; what does not fit is capped, and no count or amount comes near.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn number(row: &SqliteRow, name: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(name)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A number of a column that a later version added: 0 where the database was not written since.
fn since(row: &SqliteRow, name: &str) -> Result<u64, sqlx::Error> {
    match number(row, name) {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(0),
        other => other,
    }
}

fn hash(row: &SqliteRow, name: &str) -> Result<Hash, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(name)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))
}

fn database(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Database { path: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
