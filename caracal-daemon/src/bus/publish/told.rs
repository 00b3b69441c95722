//! What the client tells from its own callbacks.

use super::super::kafka::Trouble;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared with the client.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Tidings>);

#[derive(Debug, Default)]
pub(super) struct Tidings {
    /// Runs that were acknowledged, by the sequence number behind them.
    pub(super) done: Vec<u64>,
    pub(super) failed: Option<String>,
    /// The last trouble with a broker. A delivery takes it back.
    pub(super) trouble: Option<String>,
    /// What was logged since the last delivery: each kind once.
    logged: BTreeSet<Trouble>,
}

impl Told {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tidings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's callbacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Context(pub(super) Arc<Told>);

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        let mut tidings = self.0.lock();
        // That no broker is left says less than why the last one was not.
        let summary = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if summary && tidings.trouble.is_some() {
            return;
        }
        let trouble = Trouble::of(&error, reason);
        let told = trouble.tell(reason);
        if tidings.logged.insert(trouble) {
            tracing::warn!(trouble = told, "records wait for Kafka; the journal keeps them");
        }
        tidings.trouble = Some(told);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, next: usize) {
        let mut tidings = self.0.lock();
        match result {
            Ok(_) => {
                tidings.done.push(next as u64);
                tidings.trouble = None;
                tidings.logged.clear();
            }
            Err((error, _)) => tidings.failed = Some(error.to_string()),
        }
    }
}
