//! The vault in PostgreSQL: one transaction a message. It locks the holder's row, then the rows of the windows in the order of
//! their keys, asks the rules, and stores what they say.

mod rows;

use super::limits::SERVER;
use crate::budget::escrow::{
    Held, Known, Moment, Odd, Opened, Opening, QUIET_MS, Session, Step, Stepped, Terms, Vault, VaultError, Verdict,
    WriteOff, WrittenOff, serve,
};
use crate::ledger::postgres::{Database, HOST, number, signed};
use crate::ledger::store::StoreError;
use rows::{forget, holders, incident, lock, move_window, session, shares, store, store_session, store_share, tidy};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use std::sync::Arc;

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

    /// The same as an operator has it, who is the database's owner.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn as_owner(url: &str) -> Result<PostgresVault, StoreError> {
        Ok(PostgresVault { database: Database::new(url, None)?, inside: false })
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
            // undefined_table, undefined_column, invalid role
            let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            match code.as_deref() {
                Some("42P01" | "42703" | "22023") => VaultError::NotSetUp,
                _ => VaultError::Unreachable(error.to_string()),
            }
        })
    }
}

impl Vault for PostgresVault {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    async fn open(&mut self, opening: &Opening) -> Result<Opened, VaultError> {
        let done = async { open(self.connection().await?, opening).await }.await;
        self.end(done)
    }

    async fn step(&mut self, step: &Step) -> Result<Stepped, VaultError> {
        let done = async { take(self.connection().await?, step).await }.await;
        self.end(done)
    }

    async fn holders(&mut self) -> Result<Vec<Held>, VaultError> {
        let done = async {
            let connection = self.connection().await?;
            let mut transaction = connection.begin().await?;
            let at = now(&mut transaction).await?;
            let mut all = holders(&mut transaction, at.ms).await?;
            for held in &mut all {
                let own = shares(&mut transaction, &held.holder).await?;
                held.shares = own.into_iter().map(|(key, _, share)| (key, share)).collect();
            }
            Ok(all)
        };
        let done = done.await;
        self.end(done)
    }

    async fn write_off(&mut self, order: &WriteOff) -> Result<WrittenOff, VaultError> {
        let done = async { write_off(self.connection().await?, order).await }.await;
        self.end(done)
    }
}

/// Where the database is in time, and whether it is the one that was accepted.
struct Now {
    ms: u64,
    started: u64,
    calm: bool,
    halted: Option<Arc<str>>,
}

async fn now(connection: &mut PgConnection) -> Result<Now, sqlx::Error> {
    let server = sqlx::query(SERVER).fetch_one(&mut *connection).await?;
    let (ms, started) = (number(&server, "now_ms")?, number(&server, "started_ms")?);
    // A row keeps the number of the transaction that wrote it (of its lower 32 bits) for as long as it is there, also when it is
    // frozen; written again from a dump it has another. Source: PostgreSQL's documentation, "System Columns".
    let accepted = sqlx::query(
        "SELECT upto, system, timeline, tables, made & 4294967295 IS NOT DISTINCT FROM xmin::text::bigint AS original \
         FROM escrow_accepted ORDER BY id DESC LIMIT 1",
    );
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
            } else if !row.try_get::<bool, _>("original")?
                || row.try_get::<Option<String>, _>("tables")? != Some(text(&server, "tables")?)
            {
                halted = Some("its tables were filled from a dump, or made anew".into());
            }
        }
    }
    let open = sqlx::query("SELECT what FROM escrow_incidents WHERE halts AND id > $1 ORDER BY id LIMIT 1").bind(upto);
    if let Some(row) = open.fetch_optional(connection).await? {
        halted = Some(row.try_get::<String, _>("what")?.into());
    }
    Ok(Now { ms, started, calm: ms >= started.saturating_add(QUIET_MS), halted })
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
    let shares = shares(&mut transaction, &opening.holder).await?;
    transaction.commit().await?;
    let known = Known { epoch: session.epoch, step: session.step, sent: session.step, opening: None };
    Ok(Opened::Yes { known, shares, halted: at.halted })
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

async fn write_off(connection: &mut PgConnection, order: &WriteOff) -> Result<WrittenOff, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let at = now(&mut transaction).await?;
    // Whatever its process says meanwhile waits for this row.
    let found = session(&mut transaction, &order.holder).await?;
    let own = shares(&mut transaction, &order.holder).await?;
    let moment = Moment { now: at.ms, started: at.started, halted: at.halted.as_ref() };
    let (session, ended) = match order.decide(found, own.iter().map(|(key, _, share)| (key, share)), &moment) {
        Ok(decided) => decided,
        Err(why) => return Ok(Err(why)),
    };
    store_session(&mut transaction, &order.holder, None, &session).await?;
    incident(&mut transaction, &order.holder, false, &order.record(&ended)).await?;
    for one in &ended {
        let Some((key, _, share)) = own.iter().find(|(key, ..)| *key == one.key) else { continue };
        let (share, back, more) = one.change(*share);
        move_window(&mut transaction, key, back, more).await?;
        store_share(&mut transaction, &order.holder, key, share).await?;
    }
    transaction.commit().await?;
    Ok(Ok(ended))
}

#[cfg(test)]
mod tests;
