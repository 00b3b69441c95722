//! The vault in a file: budgets that the instances of one host share, without a server. One transaction a message, which locks
//! the file, asks the rules, and stores what they say; durable before it is answered. Limits are the instances' own.

mod rows;

use crate::budget::escrow::{
    Held, Known, Moment, Odd, Opened, Opening, QUIET_MS, Session, Step, Stepped, Terms, Vault, VaultError, Verdict,
    WriteOff, WrittenOff, serve,
};
use crate::clock::Clock;
use crate::ledger::sqlite::{number, signed};
use crate::money::NanoUsd;
use rows::{holders, incident, move_window, row, session, shares, store_session, store_share, store_window, tidy};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Others hold the file for a few milliseconds; one that holds it for longer is none.
const BUSY: Duration = Duration::from_secs(4);
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/sqlite/escrow");

/// Shared budgets in a SQLite file.
#[derive(Debug)]
pub struct SqliteVault {
    path: PathBuf,
    connection: Option<SqliteConnection>,
    /// Which file the connection is to.
    place: String,
    /// A message was broken off: the connection is in the middle of something.
    inside: bool,
    /// Messages that the file had taken when it was seen last.
    serial: u64,
}

impl SqliteVault {
    /// The vault in the file at `path`, which is made when it is first used.
    #[must_use]
    pub fn new(path: &Path) -> SqliteVault {
        SqliteVault { path: path.to_owned(), connection: None, place: String::new(), inside: false, serial: 0 }
    }

    async fn begin(&mut self) -> Result<(&mut SqliteConnection, At), sqlx::Error> {
        let again = std::mem::replace(&mut self.inside, true);
        // Another file may have been put in its place, and the connection still has the one before it.
        if again || self.connection.is_none() || place(&self.path).ok().as_ref() != Some(&self.place) {
            self.connection = None;
            self.connection = Some(connect(&self.path).await?);
            self.place = place(&self.path)?;
        }
        let connection = self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let at = at(connection, &self.place, self.serial).await?;
        Ok((connection, at))
    }

    fn end<T>(&mut self, done: Result<(T, u64), sqlx::Error>) -> Result<T, VaultError> {
        self.inside = done.is_err();
        let (answer, serial) = done.map_err(|error| VaultError::Unreachable(error.to_string()))?;
        self.serial = serial;
        Ok(answer)
    }
}

impl Vault for SqliteVault {
    fn name(&self) -> &'static str {
        "the shared file of budgets"
    }

    async fn open(&mut self, opening: &Opening) -> Result<Opened, VaultError> {
        let done = async {
            let (connection, at) = self.begin().await?;
            let serial = at.serial;
            let answer = open(connection, opening, at).await?;
            sqlx::query("COMMIT").execute(connection).await?;
            Ok((answer, serial))
        };
        let done = done.await;
        self.end(done)
    }

    async fn step(&mut self, step: &Step) -> Result<Stepped, VaultError> {
        let done = async {
            let (connection, at) = self.begin().await?;
            let serial = at.serial;
            let answer = take(connection, step, at).await?;
            sqlx::query("COMMIT").execute(connection).await?;
            Ok((answer, serial))
        };
        let done = done.await;
        self.end(done)
    }

    async fn holders(&mut self) -> Result<Vec<Held>, VaultError> {
        let done = async {
            let (connection, at) = self.begin().await?;
            let mut all = holders(connection, at.ms).await?;
            for held in &mut all {
                let own = shares(connection, &held.holder).await?;
                held.shares = own.into_iter().map(|(key, _, share)| (key, share)).collect();
            }
            sqlx::query("COMMIT").execute(connection).await?;
            Ok((all, at.serial))
        };
        let done = done.await;
        self.end(done)
    }

    async fn write_off(&mut self, order: &WriteOff) -> Result<WrittenOff, VaultError> {
        let done = async {
            let (connection, at) = self.begin().await?;
            let answer = write_off(connection, order, &at).await?;
            sqlx::query("COMMIT").execute(connection).await?;
            Ok((answer, at.serial))
        };
        let done = done.await;
        self.end(done)
    }
}

