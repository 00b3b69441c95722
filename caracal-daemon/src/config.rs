//! Takes the text of `caracal.toml`; gives a [`Config`] of typed values that every stage takes its section from.
//! Refuses unknown keys, values of the wrong shape and contradictions, each with file, line, key and what is allowed.
//! Holds no logic of a stage, and binds, opens and creates nothing.

mod amount;
mod budgets;
mod hosts;
mod plane;
mod priced;
mod problem;
mod rates;
mod restart;
mod rules;
mod sections;
mod starter;
mod unix;

pub use crate::address::Cidr;
pub use amount::{AmountError, format_usd, parse_usd};
pub use budgets::{Budget, Per, Window, WindowKind};
pub use hosts::HostPattern;
pub use plane::{Escrow, Kafka, Mechanism, Place, Redis, Sasl, Tls, Worker, secret};
pub use priced::{ApiEntry, McpEntry, PRICED_HOSTS, ProviderEntry, may_be_priced, own_hosts};
pub(crate) use problem::position;
pub use problem::{ConfigError, Problem};
pub use rates::Rate;
pub use rules::{AgentEntry, AgentPattern, AllowRule, DenyRule, Glob, InboundRule, RuleMode};
pub use sections::{
    Clamp, ClientCertificate, Instance, Journal, Limits, Listen, Nameserver, PolicyFiles, Prices, ProxyUrl, Require,
    SplitDns, Upgrade, Upstream, Websocket,
};
pub use starter::starter;
pub use unix::UnixRule;

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the configuration is looked for unless the command line names another place.
pub const DEFAULT_PATH: &str = "/etc/caracal/caracal.toml";

/// The names that `[[provider]] provider` may have.
pub const PROVIDERS: [&str; 14] = [
    "openai",
    "anthropic",
    "google",
    "bedrock",
    "azure",
    "mistral",
    "groq",
    "deepseek",
    "xai",
    "openrouter",
    "together",
    "ollama",
    "vllm",
    "other",
];

/// A configuration file larger than this is not read, bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Everything that `caracal.toml` says. A missing key has the default that its field names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names the pin directory and the cgroup slice: `[a-z0-9-]{1,32}`. Default `caracal`.
    pub instance: Instance,
    /// Journal, ledger and keys. Default `/var/lib/caracal`.
    pub state_dir: PathBuf,
    /// Control socket and trust bundle. Default `/run/caracal`.
    pub runtime_dir: PathBuf,
    /// The user that the data path runs as. Default `caracal`.
    pub user: String,
    /// A group whose members administer like root. Default none.
    pub admin_group: Option<String>,
    /// What the kernel must be able to enforce. Default `network`.
    pub require: Require,
    /// Govern even where the kernel cannot enforce `require`, and record that. Default false.
    pub allow_degraded: bool,
    /// `[listen]`.
    pub listen: Listen,
    /// `[upstream]`.
    pub upstream: Upstream,
    /// `[journal]`.
    pub journal: Journal,
    /// `[limits]`.
    pub limits: Limits,
    /// `[upgrade]`.
    pub upgrade: Upgrade,
    /// `[prices]`.
    pub prices: Prices,
    /// `[clamp]`.
    pub clamp: Clamp,
    /// `[websocket]`.
    pub websocket: Websocket,
    /// `[policy]`.
    pub policy: PolicyFiles,
    /// `[kafka]`: records also go to a bus that many hosts share. Default none.
    pub kafka: Option<Kafka>,
    /// `[postgres]`: the ledger of many hosts. Default none.
    pub postgres: Option<Place>,
    /// `[escrow]`.
    pub escrow: Escrow,
    /// `[redis]`: the spend of many hosts. Default none.
    pub redis: Option<Redis>,
    /// `[worker]`.
    pub worker: Worker,
    /// `[[agent]]`.
    #[serde(deserialize_with = "rules::placed_agents")]
    pub agent: Vec<AgentEntry>,
    /// `[[allow]]`.
    #[serde(deserialize_with = "rules::placed_allow")]
    pub allow: Vec<AllowRule>,
    /// `[[deny]]`.
    #[serde(deserialize_with = "rules::placed_deny")]
    pub deny: Vec<DenyRule>,
    /// `[[unix]]`.
    #[serde(deserialize_with = "unix::placed")]
    pub unix: Vec<UnixRule>,
    /// `[[inbound]]`.
    #[serde(deserialize_with = "rules::placed_inbound")]
    pub inbound: Vec<InboundRule>,
    /// `[[provider]]`.
    pub provider: Vec<ProviderEntry>,
    /// `[[mcp]]`.
    pub mcp: Vec<McpEntry>,
    /// `[[api]]`.
    pub api: Vec<ApiEntry>,
    /// `[[budget]]`.
    #[serde(deserialize_with = "budgets::placed")]
    pub budget: Vec<Budget>,
    /// `[[rate]]`.
    #[serde(deserialize_with = "rates::placed")]
    pub rate: Vec<Rate>,
    /// The file that this was read from, for messages.
    #[serde(skip)]
    pub file: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            instance: Instance::default(),
            state_dir: PathBuf::from("/var/lib/caracal"),
            runtime_dir: PathBuf::from("/run/caracal"),
            user: "caracal".to_owned(),
            admin_group: None,
            require: Require::default(),
            allow_degraded: false,
            listen: Listen::default(),
            upstream: Upstream::default(),
            journal: Journal::default(),
            limits: Limits::default(),
            upgrade: Upgrade::default(),
            prices: Prices::default(),
            clamp: Clamp::default(),
            websocket: Websocket::default(),
            policy: PolicyFiles::default(),
            kafka: None,
            postgres: None,
            escrow: Escrow::default(),
            redis: None,
            worker: Worker::default(),
            agent: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            unix: Vec::new(),
            inbound: Vec::new(),
            provider: Vec::new(),
            mcp: Vec::new(),
            api: Vec::new(),
            budget: Vec::new(),
            rate: Vec::new(),
            file: PathBuf::from("caracal.toml"),
        }
    }
}

