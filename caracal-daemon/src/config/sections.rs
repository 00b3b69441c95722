//! The plain sections of `caracal.toml`: one struct each, with its default.

use super::Config;
use super::problem::Found;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The name of this installation: `[a-z0-9-]{1,32}`, no dash in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Instance(String);

impl Instance {
    /// A name that is known to be good.
    pub(super) fn named(name: &'static str) -> Instance {
        Instance(name.to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Instance {
    fn default() -> Instance {
        Instance("caracal".to_owned())
    }
}

impl TryFrom<String> for Instance {
    type Error = String;

    fn try_from(name: String) -> Result<Instance, String> {
        let good = (1..=32).contains(&name.len())
            && !name.starts_with('-')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good {
            Ok(Instance(name))
        } else {
            Err(format!("{name:?}: an instance is 1 to 32 of a-z, 0-9 and - (not in front)"))
        }
    }
}

/// What the kernel must be able to enforce before an agent may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// What the process's own IP sockets can send. AF_PACKET and AF_XDP, for whoever has CAP_NET_RAW as many containers do,
    /// and AF_VSOCK stay open under `attach`: drop CAP_NET_RAW.
    #[default]
    Network,
    /// The other socket families, deputies, passed descriptors and unix sockets too.
    Full,
}

impl Require {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Require::Network => "network",
            Require::Full => "full",
        }
    }
}

/// `[listen]`: the loopback ports that the kernel redirects to, and where the daemon tells how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// TCP, default 15001.
    pub tcp_port: u16,
    /// DNS over UDP and TCP, default 15053.
    pub dns_port: u16,
    /// Where the daemon's `/metrics`, `/healthz` and `/readyz` are served. Default none.
    pub metrics: Option<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Listen {
        Listen { tcp_port: 15001, dns_port: 15053, metrics: None }
    }
}

/// `[upstream]`: how the outside is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// An HTTP proxy that everything goes through. Default none.
    pub proxy: Option<ProxyUrl>,
    /// A file with that URL, for one with a password; the data path's user must be able to read it.
    pub proxy_file: Option<PathBuf>,
    /// Names (`host`, `.suffix`), addresses and ranges that are reached without the proxy.
    pub no_proxy: Vec<String>,
    /// PEM files with roots, beside the system's.
    pub roots: Vec<PathBuf>,
    /// Resolvers to ask. Default: those of the host's `/etc/resolv.conf`.
    pub nameservers: Vec<Nameserver>,
    /// Resolvers for some domains only.
    pub split_dns: Vec<SplitDns>,
    /// Certificates that are shown to some hosts.
    pub client_certificate: Vec<ClientCertificate>,
    /// TCP connect, milliseconds. Default 10,000.
    pub connect_timeout_ms: u64,
    /// TLS handshake, milliseconds. Default 10,000.
    pub tls_timeout_ms: u64,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            proxy: None,
            proxy_file: None,
            no_proxy: Vec::new(),
            roots: Vec::new(),
            nameservers: Vec::new(),
            split_dns: Vec::new(),
            client_certificate: Vec::new(),
            connect_timeout_ms: 10_000,
            tls_timeout_ms: 10_000,
        }
    }
}

/// The URL of an HTTP proxy: `http://[user:password@]host:port`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyUrl(http::Uri);

impl ProxyUrl {
    /// Its host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    /// Its port, 3128 where none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(3128)
    }

    /// The whole URL, password and all. A secret: never log it.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.to_string()
    }

    /// `user:password`, as written. A secret: never log it.
    #[must_use]
    pub fn userinfo(&self) -> Option<&str> {
        self.0.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(user, _)| user)
    }
}

// Without the password.
impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ProxyUrl(http://{}:{})", self.host(), self.port())
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<ProxyUrl, &'static str> {
        let uri: http::Uri = text.parse().map_err(|_| "write a proxy as \"http://host:port\"")?;
        match (uri.scheme_str(), uri.host(), uri.path_and_query().map(|p| p.as_str())) {
            (Some("http"), Some(host), None | Some("/" | "")) if !host.is_empty() => Ok(ProxyUrl(uri)),
            (Some("https"), ..) => {
                Err("a proxy is spoken to in plain HTTP (CONNECT); write it as \"http://host:port\"")
            }
            _ => Err("write a proxy as \"http://host:port\""),
        }
    }
}

/// A resolver: an address, with port 53 unless another is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Nameserver(pub SocketAddr);

impl TryFrom<String> for Nameserver {
    type Error = String;

    fn try_from(text: String) -> Result<Nameserver, String> {
        let with_port = SocketAddr::from_str(&text).ok();
        let plain = || IpAddr::from_str(&text).ok().map(|address| SocketAddr::new(address, 53));
        with_port.or_else(plain).map(Nameserver).ok_or_else(|| {
            format!(
                "{text:?}: write a resolver as an address, such as \"9.9.9.9\", \"9.9.9.9:53\" or \"[2620:fe::fe]:53\""
            )
        })
    }
}

/// `[[upstream.split_dns]]`: names at and below `domain` are asked of `servers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitDns {
    /// `corp.example`: itself and everything below.
    pub domain: String,
    /// Whom to ask.
    pub servers: Vec<Nameserver>,
}

/// `[[upstream.client_certificate]]`: what is shown to `host` when it asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The host's name.
    pub host: String,
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}

