//! `caracald setup`: run again it changes nothing, and what it must not take it refuses.

use crate::SUBJECT;
use crate::plane::{Plane, text};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use std::process::Command;
use support::daemon::caracald;
use support::report;

#[test]
fn setup_is_run_again_and_refuses_what_loses_records() {
    report::plain(
        SUBJECT,
        "setup runs again, and refuses another number of partitions and a Redis that evicts",
        || {
            let plane = Plane::start(2);
            let made = |places: &[&str]| plane.caracald(&[&["setup"], places].concat());
            let topic = plane.topic.clone();
            let offsets = || plane.query("SELECT version, checksum FROM _sqlx_migrations ORDER BY version");
            let before = offsets();
            let said = made(&["kafka"]);
            for name in [topic.clone(), format!("{topic}.dead")] {
                assert!(said.contains(&format!("topic {name} is there")), "{said}");
            }
            assert!(!said.contains("made topic") && !said.contains("from a clock"), "{said}");
            // As an earlier version made it.
            by_the_senders_clock(&plane, &format!("{topic}.dead"));
            let said = made(&["kafka"]);
            assert!(said.contains(&format!("topic {topic}.dead takes nothing from a clock")), "{said}");
            assert!(said.contains("message.timestamp.type=LogAppendTime"), "{said}");
            let all = made(&[]);
            assert!(all.contains("is there") && all.contains("PostgreSQL") && all.contains("Redis answers"), "{all}");
            assert_eq!(offsets(), before, "the tables are as they were");

            // More partitions would move hosts to other logs.
            let config = std::fs::read_to_string(plane.config()).expect("the configuration");
            let other = plane.file("three.toml", &config.replace("partitions = 2", "partitions = 3"));
            let refused = |config: &str, place: &str| {
                let mut command = Command::new(caracald());
                let output = command.args(["--config", config, "setup", place]).output().expect("it runs");
                assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
                String::from_utf8_lossy(&output.stderr).into_owned()
            };
            let why = refused(text(&other), "kafka");
            assert!(why.contains(&topic) && why.contains("2 partitions") && why.contains("says 3"), "{why}");
            // It changed nothing, either.
            let _made = made(&["kafka"]);

            if !plane.ours {
                return;
            }
            plane.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
            let why = refused(text(&plane.config()), "redis");
            assert!(why.contains("allkeys-lru") && why.contains("noeviction"), "{why}");
            plane.redis(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
            let said = made(&["redis"]);
            assert!(said.contains("keeps what it is given"), "{said}");
        },
    );
}

/// Has the topic go by the clocks of those who write to it.
fn by_the_senders_clock(plane: &Plane, topic: &str) {
    let client = ClientConfig::new().set("bootstrap.servers", &plane.kafka).create();
    let client: AdminClient<DefaultClientContext> = client.expect("a client");
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("message.timestamp.type", "CreateTime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = runtime.block_on(client.alter_configs([&change], &AdminOptions::new())).expect("an answer");
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}
