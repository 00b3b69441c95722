use super::*;
use crate::bus::signed_run::SignedRun;
use crate::bus::signed_run::tests::Host;
use crate::clock::{Clock, UnixNanos};
use crate::config::Config;
use crate::event::{Data, Detail, Draft, Kind};
use crate::journal::Options;
use crate::keeper::KeeperError;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::sync::atomic::AtomicUsize;

const TOPIC: &str = "caracal.events";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Key(Host);

impl std::fmt::Debug for Host {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.id)
    }
}

impl Signer for Key {
    fn issue_leaf(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeeperError> {
        Err(KeeperError::Refused("no".into()))
    }

    fn sign_checkpoint(&self, _: u64, _: [u8; 32], _: &[[u8; 32]]) -> Result<String, KeeperError> {
        Err(KeeperError::Refused("no".into()))
    }

    fn sign_chain_head(&self, sequence: u64, leaf: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        self.0.key.sign_chain_head(sequence, &leaf)
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.0.key.prove_chain_head(known, records)
    }
}

struct Scene {
    dir: tempfile::TempDir,
    journal: Journal,
    signer: Arc<Key>,
    brokers: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    kafka: Kafka,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: 128 << 10, max_bytes: 512 << 10, ..Options::default() };
        let opened = Journal::open(&dir.path().join("j"), &dir.path().join("k"), "h", options, &Clock::system());
        let brokers = MockCluster::new(1).expect("brokers");
        brokers.create_topic(TOPIC, 1, 1).expect("a topic");
        let text = format!("[kafka]\nservers = \"{}\"\ngather_ms = 1\n", brokers.bootstrap_servers());
        let config = Config::parse(&text, "caracal.toml".as_ref()).expect("a configuration");
        let signer = Arc::new(Key(Host::new("h")));
        Scene { dir, journal: opened.expect("a journal").0, signer, brokers, kafka: config.kafka.expect("kafka") }
    }

    fn start(&self) -> Publisher {
        let signer: Arc<dyn Signer> = Arc::clone(&self.signer) as _;
        Publisher::start(&self.kafka, "h", &self.journal, signer).expect("a publisher")
    }

    fn append(&self, count: usize, length: usize) -> Result<(), crate::journal::JournalError> {
        append(&self.journal, count, length)
    }

    fn acknowledged(&self, publisher: &Publisher, sequence: u64) {
        let waited = block_on(async { tokio::time::timeout(PATIENCE, publisher.acknowledged(sequence)).await });
        waited.unwrap_or_else(|_| panic!("{:?}", publisher.progress())).expect("acknowledged");
    }

    /// Every message of the topic.
    fn each(&self, mut see: impl FnMut(&BorrowedMessage<'_>)) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers.bootstrap_servers())
            .set("group.id", "test")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut from = rdkafka::TopicPartitionList::new();
        from.add_partition_offset(TOPIC, 0, rdkafka::Offset::Beginning).expect("a place");
        consumer.assign(&from).expect("assigned");
        let (_, high) = consumer.fetch_watermarks(TOPIC, 0, PATIENCE).expect("watermarks");
        for _ in 0..high {
            see(&consumer.poll(PATIENCE).expect("a message").expect("a good one"));
        }
    }

    /// The same, read and held against the host's key.
    fn published(&self) -> Vec<SignedRun> {
        let mut runs = Vec::new();
        self.each(|message| {
            let headers = message.headers().expect("headers");
            let header = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
            let run = signed_run::read(message.key(), message.payload(), header).expect("a run");
            run.check(self.signer.0.key.host_verifier()).expect("the host's");
            runs.push(run);
        });
        runs
    }

    /// What was published, without what came again, is the journal from its first record on.
    fn is_whole(&self) -> usize {
        let (again, late) = self.is_all_there();
        assert_eq!(late, 0, "in order");
        again
    }

    /// The same in any order. Gives how many came again, and how many behind a later one.
    fn is_all_there(&self) -> (usize, usize) {
        let mut chain = crate::ledger::chain::Chain::default();
        let (mut taken, mut again, mut late) = (0, 0, 0);
        for run in self.published() {
            for record in &run.records {
                match chain.pass(record) {
                    crate::ledger::chain::Place::Next | crate::ledger::chain::Place::Gap => taken += 1,
                    crate::ledger::chain::Place::Late => late += 1,
                    crate::ledger::chain::Place::Passed => again += 1,
                    other => panic!("record {} is {other:?}", record.sequence),
                }
            }
        }
        assert!(chain.gaps.is_empty(), "{:?}", chain.gaps);
        assert_eq!(taken + late as u64, self.journal.tail().durable());
        (again, late)
    }
}

