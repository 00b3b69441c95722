//! Apache Kafka without ZooKeeper: broker and controller in one process (KRaft), from the jars of Maven Central.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::place::{Place, listens, send};
use crate::{checkout::Checkout, pins, progress, test::BENCH};

/// The jars, below the checkout's tools.
fn library(checkout: &Checkout) -> PathBuf {
    checkout.tools().join(format!("kafka-{}", pins::KAFKA))
}

/// Has Maven fetch Kafka's jars, once, holds them against the checksum that is pinned, and prepares what each start needs.
///
/// # Errors
/// When Maven fails, or brings something else.
pub(super) fn install(checkout: &Checkout) -> Result<()> {
    let jars = library(checkout);
    let seal = jars.join("checked");
    if seal.exists() {
        return prepare(checkout);
    }
    let work = checkout.tools().join("kafka-maven");
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    fs::write(work.join("pom.xml"), pom())?;
    let _ = fs::remove_dir_all(&jars);
    let mut maven = Command::new("mvn");
    // --strict-checksums: what was damaged on the way is refused.
    maven.args(["-B", "--strict-checksums", "dependency:copy-dependencies"]);
    maven.arg(format!("-DoutputDirectory={}", jars.display())).current_dir(&work);
    progress::quietly(&format!("fetching Apache Kafka {}", pins::KAFKA), &mut maven, &checkout.log("kafka-maven"))?;
    let sums = Command::new("sh")
        .args(["-c", "LC_ALL=C; export LC_ALL; sha256sum *.jar | sha256sum"])
        .current_dir(&jars)
        .output()
        .context("sha256sum does not start")?;
    let sums = String::from_utf8_lossy(&sums.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    if sums != pins::KAFKA_JARS_SHA256 {
        bail!(
            "the jars of Kafka {} in {} have the checksum {sums}, not {}: do not run them. If the pin was moved on purpose, \
             put the new checksum beside it in xtask/src/pins.rs",
            pins::KAFKA,
            jars.display(),
            pins::KAFKA_JARS_SHA256
        );
    }
    fs::write(seal, sums)?;
    prepare(checkout)
}

/// What each start would do again: storage that is formatted, and, where this Java writes one, an archive of the classes that a
/// broker loads: they are mapped rather than read, checked and linked (JEP 350). A start takes half as long.
struct Prepared {
    home: PathBuf,
}

impl Prepared {
    fn at(checkout: &Checkout) -> Prepared {
        Prepared { home: checkout.tools().join(format!("kafka-{}-prepared", pins::KAFKA)) }
    }

    fn storage(&self) -> PathBuf {
        self.home.join("storage")
    }

    fn classes(&self) -> PathBuf {
        self.home.join("classes.jsa")
    }

    /// Written last.
    fn seal(&self) -> PathBuf {
        self.home.join("prepared")
    }
}

fn prepare(checkout: &Checkout) -> Result<()> {
    let prepared = Prepared::at(checkout);
    if prepared.seal().exists() {
        return Ok(());
    }
    let place = Place::new(&prepared.home, "kafka");
    // Of a run that was broken off.
    place.stop("KILL")?;
    let _ = fs::remove_dir_all(&prepared.home);
    let (properties, _) = configure(&place)?;
    format(checkout, &properties, None)?;
    copy(&place.dir().join("data"), &prepared.storage())?;
    let mut java = java(checkout);
    java.arg(format!("-XX:ArchiveClassesAtExit={}", prepared.classes().display())).arg("kafka.Kafka").arg(&properties);
    let mut broker = place.launch(&mut java, answers)?;
    send("TERM", &[broker.id()])?;
    broker.wait()?;
    place.remove()?;
    fs::write(prepared.seal(), "").with_context(|| prepared.home.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-rT").args([from, to]).status().context("cp does not start")?;
    if !status.success() {
        bail!("cp of {} ended with {status}", from.display());
    }
    Ok(())
}

fn java(checkout: &Checkout) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx512m", "-XX:+UseSerialGC", "-cp"]).arg(format!("{}/*", library(checkout).display()));
    java
}

fn format(checkout: &Checkout, properties: &Path, scram: Option<&str>) -> Result<()> {
    let mut format = java(checkout);
    format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(properties);
    if let Some(scram) = scram {
        format.args(["--add-scram", scram.trim()]);
    }
    progress::quietly("formatting Kafka's storage", &mut format, &checkout.log("kafka-format"))
}

fn pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>caracal</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}{}</dependencies></project>\n",
        dependency("org.apache.kafka", "kafka_2.13", pins::KAFKA),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", pins::LOG4J),
    )
}

/// Gives it formatted storage on the first start, and starts it. A client's files in its directory ask for more: `advertised` is where
/// clients are sent, and `keystore.pem`, `truststore.pem` and `scram` make two listeners with TLS, whose ports are then in
/// `sasl-ssl` (for users by a password) and `mutual-tls` (for whoever has a certificate of the trust store's).
///
/// # Errors
/// When Java is too old, or Kafka does not come up.
pub(super) fn start(checkout: &Checkout, place: &Place) -> Result<()> {
    let (properties, secured) = configure(place)?;
    let (prepared, data) = (Prepared::at(checkout), place.dir().join("data"));
    if !data.join("meta.properties").exists() {
        match &secured {
            Some(Secured { scram, .. }) => format(checkout, &properties, Some(scram))?,
            None => copy(&prepared.storage(), &data)?,
        }
    }
    let mut java = java(checkout);
    if prepared.classes().exists() {
        java.arg(format!("-XX:SharedArchiveFile={}", prepared.classes().display()));
    }
    if env::var_os(BENCH).is_none() {
        // Compiled quickly rather than well, also for who starts it by hand: a test is over before the better compiler has paid.
        java.arg("-XX:TieredStopAtLevel=1");
    }
    java.arg("kafka.Kafka").arg(&properties);
    place.launch(&mut java, answers).map(drop)
}

/// Writes what Kafka reads, and says where.
fn configure(place: &Place) -> Result<(PathBuf, Option<Secured>)> {
    let (port, controller) = (place.port()?, place.port_named("controller")?);
    // Where clients are sent: elsewhere, where a test put something between them and the broker.
    let advertised = if place.dir().join("advertised").exists() { place.port_named("advertised")? } else { port };
    let secured = if place.dir().join("keystore.pem").exists() { Some(Secured::at(place)?) } else { None };
    let (more, protocols, tls) = secured.as_ref().map_or_else(Default::default, Secured::properties);
    let properties = place.dir().join("server.properties");
    fs::write(
        &properties,
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}{more}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\nnum.network.threads=2\n\
             num.io.threads=4\nlog.segment.bytes=67108864\nlog.cleaner.enable=false\n{tls}",
            place.dir().join("data").display()
        ),
    )?;
    Ok((properties, secured))
}

/// What the files of a client's ask for.
struct Secured {
    sasl: u16,
    mutual: u16,
    keystore: String,
    truststore: String,
    /// As `kafka-storage format --add-scram` takes it: `SCRAM-SHA-512=[name=...,password=...]`.
    scram: String,
}

impl Secured {
    fn at(place: &Place) -> Result<Secured> {
        let scram = place.dir().join("scram");
        Ok(Secured {
            sasl: place.port_named("sasl-ssl")?,
            mutual: place.port_named("mutual-tls")?,
            keystore: place.dir().join("keystore.pem").display().to_string(),
            truststore: place.dir().join("truststore.pem").display().to_string(),
            scram: fs::read_to_string(&scram).with_context(|| scram.display().to_string())?,
        })
    }

    /// More listeners, their protocols, and properties.
    fn properties(&self) -> (String, String, String) {
        let Secured { sasl, mutual, keystore, truststore, .. } = self;
        (
            format!(",SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{mutual}"),
            ",SASL_SSL:SASL_SSL,SSL:SSL".to_owned(),
            format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={keystore}\nssl.truststore.type=PEM\n\
                 ssl.truststore.location={truststore}\nlistener.name.ssl.ssl.client.auth=required\n\
                 listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
                 org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
            ),
        )
    }
}

/// A cluster id is any 16 bytes in base64url; each of ours is alone on its host's loopback.
const CLUSTER: &str = "Y2FyYWNhbC10ZXN0LTAwMQ";

/// Asks for the protocol's versions (ApiVersions, key 18, version 0) and has the same number come back.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let Some(mut stream) = listens(port) else { return Ok(false) };
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // Length, key, version, correlation id 7, no client id.
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff])?;
        let mut head = [0_u8; 8];
        stream.read_exact(&mut head)?;
        Ok(head[4..] == [0, 0, 0, 7])
    };
    ask().unwrap_or(false)
}
