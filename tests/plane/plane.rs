//! The services, the configuration, and the workers under test.

use crate::SUBJECT;
use crate::cable::Cables;
use crate::programs::finish;
pub(crate) use crate::programs::{now, run, text};
use crate::secure::Secure;
use crate::worker::Worker;
use crate::yours::{self, Yours};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use support::daemon::caracald;
use support::netns::until;
use support::report;

/// How long a worker may take over anything, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// A host that is not heard of for so long is silent: three heartbeats, so that no test waits for long.
pub(crate) const SILENT_AFTER_MS: u64 = 15_000;
/// What is measured is measured alone: the other tests of this program wait.
static QUIET: RwLock<()> = RwLock::new(());
/// What the name of a worker's own log begins with.
const WORKER_LOG: &str = "worker-";
/// One plane at a time is set up.
static SETUP: Mutex<()> = Mutex::new(());
const VARIABLES: [&str; 3] = ["CARACAL_KAFKA", "CARACAL_POSTGRES", "CARACAL_REDIS"];

/// Among the other tests, or alone.
#[expect(dead_code, reason = "held, not read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Kafka, PostgreSQL, Redis, and a configuration that names them.
pub(crate) struct Plane {
    dir: tempfile::TempDir,
    /// The services are ours: they can be hurt.
    pub(crate) ours: bool,
    pub(crate) kafka: String,
    pub(crate) postgres: String,
    pub(crate) redis: String,
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    cables: Option<Cables>,
    secure: Option<Secure>,
    /// What was made in services of yours.
    yours: Option<Yours>,
    /// Disks of some services' own.
    mounted: Vec<PathBuf>,
    _turn: Option<Turn>,
}

/// How a plane is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wants {
    pub(crate) partitions: i32,
    /// Cables between the workers and Kafka, PostgreSQL and Redis.
    pub(crate) cables: bool,
    /// Kafka speaks TLS, too.
    pub(crate) secure: bool,
    /// From a network namespace that reaches no services but those that are started in it.
    pub(crate) apart: bool,
    /// PostgreSQL's data on a disk (tmpfs) of so many MiB.
    pub(crate) disk_mib: Option<u32>,
    /// Kafka's likewise.
    pub(crate) kafka_disk_mib: Option<u32>,
    /// Nothing else runs.
    pub(crate) alone: bool,
}

impl Plane {
    /// Starts the services, unless some are named, and makes topics and tables.
    pub(crate) fn start(partitions: i32) -> Plane {
        Plane::with(Wants { partitions, ..Wants::default() })
    }