fn append(journal: &Journal, count: usize, length: usize) -> Result<(), crate::journal::JournalError> {
    block_on(async {
        for _ in 0..count {
            let data = Data { message: Some("m".repeat(length)), ..Data::default() };
            let draft = Draft { kind: Kind::Lifecycle, at: UnixNanos(1), data: data.into(), detail: Detail::default() };
            journal.append(draft).await?;
        }
        journal.flush().await
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

#[test]
fn every_record_is_published_once_and_the_cursor_outlives_the_process() {
    let scene = Scene::new();
    scene.append(300, 10).expect("appended");
    let publisher = scene.start();
    scene.acknowledged(&publisher, 300);
    publisher.stop();
    drop(publisher);
    let kept = published::load(scene.journal.dir()).expect("readable").expect("a cursor");
    assert_eq!(kept, scene.journal.tail().next());
    scene.append(20, 10).expect("appended");
    let publisher = scene.start();
    assert_eq!(publisher.progress().acknowledged, 300);
    scene.acknowledged(&publisher, 320);
    publisher.stop();
    assert_eq!(scene.is_whole(), 0, "nothing was published twice");
}

/// A host whose ledger has the head signed just when the bus is about to ask, once: there are more records then.
#[derive(Debug)]
struct Ahead {
    key: Arc<Key>,
    journal: Journal,
    asked: AtomicUsize,
    shown: AtomicUsize,
}

impl Signer for Ahead {
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        self.key.issue_leaf(name, spki)
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        self.key.sign_checkpoint(size, root, proof)
    }

    fn sign_chain_head(&self, sequence: u64, leaf: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) && self.shown.load(Ordering::Relaxed) == 0 {
            append(&self.journal, 300, 10).expect("appended");
            let next = self.journal.tail().next();
            self.key.sign_chain_head(next.sequence - 1, next.prev)?;
        }
        self.key.sign_chain_head(sequence, leaf)
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.key.prove_chain_head(known, records)
    }
}

#[test]
fn a_run_before_the_signed_head_is_signed_once_it_is_shown_to_lead_there() {
    let scene = Scene::new();
    scene.append(20, 10).expect("appended");
    let (asked, shown) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ahead = Arc::new(Ahead { key: Arc::clone(&scene.signer), journal: scene.journal.clone(), asked, shown });
    let signer: Arc<dyn Signer> = Arc::clone(&ahead) as _;
    let publisher = Publisher::start(&scene.kafka, "h", &scene.journal, signer).expect("a publisher");
    // Three hundred and twenty: the first run is there, and what was appended before it was signed.
    scene.acknowledged(&publisher, 320);
    publisher.stop();
    assert!(ahead.shown.load(Ordering::Relaxed) >= 2, "300 records are shown in two frames");
    drop(publisher);
    let publisher = scene.start();
    scene.acknowledged(&publisher, scene.journal.tail().durable());
    publisher.stop();
    scene.is_whole();
}

#[test]
fn openmeter_5005_retention_goes_by_the_sending_and_not_by_the_event() {
    let scene = Scene::new();
    // Events of 1970: a record dated so would be deleted before anybody read it.
    scene.append(10, 10).expect("appended");
    let publisher = scene.start();
    scene.acknowledged(&publisher, 10);
    publisher.stop();
    let now = i64::try_from(Clock::system().now().0 / 1_000_000).expect("milliseconds");
    let mut ages = Vec::new();
    scene.each(|message| ages.push(now - message.timestamp().to_millis().expect("a time")));
    assert!(!ages.is_empty() && ages.iter().all(|age| *age < 3_600_000), "{ages:?}");
}

#[test]
fn a_broker_that_errs_makes_no_hole() {
    let scene = Scene::new();
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        // The client gives up on this one: a new one goes on from what was acknowledged.
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ];
    scene.brokers.request_errors(RDKafkaApiKey::Produce, &errors);
    let publisher = scene.start();
    for _ in 0..10 {
        scene.append(50, 10).expect("appended");
    }
    scene.acknowledged(&publisher, 500);
    publisher.stop();
    // A broker refuses what follows a batch that it refused (KIP-98, sequence numbers); this one takes it, and what was refused
    // comes behind it.
    scene.is_all_there();
}

#[test]
fn without_a_broker_the_journal_keeps_all_and_then_takes_no_more() {
    let scene = Scene::new();
    let publisher = scene.start();
    scene.append(10, 10).expect("appended");
    scene.acknowledged(&publisher, 10);
    scene.brokers.broker_down(1).expect("down");
    // The ledger has it all: only the bus has not.
    let mut refused = None;
    for _ in 0..400 {
        if let Err(error) = scene.append(1, 4_000) {
            refused = Some(error.to_string());
            break;
        }
        scene.journal.release(scene.journal.tail().durable());
    }
    let refused = refused.expect("the journal takes no more at its limit");
    let progress = publisher.progress();
    assert!(progress.acknowledged < scene.journal.tail().durable(), "{progress:?}: {refused}");
    scene.brokers.broker_up(1).expect("up");
    scene.acknowledged(&publisher, scene.journal.tail().durable());
    // The room comes back with the acknowledgment.
    let deadline = Instant::now() + PATIENCE;
    while scene.append(1, 10).is_err() {
        assert!(Instant::now() < deadline, "{:?}", scene.journal.tail().failure());
        std::thread::sleep(GLANCE);
    }
    scene.acknowledged(&publisher, scene.journal.tail().durable());
    publisher.stop();
    scene.is_whole();
    drop(scene.dir);
}