impl Config {
    /// Reads and checks a file. Relative paths in it are taken from the file's own directory.
    ///
    /// # Errors
    /// When it cannot be read, is larger than 4 MiB, or says something that is not allowed.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
        let size = std::fs::metadata(path).map_err(|why| unreadable(why.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(unreadable(format!("it has {size} bytes; at most {MAX_BYTES} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|why| {
            let who = if why.kind() == std::io::ErrorKind::PermissionDenied {
                "; the data path reads it as the user `caracal`, and callers as themselves: run chmod 0644 on it (secrets have files of \
                 their own)"
            } else {
                ""
            };
            unreadable(format!("{why}{who}"))
        })?;
        let mut config = Config::parse(&text, path)?;
        if let Some(base) = path.parent() {
            config.resolve_paths(base);
        }
        Ok(config)
    }

    /// Checks a text; `path` is for messages only.
    ///
    /// # Errors
    /// When it says something that is not allowed: the first such place.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| Problem::from_toml(path, text, &error))?;
        config.file = path.to_owned();
        config.place(text);
        config.check().map_err(|found| Problem::of_check(path, text, found))?;
        Ok(config)
    }

    /// The rules' and budgets' byte offsets become line numbers.
    fn place(&mut self, text: &str) {
        let places = self.allow.iter_mut().map(|rule| &mut rule.line);
        let places = places.chain(self.deny.iter_mut().map(|rule| &mut rule.line));
        let places = places.chain(self.agent.iter_mut().map(|agent| &mut agent.line));
        let places = places.chain(self.unix.iter_mut().map(|rule| &mut rule.line));
        let places = places.chain(self.inbound.iter_mut().map(|rule| &mut rule.line));
        let places = places.chain(self.rate.iter_mut().map(|rate| &mut rate.line));
        for place in places.chain(self.budget.iter_mut().map(|budget| &mut budget.line)) {
            *place = position(text, *place).0;
        }
    }

    /// What no single value can show: rules against priced hosts, budgets against each other.
    fn check(&self) -> Result<(), problem::Found> {
        sections::check(self)?;
        plane::check(self)?;
        rules::check(&self.agent, &self.allow, &self.deny)?;
        priced::check(self)?;
        unix::check(&self.unix)?;
        rules::check_inbound(&self.inbound, [self.listen.tcp_port, self.listen.dns_port])?;
        rates::check(&self.rate)?;
        budgets::check(&self.budget)
    }

    fn resolve_paths(&mut self, base: &Path) {
        for path in plane::paths(self) {
            *path = base.join(&*path);
        }
        let single = [&mut self.state_dir, &mut self.runtime_dir];
        let roots = self
            .upstream
            .roots
            .iter_mut()
            .chain(&mut self.upstream.proxy_file)
            .chain(&mut self.policy.cedar)
            .chain(&mut self.prices.file)
            .chain(&mut self.prices.public_key);
        let certificates = self.upstream.client_certificate.iter_mut().flat_map(|c| [&mut c.certificate, &mut c.key]);
        for path in single.into_iter().chain(roots).chain(certificates) {
            *path = base.join(&*path);
        }
    }
}

/// Whether `text` names a budget, a limit or an entry with a price: `[a-z0-9._-]{1,64}`.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests;