    pub(crate) fn with(wants: Wants) -> Plane {
        let named: Vec<String> = VARIABLES.iter().filter_map(|name| std::env::var(name).ok()).collect();
        let named: Option<[String; 3]> = named.try_into().ok();
        if named.is_some() {
            let why = "services of yours are never ended, and what is done to others is not done to them";
            report::omitted(SUBJECT, "kills of the services that are named", why, 1);
        }
        let turn = if wants.alone {
            Turn::Alone(QUIET.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Turn::Shared(QUIET.read().unwrap_or_else(PoisonError::into_inner))
        };
        Plane::on(wants, named, Some(turn))
    }

    /// On services that run already, as yours do; among others that hold the turn.
    pub(crate) fn beside(partitions: i32, named: [String; 3]) -> Plane {
        Plane::on(Wants { partitions, ..Wants::default() }, Some(named), None)
    }

    fn on(wants: Wants, named: Option<[String; 3]>, turn: Option<Turn>) -> Plane {
        let dir = tempfile::Builder::new().prefix("caracal-plane-").tempdir_in("/var/tmp").expect("a directory");
        // PostgreSQL runs as another user below it.
        support::netns::open_to_all(dir.path()).expect("its mode");
        // Services of yours are not hurt, and taken as they are: who wants something else of some has some of his own.
        let special = wants.cables || wants.secure || wants.apart || wants.disk_mib.or(wants.kafka_disk_mib).is_some();
        let named = named.filter(|_| !special);
        let ours = named.is_none();
        let mut plane = Plane {
            ours,
            kafka: String::new(),
            postgres: String::new(),
            redis: String::new(),
            // Another plane's records in a Kafka of yours are not this one's.
            topic: format!("caracal.events.{}", yours::unique()),
            partitions: wants.partitions,
            cables: wants.cables.then(Cables::new),
            secure: None,
            yours: None,
            mounted: Vec::new(),
            dir,
            _turn: turn,
        };
        for (disk, mib) in [(plane.disk(), wants.disk_mib), (plane.kafka_disk(), wants.kafka_disk_mib)] {
            let Some(mib) = mib else { continue };
            std::fs::create_dir_all(&disk).expect("a directory");
            run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "caracal-plane", text(&disk)]);
            plane.mounted.push(disk);
        }
        if let Some(Cables { kafka, .. }) = &plane.cables {
            // Whoever finds the broker is sent on to where it says that it is.
            let place = plane.dir.path().join("services/kafka");
            std::fs::create_dir_all(&place).expect("a directory");
            std::fs::write(place.join("advertised"), kafka.port.to_string()).expect("written");
        }
        if wants.secure {
            plane.secure = Some(Secure::prepare(plane.dir.path()));
        }
        let places = if let Some(named) = named {
            let (yours, places) = Yours::make(&plane.topic, named);
            plane.yours = Some(yours);
            places
        } else {
            plane.services(&["start"]);
            let env = plane.services(&["env"]);
            VARIABLES.map(|name| {
                let line = env.lines().find(|line| line.contains(name)).expect("a place");
                line.split_once('=').expect("an assignment").1.to_owned()
            })
        };
        [plane.kafka, plane.postgres, plane.redis] = places;
        let (mut postgres, mut redis) = (plane.postgres.clone(), plane.redis.clone());
        if let Some(cables) = &plane.cables {
            let places = [&mut plane.kafka, &mut postgres, &mut redis];
            places.into_iter().zip(cables.all()).for_each(|(place, cable)| cable.stand_before(place));
        }
        let text = format!(
            "{}[postgres]\nurl = \"{postgres}\"\n[redis]\nurl = \"{redis}\"\n[worker]\nname = \"test\"\nkeys = \"{}\"\n\
             silent_after_ms = {SILENT_AFTER_MS}\n",
            plane.kafka_section(),
            plane.keys().display(),
        );
        std::fs::write(plane.config(), text).expect("the configuration");
        {
            // The roles are of the whole server: two at once would both make them.
            let _one = SETUP.lock().unwrap_or_else(PoisonError::into_inner);
            plane.caracald(&["setup"]);
        }
        plane
    }

    /// The cables that were asked for.
    pub(crate) fn cables(&self) -> &Cables {
        self.cables.as_ref().expect("cables were asked for")
    }

    /// Kafka's listeners with TLS, which were asked for.
    pub(crate) fn secure(&self) -> &Secure {
        self.secure.as_ref().expect("TLS was asked for")
    }

    /// Where PostgreSQL keeps its data.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.path().join("services/postgres")
    }

    /// Where Kafka keeps its own.
    pub(crate) fn kafka_disk(&self) -> PathBuf {
        self.dir.path().join("services/kafka/data")
    }

    /// Where the logs' signing keys are.
    pub(crate) fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// What a daemon's configuration says of the bus.
    pub(crate) fn kafka_section(&self) -> String {
        let Plane { kafka, topic, partitions, .. } = self;
        format!(
            "[kafka]\nservers = \"{kafka}\"\ntopic = \"{topic}\"\ndlq = \"{topic}.dead\"\n\
             checkpoints = \"{}\"\npartitions = {partitions}\n",
            self.checkpoints()
        )
    }

    /// The topic of the last checkpoint of each log.
    pub(crate) fn checkpoints(&self) -> String {
        format!("{}.checkpoints", self.topic)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("caracal.toml")
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The public keys of a log.
    pub(crate) fn log_keys(&self, partition: i32) -> String {
        let path = self.keys().join(format!("test-{partition}/ledger.pub"));
        std::fs::read_to_string(path).expect("public keys")
    }

    /// `cargo xtask services` on these services.
    pub(crate) fn services(&self, words: &[&str]) -> String {
        assert!(self.ours, "services of yours are neither started nor ended: {words:?}");
        let xtask = std::env::var_os("CARACAL_XTASK").expect("CARACAL_XTASK names xtask: run `cargo xtask test plane`");
        let mut command = Command::new(xtask);
        // It is not a person's sudo that starts it, and it writes nothing into the checkout.
        command.env_remove("SUDO_UID");
        command.arg("services").arg("--dir").arg(self.dir.path().join("services")).args(words);
        finish(&mut command, &format!("services {words:?}"))
    }

    /// `caracald` with the plane's configuration; what it printed.
    pub(crate) fn caracald(&self, words: &[&str]) -> String {
        finish(Command::new(caracald()).arg("--config").arg(self.config()).args(words), &format!("caracald {words:?}"))
    }

    /// Whether it ends with 0.
    pub(crate) fn agrees(&self, words: &[&str]) -> bool {
        let mut command = Command::new(caracald());
        command.arg("--config").arg(self.config()).args(words).stdout(Stdio::null());
        command.status().expect("it runs").success()
    }

    /// Starts a worker.
    pub(crate) fn worker(&self, kind: &str) -> Worker {
        self.worker_as(kind, &self.config())
    }

    /// Starts a worker of whose configuration a part says something else.
    pub(crate) fn worker_but(&self, kind: &str, part: &str, other: &str) -> Worker {
        let config = std::fs::read_to_string(self.config()).expect("the configuration");
        assert!(config.contains(part), "the configuration has no {part}");
        self.worker_as(kind, &self.file(&format!("caracal-{}.toml", yours::unique()), &config.replace(part, other)))
    }

    /// Starts a worker that serves its metrics; gives their port.
    pub(crate) fn listening(&self, kind: &str) -> (Worker, u16) {
        let port = free_port();
        let config = std::fs::read_to_string(self.config()).expect("the configuration");
        let listening = format!("[worker]\nlisten = \"127.0.0.1:{port}\"\n");
        let path = self.file(&format!("caracal-{port}.toml"), &config.replace("[worker]\n", &listening));
        (self.worker_as(kind, &path), port)
    }

    /// The same with another configuration.
    pub(crate) fn worker_as(&self, kind: &str, config: &Path) -> Worker {
        self.worker_by(kind, config, |_| {})
    }

    /// The same; `prepare` may change what it finds when it starts.
    pub(crate) fn worker_by(&self, kind: &str, config: &Path, prepare: impl FnOnce(&mut Command)) -> Worker {
        let log = tempfile::Builder::new().prefix(WORKER_LOG).tempfile_in(self.dir.path()).expect("a log");
        Worker::start(kind, config, log.keep().expect("a log"), prepare)
    }

    /// What the workers said last.
    pub(crate) fn log(&self) -> String {
        let lines = self.said();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// How often a worker said that it does not go on.
    pub(crate) fn failures(&self) -> usize {
        self.said().iter().filter(|line| line.contains("it is taken up again")).count()
    }

    /// Every line of the workers, in the order of the times that they begin with.
    pub(crate) fn said(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).expect("a directory").flatten();
        let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with(WORKER_LOG));
        let texts: Vec<String> = logs.filter_map(|log| std::fs::read_to_string(log.path()).ok()).collect();
        let mut lines: Vec<String> = texts.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
        lines.sort();
        lines
    }

    /// How many lines of all workers' say all of this.
    pub(crate) fn times(&self, words: &[&str]) -> usize {
        self.said().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Rows of PostgreSQL as text, columns with `|` between them.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let mut rows = Vec::new();
        self.each_row(sql, |row| rows.push(row.to_owned()));
        rows
    }

    /// The same, one by one: however many there are.
    pub(crate) fn each_row(&self, sql: &str, mut each: impl FnMut(&str)) {
        let words = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "FETCH_COUNT=1000", &self.postgres, "-c", sql];
        let mut psql = Command::new("psql").args(words).stdout(Stdio::piped()).spawn().expect("psql runs");
        for line in BufReader::new(psql.stdout.take().expect("a pipe")).lines() {
            each(&line.expect("a row"));
        }
        assert!(psql.wait().expect("its status").success(), "{sql}");
    }

    /// A number out of PostgreSQL; 0 while it is away.
    pub(crate) fn count(&self, sql: &str) -> u64 {
        let output = Command::new("psql").args(["-XAtq", &self.postgres, "-c", sql]).stderr(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        text.parse().unwrap_or(0)
    }

    /// Runs `redis-cli`.
    pub(crate) fn redis(&self, words: &[&str]) -> Vec<String> {
        let output = Command::new("redis-cli").args(["-u", &self.redis]).args(words).output().expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// A client that neither loses nor doubles.
    pub(crate) fn producer(&self) -> FutureProducer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "1")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .expect("a producer")
    }

    /// Writes what is no checkpoint into the topic of checkpoints, as if it were one of this log.
    pub(crate) fn scrawl(&self, log: i32) {
        let (topic, key) = (self.checkpoints(), format!("caracal/test-{log}/ledger"));
        let record = FutureRecord::to(&topic).partition(log).key(&key).payload("not signed by anybody");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.producer().send(record, PATIENCE)).expect("written");
    }

    /// Waits until the logs have this many leaves, all under a checkpoint.
    pub(crate) fn settled(&self, leaves: u64) {
        let waited = until(&format!("{leaves} leaves"), PATIENCE, || {
            self.count("SELECT sum(size) FROM logs") >= leaves
                && self.count(
                    "SELECT count(*) FROM logs WHERE size > coalesce((SELECT max(size) FROM checkpoints \
                     WHERE checkpoints.log = logs.log), 0)",
                ) == 0
        });
        let there = self.count("SELECT sum(size) FROM logs");
        assert!(waited.is_ok(), "{there} of {leaves} leaves are there\n{}", self.log());
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if !self.mounted.is_empty() {
            self.services(&["stop"]);
            self.mounted.iter().for_each(|disk| drop(run("umount", &[text(disk)])));
        }
        self.services(&["stop", "--remove"]);
    }
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
}
