//! Makes a log of many hosts again from its partition of the topic and holds it against the one in PostgreSQL.
//!
//! The tree depends on who was enrolled when a message came, and Kafka does not tell. PostgreSQL does: a message that was refused
//! because its host was not enrolled, or not with that key, is an incident there, and one that was taken names its enrolment. Each
//! message is held against that enrolment's key again; nothing else is believed. A topic that let its beginning go is refused.

use super::{Comparison, RebuildError, compare};
use crate::bus::dead_letters::Raw;
use crate::bus::kafka::{self, BusError};
use crate::bus::signed_run::{self, SignedRun, Unfit};
use crate::config::Kafka;
use crate::event::{Hash, WindowKey};
use crate::ledger::Ledger;
use crate::ledger::books::Total;
use crate::ledger::fleet::{Arrival, Fleet, FleetState, FleetStore, Refused};
use crate::ledger::note::Verifier;
use crate::ledger::postgres::{Database, PostgresStore, failed, number};
use crate::ledger::sequence::is_succession;
use crate::ledger::sqlite::SqliteStore;
use crate::ledger::store::{Batch, Chunk, State, Store, StoreError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::Row as _;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

/// Messages taken at once, and their bytes, about.
const BATCH_MESSAGES: usize = 128;
const BATCH_BYTES: usize = 8 << 20;
/// How long the broker may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log of many hosts, as PostgreSQL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its number.
    pub log: i32,
    /// Its name: `fleet-0`.
    pub name: String,
}

