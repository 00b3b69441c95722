//! `[kafka]`, `[postgres]`, `[redis]` and `[worker]`: the plane that many hosts share.

use super::Config;
use super::problem::Found;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `[kafka]`: where this host's records go, and where the workers take them from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several with commas.
    pub servers: String,
    /// The topic of records. Default `caracal.events`.
    #[serde(default = "events")]
    pub topic: String,
    /// The topic of what is no record. Default `caracal.dlq`.
    #[serde(default = "dlq")]
    pub dlq: String,
    /// The compacted topic of the last checkpoint of each log. Default `caracal.checkpoints`.
    #[serde(default = "checkpoints")]
    pub checkpoints: String,
    /// Partitions that `setup kafka` makes; each is a log of its own. Default 1.
    #[serde(default = "one")]
    pub partitions: i32,
    /// Copies of each partition that `setup kafka` asks for. Default 1.
    #[serde(default = "one")]
    pub replication: i32,
    /// Records and their checkpoint wait at most this long for others to be sent with, ms. Default 200.
    #[serde(default = "gather_ms")]
    pub gather_ms: u64,
    /// `[kafka.tls]`. Default none: no TLS.
    pub tls: Option<Tls>,
    /// `[kafka.sasl]`. Default none.
    pub sasl: Option<Sasl>,
}

/// `[kafka.tls]` and `[redis.tls]`, PEM files. The data path's user must be able to read Kafka's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Roots. Default the system's.
    pub roots: Option<PathBuf>,
    /// This client's chain. Default none.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// `[kafka.sasl]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How to log in.
    pub mechanism: Mechanism,
    /// As whom.
    pub user: String,
    /// A file with the password.
    pub password_file: PathBuf,
}

/// How to log in to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mechanism {
    /// The password as it is: only with TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// Its name in SASL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `[postgres]`: a URL, as text or in a file that only its reader may read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The URL. Without a password: those belong into `url_file`.
    pub url: Option<String>,
    /// A file with the URL.
    pub url_file: Option<PathBuf>,
}

impl Place {
    /// The URL.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn url(&self) -> std::io::Result<String> {
        url(self.url.as_deref(), self.url_file.as_deref())
    }
}

/// `[redis]`: the same, with TLS where the URL begins with `rediss:`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// The URL. Without a password: those belong into `url_file`.
    pub url: Option<String>,
    /// A file with the URL.
    pub url_file: Option<PathBuf>,
    /// `[redis.tls]`. Default the system's roots, and no certificate of this client's.
    pub tls: Option<Tls>,
}

impl Redis {
    /// The URL.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn url(&self) -> std::io::Result<String> {
        url(self.url.as_deref(), self.url_file.as_deref())
    }
}

fn url(url: Option<&str>, file: Option<&Path>) -> std::io::Result<String> {
    match (url, file) {
        (Some(url), _) => Ok(url.to_owned()),
        (None, Some(path)) => secret(path),
        (None, None) => Ok(String::new()),
    }
}

/// `[escrow]`: how this host holds its slices of shared budgets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Escrow {
    /// How long slices are spent from while `[postgres]` does not answer, ms; a sixth of it is kept as a margin. A host that is
    /// started elsewhere with this host's state waits for as long. Default 60,000.
    pub lease_ms: u64,
    /// In place of `[postgres]`: a directory of this host for what its instances share. Each of them names the same one, and
    /// runs as the same `user`. No other host shares anything through it.
    pub folder: Option<PathBuf>,
}

impl Escrow {
    /// The vault of the instances of this host, where it is in a file.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join("budgets.sqlite"))
    }
}

impl Default for Escrow {
    fn default() -> Escrow {
        Escrow { lease_ms: 60_000, folder: None }
    }
}

/// `[worker]`: what the ledger's workers of one log series share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Names the log series and the consumer group: `[a-z0-9-]{1,32}`. Partition 0 is the log `NAME-0`. Default `fleet`.
    pub name: super::Instance,
    /// The signing keys of the logs, and what was signed with them. Default `/var/lib/caracal/worker`.
    pub keys: PathBuf,
    /// Where `/metrics`, `/healthz` and `/readyz` are served. Default none.
    pub listen: Option<std::net::SocketAddr>,
    /// A host is silent when nothing was heard of it for so long. Default 60000, which is twelve heartbeats.
    pub silent_after_ms: u64,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            name: super::Instance::named("fleet"),
            keys: PathBuf::from("/var/lib/caracal/worker"),
            listen: None,
            // Twelve heartbeats: a restart, an upgrade or another leader of a partition take some of them, and are no silence.
            silent_after_ms: 60_000,
        }
    }
}

