//! `caracald setup kafka|postgres|redis`: makes what the shared plane needs there. Run again, it changes nothing.

use super::worker;
use crate::bus::kafka;
use crate::config::{Config, Kafka};
use crate::escrow;
use crate::ledger::postgres::{Database, MIGRATIONS};
use crate::ledger::worker::WorkerError;
use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a topic that was just made is looked at.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Whose clock says when a message came: the broker's. By the sender's, a broker refuses what comes from a clock that is an hour
/// ahead (`message.timestamp.after.max.ms`), and a host or a worker whose clock was set would send nothing more.
const STAMP: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// Make topics, tables and roles for the shared plane. Run again, it changes nothing.
#[derive(Args, Debug)]
pub struct SetupArgs {
    /// What to set up; all that is configured, if nothing is named.
    #[arg(value_enum)]
    places: Vec<Target>,
}

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The topics of records, of dead letters and of checkpoints.
    Kafka,
    /// Tables, triggers and roles.
    Postgres,
    /// Checks that it keeps what it is given.
    Redis,
}

/// Runs the verb.
///
/// # Errors
/// When a place cannot be reached, or says no.
pub fn run(args: &SetupArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let configured = [
        (Target::Kafka, config.kafka.is_some()),
        (Target::Postgres, config.postgres.is_some()),
        (Target::Redis, config.redis.is_some()),
    ];
    let wanted = |target| args.places.contains(&target) || args.places.is_empty();
    let chosen = configured.iter().filter(|(target, there)| wanted(*target) && (*there || !args.places.is_empty()));
    let mut done = false;
    for (target, _) in chosen {
        done = true;
        match target {
            Target::Kafka => runtime.block_on(topics(config.kafka.as_ref().ok_or(WorkerError::Missing("kafka"))?))?,
            Target::Postgres => runtime.block_on(tables(config))?,
            Target::Redis => runtime.block_on(view(config))?,
        }
    }
    ensure!(done, "nothing to set up: the configuration has neither [kafka] nor [postgres] nor [redis]");
    Ok(ExitCode::SUCCESS)
}

async fn topics(kafka: &Kafka) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = kafka::client(kafka)?.create()?;
    let in_sync = if kafka.replication > 2 { "2" } else { "1" };
    let topic = |name, partitions| {
        // Kept for ever by default: the ledger can then be made again from the bus. Shorten it on the topic if you must.
        NewTopic::new(name, partitions, TopicReplication::Fixed(kafka.replication))
            .set("retention.ms", "-1")
            .set("cleanup.policy", "delete")
            .set("max.message.bytes", "4194304")
            .set(STAMP.0, STAMP.1)
            .set("min.insync.replicas", in_sync)
    };
    // The last checkpoint of each log stays, whatever its age; those before it go after an hour or so.
    let checkpoints = NewTopic::new(&kafka.checkpoints, kafka.partitions, TopicReplication::Fixed(kafka.replication))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "3600000")
        .set("max.message.bytes", "65536")
        .set(STAMP.0, STAMP.1)
        .set("min.insync.replicas", in_sync);
    let wanted = [topic(&kafka.topic, kafka.partitions), topic(&kafka.dlq, 1), checkpoints];
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    for made in admin.create_topics(&wanted, &options).await.context("Kafka does not answer")? {
        match made {
            Ok(name) => println!("made topic {name}"),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => println!("topic {name} is there"),
            Err((name, error)) => bail!("topic {name}: {error}"),
        }
    }
    let there = partitions(&admin, &kafka.topic).await?;
    // More partitions would move hosts to other logs in the middle of their chains.
    ensure!(
        i32::try_from(there) == Ok(kafka.partitions),
        "topic {} has {there} partitions and [kafka] partitions says {}: the number of a topic never changes; take a new \
         topic and a new [worker] name",
        kafka.topic,
        kafka.partitions
    );
    let there = partitions(&admin, &kafka.checkpoints).await?;
    ensure!(
        i32::try_from(there).is_ok_and(|there| there >= kafka.partitions),
        "topic {} has {there} partitions, and each of the {} logs needs its own: add some to it, or name another in \
         [kafka] checkpoints",
        kafka.checkpoints,
        kafka.partitions
    );
    compacted(&admin, &kafka.checkpoints).await?;
    for topic in [&kafka.topic, &kafka.dlq, &kafka.checkpoints] {
        // Its rights may be short of it, and all works without while clocks are right.
        if setting(&admin, topic, STAMP.0).await?.is_some_and(|by| by != STAMP.1) {
            println!(
                "topic {topic} takes nothing from a clock that is an hour ahead: set it to {}={} (kafka-configs.sh --alter)",
                STAMP.0, STAMP.1
            );
        }
    }
    Ok(())
}

/// How many partitions a topic has. A broker says that one is made before each of them knows its partitions.
async fn partitions(admin: &AdminClient<DefaultClientContext>, topic: &str) -> anyhow::Result<usize> {
    for _ in 0..LOOKS {
        let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE)?;
        let there = metadata.topics().iter().map(|topic| topic.partitions().len()).sum::<usize>();
        if there > 0 {
            return Ok(there);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    bail!("Kafka does not say which partitions topic {topic} has: run `caracald setup kafka` again")
}

/// A topic that a broker made by itself, or somebody else, may forget what it had.
async fn compacted(admin: &AdminClient<DefaultClientContext>, topic: &str) -> anyhow::Result<()> {
    let policy = setting(admin, topic, "cleanup.policy").await?;
    match policy.as_deref() {
        Some("compact") => Ok(()),
        policy => bail!(
            "topic {topic} has cleanup.policy={}, and what was signed may be forgotten: set it to compact",
            policy.unwrap_or("(not told: DescribeConfigs on it is needed)")
        ),
    }
}

/// What a topic is set to; `None` where the broker does not tell.
async fn setting(admin: &AdminClient<DefaultClientContext>, topic: &str, key: &str) -> anyhow::Result<Option<String>> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let told = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.context("Kafka")?;
    Ok(told.into_iter().flatten().find_map(|told| told.get(key)?.value.clone()))
}

async fn tables(config: &Config) -> anyhow::Result<()> {
    let url = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
    let mut database = Database::new(&url, None)?;
    let connection = database.up().await.context("PostgreSQL")?;
    MIGRATIONS.run(connection).await.context("PostgreSQL: the tables cannot be made; connect as their owner")?;
    println!("PostgreSQL has the tables, triggers and roles");
    let shared = config.budget.iter().filter(|budget| budget.shared);
    let limits: Vec<_> = shared.map(|budget| (budget.name.as_str(), budget.limit)).collect();
    for budget in escrow::set_limits(database.up().await?, &limits).await.context("PostgreSQL: limits")? {
        println!("shared budget {budget} has the limit of this configuration");
    }
    Ok(())
}

async fn view(config: &Config) -> anyhow::Result<()> {
    let mut view = worker::view(config)?;
    view.ping().await?;
    match view.eviction().await? {
        Some(policy) if policy != "noeviction" => {
            bail!("Redis has maxmemory-policy {policy} and may throw sums away: set it to noeviction")
        }
        Some(_) => println!("Redis answers, and keeps what it is given"),
        None => println!("Redis answers; it does not tell its maxmemory-policy, which must be noeviction"),
    }
    Ok(())
}
