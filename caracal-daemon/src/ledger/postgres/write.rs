//! How a batch of a log of many hosts is written. All of it is one transaction of the caller's.

use super::signed;
use crate::event::WindowKey;
use crate::ledger::books::{Spend, SpendKey, Total};
use crate::ledger::fleet::{Part, RunRow};
use crate::ledger::store::{Batch, Chunk};
use sqlx::postgres::PgConnection;
use sqlx::types::Json;

pub(super) async fn write_evidence(
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
    let of = |value: fn(&RunRow) -> u64| part.runs.iter().map(|run| signed(value(run))).collect::<Vec<_>>();
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

pub(super) async fn write_chains(
    connection: &mut PgConnection,
    log: i32,
    size: u64,
    part: &Part,
) -> Result<(), sqlx::Error> {
    for (host, (chain, last_ms)) in &part.chains {
        sqlx::query(
            // A host whose clock is ahead must not look alive for as long as that after its end.
            "INSERT INTO chains VALUES ($1, $2, $3, least($4, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)) \
             ON CONFLICT (log, host) DO UPDATE SET state = excluded.state, \
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
