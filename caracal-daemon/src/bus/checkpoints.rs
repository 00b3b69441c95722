//! The topic of checkpoints: the last one that each log's keys signed, where every host that has these keys finds it. Takes
//! notes and gives bytes: whether a log's keys signed them, the reader asks them. Compacted, and the partition of a log is the one
//! that its records come by, so that the newest is at the end whatever other logs do. Never waits longer than [`PATIENCE`].

use super::kafka::{self, BusError};
use crate::config::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a broker may take over one of them, or over all that is read.
const PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(100);
/// Messages at the end that are looked at first; then sixteen times as many, and so on to the beginning. What is behind the end
/// is there only until the topic is compacted, or where somebody else writes to it.
const TAIL: i64 = 256;
const FURTHER: i64 = 16;

/// Told what became of one message.
type Told = mpsc::SyncSender<Result<(), KafkaError>>;

struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Told>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<Told>) {
        // Whoever waited may have given up.
        let _ = told.try_send(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// Reads and writes it.
pub struct CheckpointTopic {
    topic: String,
    producer: ThreadedProducer<Context>,
    reader: BaseConsumer,
}

impl std::fmt::Debug for CheckpointTopic {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("CheckpointTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl CheckpointTopic {
    /// The topic that `kafka` names, for a worker that may read in `group`; it does not join there. Kafka may be away.
    ///
    /// # Errors
    /// When a secret cannot be read.
    pub fn new(kafka: &Kafka, group: &str) -> Result<CheckpointTopic, BusError> {
        let mut writes = kafka::producer(kafka)?;
        // One is on its way at a time, and twice is as good as once. One that was given up is no hole: the next says more.
        writes.set("enable.idempotence", "false").set("message.timeout.ms", PATIENCE.as_millis().to_string());
        let mut reads = kafka::client(kafka)?;
        reads
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // What somebody's open transaction holds back is read as well: signatures say what counts.
            .set("isolation.level", "read_uncommitted")
            .set("queued.max.messages.kbytes", "1024")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        Ok(CheckpointTopic {
            topic: kafka.checkpoints.clone(),
            producer: writes.create_with_context(Context)?,
            reader: reads.create()?,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.topic
    }

    /// Puts the newest checkpoint of the log `origin`, which is partition `partition`, there; every copy that must have it has it
    /// when this returns. Blocks.
    ///
    /// # Errors
    /// When Kafka does not take it. It may have it nevertheless.
    pub fn put(&self, partition: i32, origin: &str, note: &str) -> Result<(), BusError> {
        let (told, outcome) = mpsc::sync_channel(1);
        let record = BaseRecord::with_opaque_to(&self.topic, Box::new(told));
        self.producer.send(record.partition(partition).key(origin).payload(note)).map_err(|(error, _)| error)?;
        // The client itself gives up in time and says so; a second more, since this bound is not to be another's.
        let late = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
        Ok(outcome.recv_timeout(PATIENCE + Duration::from_secs(1)).unwrap_or(Err(late))?)
    }

    /// Gives `known` the messages of the log `origin`: the last ones, oldest of them first; those before these only if `known`
    /// said no to all. Blocks.
    ///
    /// # Errors
    /// When there is no such topic, or Kafka does not give in time what there is.
    pub fn last(&self, partition: i32, origin: &str, mut known: impl FnMut(&[u8]) -> bool) -> Result<(), BusError> {
        let until = Instant::now() + PATIENCE;
        let (low, high) = self.reader.fetch_watermarks(&self.topic, partition, PATIENCE)?;
        let (mut upto, mut count, mut found) = (high, TAIL, false);
        let mut looked = Ok(());
        while upto > low && !found && looked.is_ok() {
            let from = low.max(upto.saturating_sub(count));
            looked = self.look((partition, from, upto), until, |key, payload| {
                found |= key == origin.as_bytes() && known(payload);
            });
            (upto, count) = (from, count.saturating_mul(FURTHER));
        }
        self.reader.unassign()?;
        looked
    }

    /// The messages of `partition` between two offsets.
    fn look(
        &self,
        (partition, from, upto): (i32, i64, i64),
        until: Instant,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), BusError> {
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&self.topic, partition, Offset::Offset(from))?;
        self.reader.assign(&place)?;
        // Offsets that compaction took are passed over; the end says so itself.
        let mut next = from;
        while next < upto {
            match self.reader.poll(until.saturating_duration_since(Instant::now()).min(GLANCE)) {
                Some(Ok(message)) if message.partition() == partition && message.offset() >= next => {
                    next = message.offset().saturating_add(1);
                    if message.offset() < upto {
                        each(message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => break,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => {}
            }
            if next < upto && Instant::now() >= until {
                return Err(BusError::Kafka(KafkaError::NoMessageReceived));
            }
        }
        Ok(())
    }
}
