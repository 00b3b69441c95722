//! The vault in PostgreSQL: one transaction a message. It locks the holder's row, then the rows of the windows in the order of
//! their keys, asks the rules, and stores what they say.

use super::limits::SERVER;
use crate::budget::escrow::{
    Known, Odd, Opened, Opening, QUIET_MS, Session, Share, Step, Stepped, Terms, Vault, VaultError, Verdict, Window,
    serve,
};
use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::ledger::postgres::{Database, HOST, number, signed};
use crate::ledger::store::StoreError;
use crate::money::NanoUsd;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use std::collections::HashMap;
use std::sync::Arc;

/// Windows that ended this long ago are forgotten, nanoseconds: a week.
const FORGET_AFTER: u64 = 7 * 86_400 * 1_000_000_000;

/// Shared budgets in PostgreSQL.
#[derive(Debug)]
pub struct PostgresVault {
    database: Database,
    /// A message was broken off: the connection is in the middle of something.
    inside: bool,
}

impl PostgresVault {
    /// The vault in the database at `url`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str) -> Result<PostgresVault, StoreError> {
        Ok(PostgresVault { database: Database::new(url, Some(HOST))?, inside: false })
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if std::mem::replace(&mut self.inside, true) {
            self.database.down();
        }
        self.database.up().await
    }

    fn end<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, VaultError> {
        self.inside = result.is_err();
        result.map_err(|error| {
            // undefined_table, invalid role
            let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            match code.as_deref() {
                Some("42P01" | "22023") => VaultError::NotSetUp,
                _ => VaultError::Unreachable(error.to_string()),
            }
        })
    }
}

impl Vault for PostgresVault {
    async fn open(&mut self, opening: &Opening) -> Result<Opened, VaultError> {
        let done = async { open(self.connection().await?, opening).await }.await;
        self.end(done)
    }

    async fn step(&mut self, step: &Step) -> Result<Stepped, VaultError> {
        let done = async { take(self.connection().await?, step).await }.await;
        self.end(done)
    }
}

/// Where the database is in time, and whether it is the one that was accepted.
struct Now {
    ms: u64,
    calm: bool,
    halted: Option<Arc<str>>,
}

async fn now(connection: &mut PgConnection) -> Result<Now, sqlx::Error> {
    let server = sqlx::query(SERVER).fetch_one(&mut *connection).await?;
    let (ms, started) = (number(&server, "now_ms")?, number(&server, "started_ms")?);
    let accepted = sqlx::query("SELECT upto, system, timeline FROM escrow_accepted ORDER BY id DESC LIMIT 1");
    let accepted = accepted.fetch_optional(&mut *connection).await?;
    let mut halted = None;
    let mut upto = 0_i64;
    match accepted {
        None => halted = Some("`caracald setup postgres` was not run to its end".into()),
        Some(row) => {
            upto = row.try_get("upto")?;
            let text = |row: &PgRow, name: &str| row.try_get::<String, _>(name);
            let (system, timeline) = (text(&server, "system")?, text(&server, "timeline")?);
            if (&text(&row, "system")?, &text(&row, "timeline")?) != (&system, &timeline) {
                halted = Some(format!("it was restored or promoted: system {system}, timeline {timeline}").into());
            }
        }
    }
    let open = sqlx::query("SELECT what FROM escrow_incidents WHERE halts AND id > $1 ORDER BY id LIMIT 1").bind(upto);
    if let Some(row) = open.fetch_optional(connection).await? {
        halted = Some(row.try_get::<String, _>("what")?.into());
    }
    Ok(Now { ms, calm: ms >= started.saturating_add(QUIET_MS), halted })
}

async fn session(connection: &mut PgConnection, holder: &str) -> Result<Option<Session>, sqlx::Error> {
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

async fn store_session(
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

async fn incident(connection: &mut PgConnection, holder: &str, halts: bool, what: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO escrow_incidents (holder, halts, what) VALUES ($1, $2, $3)")
        .bind(holder)
        .bind(halts)
        .bind(what)
        .execute(connection)
        .await
        .map(drop)
}

async fn open(connection: &mut PgConnection, opening: &Opening) -> Result<Opened, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut at = now(&mut transaction).await?;
    let found = session(&mut transaction, &opening.holder).await?;
    let (session, verdict) = Session::open(found, opening, at.ms);
    if let Verdict::Busy(ms) = verdict {
        return Ok(Opened::Busy(ms));
    }
    store_session(&mut transaction, &opening.holder, Some(&opening.host), &session).await?;
    match verdict {
        Verdict::Forgot(why) => {
            incident(&mut transaction, &opening.holder, true, &why).await?;
            at.halted.get_or_insert(why.into());
        }
        Verdict::HostForgot(why) => {
            incident(&mut transaction, &opening.holder, false, &why).await?;
            forget(&mut transaction, &opening.holder).await?;
        }
        Verdict::Go | Verdict::Busy(_) | Verdict::Fenced | Verdict::Stale => {}
    }
    tidy(&mut transaction, &opening.holder, at.ms).await?;
    let rows = sqlx::query(
        r#"SELECT budget, scope, "window", ends, granted, settled, lost FROM escrow_shares JOIN escrow_windows
           USING (budget, scope, "window") WHERE holder = $1 ORDER BY budget, scope, "window""#,
    );
    let rows = rows.bind(&*opening.holder).fetch_all(&mut *transaction).await?;
    let mut shares = Vec::with_capacity(rows.len());
    for row in &rows {
        let ends = row.try_get::<Option<i64>, _>("ends")?.and_then(|ends| u64::try_from(ends).ok());
        shares.push((key(row)?, ends.map(UnixNanos), share(row)?));
    }
    transaction.commit().await?;
    let known = Known { epoch: session.epoch, step: session.step, sent: session.step, opening: None };
    Ok(Opened::Yes { known, shares, halted: at.halted })
}

/// All that the holder had is spent, for all that anybody can say.
async fn forget(connection: &mut PgConnection, holder: &str) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        r#"SELECT budget, scope, "window", granted, settled, lost FROM escrow_shares JOIN escrow_windows
           USING (budget, scope, "window") WHERE holder = $1 ORDER BY budget, scope, "window" FOR UPDATE"#,
    );
    for row in rows.bind(holder).fetch_all(&mut *connection).await? {
        let (key, mut share) = (key(&row)?, share(&row)?);
        let more = share.forget();
        sqlx::query(
            r#"UPDATE escrow_windows SET spent = spent + $4 WHERE budget = $1 AND scope = $2 AND "window" = $3"#,
        )
        .bind(&*key.budget)
        .bind(&*key.scope)
        .bind(&*key.window)
        .bind(signed(more.0))
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            r#"UPDATE escrow_shares SET granted = $5, settled = $6, lost = $7
               WHERE holder = $1 AND budget = $2 AND scope = $3 AND "window" = $4"#,
        )
        .bind(holder)
        .bind(&*key.budget)
        .bind(&*key.scope)
        .bind(&*key.window)
        .bind(signed(share.granted.0))
        .bind(signed(share.settled.0))
        .bind(signed(share.lost.0))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Windows that ended long ago are not spent from any more.
