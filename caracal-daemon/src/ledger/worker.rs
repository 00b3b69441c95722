//! `caracald worker ledger`: takes the partitions that the group gives it; gives each to its log in PostgreSQL.
//! The place in a partition is the log's own, committed with its leaves; Kafka's committed offset is a hint for others.
//! Refuses to write a log that somebody else took over. What is no record goes to the dead-letter topic first, then the
//! commit says so. Never signs what is not committed, and never commits what it did not read in order.

use super::fleet::{Arrival, Fleet, Refused};
use super::hosts::Hosts;
use super::postgres::{Database, PostgresStore, WRITER};
use super::{LedgerError, StoreError, note};
use crate::bus::dead_letters::{DeadLetters, Raw};
use crate::bus::kafka::{self, BusError};
use crate::bus::signed_run::{self, SignedRun, Unfit};
use crate::config::{Config, Kafka};
use crate::keeper::ledger_key::{LedgerKey, PREDECESSOR};
use crate::keeper::{KeeperError, Signer};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages taken at once, and their bytes, about. While they are committed nothing is polled: the client's own queue fills
/// up to its bound, and the broker keeps the rest.
const BATCH_MESSAGES: usize = 128;
const BATCH_BYTES: usize = 8 << 20;
/// How long more messages are waited for once there is one.
const GATHER: Duration = Duration::from_millis(20);
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

/// A worker's own counters since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records that became leaves.
    pub records: AtomicU64,
    /// Records that were there already.
    pub duplicates: AtomicU64,
    /// Messages that were no records.
    pub incidents: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Commits and take-overs that failed.
    pub failures: AtomicU64,
    /// Logs that it writes now.
    pub logs: AtomicU64,
    /// Leaves without a checkpoint, in these logs.
    pub unsigned: AtomicU64,
}

impl Counters {
    /// Names, what they say, and values, for `/metrics`.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
        let row = |name, kind, help, value: &AtomicU64| (name, kind, help, value.load(Ordering::Relaxed));
        vec![
            row("caracal_ledger_records_total", "counter", "Records that became leaves.", &self.records),
            row("caracal_ledger_duplicates_total", "counter", "Records that were there already.", &self.duplicates),
            row("caracal_ledger_incidents_total", "counter", "Messages that were no records.", &self.incidents),
            row("caracal_ledger_commits_total", "counter", "Commits.", &self.commits),
            row("caracal_ledger_failures_total", "counter", "Commits and take-overs that failed.", &self.failures),
            row("caracal_ledger_logs", "gauge", "Logs that this worker writes.", &self.logs),
            row("caracal_ledger_unsigned_leaves", "gauge", "Leaves without a checkpoint.", &self.unsigned),
        ]
    }
}

/// The keys of a log, beside its worker.
#[derive(Debug)]
struct LogSigner(LedgerKey);

impl Signer for LogSigner {
    fn issue_leaf(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Refused("a ledger's worker issues no certificates".into()))
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        self.0.sign_checkpoint(size, root, proof)
    }

    fn sign_chain_head(&self, _: u64, _: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Refused("a ledger's worker signs for no host".into()))
    }

    fn prove_chain_head(&self, _: u64, _: &[&[u8]]) -> Result<(), KeeperError> {
        Err(KeeperError::Refused("a ledger's worker signs for no host".into()))
    }
}

/// The name of the log of a partition: `fleet-0`. Its keys and its checkpoints carry it.
#[must_use]
pub fn log_name(series: &str, partition: i32) -> String {
    format!("{series}-{partition}")
}

/// What the group gave and took since the last look.
#[derive(Debug, Default)]
struct Given(Mutex<(BTreeSet<i32>, BTreeSet<i32>)>);

#[derive(Clone, Debug, Default)]
struct Context(Arc<Given>);

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Context>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let mut given = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            for partition in list.elements().iter().map(|one| one.partition()) {
                given.0.remove(&partition);
                given.1.insert(partition);
            }
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Context>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            let mut given = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            given.0.extend(list.elements().iter().map(|one| one.partition()));
        }
    }
}

/// One log that this worker writes.
struct Log {
    fleet: Fleet<PostgresStore>,
    signer: LogSigner,
    /// Messages may be missing in the topic: the consumer was sent here before and gave a later one.
    sought: Option<u64>,
}

struct Taken {
    offset: u64,
    raw: Raw,
}

