//! The spend of many hosts: a view in Redis of what the logs in PostgreSQL charged, made from nothing else. Takes the
//! charges behind a watermark; gives integer sums by host, agent, provider, model and minute, hour or day.
//!
//! Each step is one script that adds and moves the watermark together, and does nothing when the watermark is there
//! already. What a script has written stays when it fails, so it looks at all that it will touch before it writes: a step
//! is done whole, or not at all and may be tried again. What Redis loses, the next step brings back. Never the authority for
//! a decision.

mod buckets;
mod charges;
mod client;
mod step;

pub use buckets::{FleetKey, Sums, Width};

use crate::config::Redis;
use crate::ledger::books::Spend;
use crate::ledger::postgres::Database;
use crate::ledger::store::StoreError;
use buckets::{field, read_field, set};
use charges::{Charge, charges, is_commit, logs};
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::time::Duration;
use step::{Done, MOST, STEP};

const PATIENCE: Duration = Duration::from_secs(10);

/// `KEYS`: the watermarks. `ARGV`: the pattern of all keys of the view.
const FORGET: &str = "\
local keys = redis.call('KEYS', ARGV[1])
for i = 1, #keys do redis.call('DEL', keys[i]) end
return #keys
";

/// Why the view did not go on.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// Redis.
    #[error("Redis: {0}")]
    Redis(redis::RedisError),
    /// A file that `[redis]` names.
    #[error("[redis] {0}")]
    File(#[from] std::io::Error),
    /// A file of `[redis.tls]` that holds something else.
    #[error("[redis.tls] {path}: {what}", path = .0.display(), what = .1)]
    NotPem(std::path::PathBuf, &'static str),
    /// `[redis.tls]` with a URL of another kind.
    #[error("[redis.tls] is there, and the URL does not begin with `rediss://`: nothing would be encrypted")]
    NotTls,
    /// Redis's certificate.
    #[error(
        "Redis: {0}: [redis.tls] roots must hold the CA of its certificate, which must be for the host in the URL; then restart \
         the worker"
    )]
    Untrusted(redis::RedisError),
    /// Redis ended the handshake.
    #[error("Redis: {0}: where it asks for a certificate, [redis.tls] certificate and key must be ones that it knows")]
    Unwelcome(redis::RedisError),
    /// The database.
    #[error("PostgreSQL did not answer in time")]
    Late,
    /// What Redis holds is not what a worker wrote.
    #[error("Redis holds something else under {0}: `caracald worker spend --rebuild` makes the view anew")]
    Foreign(String),
}

impl FleetError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            FleetError::Ledger(_) => "fleet_ledger",
            FleetError::Redis(_) => "redis",
            FleetError::File(_) | FleetError::NotPem(..) => "redis_file",
            FleetError::NotTls => "redis_not_tls",
            FleetError::Untrusted(_) => "redis_untrusted",
            FleetError::Unwelcome(_) => "redis_unwelcome",
            FleetError::Late => "fleet_ledger_late",
            FleetError::Foreign(_) => "redis_foreign",
        }
    }
}

/// The view.
pub struct FleetView {
    client: redis::Client,
    connection: Option<MultiplexedConnection>,
    prefix: String,
    script: redis::Script,
}

impl std::fmt::Debug for FleetView {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("FleetView").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl FleetView {
    /// The view of the series `name` in this Redis. Connects when it is first used.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or the URL is none.
    pub fn new(redis: &Redis, name: &str) -> Result<FleetView, FleetError> {
        let client = client::open(redis)?;
        // One hash tag: all keys of a script must be on one node of a cluster.
        let prefix = format!("{{caracal:{name}}}:spend");
        Ok(FleetView { client, connection: None, prefix, script: redis::Script::new(STEP) })
    }

    async fn up(&mut self) -> Result<MultiplexedConnection, FleetError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(self.connection.insert(connection).clone())
    }