/// An operator has looked at what went wrong with the file at `path`. Gives what it was.
///
/// # Errors
/// When there is no such file, or it cannot be changed.
pub async fn accept_file(path: &Path) -> Result<Vec<String>, sqlx::Error> {
    if !path.exists() {
        return Err(sqlx::Error::Io(std::io::ErrorKind::NotFound.into()));
    }
    let mut connection = connect(path).await?;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
    let rows = sqlx::query(
        "SELECT what FROM escrow_incidents WHERE halts AND id > (SELECT accepted FROM escrow_file) ORDER BY id",
    );
    let rows = rows.fetch_all(&mut connection).await?;
    sqlx::query("UPDATE escrow_file SET accepted = (SELECT coalesce(max(id), 0) FROM escrow_incidents)")
        .execute(&mut connection)
        .await?;
    sqlx::query("COMMIT").execute(&mut connection).await?;
    connection.close().await?;
    rows.iter().map(|row| row.try_get("what")).collect()
}

/// Connects on a thread for what blocks: making the tables is no future that may move.
async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let (path, runtime) = (path.to_owned(), tokio::runtime::Handle::current());
    let connected = tokio::task::spawn_blocking(move || runtime.block_on(connect_here(&path))).await;
    connected.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?
}

async fn connect_here(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    // Nobody else's to read; the write-ahead log takes the file's mode over.
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY);
    let mut connection = options.connect().await?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(connection)
}

/// Which file this is. Of file systems that keep no time of birth, the number alone.
fn place(path: &Path) -> Result<String, sqlx::Error> {
    let found = std::fs::metadata(path)?;
    let born = found.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(format!("{}:{}:{}", found.dev(), found.ino(), born.map_or(0, |since| since.as_nanos())))
}

/// Where the file is in time.
struct At {
    ms: u64,
    started: u64,
    serial: u64,
    calm: bool,
    halted: Option<Arc<str>>,
}

/// Notes that a message is taken, and looks whether this is the file that it was. `seen` is what it had taken when this
/// process looked last.
async fn at(connection: &mut SqliteConnection, here: &str, seen: u64) -> Result<At, sqlx::Error> {
    let ms = Clock::system().now().0 / 1_000_000;
    let row = sqlx::query("SELECT place, started_ms, serial, accepted FROM escrow_file");
    let row = row.fetch_optional(&mut *connection).await?;
    let (was, mut started, serial, accepted) = match &row {
        None => (String::new(), ms, 0, 0),
        Some(row) => (
            row.try_get::<String, _>("place")?,
            number(row, "started_ms")?,
            number(row, "serial")?,
            row.try_get::<i64, _>("accepted")?,
        ),
    };
    // Its number and birth stay over a boot; the device's number may not.
    let file = |place: &str| place.split_once(':').map(|(_, file)| file.to_owned());
    let copied = !was.is_empty() && file(&was) != file(here);
    if was != here {
        // Whoever knows that it forgot something speaks within its quiet time.
        started = ms;
    }
    sqlx::query(
        "INSERT INTO escrow_file VALUES (1, ?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET place = ?1, started_ms = ?2, serial = ?3",
    )
    .bind(here)
    .bind(signed(started))
    .bind(signed(serial.max(seen) + 1))
    .bind(accepted)
    .execute(&mut *connection)
    .await?;
    if serial < seen {
        let what = format!("it had taken {seen} messages, and knows of {serial}: an older copy is in its place");
        incident(connection, "", true, &what, ms).await?;
    } else if copied {
        // Who knows what a copy does not may be down for longer than it is quiet.
        let what = "it is another file than it was: a copy is in its place, which may be an older one";
        incident(connection, "", true, what, ms).await?;
    }
    let open =
        sqlx::query("SELECT what FROM escrow_incidents WHERE halts AND id > ? ORDER BY id LIMIT 1").bind(accepted);
    let halted = open.fetch_optional(connection).await?.map(|row| row.try_get::<String, _>("what")).transpose()?;
    // A clock that was set back must not keep it quiet for ever.
    let calm = ms < started || ms >= started.saturating_add(QUIET_MS);
    Ok(At { ms, started, serial: serial.max(seen) + 1, calm, halted: halted.map(Into::into) })
}

