//! The consumer group: takes what Kafka gives this worker, partitions and their messages in order, within bounds. Says
//! where to go on; the offsets that it commits are hints. Never moves on by itself: the place in a partition is its log's.

use super::{GLANCE, WorkerError};
use crate::bus::dead_letters::Raw;
use crate::bus::kafka::{self, Trouble};
use crate::config::Kafka;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages taken at once, and their bytes, about. While they are committed nothing is polled: the client's own queue fills
/// up to its bound, and the broker keeps the rest.
const BATCH_MESSAGES: usize = 128;

/// Their bytes at most; and what is tried before one message at a time.
const BATCH_BYTES: usize = 8 << 20;
const SMALL_BATCH_BYTES: usize = 64 << 10;

/// How long more messages are waited for once there is one.
const GATHER: Duration = Duration::from_millis(20);

/// How often the client is asked what is there. It is never left to wait: its waits last until a time of the wall clock, and when that
/// is set back by a day, they last a day longer, unless a message comes.
const NAP: Duration = Duration::from_millis(5);

/// A place in the group.
pub(super) struct Group {
    topic: String,
    consumer: BaseConsumer<Context>,
    given: Arc<Given>,
    /// Bytes that are taken at once, about.
    batch_bytes: usize,
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
        let told = Trouble::of(&error, reason).tell(reason);
        // That no broker is left says less than why each was not.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            tracing::debug!("{told}");
        } else {
            tracing::warn!("{told}");
        }
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

/// A message and its place in its partition.
pub(super) struct Taken {
    pub(super) offset: u64,
    pub(super) raw: Raw,
}

impl Group {
    /// A place in the group `name`. Kafka may be away.
    ///
    /// # Errors
    /// When a secret cannot be read, or librdkafka does not take a setting.
    pub(super) fn join(kafka: &Kafka, name: String) -> Result<Group, WorkerError> {
        let mut client = kafka::client(kafka)?;
        client
            .set("group.id", name)
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
        Ok(Group { topic: kafka.topic.clone(), consumer, given, batch_bytes: BATCH_BYTES })
    }

    /// What was taken could not be committed in time: less is taken from now on, so that a slow database gets on, too.
    pub(super) fn take_less(&mut self) {
        self.batch_bytes = (self.batch_bytes / 2).max(SMALL_BATCH_BYTES);
    }

    /// It was committed: more is taken again.
    pub(super) fn take_more(&mut self) {
        self.batch_bytes = (self.batch_bytes + self.batch_bytes / 4).min(BATCH_BYTES);
    }

    /// Which partitions came, and which went, since this was asked last.
    pub(super) fn moved(&self) -> (BTreeSet<i32>, BTreeSet<i32>) {
        std::mem::take(&mut *self.given.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next messages by partition, in order.
    pub(super) fn take(&self) -> BTreeMap<i32, Vec<Taken>> {
        let mut messages: BTreeMap<i32, Vec<Taken>> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        let mut until = Instant::now() + GLANCE;
        while count < BATCH_MESSAGES && bytes < self.batch_bytes {
            match self.consumer.poll(Duration::ZERO) {
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
                None => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    std::thread::sleep(NAP.min(left));
                }
            }
        }
        messages
    }

    /// How many partitions the topic has.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub(super) fn partitions(&self) -> Result<u32, WorkerError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(5))?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The next messages of a partition are those from this offset on.
    pub(super) fn seek(&self, partition: i32, offset: u64) {
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        if let Err(error) = self.consumer.seek(&self.topic, partition, offset, Duration::from_secs(5)) {
            // Not ours any more, most likely.
            tracing::debug!(%error, partition, "the consumer does not go to the log's place");
        }
    }

    /// Says that everything before `next` is in the log.
    pub(super) fn hint(&self, partition: i32, next: u64) {
        let next = i64::try_from(next).unwrap_or(i64::MAX);
        let mut list = TopicPartitionList::new();
        if list.add_partition_offset(&self.topic, partition, Offset::Offset(next)).is_ok() {
            // A hint: who takes the partition over asks the log.
            let _ = self.consumer.commit(&list, CommitMode::Async);
        }
    }

    /// The group learns at once that the partitions are free.
    pub(super) fn leave(&self) {
        self.consumer.unsubscribe();
    }
}
