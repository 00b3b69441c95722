//! The rows of the vault in PostgreSQL: holders, windows, and what each holder has of each.

use crate::budget::escrow::{Held, Session, Share, Step, Window};
use crate::clock::UnixNanos;
use crate::escrow::forgotten_before;
use crate::event::WindowKey;
use crate::ledger::postgres::{number, signed};
use crate::money::NanoUsd;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use std::collections::HashMap;

pub(super) async fn session(connection: &mut PgConnection, holder: &str) -> Result<Option<Session>, sqlx::Error> {
    let row = sqlx::query("SELECT epoch, step, lot, place, until_ms FROM escrow_holders WHERE holder = $1 FOR UPDATE");
    let Some(row) = row.bind(holder).fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(Session {
        epoch: number(&row, "epoch")?,
        step: number(&row, "step")?,
        lot: number(&row, "lot")?,
        place: row.try_get::<String, _>("place")?.into(),
        until: number(&row, "until_ms")?,
    }))
}

pub(super) async fn store_session(
    connection: &mut PgConnection,
    holder: &str,
    host: Option<&str>,
    session: &Session,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO escrow_holders VALUES ($1, coalesce($2, ''), $3, $4, $5, $6, $7) ON CONFLICT (holder) DO UPDATE SET \
         host = coalesce($2, escrow_holders.host), epoch = $3, step = $4, lot = $5, place = $6, until_ms = $7",
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

pub(super) async fn incident(
    connection: &mut PgConnection,
    holder: &str,
    halts: bool,
    what: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO escrow_incidents (holder, halts, what) VALUES ($1, $2, $3)")
        .bind(holder)
        .bind(halts)
        .bind(what)
        .execute(connection)
        .await
        .map(drop)
}

/// All holders, without what they have.
pub(super) async fn holders(connection: &mut PgConnection, now_ms: u64) -> Result<Vec<Held>, sqlx::Error> {
    let rows =
        sqlx::query("SELECT holder, host, until_ms FROM escrow_holders ORDER BY holder").fetch_all(connection).await?;
    let one = |row: &PgRow| {
        Ok(Held {
            holder: row.try_get::<String, _>("holder")?.into(),
            host: row.try_get::<String, _>("host")?.into(),
            lease_ms: number(row, "until_ms")?.saturating_sub(now_ms),
            shares: Vec::new(),
        })
    };
    rows.iter().map(one).collect()
}

pub(super) type Shares = Vec<(WindowKey, Option<UnixNanos>, Share)>;

/// What a holder has, in the order of the windows. Only its own messages change that, and they wait for its row.
pub(super) async fn shares(connection: &mut PgConnection, holder: &str) -> Result<Shares, sqlx::Error> {
    let rows = sqlx::query(
        r#"SELECT budget, scope, "window", ends, granted, settled, credited, lost FROM escrow_shares JOIN escrow_windows
           USING (budget, scope, "window") WHERE holder = $1 ORDER BY budget, scope, "window""#,
    );
    let one = |row: &PgRow| {
        let ends = row.try_get::<Option<i64>, _>("ends")?.and_then(|ends| u64::try_from(ends).ok());
        Ok((key(row)?, ends.map(UnixNanos), share(row)?))
    };
    rows.bind(holder).fetch_all(connection).await?.iter().map(one).collect()
}

/// All that the holder had is spent, for all that anybody can say.
pub(super) async fn forget(connection: &mut PgConnection, holder: &str) -> Result<(), sqlx::Error> {
    for (key, _, mut share) in shares(connection, holder).await? {
        let more = share.forget();
        move_window(connection, &key, NanoUsd::ZERO, more).await?;
        store_share(connection, holder, &key, share).await?;
    }
    Ok(())
}

/// Takes `back` off what a window's holders have, and adds `more` to what is spent of it. Windows are moved in the order of
/// their keys, so that two that wait for each other never do so in a circle.
pub(super) async fn move_window(
    connection: &mut PgConnection,
    key: &WindowKey,
    back: NanoUsd,
    more: NanoUsd,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"UPDATE escrow_windows SET allotted = allotted - $4, spent = spent + $5
           WHERE budget = $1 AND scope = $2 AND "window" = $3"#,
    )
    .bind(&*key.budget)
    .bind(&*key.scope)
    .bind(&*key.window)
    .bind(signed(back.0))
    .bind(signed(more.0))
    .execute(connection)
    .await
    .map(drop)
}

