//! What readers ask of a ledger in SQLite: records by their place and time, evidence, sums.

use super::{SqliteStore, chunk, database, hash, number, signed, spend_row, total_row};
use crate::event::WindowKey;
use crate::journal::SignedHead;
use crate::ledger::books::{Corrected, Overrun, Spend, SpendKey, Total};
use crate::ledger::store::{Chunk, StoreError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

impl SqliteStore {
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

    pub(super) fn rows<T>(
        &self,
        rows: Result<Vec<SqliteRow>, sqlx::Error>,
        read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = rows.and_then(|rows| rows.iter().map(read).collect());
        rows.map_err(|error| database(&self.path, &error))
    }
}
