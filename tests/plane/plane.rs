//! The services, the configuration, and the workers under test.

use rdkafka::ClientConfig;
use rdkafka::producer::FutureProducer;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::daemon::caracald;
use support::netns::until;

/// How long a worker may take over anything, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
const VARIABLES: [&str; 3] = ["CARACAL_KAFKA", "CARACAL_POSTGRES", "CARACAL_REDIS"];

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
}

impl Plane {
    /// Starts the services, unless some are named, and makes topics and tables.
    pub(crate) fn start(partitions: i32) -> Plane {
        let dir = tempfile::Builder::new().prefix("caracal-plane-").tempdir_in("/var/tmp").expect("a directory");
        // PostgreSQL runs as another user below it.
        support::netns::open_to_all(dir.path()).expect("its mode");
        let named: Vec<String> = VARIABLES.iter().filter_map(|name| std::env::var(name).ok()).collect();
        let ours = named.len() != VARIABLES.len();
        let mut plane = Plane {
            ours,
            kafka: String::new(),
            postgres: String::new(),
            redis: String::new(),
            // Another run's records in a Kafka of yours are not ours.
            topic: format!("caracal.events.{}", std::process::id()),
            partitions,
            dir,
        };
        let places = if ours {
            plane.services(&["start"]);
            let env = plane.services(&["env"]);
            VARIABLES.map(|name| {
                let line = env.lines().find(|line| line.contains(name)).expect("a place");
                line.split_once('=').expect("an assignment").1.to_owned()
            })
        } else {
            named.try_into().expect("three")
        };
        [plane.kafka, plane.postgres, plane.redis] = places;
        std::fs::write(
            plane.config(),
            format!(
                "{}[postgres]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n[worker]\nname = \"test\"\nkeys = \"{}\"\n",
                plane.kafka_section(),
                plane.postgres,
                plane.redis,
                plane.dir.path().join("keys").display(),
            ),
        )
        .expect("the configuration");
        let _made = plane.caracald(&["setup"]);
        plane
    }

    /// What a daemon's configuration says of the bus.
    pub(crate) fn kafka_section(&self) -> String {
        let Plane { kafka, topic, partitions, .. } = self;
        format!(
            "[kafka]\nservers = \"{kafka}\"\ntopic = \"{topic}\"\ndlq = \"{topic}.dead\"\npartitions = {partitions}\n"
        )
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
        let path = self.dir.path().join(format!("keys/test-{partition}/ledger.pub"));
        std::fs::read_to_string(path).expect("public keys")
    }

    /// `cargo xtask services` on these services.
    pub(crate) fn services(&self, words: &[&str]) -> String {
        let xtask = std::env::var_os("CARACAL_XTASK").expect("CARACAL_XTASK names xtask: run `cargo xtask test plane`");
        let mut command = Command::new(xtask);
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
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("workers.log"));
        let child = Command::new(caracald())
            .arg("--config")
            .arg(self.config())
            .args(["worker", kind])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("a worker");
        Worker { child }
    }

    /// What the workers said last.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("workers.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Rows of PostgreSQL as text, columns with `|` between them.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let output = Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", &self.postgres, "-c", sql]).output();
        let output = output.expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
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
        if self.ours {
            self.services(&["stop", "--remove"]);
        }
    }
}

/// A worker under test.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
}

impl Worker {
    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the worker is there");
    }

    /// SIGTERM: it ends with 0.
    pub(crate) fn stop(mut self) {
        self.signal(libc::SIGTERM);
        until("the worker ends", PATIENCE, || self.child.try_wait().is_ok_and(|status| status.is_some()))
            .expect("an end");
        assert!(self.child.wait().expect("its status").success(), "it ends in order");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn finish(command: &mut Command, what: &str) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {out}\n{err}");
    out.into_owned()
}

/// The time now, as records have it.
pub(crate) fn now() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output().expect("date runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A path that a command takes.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