pub(super) async fn store_share(
    connection: &mut PgConnection,
    holder: &str,
    key: &WindowKey,
    share: Share,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"UPDATE escrow_shares SET granted = $5, settled = $6, lost = $7, credited = $8
           WHERE holder = $1 AND budget = $2 AND scope = $3 AND "window" = $4"#,
    )
    .bind(holder)
    .bind(&*key.budget)
    .bind(&*key.scope)
    .bind(&*key.window)
    .bind(signed(share.granted.0))
    .bind(signed(share.settled.0))
    .bind(signed(share.lost.0))
    .bind(signed(share.credited.0))
    .execute(connection)
    .await
    .map(drop)
}

/// Windows that ended long ago are not spent from any more: by this holder, and by those of which nothing was heard since.
pub(super) async fn tidy(connection: &mut PgConnection, holder: &str, now_ms: u64) -> Result<(), sqlx::Error> {
    let before = signed(forgotten_before(now_ms));
    sqlx::query(
        r#"DELETE FROM escrow_shares USING escrow_windows WHERE (holder = $1 OR holder IN (SELECT holder FROM escrow_holders
           WHERE until_ms < $2 / 1000000)) AND ends < $2 AND escrow_windows.budget = escrow_shares.budget AND escrow_windows.scope = escrow_shares.scope AND escrow_windows."window" = escrow_shares."window""#,
    )
    .bind(holder)
    .bind(before)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        r#"DELETE FROM escrow_windows WHERE ends < $1 AND NOT EXISTS (SELECT FROM escrow_shares WHERE budget =
           escrow_windows.budget AND scope = escrow_windows.scope AND "window" = escrow_windows."window")"#,
    )
    .bind(before)
    .execute(connection)
    .await
    .map(drop)
}

#[derive(Default)]
pub(super) struct Rows {
    pub(super) window: Window,
    pub(super) share: Share,
    pub(super) limit: Option<NanoUsd>,
}

/// The keys of the claims as arrays, in their order: two that lock the same rows wait for each other and never in a circle.
struct Keys<'a>([Vec<&'a str>; 3]);

impl<'a> Keys<'a> {
    fn of(step: &'a Step) -> Keys<'a> {
        let mut keys: Vec<&WindowKey> = step.claims.iter().map(|claim| &claim.key).collect();
        keys.sort();
        let part = |of: fn(&WindowKey) -> &str| keys.iter().map(|key| of(key)).collect();
        Keys([part(|key| &key.budget), part(|key| &key.scope), part(|key| &key.window)])
    }
}

pub(super) async fn lock(connection: &mut PgConnection, step: &Step) -> Result<HashMap<WindowKey, Rows>, sqlx::Error> {
    let Keys([budgets, scopes, windows]) = Keys::of(step);
    let ends: HashMap<&WindowKey, Option<UnixNanos>> =
        step.claims.iter().map(|claim| (&claim.key, claim.ends)).collect();
    let mut keys: Vec<&&WindowKey> = ends.keys().collect();
    keys.sort();
    let ends: Vec<Option<i64>> =
        keys.iter().map(|key| ends.get(**key).copied().flatten().map(|ends| signed(ends.0))).collect();
    sqlx::query(
        "INSERT INTO escrow_windows SELECT *, 0, 0, NULL, NULL FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(&budgets)
    .bind(&scopes)
    .bind(&windows)
    .bind(ends)
    .execute(&mut *connection)
    .await?;
    let found = sqlx::query(
        r#"SELECT budget, scope, "window", allotted, spent, hungry_holder, hungry_ms FROM escrow_windows
           WHERE (budget, scope, "window") IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
           ORDER BY budget, scope, "window" FOR UPDATE"#,
    );
    let found = found.bind(&budgets).bind(&scopes).bind(&windows).fetch_all(&mut *connection).await?;
    let mut rows = HashMap::with_capacity(found.len());
    for row in &found {
        let hungry: (Option<String>, Option<i64>) = (row.try_get("hungry_holder")?, row.try_get("hungry_ms")?);
        let hungry = hungry.0.zip(hungry.1.and_then(|at| u64::try_from(at).ok()));
        let window = Window {
            allotted: NanoUsd(number(row, "allotted")?),
            spent: NanoUsd(number(row, "spent")?),
            hungry: hungry.map(|(who, at)| (who.into(), at)),
        };
        rows.insert(key(row)?, Rows { window, ..Rows::default() });
    }
    let found = sqlx::query(
        r#"SELECT budget, scope, "window", granted, settled, credited, lost FROM escrow_shares WHERE holder = $1
           AND (budget, scope, "window") IN (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]))"#,
    );
    let found = found.bind(&*step.holder).bind(&budgets).bind(&scopes).bind(&windows);
    for row in found.fetch_all(&mut *connection).await? {
        rows.entry(key(&row)?).or_default().share = share(&row)?;
    }
    let limits = sqlx::query(
        "SELECT DISTINCT ON (budget) budget, nano FROM escrow_limits WHERE budget = ANY($1) ORDER BY budget, version DESC",
    );
    let limits = limits.bind(&budgets).fetch_all(connection).await?;
    let mut of: HashMap<String, NanoUsd> = HashMap::new();
    for row in &limits {
        of.insert(row.try_get("budget")?, NanoUsd(number(row, "nano")?));
    }
    for (key, row) in &mut rows {
        row.limit = of.get(&*key.budget).copied();
    }
    Ok(rows)
}