async fn tidy(connection: &mut PgConnection, holder: &str, now_ms: u64) -> Result<(), sqlx::Error> {
    let before = signed(now_ms.saturating_mul(1_000_000).saturating_sub(FORGET_AFTER));
    sqlx::query(
        r#"DELETE FROM escrow_shares USING escrow_windows WHERE holder = $1 AND ends < $2 AND escrow_windows.budget =
           escrow_shares.budget AND escrow_windows.scope = escrow_shares.scope AND escrow_windows."window" = escrow_shares."window""#,
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

async fn take(connection: &mut PgConnection, step: &Step) -> Result<Stepped, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut at = now(&mut transaction).await?;
    let found = session(&mut transaction, &step.holder).await?;
    // Nothing is known of it at all: as if it stood at nothing.
    let mut session = found.unwrap_or(Session { epoch: 0, step: 0, lot: 0, place: "".into(), until: 0 });
    match session.step(step, at.ms) {
        Verdict::Fenced => return Ok(Stepped::Fenced),
        Verdict::Stale | Verdict::Busy(_) => return Ok(Stepped::Stale),
        Verdict::Forgot(why) => {
            incident(&mut transaction, &step.holder, true, &why).await?;
            at.halted.get_or_insert(why.into());
        }
        Verdict::HostForgot(_) | Verdict::Go => {}
    }
    store_session(&mut transaction, &step.holder, None, &session).await?;
    let holders = sqlx::query("SELECT count(*) AS holders FROM escrow_holders WHERE until_ms > $1").bind(signed(at.ms));
    let holders = number(&holders.fetch_one(&mut *transaction).await?, "holders")?;
    let mut rows = lock(&mut transaction, step).await?;
    let mut given = Vec::with_capacity(step.claims.len());
    for claim in &step.claims {
        let Some(row) = rows.get_mut(&claim.key) else {
            return Err(sqlx::Error::RowNotFound);
        };
        let halted = at.halted.is_some();
        let terms = Terms { holder: &step.holder, halted, calm: at.calm, holders, now: at.ms };
        let (answer, odd) = serve(&mut row.window, &mut row.share, row.limit, claim, &terms);
        given.push(answer);
        match odd {
            None => {}
            Some(Odd::HostForgot(why)) => incident(&mut transaction, &step.holder, false, &why).await?,
            Some(Odd::VaultForgot(why)) => {
                incident(&mut transaction, &step.holder, true, &why).await?;
                at.halted.get_or_insert(why.into());
            }
        }
    }
    store(&mut transaction, step, &rows).await?;
    transaction.commit().await?;
    Ok(Stepped::Served { given, halted: at.halted })
}

#[derive(Default)]
struct Rows {
    window: Window,
    share: Share,
    limit: Option<NanoUsd>,
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

async fn lock(connection: &mut PgConnection, step: &Step) -> Result<HashMap<WindowKey, Rows>, sqlx::Error> {
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
        r#"SELECT budget, scope, "window", granted, settled, lost FROM escrow_shares WHERE holder = $1
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

async fn store(connection: &mut PgConnection, step: &Step, rows: &HashMap<WindowKey, Rows>) -> Result<(), sqlx::Error> {
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
           $7::bigint[]) ON CONFLICT (holder, budget, scope, "window") DO UPDATE SET granted = excluded.granted,
           settled = excluded.settled, lost = excluded.lost"#,
    )
    .bind(&*step.holder)
    .bind(budgets)
    .bind(scopes)
    .bind(windows)
    .bind(amounts(|row| row.share.granted))
    .bind(amounts(|row| row.share.settled))
    .bind(amounts(|row| row.share.lost))
    .execute(connection)
    .await
    .map(drop)
}

fn key(row: &PgRow) -> Result<WindowKey, sqlx::Error> {
    let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
    Ok(WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? })
}

fn share(row: &PgRow) -> Result<Share, sqlx::Error> {
    let amount = |name: &str| number(row, name).map(NanoUsd);
    Ok(Share { granted: amount("granted")?, settled: amount("settled")?, lost: amount("lost")? })
}

#[cfg(test)]
mod tests;
