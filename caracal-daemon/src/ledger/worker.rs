//! `caracald worker ledger`: takes the partitions that the group gives it; gives each to its log in PostgreSQL.
//! The place in a partition is the log's own, committed with its leaves; Kafka's committed offset is a hint for others.
//! Refuses to write a log that somebody else took over. What is no record goes to the dead-letter topic first, then the
//! commit says so. Never signs what is not committed, and never commits what it did not read in order.

mod counters;
mod group;
mod signer;
mod silence;

pub use counters::Counters;
pub(crate) use signer::learn;

use super::fleet::{Arrival, Fleet, Refused};
use super::hosts::Hosts;
use super::postgres::{Database, PostgresStore, WRITER};
use super::{LedgerError, StoreError, note};
use crate::bus::checkpoints::CheckpointTopic;
use crate::bus::dead_letters::DeadLetters;
use crate::bus::kafka::BusError;
use crate::bus::signed_run::{self, SignedRun, Unfit};
use crate::config::{Config, Kafka};
use crate::keeper::KeeperError;
use crate::keeper::ledger_key::{LedgerKey, PREDECESSOR};
use group::{Group, Taken};
use rdkafka::error::KafkaError;
use signer::LogSigner;
use silence::Silence;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long to wait after something failed, and between two tries to sign what is not signed yet.
const RETRY: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(100);
/// How long PostgreSQL may take over one step. Behind a cut that nobody tells of it would be waited for a quarter of an hour.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A section is missing.
    #[error("[{0}] is missing in the configuration")]
    Missing(&'static str),
    /// Kafka.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeeperError),
    /// What the keys signed on other hosts.
    #[error(
        "what was signed on other hosts is not known, so nothing is signed: topic {topic}: {why}. Where there is no such \
         topic, `caracald setup kafka` makes it"
    )]
    Checkpoints {
        /// The topic.
        topic: String,
        /// Why.
        why: BusError,
    },
    /// A file or a thread.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The database.
    #[error("PostgreSQL did not answer in time")]
    Late,
}

impl From<StoreError> for WorkerError {
    fn from(error: StoreError) -> WorkerError {
        WorkerError::Ledger(error.into())
    }
}

impl From<KafkaError> for WorkerError {
    fn from(error: KafkaError) -> WorkerError {
        WorkerError::Bus(error.into())
    }
}

/// The name of the log of a partition: `fleet-0`. Its keys and its checkpoints carry it.
#[must_use]
pub fn log_name(series: &str, partition: i32) -> String {
    format!("{series}-{partition}")
}

/// The consumer group of a series: what Kafka's rights of its workers name.
pub(crate) fn group_name(series: &str) -> String {
    format!("caracal-ledger-{series}")
}

/// One log that this worker writes.
struct Log {
    fleet: Fleet<PostgresStore>,
    signer: LogSigner,
    /// Of the topic, whose number of partitions never changes.
    partitions: u32,
    /// Messages may be missing in the topic: the consumer was sent here before and gave a later one.
    sought: Option<u64>,
}

/// A worker.
pub struct Worker {
    kafka: Kafka,
    postgres: String,
    series: String,
    keys: PathBuf,
    group: Group,
    dead: DeadLetters,
    checkpoints: Arc<CheckpointTopic>,
    hosts_at: Database,
    hosts: Hosts,
    logs: HashMap<i32, Log>,
    /// Partitions that are ours and whose log is not open.
    waiting: BTreeSet<i32>,
    failed_at: Option<Instant>,
    unsigned_at: Instant,
    silence: Silence,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Worker").field("series", &self.series).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker as `config` says.
    ///
    /// # Errors
    /// When a section is missing or a secret cannot be read. Kafka and PostgreSQL may be away.
    pub fn new(config: &Config, counters: Arc<Counters>) -> Result<Worker, WorkerError> {
        let kafka = config.kafka.clone().ok_or(WorkerError::Missing("kafka"))?;
        let postgres = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
        let series = config.worker.name.as_str().to_owned();
        let name = group_name(&series);
        let checkpoints = Arc::new(CheckpointTopic::new(&kafka, &name)?);
        let group = Group::join(&kafka, name)?;
        Ok(Worker {
            dead: DeadLetters::new(&kafka)?,
            checkpoints,
            hosts_at: Database::new(&postgres, Some(WRITER))?,
            kafka,
            postgres,
            series,
            keys: config.worker.keys.clone(),
            group,
            hosts: Hosts::default(),
            logs: HashMap::new(),
            waiting: BTreeSet::new(),
            failed_at: None,
            unsigned_at: Instant::now(),
            silence: Silence::after(config.worker.silent_after_ms),
            counters,
        })
    }

