//! The embedded store: SQLite, write-ahead log, every commit synced. A record costs a part of one row of 256.

use super::books::{Corrected, OpenIntent, Overrun, Spend, SpendKey, Total};
use super::store::{Batch, Chunk, Position, State, Store, StoreError, split_hashes};
use crate::event::{Hash, WindowKey};
use crate::journal::{SignedHead, Start};
use crate::money::NanoUsd;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

    /// At most `limit` chunks from `first` on.
    ///
    /// # Errors
    /// The database's.
    pub async fn chunks_from(&mut self, first: u64, limit: u32) -> Result<Vec<Chunk>, StoreError> {
        let rows = sqlx::query(
            "SELECT first, count, min_ms, max_ms, data FROM events WHERE first >= ? ORDER BY first LIMIT ?",
        )
        .bind(signed(first))
        .bind(limit)
        .fetch_all(&mut self.connection)
        .await;
        self.rows(rows, chunk)
    }

    /// At most `limit` chunks from `first` on that may hold a record of a time in `span`, Unix milliseconds.
    ///
    /// # Errors
    /// The database's.
    pub async fn chunks_within(&mut self, first: u64, span: (u64, u64), limit: u32) -> Result<Vec<Chunk>, StoreError> {
        let rows = sqlx::query(
            "SELECT first, count, min_ms, max_ms, data FROM events WHERE first >= ? AND max_ms >= ? AND min_ms <= ? \
             ORDER BY first LIMIT ?",
        )
        .bind(signed(first))
        .bind(signed(span.0))
        .bind(signed(span.1))
        .bind(limit)
        .fetch_all(&mut self.connection)
        .await;
        self.rows(rows, chunk)
    }

    /// At most `limit` chunks that begin below `first`, the latest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn chunks_before(&mut self, first: u64, limit: u32) -> Result<Vec<Chunk>, StoreError> {
        let rows = sqlx::query(
            "SELECT first, count, min_ms, max_ms, data FROM events WHERE first < ? ORDER BY first DESC LIMIT ?",
        )
        .bind(signed(first))
        .bind(limit)
        .fetch_all(&mut self.connection)
        .await;
        self.rows(rows, chunk)
    }

    /// The chunks that may hold a record of this time, Unix milliseconds.
    ///
    /// # Errors
    /// The database's.
    pub async fn chunks_at(&mut self, ms: u64) -> Result<Vec<Chunk>, StoreError> {
        let rows = sqlx::query(
            "SELECT first, count, min_ms, max_ms, data FROM events WHERE min_ms <= ? AND max_ms >= ? ORDER BY first",
        )
        .bind(signed(ms))
        .bind(signed(ms))
        .fetch_all(&mut self.connection)
        .await;
        self.rows(rows, chunk)
    }

    /// How many full tiles there are.
    ///
    /// # Errors
    /// The database's.
    pub async fn tile_count(&mut self) -> Result<u64, StoreError> {
        let rows = sqlx::query("SELECT count(*) AS tiles FROM tiles").fetch_all(&mut self.connection).await;
        Ok(self.rows(rows, |row| number(row, "tiles"))?.first().copied().unwrap_or(0))
    }

    /// Every checkpoint, smallest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, StoreError> {
        let rows =
            sqlx::query("SELECT size, note FROM checkpoints ORDER BY size").fetch_all(&mut self.connection).await;
        self.rows(rows, |row| Ok((number(row, "size")?, row.try_get("note")?)))
    }

    /// Every signed head of the host's chain, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn heads(&mut self) -> Result<Vec<SignedHead>, StoreError> {
        let rows = sqlx::query("SELECT sequence, leaf, signature FROM host_heads ORDER BY sequence")
            .fetch_all(&mut self.connection)
            .await;
        self.rows(rows, |row| {
            Ok(SignedHead {
                sequence: number(row, "sequence")?,
                leaf: hash(row, "leaf")?,
                signature: row.try_get("signature")?,
            })
        })
    }

    /// How many checkpoints and signed heads were ever committed.
    ///
    /// # Errors
    /// The database's.
    pub async fn counts(&mut self) -> Result<(u64, u64), StoreError> {
        let rows = sqlx::query("SELECT checkpoints, heads FROM log").fetch_all(&mut self.connection).await;
        let rows = self.rows(rows, |row| Ok((number(row, "checkpoints")?, number(row, "heads")?)))?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    /// Every row of spend.
    ///
    /// # Errors
    /// The database's.
    pub async fn spend(&mut self) -> Result<Vec<(SpendKey, Spend)>, StoreError> {
        let rows = sqlx::query("SELECT * FROM spend ORDER BY day, agent, provider, model")
            .fetch_all(&mut self.connection)
            .await;
        self.rows(rows, spend_row)
    }

    /// Every bill above its hold, sorted.
    ///
    /// # Errors
    /// The database's.
    pub async fn overruns(&mut self) -> Result<Vec<Overrun>, StoreError> {
        if !self.has("overruns").await? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query("SELECT provider, model, entry FROM overruns ORDER BY provider, model, entry")
            .fetch_all(&mut self.connection)
            .await;
        self.rows(rows, |row| {
            Ok(Overrun {
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                entry: row.try_get("entry")?,
            })
        })
    }

    /// Every correction, in the order of their leaves; of this call alone, if one is named.
    ///
    /// # Errors
    /// The database's.
    pub async fn corrections(&mut self, call: Option<&str>) -> Result<Vec<Corrected>, StoreError> {
        if !self.has("corrections").await? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(
            "SELECT leaf, call, nano, sequence FROM corrections WHERE call = coalesce(?, call) ORDER BY leaf",
        )
        .bind(call)
        .fetch_all(&mut self.connection)
        .await;
        self.rows(rows, |row| {
            Ok(Corrected {
                leaf: number(row, "leaf")?,
                call: row.try_get("call")?,
                nano: row.try_get("nano")?,
                sequence: number(row, "sequence")?,
            })
        })
    }

    /// Whether the database has a table: it was not written since the version that has it, if not.
    async fn has(&mut self, table: &str) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?").bind(table);
        let found = found.fetch_all(&mut self.connection).await;
        Ok(!self.rows(found, |_| Ok(()))?.is_empty())
    }

    /// What was charged to one budget window; nothing if nothing was.
    ///
    /// # Errors
    /// The database's.
    pub async fn total(&mut self, key: &WindowKey) -> Result<Total, StoreError> {
        let row = sqlx::query(r#"SELECT * FROM totals WHERE budget = ? AND scope = ? AND "window" = ?"#)
            .bind(&*key.budget)
            .bind(&*key.scope)
            .bind(&*key.window)
            .fetch_optional(&mut self.connection)
            .await;
        let row = row.map_err(|error| database(&self.path, &error))?;
        row.map_or(Ok(Total::default()), |row| total_row(&row)).map_err(|error| database(&self.path, &error))
    }

    /// The triggers that keep evidence from being changed by mistake.
    ///
    /// # Errors
    /// The database's.
    pub async fn triggers(&mut self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")
            .fetch_all(&mut self.connection)
            .await;
        self.rows(rows, |row| row.try_get("name"))
    }

    fn rows<T>(
        &self,
        rows: Result<Vec<SqliteRow>, sqlx::Error>,
        read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = rows.and_then(|rows| rows.iter().map(read).collect());
        rows.map_err(|error| database(&self.path, &error))
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
    let row = sqlx::query("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    state.checkpoint =
        row.map(|row| Ok::<_, sqlx::Error>((number(&row, "size")?, row.try_get("note")?))).transpose()?;
    let row = sqlx::query("SELECT max(sequence) AS sequence FROM host_heads").fetch_one(&mut *connection).await?;
    state.head = row.try_get::<Option<i64>, _>("sequence")?.and_then(|sequence| u64::try_from(sequence).ok());
    Ok(state)
}

/// Moves the position from where the batch began; false if the ledger is not there.
async fn move_position(connection: &mut SqliteConnection, batch: &Batch) -> Result<bool, sqlx::Error> {
    let position = &batch.position;
    if batch.before == 0 {
        sqlx::query("INSERT OR IGNORE INTO log VALUES (1, ?, 0, ?, 0, ?, 0, 0)")
            .bind(&position.origin)
            .bind(&position.root[..])
            .bind(&[0u8; 32][..])
            .execute(&mut *connection)
            .await?;
    }
    let moved = sqlx::query(
        "UPDATE log SET size = ?, root = ?, next_sequence = ?, prev = ?, checkpoints = checkpoints + ?, heads = heads + ? \
         WHERE id = 1 AND size = ? AND origin = ?",
    )
        .bind(signed(position.size))
        .bind(&position.root[..])
        .bind(signed(position.cursor.sequence))
        .bind(&position.cursor.prev[..])
        .bind(i64::from(batch.checkpoint.is_some()))
        .bind(i64::from(batch.head.is_some()))
        .bind(signed(batch.before))
        .bind(&position.origin)
        .execute(&mut *connection)
        .await?;
    Ok(moved.rows_affected() == 1)
}

async fn write_evidence(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    for chunk in &batch.chunks {
        sqlx::query("INSERT INTO events VALUES (?, ?, ?, ?, ?)")
            .bind(signed(chunk.first))
            .bind(signed(chunk.count))
            .bind(signed(chunk.min_ms))
            .bind(signed(chunk.max_ms))
            .bind(&chunk.data)
            .execute(&mut *connection)
            .await?;
    }
    for tile in &batch.tiles {
        sqlx::query("INSERT INTO tiles VALUES (?, ?, ?)")
            .bind(tile.level)
            .bind(signed(tile.n))
            .bind(tile.hashes.as_flattened())
            .execute(&mut *connection)
            .await?;
    }
    if !batch.chunks.is_empty() {
        for (level, edge) in (0i64..).zip(&batch.edges) {
            sqlx::query("INSERT OR REPLACE INTO edges VALUES (?, ?)")
                .bind(level)
                .bind(edge.as_flattened())
                .execute(&mut *connection)
                .await?;
        }
    }
    if let Some((size, note)) = &batch.checkpoint {
        sqlx::query("INSERT INTO checkpoints VALUES (?, ?)")
            .bind(signed(*size))
            .bind(note)
            .execute(&mut *connection)
            .await?;
    }
    if let Some(head) = &batch.head {
        sqlx::query("INSERT INTO host_heads VALUES (?, ?, ?)")
            .bind(signed(head.sequence))
            .bind(&head.leaf[..])
            .bind(&head.signature)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn write_money(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    for (key, total) in &batch.changes.totals {
        sqlx::query(
            "INSERT INTO totals VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET nano = nano + excluded.nano, \
             credited = credited + excluded.credited",
        )
        .bind(&*key.budget)
        .bind(&*key.scope)
        .bind(&*key.window)
        .bind(signed(total.charged.0))
        .bind(signed(total.credited.0))
        .execute(&mut *connection)
        .await?;
    }
    for correction in &batch.changes.corrections {
        sqlx::query("INSERT INTO corrections VALUES (?, ?, ?, ?)")
            .bind(signed(correction.leaf))
            .bind(&correction.call)
            .bind(correction.nano)
            .bind(signed(correction.sequence))
            .execute(&mut *connection)
            .await?;
    }
    for call in &batch.changes.closed {
        sqlx::query("DELETE FROM open_intents WHERE call = ?").bind(call).execute(&mut *connection).await?;
    }
    for (call, (leaf, intent)) in &batch.changes.opened {
        let intent = serde_json::to_string(intent).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query("INSERT OR REPLACE INTO open_intents VALUES (?, ?, ?)")
            .bind(call)
            .bind(signed(*leaf))
            .bind(intent)
            .execute(&mut *connection)
            .await?;
    }
    for (key, row) in &batch.changes.spend {
        write_spend(connection, key, row).await?;
    }
    for overrun in &batch.changes.overruns {
        sqlx::query("INSERT OR IGNORE INTO overruns VALUES (?, ?, ?)")
            .bind(&overrun.provider)
            .bind(&overrun.model)
            .bind(&overrun.entry)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn write_spend(connection: &mut SqliteConnection, key: &SpendKey, row: &Spend) -> Result<(), sqlx::Error> {
    let mut query = sqlx::query(
        "INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
         calls = calls + excluded.calls, nano = nano + excluded.nano, input = input + excluded.input, \
         cache_read = cache_read + excluded.cache_read, cache_write_5m = cache_write_5m + excluded.cache_write_5m, \
         cache_write_1h = cache_write_1h + excluded.cache_write_1h, output = output + excluded.output, \
         reasoning = reasoning + excluded.reasoning, web_searches = web_searches + excluded.web_searches, \
         charged_max = charged_max + excluded.charged_max, credited = credited + excluded.credited, \
         sent = sent + excluded.sent, received = received + excluded.received",
    );
    for text in [&key.agent, &key.provider, &key.model, &key.day] {
        query = query.bind(text);
    }
    for value in row.numbers() {
        query = query.bind(signed(value));
    }
    query.execute(&mut *connection).await.map(drop)
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
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn number(row: &SqliteRow, name: &str) -> Result<u64, sqlx::Error> {
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