/// `[journal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Size of one preallocated segment, bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// All segments together, bytes; nothing is forwarded beyond. Default 4 GiB.
    pub limit_bytes: u64,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal { segment_bytes: 64 << 20, limit_bytes: 4 << 30 }
    }
}

/// `[limits]`: so that one agent cannot stop the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of one agent. Default 4,096.
    pub connections_per_agent: usize,
    /// Open connections of all agents. Default 16,384.
    pub connections: usize,
    /// A body that is read for pricing, before and after decoding, bytes. Default 64 MiB.
    pub pricing_body_bytes: usize,
    /// All that is held of such bodies at once: as they came, decoded, and as they go on, bytes. One agent has a quarter of it.
    /// Default 1 GiB.
    pub pricing_memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_agent: 4096,
            connections: 16_384,
            pricing_body_bytes: 64 << 20,
            pricing_memory_bytes: 1 << 30,
        }
    }
}

/// `[upgrade]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// How long connections that were open at an upgrade may go on at the program from before it, milliseconds. What is open
    /// then is cut, and charged in full. Default 600,000: ten minutes.
    pub drain_ms: u64,
}

impl Default for Upgrade {
    fn default() -> Upgrade {
        Upgrade { drain_ms: 600_000 }
    }
}

/// `[prices]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// A price book that replaces the built-in one. Default none.
    pub file: Option<PathBuf>,
    /// Who must have signed it: a PEM public key of P-256; the signature stands beside the file, as `FILE.sig`. Default nobody.
    pub public_key: Option<PathBuf>,
    /// From which age on a book is called old, days. Default 90.
    pub max_age_days: u64,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices { file: None, public_key: None, max_age_days: 90 }
    }
}

/// `[clamp]`: lowering a paid call's output cap to what its budget can pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clamp {
    /// Whether caps are lowered at all. Default true.
    pub enabled: bool,
    /// Never lowered below this, tokens: the call is denied instead. Default 4,096.
    pub min_output: u64,
}

impl Default for Clamp {
    fn default() -> Clamp {
        Clamp { enabled: true, min_output: 4096 }
    }
}

/// `[websocket]`: OpenAI's responses over a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Websocket {
    /// Whether each `response.create` is held, forwarded and settled. Default false: the upgrade is answered with 426, on
    /// which Codex goes to HTTP at once.
    pub metered: bool,
}

/// `[policy]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFiles {
    /// Cedar files beside the rules of this file.
    pub cedar: Vec<PathBuf>,
}

/// What a section's values must not say together.
pub(super) fn check(config: &Config) -> Result<(), Found> {
    let found = |key, message: &str| Err(Found::new(0, key, message));
    let account = |name: &str| {
        (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
    };
    if !account(&config.user) || config.user == "root" {
        return found("user", "the data path runs as a user of its own, by name, never as root");
    }
    if config.admin_group.as_deref().is_some_and(|group| !account(group)) {
        return found("admin_group", "a group's name is 1 to 32 of a-z, 0-9, _ and -");
    }
    if config.upstream.proxy.is_some() && config.upstream.proxy_file.is_some() {
        return found("upstream.proxy", "write either `proxy` or `proxy_file`");
    }
    let Journal { segment_bytes, limit_bytes } = config.journal;
    let limits = config.limits;
    let timeouts = &config.upstream;
    if config.listen.tcp_port == config.listen.dns_port || config.listen.tcp_port == 0 || config.listen.dns_port == 0 {
        return found("listen", "`tcp_port` and `dns_port` are two different ports from 1 to 65535");
    }
    if !(1 << 20..=1 << 30).contains(&segment_bytes) || limit_bytes < segment_bytes.saturating_mul(2) {
        return found("journal", "`segment_bytes` is 1 MiB to 1 GiB and `limit_bytes` at least two segments");
    }
    if limits.connections == 0 || limits.connections_per_agent == 0 || limits.connections_per_agent > limits.connections
    {
        return found("limits", "`connections_per_agent` is at least 1 and at most `connections`");
    }
    if !(64 << 10..=1 << 30).contains(&limits.pricing_body_bytes) {
        return found("limits.pricing_body_bytes", "64 KiB (65536) to 1 GiB (1073741824)");
    }
    // A body, and the same as it goes on, fit an agent's quarter.
    if limits.pricing_memory_bytes / 8 < limits.pricing_body_bytes {
        return found("limits.pricing_memory_bytes", "at least eight times `pricing_body_bytes`");
    }
    if config.prices.public_key.is_some() && config.prices.file.is_none() {
        return found("prices.public_key", "the built-in book is signed by nobody; name a `file` too");
    }
    if config.clamp.min_output == 0 {
        return found("clamp.min_output", "at least 1 token");
    }
    let waits = [timeouts.connect_timeout_ms, timeouts.tls_timeout_ms];
    if waits.iter().any(|ms| !(1..=86_400_000).contains(ms)) {
        return found("upstream", "timeouts are 1 ms to 86400000 ms (a day)");
    }
    if !(1..=86_400_000).contains(&config.upgrade.drain_ms) {
        return found("upgrade.drain_ms", "1 ms to 86400000 ms (a day)");
    }
    if timeouts.split_dns.iter().any(|split| split.servers.is_empty() || split.domain.is_empty()) {
        return found("upstream.split_dns", "each entry names a `domain` and at least one of `servers`");
    }
    Ok(())
}