async fn open(connection: &mut SqliteConnection, opening: &Opening, mut at: At) -> Result<Opened, sqlx::Error> {
    let found = session(connection, &opening.holder).await?;
    let (session, verdict) = Session::open(found, opening, at.ms);
    if let Verdict::Busy(ms) = verdict {
        return Ok(Opened::Busy(ms));
    }
    store_session(connection, &opening.holder, Some(&opening.host), &session).await?;
    match verdict {
        Verdict::Forgot(why) => {
            incident(connection, &opening.holder, true, &why, at.ms).await?;
            at.halted.get_or_insert(why.into());
        }
        Verdict::HostForgot(why) => {
            incident(connection, &opening.holder, false, &why, at.ms).await?;
            for (key, _, mut share) in shares(connection, &opening.holder).await? {
                let more = share.forget();
                move_window(connection, &key, NanoUsd::ZERO, more).await?;
                store_share(connection, &opening.holder, &key, share).await?;
            }
        }
        Verdict::Go | Verdict::Busy(_) | Verdict::Fenced | Verdict::Stale => {}
    }
    tidy(connection, &opening.holder, at.ms).await?;
    let shares = shares(connection, &opening.holder).await?;
    let known = Known { epoch: session.epoch, step: session.step, sent: session.step, opening: None };
    Ok(Opened::Yes { known, shares, halted: at.halted })
}

async fn take(connection: &mut SqliteConnection, step: &Step, mut at: At) -> Result<Stepped, sqlx::Error> {
    // Nothing is known of it at all: as if it stood at nothing.
    let unknown = || Session { epoch: 0, step: 0, lot: 0, place: "".into(), until: 0 };
    let mut session = session(connection, &step.holder).await?.unwrap_or_else(unknown);
    match session.step(step, at.ms) {
        Verdict::Fenced => return Ok(Stepped::Fenced),
        Verdict::Stale | Verdict::Busy(_) => return Ok(Stepped::Stale),
        Verdict::Forgot(why) => {
            incident(connection, &step.holder, true, &why, at.ms).await?;
            at.halted.get_or_insert(why.into());
        }
        Verdict::HostForgot(_) | Verdict::Go => {}
    }
    store_session(connection, &step.holder, None, &session).await?;
    let holders = sqlx::query("SELECT count(*) AS holders FROM escrow_holders WHERE until_ms > ?").bind(signed(at.ms));
    let holders = number(&holders.fetch_one(&mut *connection).await?, "holders")?;
    let mut given = Vec::with_capacity(step.claims.len());
    for claim in &step.claims {
        let (mut window, mut share) = row(connection, &step.holder, claim).await?;
        let halted = at.halted.is_some();
        let terms = Terms { holder: &step.holder, halted, calm: at.calm, holders, now: at.ms };
        let (answer, odd) = serve(&mut window, &mut share, Some(claim.limit), claim, &terms);
        given.push(answer);
        store_window(connection, &claim.key, &window).await?;
        store_share(connection, &step.holder, &claim.key, share).await?;
        match odd {
            None => {}
            Some(Odd::HostForgot(why)) => incident(connection, &step.holder, false, &why, at.ms).await?,
            Some(Odd::VaultForgot(why)) => {
                incident(connection, &step.holder, true, &why, at.ms).await?;
                at.halted.get_or_insert(why.into());
            }
        }
    }
    Ok(Stepped::Served { given, halted: at.halted })
}

async fn write_off(connection: &mut SqliteConnection, order: &WriteOff, at: &At) -> Result<WrittenOff, sqlx::Error> {
    let found = session(connection, &order.holder).await?;
    let own = shares(connection, &order.holder).await?;
    let moment = Moment { now: at.ms, started: at.started, halted: at.halted.as_ref() };
    let (session, ended) = match order.decide(found, own.iter().map(|(key, _, share)| (key, share)), &moment) {
        Ok(decided) => decided,
        Err(why) => return Ok(Err(why)),
    };
    store_session(connection, &order.holder, None, &session).await?;
    incident(connection, &order.holder, false, &order.record(&ended), at.ms).await?;
    for one in &ended {
        let Some((key, _, share)) = own.iter().find(|(key, ..)| *key == one.key) else { continue };
        let (share, back, more) = one.change(*share);
        move_window(connection, key, back, more).await?;
        store_share(connection, &order.holder, key, share).await?;
    }
    Ok(Ok(ended))
}

#[cfg(test)]
mod tests;