/// Makes the log again in `scratch`, which must not be there yet, and compares. `progress` is told how many leaves are made.
///
/// # Errors
/// When Kafka or PostgreSQL cannot be read, or the topic has not all of the messages.
pub async fn compare_with_topic(
    config: &Kafka,
    database: Database,
    named: &Named,
    scratch: &Path,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Comparison, RebuildError> {
    let mut stored = PostgresStore::reader(database, named.log);
    stored.freeze().await?;
    let evidence = Evidence::load(&mut stored).await?;
    let mut fleet = Fleet::open(Scratch::open(scratch).await?, &named.name).await?;
    let first = stored.chunk(0).await?.and_then(|chunk| chunk.records().next().map(<[u8]>::to_vec));
    if let Some(leaf) = first.filter(|leaf| is_succession(leaf)) {
        // Not in the topic: the log took another one's place.
        fleet.begin(&leaf).await?;
    }
    let mut partition = Partition::open(config, &evidence)?;
    while fleet.next_offset() < evidence.next_offset {
        let messages = partition.take()?;
        if messages.is_empty() {
            break;
        }
        let mut arrivals = Vec::with_capacity(messages.len());
        for (offset, raw) in messages {
            let run = evidence.judge(offset, &raw, &fleet);
            arrivals.push(Arrival { offset, run });
        }
        let plan = fleet.plan(&arrivals).await?;
        fleet.commit(plan, None).await?;
        progress(fleet.ledger().size());
    }
    let rebuilt: &mut Ledger<Scratch> = fleet.ledger();
    compare(rebuilt, &mut stored).await
}

/// What PostgreSQL says of who was enrolled when.
struct Evidence {
    topic: String,
    partition: i32,
    next_offset: u64,
    /// Every key of every host, by enrolment.
    keys: HashMap<String, BTreeMap<u32, Verifier>>,
    /// Messages that were taken, and under which enrolment.
    taken: HashMap<u64, u32>,
    /// Messages that were refused for their key, or their partition.
    refused: HashMap<u64, Unfit>,
}

impl Evidence {
    async fn load(store: &mut PostgresStore) -> Result<Evidence, StoreError> {
        let loaded = Evidence::try_load(store).await;
        loaded.map_err(|error| failed(&error))
    }

    async fn try_load(store: &mut PostgresStore) -> Result<Evidence, sqlx::Error> {
        let log = store.log();
        let connection = store.database().up().await?;
        let row = sqlx::query("SELECT topic, part, next_offset FROM logs WHERE log = $1").bind(log);
        let row = row.fetch_one(&mut *connection).await?;
        let mut evidence = Evidence {
            topic: row.try_get("topic")?,
            partition: row.try_get("part")?,
            next_offset: number(&row, "next_offset")?,
            keys: HashMap::new(),
            taken: HashMap::new(),
            refused: HashMap::new(),
        };
        let enrolment = |row: &sqlx::postgres::PgRow| {
            u32::try_from(row.try_get::<i32, _>("enrolment")?).map_err(|error| sqlx::Error::Decode(error.into()))
        };
        for row in sqlx::query("SELECT host, enrolment, verifier FROM hosts").fetch_all(&mut *connection).await? {
            let key = Verifier::parse(row.try_get("verifier")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
            evidence.keys.entry(row.try_get("host")?).or_default().insert(enrolment(&row)?, key);
        }
        let rows = sqlx::query("SELECT DISTINCT kafka_offset, enrolment FROM runs WHERE log = $1").bind(log);
        for row in rows.fetch_all(&mut *connection).await? {
            evidence.taken.insert(number(&row, "kafka_offset")?, enrolment(&row)?);
        }
        let rows = sqlx::query(
            "SELECT kafka_offset, code FROM incidents WHERE log = $1 AND code IN ('unknown_host', 'wrong_signature', 'misplaced')",
        );
        for row in rows.bind(log).fetch_all(connection).await? {
            let code = row.try_get::<String, _>("code")?;
            let known = [Unfit::UnknownHost, Unfit::Misplaced].into_iter().find(|why| why.code() == code);
            let why = known.unwrap_or(Unfit::WrongSignature);
            evidence.refused.insert(number(&row, "kafka_offset")?, why);
        }
        Ok(evidence)
    }

    /// The message as the worker that took it judged it.
    fn judge(&self, offset: u64, raw: &Raw, fleet: &Fleet<Scratch>) -> Result<(SignedRun, u32), Refused> {
        let host = || String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).chars().take(128).collect();
        let refuse = |why| Refused { why, host: host() };
        let run = signed_run::read(raw.key.as_deref(), raw.payload.as_deref(), |name| raw.header(name));
        let run = run.map_err(refuse)?;
        if let Some(why) = self.refused.get(&offset) {
            return Err(refuse(*why));
        }
        let keys = self.keys.get(&run.host).ok_or_else(|| refuse(Unfit::UnknownHost))?;
        if let Some(enrolment) = self.taken.get(&offset) {
            let key = keys.get(enrolment).ok_or_else(|| refuse(Unfit::UnknownHost))?;
            run.check(key).map_err(refuse)?;
            return Ok((run, *enrolment));
        }
        // All of it was there already, or it contradicts what was: under the enrolment of the chain, or a later one.
        let now = fleet.hosts().get(&run.host).map_or(0, |host| host.chain.enrolment);
        let mut why = Unfit::UnknownHost;
        for (enrolment, key) in keys.range(now..) {
            match run.check(key) {
                Ok(()) => return Ok((run, *enrolment)),
                Err(unfit) => why = unfit,
            }
        }
        Err(refuse(why))
    }
}

/// The messages that the log was made of.
struct Partition {
    consumer: BaseConsumer,
    topic: String,
    partition: i32,
    until: u64,
    next: u64,
}

impl Partition {
    fn open(config: &Kafka, evidence: &Evidence) -> Result<Partition, RebuildError> {
        let (topic, partition, until) = (evidence.topic.clone(), evidence.partition, evidence.next_offset);
        let mut client = kafka::client(config)?;
        client
            .set("group.id", "caracal-rebuild")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer = client.create().map_err(BusError::Kafka)?;
        let marks = consumer.fetch_watermarks(&topic, partition, PATIENCE).map_err(BusError::Kafka)?;
        let wrong = |why: String| RebuildError::Partition { topic: topic.clone(), partition, why };
        if marks.0 > 0 {
            let why =
                format!("its first {} messages are gone; only a topic that keeps all can make the log again", marks.0);
            return Err(wrong(why));
        }
        if u64::try_from(marks.1).unwrap_or(0) < until {
            return Err(wrong(format!("it has {} messages, and the log was made of {until}", marks.1)));
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, partition, Offset::Offset(0)).map_err(BusError::Kafka)?;
        consumer.assign(&list).map_err(BusError::Kafka)?;
        Ok(Partition { consumer, topic, partition, until, next: 0 })
    }

    /// The next messages; none at the end.
    fn take(&mut self) -> Result<Vec<(u64, Raw)>, RebuildError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while self.next < self.until && messages.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            match self.consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    self.next = offset + 1;
                    if offset < self.until {
                        bytes += message.payload_len();
                        messages.push((offset, Raw::of(&message)));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                // A broker that is away comes back, or there is nothing for a minute.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
                ))) => {}
                Some(Err(error)) => return Err(BusError::Kafka(error).into()),
                None => {
                    let why = format!("nothing came for {} s after message {}", PATIENCE.as_secs(), self.next);
                    return Err(RebuildError::Partition { topic: self.topic.clone(), partition: self.partition, why });
                }
            }
        }
        Ok(messages)
    }
}