/// A worker.
pub struct Worker {
    kafka: Kafka,
    postgres: String,
    series: String,
    keys: PathBuf,
    consumer: BaseConsumer<Context>,
    given: Arc<Given>,
    dead: DeadLetters,
    hosts_at: Database,
    hosts: Hosts,
    logs: HashMap<i32, Log>,
    /// Partitions that are ours and whose log is not open.
    waiting: BTreeSet<i32>,
    failed_at: Option<Instant>,
    unsigned_at: Instant,
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
        let mut client = kafka::client(&kafka)?;
        client
            .set("group.id", format!("caracal-ledger-{series}"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "1000")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        let given = Arc::new(Given::default());
        let consumer = BaseConsumer::from_config_and_context(&client, Context(Arc::clone(&given)))?;
        consumer.subscribe(&[&kafka.topic])?;
        Ok(Worker {
            dead: DeadLetters::new(&kafka)?,
            hosts_at: Database::new(&postgres, Some(WRITER))?,
            kafka,
            postgres,
            series,
            keys: config.worker.keys.clone(),
            consumer,
            given,
            hosts: Hosts::default(),
            logs: HashMap::new(),
            waiting: BTreeSet::new(),
            failed_at: None,
            unsigned_at: Instant::now(),
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
            let messages = self.take();
            self.regroup().await;
            for (partition, taken) in messages {
                let first = taken.first().map_or(0, |taken| taken.offset);
                if let Err(error) = in_time(Box::pin(self.write(partition, taken))).await {
                    self.failed(partition, Some(first), &error);
                }
            }
            self.sign_the_rest().await;
            self.measure();
        }
        // The group learns at once that the partitions are free.
        self.logs.clear();
        self.consumer.unsubscribe();
    }

    /// The next messages by partition, in order.
    fn take(&self) -> BTreeMap<i32, Vec<Taken>> {
        let mut messages: BTreeMap<i32, Vec<Taken>> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        let mut until = Instant::now() + GLANCE;
        while count < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let left = until.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    if count == 0 {
                        until = Instant::now() + GATHER;
                    }
                    count += 1;
                    bytes += message.payload_len();
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    messages.entry(message.partition()).or_default().push(Taken { offset, raw: Raw::of(&message) });
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "Kafka");
                    break;
                }
                None if Instant::now() >= until => break,
                None => {}
            }
        }
        messages
    }

    /// Opens the logs of the partitions that came, and lets go of those that went.
    async fn regroup(&mut self) {
        let (came, went) = std::mem::take(&mut *self.given.0.lock().unwrap_or_else(PoisonError::into_inner));
        for partition in went {
            self.logs.remove(&partition);
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
                    self.seek(partition, next);
                    self.logs.insert(partition, log);
                    self.waiting.remove(&partition);
                }
                Err(error) => self.failed(partition, None, &error),
            }
        }
    }

    async fn open(&mut self, partition: i32) -> Result<Log, WorkerError> {
        let name = log_name(&self.series, partition);
        let signer = LogSigner(LedgerKey::open(&self.keys.join(&name), &name)?);
        let database = Database::new(&self.postgres, Some(WRITER))?;
        let store = PostgresStore::take_over(database, &note::origin(&name), &self.kafka.topic, partition).await?;
        let mut fleet = Fleet::open(store, &name).await?;
        if fleet.ledger().size() == 0 {
            match std::fs::read(self.keys.join(&name).join(PREDECESSOR)) {
                Ok(leaf) => fleet.begin(&leaf).await?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        fleet.ledger().agree(&signer).await?;
        Ok(Log { fleet, signer, sought: None })
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
            self.seek(partition, next);
            return Ok(());
        }
        log.sought = None;
        let arrivals = self.read(&taken).await?;
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
        let next = i64::try_from(log.fleet.next_offset()).unwrap_or(i64::MAX);
        let mut list = TopicPartitionList::new();
        if list.add_partition_offset(&self.kafka.topic, partition, Offset::Offset(next)).is_ok() {
            // A hint: who takes the partition over asks the log.
            let _ = self.consumer.commit(&list, CommitMode::Async);
        }
        Ok(())
    }

    /// Reads messages and holds them against the hosts' keys. A key that was enrolled since is looked for once.
    async fn read(&mut self, taken: &[Taken]) -> Result<Vec<Arrival>, WorkerError> {
        let mut fresh = false;
        let mut arrivals = Vec::with_capacity(taken.len());
        for Taken { offset, raw } in taken {
            let read = signed_run::read(raw.key.as_deref(), raw.payload.as_deref(), |name| raw.header(name));
            let mut checked = read.and_then(|run| self.checked(run));
            if matches!(checked, Err(Unfit::UnknownHost | Unfit::WrongSignature)) && !fresh {
                fresh = true;
                self.hosts = Hosts::load(&mut self.hosts_at).await?;
                let read = signed_run::read(raw.key.as_deref(), raw.payload.as_deref(), |name| raw.header(name));
                checked = read.and_then(|run| self.checked(run));
            }
            let host = || String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).chars().take(128).collect();
            let run = checked.map_err(|why| Refused { why, host: host() });
            arrivals.push(Arrival { offset: *offset, run });
        }
        Ok(arrivals)
    }

    fn checked(&self, run: SignedRun) -> Result<(SignedRun, u32), Unfit> {
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

    /// The log is opened anew, and the messages are asked for again.
    fn failed(&mut self, partition: i32, first: Option<u64>, error: &WorkerError) {
        tracing::warn!(partition, %error, "the log does not go on; it is taken up again");
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.failed_at = Some(Instant::now());
        self.logs.remove(&partition);
        self.waiting.insert(partition);
        self.hosts_at.down();
        if let Some(first) = first {
            self.seek(partition, first);
        }
    }

    fn seek(&self, partition: i32, offset: u64) {
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        if let Err(error) = self.consumer.seek(&self.kafka.topic, partition, offset, Duration::from_secs(5)) {
            // Not ours any more, most likely.
            tracing::debug!(%error, partition, "the consumer does not go to the log's place");
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
