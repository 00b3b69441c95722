//! Takes durable records of the journal; gives them to Kafka, in order, in signed runs. Its cursor moves only over the
//! contiguous acknowledged prefix, so that nothing is lost; what is sent again after a crash, the ledger drops by its chain.
//! Refuses nothing: while Kafka is away the journal fills up to its limit, and then takes no more. Never gives up a run,
//! and never lets the journal delete what Kafka did not acknowledge.

mod told;

use super::kafka::{self, BusError, Trouble};
use super::signed_run::{self, MAX_BYTES, MAX_RECORDS};
use super::{Feed, published};
use crate::config::Kafka;
use crate::event::write::MAX_RECORD_BYTES;
use crate::journal::{Entry, Journal, Start};
use crate::keeper::frame::MAX_FRAME;
use crate::keeper::{KeeperError, Signer};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use told::{Context, Told};

/// Runs that may be on their way at once.
const IN_FLIGHT: usize = 32;
/// How often the cursor is written to disk while it moves.
const KEEP_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before another try after something failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long one look at the journal or at Kafka lasts.
const GLANCE: Duration = Duration::from_millis(20);
/// How long the last runs may take at an orderly end.
const FLUSH: Duration = Duration::from_secs(3);
/// Records that are read at once to be shown to the keeper.
const SHOWN_AT_ONCE: usize = 4_096;
/// Records that one frame to the keeper holds.
const SHOWN_IN_A_FRAME: usize = 200;
const _: () = assert!(SHOWN_IN_A_FRAME * (MAX_RECORD_BYTES + 1) < MAX_FRAME);

/// How far the publisher is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Sequence number of the first record that Kafka has not acknowledged.
    pub acknowledged: u64,
    /// Durable records that Kafka has not acknowledged.
    pub backlog: u64,
    /// Milliseconds since a record was first found waiting; 0 where none does.
    pub lag_ms: u64,
    /// Runs on their way.
    pub in_flight: u64,
    /// Why it does not go on, if it does not: a stable code, the client's words, and what to do.
    pub trouble: Option<String>,
}