/// Leaves and tiles in SQLite, chains in memory: as long as a comparison takes.
#[derive(Debug)]
struct Scratch {
    store: SqliteStore,
    state: FleetState,
    /// By host and sequence number of the first: last sequence number and first leaf, of what stands together.
    runs: HashMap<String, BTreeMap<u64, Vec<(u64, u64)>>>,
}

impl Scratch {
    async fn open(path: &Path) -> Result<Scratch, StoreError> {
        let store = SqliteStore::open(path).await?;
        Ok(Scratch { store, state: FleetState::default(), runs: HashMap::new() })
    }
}

impl Store for Scratch {
    async fn load(&mut self) -> Result<State, StoreError> {
        self.store.load().await
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if !batch.chunks.is_empty() {
            self.store.commit(batch).await?;
        }
        let Some(part) = &batch.fleet else { return Ok(()) };
        self.state.apply(part);
        for run in &part.runs {
            let of_host = self.runs.entry(run.host.clone()).or_default();
            of_host.entry(run.records.0).or_default().push((run.records.1, run.leaf));
        }
        Ok(())
    }

    async fn freeze(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<Option<(u64, String)>, StoreError> {
        Ok(None)
    }

    async fn chunks_within(&mut self, first: u64, span: (u64, u64), limit: u32) -> Result<Vec<Chunk>, StoreError> {
        self.store.chunks_within(first, span, limit).await
    }

    async fn chunk(&mut self, index: u64) -> Result<Option<Chunk>, StoreError> {
        self.store.chunk(index).await
    }

    async fn tile(&mut self, level: u32, n: u64) -> Result<Vec<Hash>, StoreError> {
        self.store.tile(level, n).await
    }

    async fn totals(&mut self) -> Result<HashMap<WindowKey, Total>, StoreError> {
        Ok(HashMap::new())
    }
}

impl FleetStore for Scratch {
    async fn fleet(&mut self) -> Result<FleetState, StoreError> {
        Ok(self.state.clone())
    }

    async fn leaf_of(&mut self, host: &str, sequence: u64, began: u64) -> Result<Option<u64>, StoreError> {
        let of_host = self.runs.get(host).into_iter().flat_map(|runs| runs.range(..=sequence).rev());
        let mut found = of_host.flat_map(|(first, runs)| runs.iter().map(move |(last, leaf)| (*first, *last, *leaf)));
        let found = found.find(|(_, last, leaf)| *last >= sequence && *leaf >= began);
        Ok(found.map(|(first, _, leaf)| leaf + sequence - first))
    }
}