pub(super) async fn store(
    connection: &mut PgConnection,
    step: &Step,
    rows: &HashMap<WindowKey, Rows>,
) -> Result<(), sqlx::Error> {
    let keys: Vec<(&WindowKey, &Rows)> = rows.iter().collect();
    let part = |of: fn(&WindowKey) -> &str| keys.iter().map(|(key, _)| of(key)).collect::<Vec<_>>();
    let parts = [part(|key| &key.budget), part(|key| &key.scope), part(|key| &key.window)];
    let amounts = |of: fn(&Rows) -> NanoUsd| keys.iter().map(|(_, row)| signed(of(row).0)).collect::<Vec<i64>>();
    let hungry = |row: &Rows| row.window.hungry.clone();
    let hungry: (Vec<Option<String>>, Vec<Option<i64>>) = keys
        .iter()
        .map(|(_, row)| hungry(row).map_or((None, None), |(who, at)| (Some(who.to_string()), Some(signed(at)))))
        .unzip();
    let [budgets, scopes, windows] = &parts;
    sqlx::query(
        r#"UPDATE escrow_windows SET allotted = new.allotted, spent = new.spent, hungry_holder = new.holder, hungry_ms = new.at
           FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
           AS new (budget, scope, "window", allotted, spent, holder, at)
           WHERE escrow_windows.budget = new.budget AND escrow_windows.scope = new.scope AND escrow_windows."window" = new."window""#,
    )
    .bind(budgets)
    .bind(scopes)
    .bind(windows)
    .bind(amounts(|row| row.window.allotted))
    .bind(amounts(|row| row.window.spent))
    .bind(hungry.0)
    .bind(hungry.1)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        r#"INSERT INTO escrow_shares SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
           $7::bigint[], $8::bigint[]) ON CONFLICT (holder, budget, scope, "window") DO UPDATE SET granted = excluded.granted,
           settled = excluded.settled, credited = excluded.credited, lost = excluded.lost"#,
    )
    .bind(&*step.holder)
    .bind(budgets)
    .bind(scopes)
    .bind(windows)
    .bind(amounts(|row| row.share.granted))
    .bind(amounts(|row| row.share.settled))
    .bind(amounts(|row| row.share.credited))
    .bind(amounts(|row| row.share.lost))
    .execute(connection)
    .await
    .map(drop)
}

pub(super) fn key(row: &PgRow) -> Result<WindowKey, sqlx::Error> {
    let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
    Ok(WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? })
}

pub(super) fn share(row: &PgRow) -> Result<Share, sqlx::Error> {
    let amount = |name: &str| number(row, name).map(NanoUsd);
    let (granted, settled) = (amount("granted")?, amount("settled")?);
    Ok(Share { granted, settled, credited: amount("credited")?, lost: amount("lost")? })
}