/// What a secret's file says, without its last newline.
///
/// # Errors
/// When it cannot be read.
pub fn secret(path: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn events() -> String {
    "caracal.events".to_owned()
}

fn dlq() -> String {
    "caracal.dlq".to_owned()
}

fn checkpoints() -> String {
    "caracal.checkpoints".to_owned()
}

fn one() -> i32 {
    1
}

fn gather_ms() -> u64 {
    200
}

/// What the sections' values must not say together.
pub(super) fn check(config: &Config) -> Result<(), Found> {
    let found = |key, message: &str| Err(Found::new(0, key, message));
    let postgres = config.postgres.as_ref().map(|place| (&place.url, &place.url_file));
    let redis = config.redis.as_ref().map(|place| (&place.url, &place.url_file));
    for (key, place) in [("postgres", postgres), ("redis", redis)] {
        if place.is_some_and(|(url, file)| url.is_some() == file.is_some()) {
            return found(key, "write either `url` or `url_file`");
        }
    }
    if let Some((url, tls)) = config.redis.as_ref().and_then(|redis| Some((&redis.url, redis.tls.as_ref()?))) {
        if tls.certificate.is_some() != tls.key.is_some() {
            return found("redis.tls", "`certificate` and `key` belong together");
        }
        // One in a file is looked at when it is read.
        if url.as_ref().is_some_and(|url| !url.starts_with("rediss:")) {
            return found("redis.tls", "the URL must begin with `rediss://`: with another nothing is encrypted");
        }
    }
    if !(12_000..=86_400_000).contains(&config.escrow.lease_ms) {
        return found("escrow.lease_ms", "12000 to 86400000 ms: a host speaks every two seconds");
    }
    if !(5_000..=604_800_000).contains(&config.worker.silent_after_ms) {
        return found("worker.silent_after_ms", "5000 to 604800000 ms: a host sends a heartbeat every five seconds");
    }
    if let Some(budget) = config.budget.iter().find(|budget| budget.shared) {
        let why = match (&config.postgres, &config.escrow.folder) {
            (Some(_), None) | (None, Some(_)) => return kafka(config),
            (None, None) => {
                "is shared, so [postgres] must say where its limit is; for the instances of this host alone, [escrow] folder"
            }
            (Some(_), Some(_)) => "is shared in [postgres] or in [escrow] folder: leave one of them out",
        };
        return Err(Found::new(budget.line, "shared", format!("budget {:?} {why}", budget.name)));
    }
    kafka(config)
}

/// What `[kafka]` must not say.
fn kafka(config: &Config) -> Result<(), Found> {
    let found = |key, message: &str| Err(Found::new(0, key, message));
    let Some(kafka) = &config.kafka else { return Ok(()) };
    if kafka.servers.is_empty() {
        return found("kafka.servers", "at least one `host:port`");
    }
    let topic = |name: &str| {
        (1..=249).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let names = [&kafka.topic, &kafka.dlq, &kafka.checkpoints];
    let twice = names[0] == names[1] || names[1] == names[2] || names[0] == names[2];
    if twice || !names.iter().all(|name| topic(name)) {
        let why = "`topic`, `dlq` and `checkpoints` are three names of 1 to 249 letters, digits, `.`, `_` and `-`";
        return found("kafka.topic", why);
    }
    if !(1..=1024).contains(&kafka.partitions) || !(1..=64).contains(&kafka.replication) {
        return found("kafka.partitions", "1 to 1024 partitions, 1 to 64 copies");
    }
    if !(1..=10_000).contains(&kafka.gather_ms) {
        return found("kafka.gather_ms", "1 to 10000 ms");
    }
    if kafka.tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
        return found("kafka.tls", "`certificate` and `key` belong together");
    }
    if kafka.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain) && kafka.tls.is_none() {
        return found("kafka.sasl", "PLAIN sends the password as it is: set [kafka.tls], or take SCRAM-SHA-512");
    }
    Ok(())
}

/// Every path of these sections.
pub(super) fn paths(config: &mut Config) -> impl Iterator<Item = &mut PathBuf> {
    let kafka = config.kafka.iter_mut().flat_map(|kafka| {
        let tls =
            kafka.tls.iter_mut().flat_map(|tls| tls.roots.iter_mut().chain(&mut tls.certificate).chain(&mut tls.key));
        tls.chain(kafka.sasl.iter_mut().map(|sasl| &mut sasl.password_file))
    });
    let postgres = config.postgres.iter_mut().flat_map(|place| &mut place.url_file);
    let redis = config.redis.iter_mut().flat_map(|redis| {
        let tls = redis.tls.iter_mut();
        let tls = tls.flat_map(|tls| tls.roots.iter_mut().chain(&mut tls.certificate).chain(&mut tls.key));
        tls.chain(&mut redis.url_file)
    });
    kafka.chain(postgres).chain(redis).chain(&mut config.escrow.folder).chain(std::iter::once(&mut config.worker.keys))
}