    /// After an error: the connection is made anew.
    pub fn down(&mut self) {
        self.connection = None;
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&mut self) -> Result<(), FleetError> {
        let mut connection = self.up().await?;
        Ok(redis::cmd("PING").query_async(&mut connection).await?)
    }

    /// What Redis does when its memory is full; `None` where it does not tell.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn eviction(&mut self) -> Result<Option<String>, FleetError> {
        let mut connection = self.up().await?;
        let told: redis::RedisResult<BTreeMap<String, String>> =
            redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(&mut connection).await;
        match told {
            Ok(mut told) => Ok(told.remove("maxmemory-policy")),
            // A managed Redis has no CONFIG.
            Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ResponseError) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The watermark of every log: the size up to which its charges are in the view.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn marks(&mut self) -> Result<BTreeMap<i32, u64>, FleetError> {
        let mut connection = self.up().await?;
        Ok(redis::cmd("HGETALL").arg(format!("{}:mark", self.prefix)).query_async(&mut connection).await?)
    }

    /// Brings in charges of every log that are not in the view; gives how many rows that were. Call it until it gives 0.
    /// A view that was made from another ledger, as before a database was restored, is made anew.
    ///
    /// # Errors
    /// PostgreSQL's or Redis's, or PostgreSQL does not answer; what was brought in stays.
    pub async fn step(&mut self, ledger: &mut Database) -> Result<u64, FleetError> {
        let step = tokio::time::timeout(2 * PATIENCE, self.try_step(ledger)).await;
        step.unwrap_or_else(|_| {
            ledger.down();
            Err(FleetError::Late)
        })
    }

    async fn try_step(&mut self, ledger: &mut Database) -> Result<u64, FleetError> {
        let marks = self.marks().await?;
        let mut count = 0;
        for log in logs(ledger).await? {
            let mark = marks.get(&log).copied().unwrap_or(0);
            let rows = charges(ledger, log, mark).await?;
            let Some(to) = rows.last().map(|row| row.upto) else { continue };
            if mark > 0 && !is_commit(ledger, log, mark).await? {
                // The ledger has the same charges in other commits: from here on one would count twice, or never.
                tracing::warn!(log, mark, "the view was made from another copy of the ledger; it is made anew");
                self.forget().await?;
                return Ok(rows.len() as u64);
            }
            count += rows.len() as u64;
            self.add(log, mark, to, &rows).await?;
        }
        Ok(count)
    }

