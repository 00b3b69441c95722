//! The rows of the vault's file: holders, windows, and what each holder has of each.

use crate::budget::escrow::{Claim, Held, Session, Share, Window};
use crate::clock::UnixNanos;
use crate::escrow::forgotten_before;
use crate::event::WindowKey;
use crate::ledger::sqlite::{number, signed};
use crate::money::NanoUsd;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

pub(super) async fn incident(
    connection: &mut SqliteConnection,
    holder: &str,
    halts: bool,
    what: &str,
    ms: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO escrow_incidents (holder, halts, what, at_ms) VALUES (?, ?, ?, ?)")
        .bind(holder)
        .bind(halts)
        .bind(what)
        .bind(signed(ms))
        .execute(connection)
        .await
        .map(drop)
}

pub(super) async fn session(connection: &mut SqliteConnection, holder: &str) -> Result<Option<Session>, sqlx::Error> {
    let row = sqlx::query("SELECT epoch, step, lot, place, until_ms FROM escrow_holders WHERE holder = ?");
    let Some(row) = row.bind(holder).fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(Session {
        epoch: number(&row, "epoch")?,
        step: number(&row, "step")?,
        lot: number(&row, "lot")?,
        place: row.try_get::<String, _>("place")?.into(),
        until: number(&row, "until_ms")?,
    }))
}

/// All holders, without what they have.
pub(super) async fn holders(connection: &mut SqliteConnection, now_ms: u64) -> Result<Vec<Held>, sqlx::Error> {
    let rows =
        sqlx::query("SELECT holder, host, until_ms FROM escrow_holders ORDER BY holder").fetch_all(connection).await?;
    let one = |row: &SqliteRow| {
        Ok(Held {
            holder: row.try_get::<String, _>("holder")?.into(),
            host: row.try_get::<String, _>("host")?.into(),
            lease_ms: number(row, "until_ms")?.saturating_sub(now_ms),
            shares: Vec::new(),
        })
    };
    rows.iter().map(one).collect()
}

pub(super) async fn store_session(
    connection: &mut SqliteConnection,
    holder: &str,
    host: Option<&str>,
    session: &Session,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO escrow_holders VALUES (?1, coalesce(?2, ''), ?3, ?4, ?5, ?6, ?7) ON CONFLICT (holder) DO UPDATE SET \
         host = coalesce(?2, host), epoch = ?3, step = ?4, lot = ?5, place = ?6, until_ms = ?7",
    )
    .bind(holder)
    .bind(host)
    .bind(signed(session.epoch))
    .bind(signed(session.step))
    .bind(signed(session.lot))
    .bind(&*session.place)
    .bind(signed(session.until))
    .execute(connection)
    .await
    .map(drop)
}

pub(super) type Shares = Vec<(WindowKey, Option<UnixNanos>, Share)>;

pub(super) async fn shares(connection: &mut SqliteConnection, holder: &str) -> Result<Shares, sqlx::Error> {
    let rows = sqlx::query(
        r#"SELECT budget, scope, "window", ends, granted, settled, credited, lost FROM escrow_shares JOIN escrow_windows
           USING (budget, scope, "window") WHERE holder = ? ORDER BY budget, scope, "window""#,
    );
    let rows = rows.bind(holder).fetch_all(connection).await?;
    let one = |row: &SqliteRow| {
        let ends = row.try_get::<Option<i64>, _>("ends")?.and_then(|ends| u64::try_from(ends).ok());
        let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
        let key = WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? };
        Ok((key, ends.map(UnixNanos), share(row)?))
    };
    rows.iter().map(one).collect()
}

/// Windows that ended long ago are not spent from any more: by this holder, and by those of which nothing was heard since.
pub(super) async fn tidy(connection: &mut SqliteConnection, holder: &str, now_ms: u64) -> Result<(), sqlx::Error> {
    let before = signed(forgotten_before(now_ms));
    sqlx::query(
        r#"DELETE FROM escrow_shares WHERE (holder = ?1 OR holder IN (SELECT holder FROM escrow_holders WHERE until_ms < ?2 / 1000000))
           AND (budget, scope, "window") IN (SELECT budget, scope, "window" FROM escrow_windows WHERE ends < ?2)"#,
    )
    .bind(holder)
    .bind(before)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        r#"DELETE FROM escrow_windows WHERE ends < ? AND (budget, scope, "window") NOT IN
           (SELECT budget, scope, "window" FROM escrow_shares)"#,
    )
    .bind(before)
    .execute(connection)
    .await
    .map(drop)
}