impl Config {
    /// Every file and directory that it names as a secret: keys, passwords, and URLs with them.
    pub fn secrets(&self) -> impl Iterator<Item = &Path> {
        let kafka = self.kafka.iter().flat_map(|kafka| {
            let key = kafka.tls.iter().flat_map(|tls| &tls.key);
            key.chain(kafka.sasl.iter().map(|sasl| &sasl.password_file))
        });
        let postgres = self.postgres.iter().flat_map(|place| &place.url_file);
        let redis = self.redis.iter().flat_map(|redis| {
            let key = redis.tls.iter().flat_map(|tls| &tls.key);
            key.chain(&redis.url_file)
        });
        let places = postgres.chain(redis);
        let shown = self.upstream.client_certificate.iter().map(|shown| &shown.key);
        let upstream = shown.chain(&self.upstream.proxy_file);
        kafka.chain(places).chain(upstream).chain(std::iter::once(&self.worker.keys)).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("caracal.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plane_is_configured() {
        let config = parse(
            "[kafka]\nservers = \"k1:9093,k2:9093\"\n[kafka.tls]\nroots = \"ca.pem\"\n[kafka.sasl]\nmechanism = \"PLAIN\"\n\
             user = \"h\"\npassword_file = \"p\"\n[postgres]\nurl = \"postgres://db/caracal\"\n[redis]\nurl_file = \"r\"\n\
             [redis.tls]\nroots = \"redis-ca.pem\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n[worker]\nname = \"prod\"\n",
        )
        .expect("a configuration");
        let secrets: Vec<&Path> = config.secrets().collect();
        assert!(["p", "c.key", "r"].iter().all(|name| secrets.contains(&Path::new(name))), "{secrets:?}");
        let kafka = config.kafka.expect("kafka");
        assert_eq!((kafka.topic.as_str(), kafka.dlq.as_str(), kafka.partitions), ("caracal.events", "caracal.dlq", 1));
        assert_eq!(kafka.checkpoints, "caracal.checkpoints");
        assert_eq!(config.worker.name.as_str(), "prod");
        assert_eq!(Config::default().kafka, None);
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, told) in [
            ("[kafka]\nservers = \"k\"\ntopic = \"a\"\ndlq = \"a\"\n", "three names"),
            ("[kafka]\nservers = \"k\"\ntopic = \"a\"\ncheckpoints = \"a\"\n", "three names"),
            (
                "[kafka]\nservers = \"k\"\n[kafka.sasl]\nmechanism = \"PLAIN\"\nuser = \"h\"\npassword_file = \"p\"\n",
                "kafka.tls",
            ),
            ("[kafka]\nservers = \"k\"\n[kafka.tls]\nkey = \"k\"\n", "belong together"),
            ("[postgres]\n", "url_file"),
            ("[[budget]]\nname = \"b\"\nlimit = \"1 USD\"\nwindow = \"day\"\nshared = true\n", "[postgres]"),
            ("[escrow]\nlease_ms = 1\n", "12000"),
            ("[worker]\nsilent_after_ms = 4999\n", "heartbeat every five seconds"),
            (
                "[postgres]\nurl = \"u\"\n[escrow]\nfolder = \"f\"\n[[budget]]\nname = \"b\"\nlimit = \"1 USD\"\nwindow = \"day\"\nshared = true\n",
                "leave one of them out",
            ),
            (
                "[postgres]\nurl = \"u\"\n[[budget]]\nname = \"b\"\nlimit = \"1 USD\"\nwindow = \"day\"\nshared = true\nkind = \"rolling\"\n",
                "`shared`: slices belong to a window of the calendar: a shared budget cannot roll; leave `kind` out, or `shared`",
            ),
            (
                "[postgres]\nurl = \"u\"\n[[budget]]\nname = \"b\"\nlimit = \"1 USD\"\nwindow = \"day\"\nshared = true\nsoft = true\n",
                "`shared`: a soft budget refuses nothing, so there is nothing to share; leave `soft` out, or `shared`",
            ),
            ("[redis]\nurl = \"redis://r\"\nurl_file = \"r\"\n", "url_file"),
            ("[redis]\nurl = \"redis://r\"\n[redis.tls]\nroots = \"r\"\n", "rediss://"),
            ("[redis]\nurl = \"rediss://r\"\n[redis.tls]\nkey = \"r\"\n", "belong together"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