/// The running publisher. Stops when dropped.
#[derive(Debug)]
pub struct Publisher {
    progress: watch::Receiver<Progress>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    /// Starts publishing `journal` to `kafka`. From here on the journal keeps what is not acknowledged.
    ///
    /// # Errors
    /// When what was published cannot be read, or a secret's file; Kafka itself may be away.
    pub fn start(
        kafka: &Kafka,
        host_id: &str,
        journal: &Journal,
        signer: Arc<dyn Signer>,
    ) -> Result<Publisher, BusError> {
        let known = published::load(journal.dir())?;
        let from = known.map_or(0, |start| start.sequence);
        journal.publish_from(from);
        let (report, progress) = watch::channel(Progress { acknowledged: from, ..Progress::default() });
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = Work {
            config: kafka::producer(kafka)?,
            topic: kafka.topic.clone(),
            gather: Duration::from_millis(kafka.gather_ms),
            host: host_id.to_owned(),
            feed: Feed::new(journal, from),
            signer,
            acknowledged: known.unwrap_or_default(),
            kept: known.unwrap_or_default(),
            kept_at: Instant::now(),
            waiting_since: None,
            sent: VecDeque::new(),
            report,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(move || {
            crate::ledger::lower_priority();
            work.run();
        });
        let thread = thread.map_err(BusError::Secret)?;
        Ok(Publisher { progress, stop, thread: Mutex::new(Some(thread)) })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until Kafka has acknowledged every record below `sequence`.
    ///
    /// # Errors
    /// When the publisher has stopped.
    pub async fn acknowledged(&self, sequence: u64) -> Result<(), &'static str> {
        let mut progress = self.progress.clone();
        let there = progress.wait_for(|now| now.acknowledged >= sequence).await;
        there.map(drop).map_err(|_| "the publisher has stopped")
    }

    /// Stops, after a short wait for what is on its way. Blocks.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A run that was given to the client.
#[derive(Debug)]
struct Sent {
    /// The place behind its last record.
    next: Start,
    done: bool,
}

type Client = BaseProducer<Context>;

struct Work {
    config: rdkafka::ClientConfig,
    topic: String,
    gather: Duration,
    host: String,
    feed: Feed,
    signer: Arc<dyn Signer>,
    /// The contiguous acknowledged prefix ends here.
    acknowledged: Start,
    /// What the file says.
    kept: Start,
    kept_at: Instant,
    waiting_since: Option<Instant>,
    sent: VecDeque<Sent>,
    report: watch::Sender<Progress>,
    stop: Arc<AtomicBool>,
}

impl Work {
    /// One client after another: what ends one is cured by a new one and by sending again what is not acknowledged.
    fn run(&mut self) {
        while !self.stopping() {
            let told = Arc::new(Told::default());
            let trouble = match Client::from_config_and_context(&self.config, Context(Arc::clone(&told))) {
                Ok(client) => self.with_client(&client, &told).err(),
                Err(error) => Some(Trouble::of(&error, "").tell(&error.to_string())),
            };
            self.sent.clear();
            if let Some(trouble) = trouble {
                tracing::warn!(trouble, "publishing to Kafka begins anew; records are kept in the journal");
                self.tell(Some(trouble));
                self.pause(RETRY);
            }
        }
        self.keep();
    }

    /// Publishes until something fails or the end is asked for.
    fn with_client(&mut self, client: &Client, told: &Told) -> Result<(), String> {
        self.feed.seek_if_moved(self.acknowledged.sequence);
        loop {
            let stopping = self.stopping();
            if !stopping && self.sent.len() < IN_FLIGHT {
                self.send_next(client)?;
            }
            client.poll(if self.sent.is_empty() { Duration::ZERO } else { GLANCE });
            self.hear(told)?;
            if stopping {
                return self.end(client, told);
            }
        }
    }

    /// Sends the next run if there are records; waits a moment if there are none.
    fn send_next(&mut self, client: &Client) -> Result<(), String> {
        if self.sent.is_empty() {
            if !self.feed.wait(GLANCE * 5) {
                self.waiting_since = None;
                return Ok(());
            }
            // More come soon, most likely, and a signature is for all of them.
            if self.waiting_since.is_none() {
                self.pause(self.gather);
            }
        }
        let records = self.feed.batch(MAX_RECORDS, MAX_BYTES).map_err(|error| error.to_string())?;
        let Some(last) = records.last() else { return Ok(()) };
        self.waiting_since.get_or_insert_with(Instant::now);
        let signature = self.sign(last)?;
        let head = crate::journal::SignedHead { sequence: last.sequence, leaf: last.leaf, signature };
        let next = Start { sequence: last.sequence.saturating_add(1), prev: last.leaf };
        let values = signed_run::headers(&head);
        let headers = signed_run::HEADERS
            .iter()
            .zip(&values)
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let payload = signed_run::payload(&records);
        let opaque = usize::try_from(next.sequence).unwrap_or(usize::MAX);
        let mut record =
            BaseRecord::with_opaque_to(&self.topic, opaque).key(&self.host).payload(&payload).headers(headers);
        loop {
            match client.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if !self.stopping() => {
                    client.poll(GLANCE);
                    record = back;
                }
                Err((error, _)) => return Err(error.to_string()),
            }
        }
        self.sent.push_back(Sent { next, done: false });
        Ok(())
    }

    /// The signature of a run. Where the host's chain was signed beyond it, or this one is sent again with another end, the keeper
    /// is shown first that it leads there.
    fn sign(&self, last: &Entry) -> Result<Vec<u8>, String> {
        loop {
            match self.signer.sign_chain_head(last.sequence, last.leaf) {
                Err(KeeperError::HeadBehind { known, .. }) if !self.stopping() => self.show(last.sequence, known)?,
                signed => return signed.map_err(|error| error.to_string()),
            }
        }
    }

    /// Shows the records behind `from` up to `known`, the last ones first: each names the one before.
    fn show(&self, from: u64, known: u64) -> Result<(), String> {
        let mut end = known;
        while end > from {
            let first = end.saturating_sub(SHOWN_AT_ONCE as u64 - 1).max(from + 1);
            let wanted = usize::try_from(end - first + 1).map_err(|error| error.to_string())?;
            let read = self.feed.journal().reader(first).batch(wanted, usize::MAX);
            let records = read.map_err(|error| error.to_string())?;
            if records.len() != wanted {
                return Err(KeeperError::HeadBehind { asked: from, known }.to_string());
            }
            for part in records.rchunks(SHOWN_IN_A_FRAME) {
                let bytes: Vec<&[u8]> = part.iter().map(|record| record.bytes.as_slice()).collect();
                let at = part.last().map_or(end, |record| record.sequence);
                self.signer.prove_chain_head(at, &bytes).map_err(|error| error.to_string())?;
            }
            end = first - 1;
        }
        Ok(())
    }

    /// Moves the cursor over what was acknowledged without a hole.
    fn hear(&mut self, told: &Told) -> Result<(), String> {
        let mut tidings = told.lock();
        for next in tidings.done.drain(..) {
            if let Some(sent) = self.sent.iter_mut().find(|sent| sent.next.sequence == next) {
                sent.done = true;
            }
        }
        let (failed, trouble) = (tidings.failed.take(), tidings.trouble.clone());
        drop(tidings);
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.done) {
            self.acknowledged = sent.next;
        }
        if self.kept_at.elapsed() >= KEEP_EVERY {
            self.keep();
        }
        self.tell(trouble);
        failed.map_or(Ok(()), Err)
    }

    /// The file first, then the journal: what it deletes need not be published again.
    fn keep(&mut self) {
        self.kept_at = Instant::now();
        if self.kept == self.acknowledged {
            return;
        }
        if let Err(error) = published::store(self.feed.journal().dir(), self.acknowledged) {
            tracing::warn!(%error, "what Kafka has acknowledged cannot be written down; the journal keeps it");
            return;
        }
        self.kept = self.acknowledged;
        self.feed.journal().publish_from(self.kept.sequence);
    }

    fn tell(&mut self, trouble: Option<String>) {
        let durable = self.feed.journal().tail().durable();
        let acknowledged = self.acknowledged.sequence;
        let backlog = durable.saturating_sub(acknowledged);
        if backlog == 0 {
            self.waiting_since = None;
        }
        let lag = self.waiting_since.map_or(0, |since| since.elapsed().as_millis());
        let now = Progress {
            acknowledged,
            backlog,
            lag_ms: u64::try_from(lag).unwrap_or(u64::MAX),
            in_flight: self.sent.len() as u64,
            trouble,
        };
        self.report.send_if_modified(|was| {
            let changed = *was != now;
            *was = now;
            changed
        });
    }

    /// What is durable may still arrive, for a while; the rest is for the next start.
    fn end(&mut self, client: &Client, told: &Told) -> Result<(), String> {
        let until = Instant::now() + FLUSH;
        while self.acknowledged.sequence < self.feed.journal().tail().durable() && Instant::now() < until {
            if self.sent.len() < IN_FLIGHT {
                self.send_next(client)?;
            }
            client.poll(GLANCE);
            self.hear(told)?;
        }
        client.purge(PurgeConfig::default().queue().inflight());
        self.keep();
        Ok(())
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(GLANCE.min(time));
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