/// A window and what the holder has of it; nothing, where there is no row yet.
pub(super) async fn row(
    connection: &mut SqliteConnection,
    holder: &str,
    claim: &Claim,
) -> Result<(Window, Share), sqlx::Error> {
    let WindowKey { budget, scope, window } = &claim.key;
    sqlx::query("INSERT INTO escrow_windows VALUES (?, ?, ?, ?, 0, 0, NULL, NULL) ON CONFLICT DO NOTHING")
        .bind(&**budget)
        .bind(&**scope)
        .bind(&**window)
        .bind(claim.ends.map(|ends| signed(ends.0)))
        .execute(&mut *connection)
        .await?;
    let found = sqlx::query(
        r#"SELECT allotted, spent, hungry_holder, hungry_ms FROM escrow_windows WHERE budget = ? AND scope = ? AND "window" = ?"#,
    );
    let found = found.bind(&**budget).bind(&**scope).bind(&**window).fetch_one(&mut *connection).await?;
    let hungry: (Option<String>, Option<i64>) = (found.try_get("hungry_holder")?, found.try_get("hungry_ms")?);
    let hungry = hungry.0.zip(hungry.1.and_then(|at| u64::try_from(at).ok()));
    let amount = |name: &str| number(&found, name).map(NanoUsd);
    let (allotted, spent) = (amount("allotted")?, amount("spent")?);
    let window_row = Window { allotted, spent, hungry: hungry.map(|(who, at)| (who.into(), at)) };
    let found = sqlx::query(
        r#"SELECT granted, settled, credited, lost FROM escrow_shares WHERE holder = ? AND budget = ? AND scope = ? AND "window" = ?"#,
    );
    let found = found.bind(holder).bind(&**budget).bind(&**scope).bind(&**window).fetch_optional(connection).await?;
    Ok((window_row, found.as_ref().map(share).transpose()?.unwrap_or_default()))
}

pub(super) async fn store_window(
    connection: &mut SqliteConnection,
    key: &WindowKey,
    window: &Window,
) -> Result<(), sqlx::Error> {
    let hungry = window.hungry.as_ref().map(|(who, at)| (who.to_string(), signed(*at)));
    sqlx::query(
        r#"UPDATE escrow_windows SET allotted = ?, spent = ?, hungry_holder = ?, hungry_ms = ?
           WHERE budget = ? AND scope = ? AND "window" = ?"#,
    )
    .bind(signed(window.allotted.0))
    .bind(signed(window.spent.0))
    .bind(hungry.as_ref().map(|(who, _)| who.clone()))
    .bind(hungry.map(|(_, at)| at))
    .bind(&*key.budget)
    .bind(&*key.scope)
    .bind(&*key.window)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes `back` off what a window's holders have, and adds `more` to what is spent of it.
pub(super) async fn move_window(
    connection: &mut SqliteConnection,
    key: &WindowKey,
    back: NanoUsd,
    more: NanoUsd,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"UPDATE escrow_windows SET allotted = allotted - ?, spent = spent + ? WHERE budget = ? AND scope = ? AND "window" = ?"#,
    )
    .bind(signed(back.0))
    .bind(signed(more.0))
    .bind(&*key.budget)
    .bind(&*key.scope)
    .bind(&*key.window)
    .execute(connection)
    .await
    .map(drop)
}

pub(super) async fn store_share(
    connection: &mut SqliteConnection,
    holder: &str,
    key: &WindowKey,
    share: Share,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR REPLACE INTO escrow_shares VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(holder)
        .bind(&*key.budget)
        .bind(&*key.scope)
        .bind(&*key.window)
        .bind(signed(share.granted.0))
        .bind(signed(share.settled.0))
        .bind(signed(share.credited.0))
        .bind(signed(share.lost.0))
        .execute(connection)
        .await
        .map(drop)
}

fn share(row: &SqliteRow) -> Result<Share, sqlx::Error> {
    let amount = |name: &str| number(row, name).map(NanoUsd);
    let (granted, settled) = (amount("granted")?, amount("settled")?);
    Ok(Share { granted, settled, credited: amount("credited")?, lost: amount("lost")? })
}