    /// Works until `stop`. Whatever fails is tried again.
    pub async fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
                // Still polled, so that the group knows that we live; what comes is asked for again.
                std::thread::sleep(GLANCE);
            }
            let messages = self.group.take();
            self.regroup().await;
            for (partition, taken) in messages {
                let first = taken.first().map_or(0, |taken| taken.offset);
                match in_time(Box::pin(self.write(partition, taken))).await {
                    Ok(()) => self.group.take_more(),
                    Err(error) => {
                        if matches!(error, WorkerError::Late) {
                            self.group.take_less();
                        }
                        self.failed(partition, Some(first), &error);
                    }
                }
            }
            self.sign_the_rest().await;
            self.listen().await;
            self.measure();
        }
        self.logs.clear();
        self.group.leave();
    }

    /// Leaves the group and waits for nothing else. Threads of the producers wait until times of the wall clock: where that was set back
    /// by a day, they end tomorrow. Nothing is in them: what was given to Kafka was acknowledged before anything went on.
    pub fn end(self) {
        drop(self.group);
        std::mem::forget((self.dead, self.checkpoints));
    }

    /// Opens the logs of the partitions that came, and lets go of those that went.
    async fn regroup(&mut self) {
        let (came, went) = self.group.moved();
        for partition in went {
            if self.logs.remove(&partition).is_some() {
                tracing::info!(partition, "let go of the log");
            }
            self.waiting.remove(&partition);
        }
        self.waiting.extend(came);
        if self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        self.failed_at = None;
        for partition in self.waiting.clone() {
            match in_time(Box::pin(self.open(partition))).await {
                Ok(log) => {
                    let next = log.fleet.next_offset();
                    tracing::info!(partition, next, "took over the log");
                    self.group.seek(partition, next);
                    self.logs.insert(partition, log);
                    self.waiting.remove(&partition);
                }
                Err(error) => self.failed(partition, None, &error),
            }
        }
    }

    async fn open(&mut self, partition: i32) -> Result<Log, WorkerError> {
        let name = log_name(&self.series, partition);
        let keys = LedgerKey::open(&self.keys.join(&name), &name)?;
        let database = Database::new(&self.postgres, Some(WRITER))?;
        let store = PostgresStore::take_over(database, &note::origin(&name), &self.kafka.topic, partition).await?;
        // Not before: whatever another worker committed, it had written there, and now it commits nothing more.
        let signer = LogSigner::recall(keys, Arc::clone(&self.checkpoints), partition, &self.counters)?;
        let mut fleet = Fleet::open(store, &name).await?;
        if fleet.ledger().size() == 0 {
            match std::fs::read(self.keys.join(&name).join(PREDECESSOR)) {
                Ok(leaf) => fleet.begin(&leaf).await?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        fleet.ledger().agree(&signer).await?;
        Ok(Log { fleet, signer, partitions: self.group.partitions()?, sought: None })
    }

    /// Brings messages of one partition into its log.
    async fn write(&mut self, partition: i32, mut taken: Vec<Taken>) -> Result<(), WorkerError> {
        let Some(log) = self.logs.get_mut(&partition) else { return Ok(()) };
        let next = log.fleet.next_offset();
        taken.retain(|taken| taken.offset >= next);
        let Some(first) = taken.first() else { return Ok(()) };
        if first.offset > next && log.sought != Some(next) {
            // Given before the consumer was sent to the log's own place. If it gives a later one again, there is no other:
            // the chains will say what is missing.
            log.sought = Some(next);
            self.group.seek(partition, next);
            return Ok(());
        }
        log.sought = None;
        let partitions = log.partitions;
        let arrivals = self.read(&taken, (partition, partitions)).await?;
        let Some(log) = self.logs.get_mut(&partition) else { return Ok(()) };
        let plan = log.fleet.plan(&arrivals).await?;
        for incident in plan.incidents() {
            let Some(taken) = taken.iter().find(|taken| taken.offset == incident.offset) else { continue };
            let from = (self.kafka.topic.as_str(), partition, incident.offset);
            self.dead.put(&taken.raw, (incident.code, &incident.what), from).await?;
            tracing::error!(
                partition,
                offset = incident.offset,
                host = incident.host,
                code = incident.code,
                "no record"
            );
        }
        let (leaves, incidents) = (plan.leaves(), plan.incidents().len() as u64);
        let ingested = log.fleet.commit(plan, Some(&log.signer)).await?;
        let add = |counter: &AtomicU64, more| {
            counter.fetch_add(more, Ordering::Relaxed);
        };
        add(&self.counters.records, leaves);
        add(&self.counters.duplicates, ingested.duplicates);
        add(&self.counters.incidents, incidents);
        add(&self.counters.commits, 1);
        self.group.hint(partition, log.fleet.next_offset());
        Ok(())
    }

    /// Reads messages and holds them against the hosts' keys. A key that was enrolled since is looked for once.
    /// `place`: the partition, and how many there are.
    async fn read(&mut self, taken: &[Taken], place: (i32, u32)) -> Result<Vec<Arrival>, WorkerError> {
        let mut fresh = false;
        let mut arrivals = Vec::with_capacity(taken.len());
        for Taken { offset, raw } in taken {
            let read = signed_run::read(raw.key.as_deref(), raw.payload.as_deref(), |name| raw.header(name));
            let mut checked = read.and_then(|run| self.checked(run, place));
            if matches!(checked, Err(Unfit::UnknownHost | Unfit::WrongSignature)) && !fresh {
                fresh = true;
                self.hosts = Hosts::load(&mut self.hosts_at).await?;
                let read = signed_run::read(raw.key.as_deref(), raw.payload.as_deref(), |name| raw.header(name));
                checked = read.and_then(|run| self.checked(run, place));
            }
            let host = || String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).chars().take(128).collect();
            let run = checked.map_err(|why| Refused { why, host: host() });
            arrivals.push(Arrival { offset: *offset, run });
        }
        Ok(arrivals)
    }

    fn checked(&self, run: SignedRun, (partition, partitions): (i32, u32)) -> Result<(SignedRun, u32), Unfit> {
        if u32::try_from(partition) != Ok(signed_run::partition_of(&run.host, partitions)) {
            return Err(Unfit::Misplaced);
        }
        let enrolment = self.hosts.check(&run)?;
        Ok((run, enrolment))
    }

    /// A log whose last leaves have no checkpoint, since the keys did not answer or it had to catch up first.
    async fn sign_the_rest(&mut self) {
        if self.unsigned_at.elapsed() < RETRY {
            return;
        }
        self.unsigned_at = Instant::now();
        for partition in self.logs.keys().copied().collect::<Vec<_>>() {
            let Some(log) = self.logs.get_mut(&partition) else { continue };
            if unsigned(log) == 0 {
                continue;
            }
            let sign = async {
                let plan = log.fleet.plan(&[]).await?;
                log.fleet.commit(plan, Some(&log.signer)).await?;
                Ok(())
            };
            if let Err(error) = in_time(sign).await {
                self.failed(partition, None, &error);
            }
        }
    }

    /// Looks for hosts that fell silent. The logs do not wait for an answer that does not come: the next look says it all.
    async fn listen(&mut self) {
        if self.failed_at.is_some() || !self.silence.is_due() {
            return;
        }
        match in_time(async { Ok(self.silence.look(&mut self.hosts_at).await?) }).await {
            Ok(silent) => self.counters.silent.store(silent, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "whether hosts are silent cannot be told; it is tried again");
                self.hosts_at.down();
            }
        }
    }

    /// The log is opened anew, and the messages are asked for again.
    fn failed(&mut self, partition: i32, first: Option<u64>, error: &WorkerError) {
        tracing::warn!(partition, %error, "the log does not go on; it is taken up again");
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.failed_at = Some(Instant::now());
        self.logs.remove(&partition);
        self.waiting.insert(partition);
        self.hosts_at.down();
        if let Some(first) = first {
            self.group.seek(partition, first);
        }
    }

    fn measure(&mut self) {
        self.counters.logs.store(self.logs.len() as u64, Ordering::Relaxed);
        let behind = self.logs.values_mut().map(unsigned).sum();
        self.counters.unsigned.store(behind, Ordering::Relaxed);
    }
}

/// Gives up after a while. What was begun is dropped with its connection: the log is then opened anew, and says itself what
/// was committed.
async fn in_time<T>(work: impl Future<Output = Result<T, WorkerError>>) -> Result<T, WorkerError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(WorkerError::Late))
}

fn unsigned(log: &mut Log) -> u64 {
    let ledger = log.fleet.ledger();
    ledger.size() - ledger.checkpoint().map_or(0, |(size, _)| *size).min(ledger.size())
}