    async fn add(&mut self, log: i32, from: u64, to: u64, rows: &[Charge]) -> Result<(), FleetError> {
        let mut keys: Vec<String> = vec![format!("{}:mark", self.prefix)];
        let mut ends = Vec::new();
        let mut sums: BTreeMap<(usize, String), u64> = BTreeMap::new();
        for row in rows {
            for width in Width::ALL {
                let key = format!("{}:{}:{}", self.prefix, width.name(), width.bucket(&row.minute));
                let at = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    if let Some(end) = width.ends(&row.minute) {
                        ends.push((keys.len(), end));
                    }
                    keys.len() - 1
                });
                for (name, value) in Spend::NUMBERS.iter().zip(row.spend.numbers()).filter(|(_, value)| *value > 0) {
                    let sum = sums.entry((at + 1, field(&row.key, name))).or_default();
                    *sum = sum.saturating_add(value).min(MOST);
                }
            }
        }
        let mut connection = self.up().await?;
        let mut call = self.script.prepare_invoke();
        for key in &keys {
            call.key(key);
        }
        call.arg(log).arg(from).arg(to).arg(ends.len());
        for (at, end) in &ends {
            call.arg(*at).arg(*end);
        }
        for ((at, field), value) in &sums {
            call.arg(*at).arg(field).arg(*value);
        }
        // 0: another worker was faster. -1: Redis lost what it had, or another worker is in between: the next step reads anew.
        match call.invoke_async(&mut connection).await? {
            Done::Code => Ok(()),
            Done::Foreign(key) => Err(FleetError::Foreign(key)),
        }
    }

    /// Deletes the view; the next steps make it anew.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn forget(&mut self) -> Result<(), FleetError> {
        // All at once, with the watermarks: a step of another worker comes before it or finds its watermark gone.
        let mut connection = self.up().await?;
        let pattern = format!("{}:*", self.prefix);
        let forget = redis::Script::new(FORGET);
        let _: u64 = forget.key(format!("{}:mark", self.prefix)).arg(pattern).invoke_async(&mut connection).await?;
        Ok(())
    }

    /// The sums of buckets of this width whose names begin with `from`.
    ///
    /// # Errors
    /// When Redis does not answer, or holds what no worker wrote.
    pub async fn sums(&mut self, width: Width, from: &str) -> Result<Sums, FleetError> {
        let mut sums = Sums::new();
        let keys = self.keys(&format!("{}:{from}*", width.name())).await?;
        let mut connection = self.up().await?;
        for key in keys {
            let bucket = key.split_once(&format!(":{}:", width.name())).map_or("", |(_, bucket)| bucket).to_owned();
            let fields: Vec<(String, u64)> = redis::cmd("HGETALL").arg(&key).query_async(&mut connection).await?;
            for (field, value) in fields {
                let (about, name) = read_field(&field).ok_or_else(|| FleetError::Foreign(key.clone()))?;
                let row = sums.entry((width, bucket.clone(), about)).or_default();
                set(row, &name, value).ok_or_else(|| FleetError::Foreign(key.clone()))?;
            }
        }
        Ok(sums)
    }

    async fn keys(&mut self, behind: &str) -> Result<Vec<String>, FleetError> {
        let mut connection = self.up().await?;
        let (mut keys, mut cursor) = (std::collections::BTreeSet::new(), 0_u64);
        loop {
            // `{`, `}` and `:` have no meaning in a pattern of Redis.
            let (next, found): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{}:{behind}", self.prefix))
                .arg("COUNT")
                .arg(1_000)
                .query_async(&mut connection)
                .await?;
            keys.extend(found);
            if next == 0 {
                return Ok(keys.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// Holds the view against the ledger: what is in only one of them, or differs. `now` is in Unix seconds; buckets that
    /// go within the hour are not looked at.
    ///
    /// # Errors
    /// PostgreSQL's or Redis's.
    pub async fn differences(&mut self, ledger: &mut Database, now: i64) -> Result<Vec<String>, FleetError> {
        let marks = self.marks().await?;
        let mut wanted = Sums::new();
        for log in logs(ledger).await? {
            let (mut from, mark) = (0, marks.get(&log).copied().unwrap_or(0));
            loop {
                let rows = charges(ledger, log, from).await?;
                let Some(last) = rows.last().map(|row| row.upto) else { break };
                for row in rows.iter().filter(|row| row.upto <= mark) {
                    for width in Width::ALL {
                        let key = (width, width.bucket(&row.minute).to_owned(), row.key.clone());
                        wanted.entry(key).or_default().add(&row.spend);
                    }
                }
                from = last;
            }
        }
        let mut found = Sums::new();
        for width in Width::ALL {
            found.append(&mut self.sums(width, "").await?);
        }
        let stays = |(width, bucket, _): &(Width, String, FleetKey)| {
            let minute = match width {
                Width::Minute => bucket.clone(),
                Width::Hour => format!("{bucket}:00"),
                Width::Day => return true,
            };
            width.ends(&minute).is_some_and(|end| end > now + 3_600)
        };
        let keys: std::collections::BTreeSet<_> = wanted.keys().chain(found.keys()).filter(|key| stays(key)).collect();
        let differing = keys.into_iter().filter(|key| wanted.get(key) != found.get(key));
        Ok(differing
            .map(|key| {
                let cost = |sums: &Sums| sums.get(key).map_or(0, |row| row.net().0);
                let (width, bucket, about) = key;
                format!(
                    "{} {bucket} {about:?}: {} in the ledger, {} in Redis",
                    width.name(),
                    cost(&wanted),
                    cost(&found)
                )
            })
            .collect())
    }
}

#[cfg(test)]
mod tests;
