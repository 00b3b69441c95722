//! The keys of a log, beside its worker. What they sign is in the topic of checkpoints before it is given out, so that the same
//! keys on another host know it. Takes what that topic has, and the file beside the keys; remembers the larger tree of both.
//! Never signs before it has read the topic, and takes nothing from there that these keys did not sign.

use super::{Counters, WorkerError};
use crate::bus::checkpoints::CheckpointTopic;
use crate::keeper::ledger_key::{LedgerKey, Signed};
use crate::keeper::{KeeperError, Signer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The keys, and where they say what they signed.
#[derive(Debug)]
pub(super) struct LogSigner {
    keys: LedgerKey,
    topic: Arc<CheckpointTopic>,
    partition: i32,
    /// The size of the largest checkpoint that the topic has of this log.
    there: AtomicU64,
}

impl LogSigner {
    /// Keys that know what was signed with them on other hosts. Blocks while Kafka is asked.
    ///
    /// # Errors
    /// When the topic cannot be read or written, or it has another tree than these keys signed, of the same size.
    pub(super) fn recall(
        keys: LedgerKey,
        topic: Arc<CheckpointTopic>,
        partition: i32,
        counters: &Counters,
    ) -> Result<LogSigner, WorkerError> {
        let (newest, strange) = learn(&keys, &topic, partition)?;
        counters.strange.fetch_add(strange, Ordering::Relaxed);
        let there = AtomicU64::new(newest.map_or(0, |newest| newest.size));
        let signer = LogSigner { keys, topic, partition, there };
        let largest = signer.keys.signed();
        if largest.size > signer.there.load(Ordering::Relaxed) {
            tracing::warn!(
                partition,
                size = largest.size,
                topic = signer.topic.name(),
                "the topic of checkpoints did not have the last one that was signed here; it is written there again"
            );
            signer.sign_checkpoint(largest.size, largest.root, &[])?;
        }
        Ok(signer)
    }
}

/// Has `keys` remember the largest tree that they signed on other hosts, as the topic has it. Gives that one, and how many messages
/// these keys did not sign. Blocks while Kafka is asked.
///
/// # Errors
/// When the topic cannot be read, or it has another tree than these keys signed, of the same size.
pub(crate) fn learn(
    keys: &LedgerKey,
    topic: &CheckpointTopic,
    partition: i32,
) -> Result<(Option<Signed>, u64), WorkerError> {
    let (mut newest, mut strange, mut why) = (None::<Signed>, 0_u64, None);
    let read = topic.last(partition, keys.origin(), |payload| match keys.own_checkpoint(payload) {
        Ok(signed) => {
            newest = newest.filter(|newest| newest.size > signed.size).or(Some(signed));
            true
        }
        Err(error) => {
            (strange, why) = (strange + 1, Some(error));
            false
        }
    });
    read.map_err(|why| WorkerError::Checkpoints { topic: topic.name().to_owned(), why })?;
    if let Some(error) = why {
        tracing::error!(
            partition,
            strange,
            %error,
            topic = topic.name(),
            "messages of the topic of checkpoints are not signed by the log's keys and are passed over: look for who may \
             write there, and whether the keys are the same on each host"
        );
    }
    if let Some(newest) = newest {
        keys.remember(newest)?;
    }
    Ok((newest, strange))
}

impl Signer for LogSigner {
    fn issue_leaf(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Refused("a ledger's worker issues no certificates".into()))
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        let note = self.keys.sign_checkpoint(size, root, proof)?;
        if size > self.there.load(Ordering::Relaxed) {
            self.topic.put(self.partition, self.keys.origin(), &note).map_err(|error| {
                let topic = self.topic.name();
                KeeperError::Refused(format!(
                    "topic {topic} does not take the checkpoint, so it is not given out: {error}"
                ))
            })?;
            self.there.store(size, Ordering::Relaxed);
        }
        Ok(note)
    }

    fn sign_chain_head(&self, _: u64, _: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Refused("a ledger's worker signs for no host".into()))
    }

    fn prove_chain_head(&self, _: u64, _: &[&[u8]]) -> Result<(), KeeperError> {
        Err(KeeperError::Refused("a ledger's worker signs for no host".into()))
    }
}
