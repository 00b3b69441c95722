//! How a batch is written into SQLite. All of it is one transaction of the caller's.

use super::signed;
use crate::ledger::books::{Spend, SpendKey};
use crate::ledger::store::Batch;
use sqlx::SqliteConnection;

/// Moves the position from where the batch began; false if the ledger is not there.
pub(super) async fn move_position(connection: &mut SqliteConnection, batch: &Batch) -> Result<bool, sqlx::Error> {
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

pub(super) async fn write_evidence(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
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

pub(super) async fn write_money(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
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
