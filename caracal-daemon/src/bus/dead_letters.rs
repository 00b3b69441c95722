//! The dead-letter topic: messages that are no records, as they came, with where from and why. Nothing is thrown away; what
//! was a mistake of ours or of an operator is sent again.

use super::kafka::{self, BusError};
use super::signed_run::Unfit;
use crate::config::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

const CODE: &str = "caracal-dead-code";
const WHAT: &str = "caracal-dead-what";
const TOPIC: &str = "caracal-dead-topic";
const PARTITION: &str = "caracal-dead-partition";
const OFFSET: &str = "caracal-dead-offset";
/// How long a broker may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message as the bus had it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload.
    pub payload: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Raw {
    /// A copy of a message.
    #[must_use]
    pub fn of(message: &BorrowedMessage<'_>) -> Raw {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
        });
        Raw {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// A message of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its place there: partition and offset.
    pub place: (i32, i64),
    /// Why it is no record, a code of [`Unfit`].
    pub code: String,
    /// In words.
    pub what: String,
    /// Where it came from: topic, partition, offset.
    pub from: (String, i32, i64),
    /// The message as it came.
    pub raw: Raw,
}

/// Writes dead letters, and sends them again.
pub struct DeadLetters {
    producer: FutureProducer,
    topic: String,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// A writer to the topic that `kafka` names.
    ///
    /// # Errors
    /// When a secret cannot be read.
    pub fn new(kafka: &Kafka) -> Result<DeadLetters, BusError> {
        let mut config = kafka::producer(kafka)?;
        config.set("message.timeout.ms", "20000");
        Ok(DeadLetters { producer: config.create()?, topic: kafka.dlq.clone() })
    }

    /// Puts a message there; it is acknowledged when this returns.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn put(&self, raw: &Raw, why: (&str, &str), from: (&str, i32, u64)) -> Result<(), KafkaError> {
        let mut raw = raw.clone();
        // A letter that was sent again and is dead again carries the news of now.
        raw.headers.retain(|(key, _)| ![CODE, WHAT, TOPIC, PARTITION, OFFSET].contains(&key.as_str()));
        let (partition, offset) = (from.1.to_string(), from.2.to_string());
        for (key, value) in [(CODE, why.0), (WHAT, why.1), (TOPIC, from.0), (PARTITION, &partition), (OFFSET, &offset)]
        {
            raw.headers.push((key.to_owned(), value.as_bytes().to_vec()));
        }
        self.send(&self.topic, &raw).await
    }

    /// Sends a letter again to where it came from.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn redrive(&self, letter: &Letter) -> Result<(), KafkaError> {
        self.send(&letter.from.0, &letter.raw).await
    }

    async fn send(&self, topic: &str, raw: &Raw) -> Result<(), KafkaError> {
        let headers = raw
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = FutureRecord::to(topic).headers(headers);
        if let Some(key) = &raw.key {
            record = record.key(key);
        }
        if let Some(payload) = &raw.payload {
            record = record.payload(payload);
        }
        self.producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| error)
    }
}

/// Every dead letter, oldest first in each partition. A worker that died at the wrong moment left one twice: only the first
/// is given.
///
/// # Errors
/// Kafka's.
pub fn list(kafka: &Kafka, mut each: impl FnMut(Letter)) -> Result<(), BusError> {
    let mut config = kafka::client(kafka)?;
    config.set("group.id", "caracal-dlq-reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(&kafka.dlq), PATIENCE)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|one| one.id()));
    let mut seen = std::collections::HashSet::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(&kafka.dlq, partition, PATIENCE)?;
        if low >= high {
            continue;
        }
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&kafka.dlq, partition, Offset::Offset(low))?;
        consumer.assign(&from)?;
        let mut next = low;
        while next < high {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    next = message.offset().saturating_add(1);
                    let letter = letter(&message);
                    if seen.insert(letter.from.clone()) {
                        each(letter);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(BusError::Kafka(KafkaError::NoMessageReceived)),
            }
        }
    }
    Ok(())
}

fn letter(message: &BorrowedMessage<'_>) -> Letter {
    let mut raw = Raw::of(message);
    let text = |name: &str| raw.text(name).unwrap_or_default().to_owned();
    let place = (message.partition(), message.offset());
    let letter = Letter {
        place,
        code: Some(text(CODE))
            .filter(|code| !code.is_empty())
            .unwrap_or_else(|| Unfit::Malformed("").code().to_owned()),
        what: text(WHAT),
        from: (text(TOPIC), text(PARTITION).parse().unwrap_or(place.0), text(OFFSET).parse().unwrap_or(place.1)),
        raw: Raw::default(),
    };
    raw.headers.retain(|(key, _)| !key.starts_with("caracal-dead-"));
    Letter { raw, ..letter }
}
