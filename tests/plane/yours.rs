//! Services of yours: each plane has a database, topics and a database of Redis of its own in them, and leaves none behind.

use crate::SUBJECT;
use crate::fleet::{Clocks, Fleet, assert_sound};
use crate::plane::{PATIENCE, Plane, run};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use support::netns::until;
use support::report;

/// What says that a database of Redis is a plane's.
const CLAIM: &str = "caracal-plane";
/// Databases that a Redis has unless its configuration says something else.
const DATABASES: u32 = 16;

/// A name that no other plane has, of this program or another.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a plane has made in them.
pub(crate) struct Yours {
    kafka: String,
    topic: String,
    postgres: String,
    database: String,
    redis: String,
}

impl Yours {
    /// Makes a database and claims one of Redis's; gives where the three are for this plane.
    pub(crate) fn make(topic: &str, [kafka, postgres, redis]: [String; 3]) -> (Yours, [String; 3]) {
        let database = topic.replace('.', "_");
        run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", &postgres, "-c", &format!("CREATE DATABASE {database}")]);
        let (url, options) =
            postgres.split_once('?').map_or((postgres.as_str(), None), |(url, rest)| (url, Some(rest)));
        let server = url.rsplit_once('/').expect("a URL with a database").0;
        let of_plane = format!("{server}/{database}{}", options.map(|rest| format!("?{rest}")).unwrap_or_default());
        let redis = empty_database(&redis);
        let yours = Yours { kafka: kafka.clone(), topic: topic.to_owned(), postgres, database, redis: redis.clone() };
        (yours, [kafka, of_plane, redis])
    }
}

impl Drop for Yours {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        let _left = Command::new("psql").args(["-XAtq", &self.postgres, "-c", &drop]).status();
        // What was empty when it was claimed.
        let _left = ask_redis(&self.redis, &["FLUSHDB"]);
        let admin: Result<AdminClient<DefaultClientContext>, _> =
            ClientConfig::new().set("bootstrap.servers", &self.kafka).create();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let (Ok(admin), Ok(runtime)) = (admin, runtime) {
            let (dead, checkpoints) = (format!("{}.dead", self.topic), format!("{}.checkpoints", self.topic));
            let topics = [self.topic.as_str(), &dead, &checkpoints];
            let _left = runtime.block_on(admin.delete_topics(&topics, &AdminOptions::new()));
        }
    }
}

/// The URL of a database of this Redis that nobody uses: what is in yours is left alone.
fn empty_database(url: &str) -> String {
    let server = url.trim_end_matches(|last: char| last.is_ascii_digit()).trim_end_matches('/');
    // A URL without a path may end with a port's digits.
    let server = if server.ends_with(':') { url } else { server };
    let claimed = || {
        (0..DATABASES).map(|number| format!("{server}/{number}")).find(|url| {
            let claimed = ask_redis(url, &["SET", CLAIM, "1", "NX"]).contains("OK");
            let empty = claimed && ask_redis(url, &["DBSIZE"]).trim() == "1";
            if claimed && !empty {
                ask_redis(url, &["DEL", CLAIM]);
            }
            empty
        })
    };
    let mut found = None;
    let waited = until("an empty database of Redis", PATIENCE, || {
        found = claimed();
        found.is_some()
    });
    assert!(waited.is_ok(), "none of the {DATABASES} databases of your Redis is empty");
    found.expect("a database")
}

fn ask_redis(url: &str, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-u", url]).args(words).output().expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn planes_on_the_same_services_know_nothing_of_each_other() {
    report::plain(SUBJECT, "planes on services of yours", || {
        // What stands for yours here, with something in it that is yours.
        let host = Plane::start(1);
        let named = [host.kafka.clone(), host.postgres.clone(), host.redis.clone()];
        host.redis(&["SET", "mine", "1"]);
        let before = left(&host);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let named = named.clone();
                scope.spawn(|| {
                    let plane = Plane::beside(2, named);
                    let workers = [plane.worker("ledger"), plane.worker("ledger"), plane.worker("spend")];
                    let fleet = Fleet::start(&plane, 1_500, Clocks::True);
                    let hosts = fleet.settled(&plane);
                    assert_sound(&plane, &hosts, &[]);
                    workers.into_iter().for_each(crate::worker::Worker::stop);
                });
            }
        });
        let gone = until("what they made is gone", PATIENCE, || left(&host) == before);
        assert!(gone.is_ok(), "before {before:?}, after {:?}", left(&host));
    });
}

/// Databases, keys and topics that are there.
fn left(plane: &Plane) -> Vec<String> {
    let mut there = plane.query("SELECT datname FROM pg_database ORDER BY 1");
    there.extend(plane.redis(&["INFO", "keyspace"]).into_iter().filter(|line| line.starts_with("db")));
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &plane.kafka).create().expect("a client");
    let metadata = consumer.fetch_metadata(None, PATIENCE).expect("topics");
    let topics = metadata.topics().iter().map(|topic| topic.name().to_owned());
    there.extend(topics.filter(|name| name.starts_with("caracal")));
    there
}
