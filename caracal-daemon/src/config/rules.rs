//! `[[agent]]`, `[[allow]]` and `[[deny]]`: the simple door to the policy.

use super::hosts::HostPattern;
use super::priced::may_be_priced;
use super::problem::Found;
use serde::{Deserialize, Deserializer};
use std::collections::HashSet;
use std::path::PathBuf;
use toml::Spanned;

/// Paths of priced hosts that are paid calls: no rule may call them free.
const PAID_PATHS: [&str; 11] = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1beta/models/any:generateContent",
    "/v1beta/models/any:streamGenerateContent",
    "/model/any/invoke",
    "/model/any/converse",
    "/openai/v1/chat/completions",
    "/openai/deployments/any/chat/completions",
    "/api/v1/chat/completions",
];

/// `[[agent]]`: a cgroup that is governed from the start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry {
    /// The name that rules, budgets and records use: `[a-z0-9][a-z0-9._-]{0,63}`.
    pub name: String,
    /// The cgroup, absolute or relative to the cgroup v2 mount. Without one the name is reserved for `run`.
    pub cgroup: Option<PathBuf>,
    /// The line that the entry begins at.
    #[serde(skip)]
    pub line: usize,
}

/// A pattern in which `*` stands for any characters, none included, `/` included. Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Glob(String);

impl Glob {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no `*`.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether `text` as a whole fits the pattern. Linear in each part: pieces are found leftmost, the last at the end.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(mut text) = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else { return false };
        for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
            let Some((_, after)) = text.split_once(piece) else { return false };
            text = after;
        }
        true
    }
}

#[cfg(test)]
impl From<&str> for Glob {
    fn from(text: &str) -> Glob {
        Glob::try_from(text.to_owned()).expect("a pattern")
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Glob, String> {
        let good = (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control);
        if text.contains('?') {
            Err(format!("{text:?}: a pattern has one wildcard, `*`, everywhere; write it for `?` too"))
        } else if good {
            Ok(Glob(text))
        } else {
            Err(format!("{text:?}: a pattern is 1 to 1024 bytes without control characters"))
        }
    }
}

/// A pattern of agent names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AgentPattern(Glob);

impl AgentPattern {
    /// The pattern.
    #[must_use]
    pub fn glob(&self) -> &Glob {
        &self.0
    }

    /// `["*"]`.
    #[must_use]
    pub fn everyone() -> Vec<AgentPattern> {
        vec![AgentPattern(Glob("*".to_owned()))]
    }
}

impl TryFrom<String> for AgentPattern {
    type Error = String;

    fn try_from(text: String) -> Result<AgentPattern, String> {
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*".contains(&b));
        if good {
            Ok(AgentPattern(Glob(text)))
        } else {
            Err(format!("{text:?}: an agent is 1 to 64 of a-z, 0-9, . _ - (and * for any)"))
        }
    }
}

/// How the bytes of an allowed connection are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleMode {
    /// TLS is ended here and HTTP is read.
    #[default]
    Inspect,
    /// TLS is left to the agent and the upstream.
    TlsPassthrough,
    /// Bytes are copied; nothing is sniffed.
    Tcp,
}

impl RuleMode {
    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RuleMode::Inspect => "inspect",
            RuleMode::TlsPassthrough => "tls-passthrough",
            RuleMode::Tcp => "tcp",
        }
    }
}

/// `[[allow]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// What records call the rule. Default `allow-<number>-<host>`.
    pub id: Option<String>,
    /// Whom it allows. Default everyone.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// What it allows.
    #[serde(deserialize_with = "hosts")]
    pub hosts: Vec<HostPattern>,
    /// On which ports. Default 80 and 443.
    #[serde(default = "web_ports")]
    pub ports: Vec<u16>,
    /// Which methods, in upper case. Default all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Which paths. Default all.
    #[serde(default)]
    pub paths: Vec<Glob>,
    /// Which models. Default all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// Which tools of an `[[mcp]]` server. Default all.
    #[serde(default)]
    pub tools: Vec<Glob>,
    /// How the bytes are treated.
    #[serde(default)]
    pub mode: RuleMode,
    /// The host may have a private, loopback, link-local or metadata address.
    #[serde(default)]
    pub private: bool,
    /// The paths cost nothing: forwarded without being metered.
    #[serde(default)]
    pub free: bool,
    /// The line that the rule begins at.
    #[serde(skip)]
    pub line: usize,
}

/// `[[deny]]`: wins over every allow. What it leaves out it does not ask about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRule {
    /// What records call the rule. Default `deny-<number>-<host>`.
    pub id: Option<String>,
    /// Whom it denies. Default everyone.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// Which hosts. Default all.
    #[serde(default, deserialize_with = "hosts")]
    pub hosts: Vec<HostPattern>,
    /// Which ports. Default all.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Which methods. Default all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Which paths. Default all.
    #[serde(default)]
    pub paths: Vec<Glob>,
    /// Which models; with these only calls of models are denied. Default all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// Which tools of an `[[mcp]]` server; with these only calls of tools are denied. Default all.
    #[serde(default)]
    pub tools: Vec<Glob>,
    /// The line that the rule begins at.
    #[serde(skip)]
    pub line: usize,
}

/// `[[inbound]]`: loopback ports of an agent that other processes of the host may connect to. The kernel enforces it;
/// only the process at the other end sees the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundRule {
    /// Whose ports. Default everyone's.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// Which TCP ports.
    pub ports: Vec<u16>,
    /// The line that the rule begins at.
    #[serde(skip)]
    pub line: usize,
}

impl InboundRule {
    /// Whether it is about this agent.
    #[must_use]
    pub fn allows(&self, agent: &str) -> bool {
        self.agents.iter().any(|pattern| pattern.glob().matches(agent))
    }
}

fn web_ports() -> Vec<u16> {
    vec![80, 443]
}

fn hosts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HostPattern>, D::Error> {
    let written = Vec::<String>::deserialize(from)?;
    written.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

pub(super) fn placed_agents<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AgentEntry>, D::Error> {
    let agents = Vec::<Spanned<AgentEntry>>::deserialize(from)?;
    Ok(agents.into_iter().map(|agent| AgentEntry { line: agent.span().start, ..agent.into_inner() }).collect())
}

/// Until [`super::Config::parse`] has the text at hand, `line` holds the byte offset.
pub(super) fn placed_allow<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AllowRule>, D::Error> {
    let rules = Vec::<Spanned<AllowRule>>::deserialize(from)?;
    Ok(rules.into_iter().map(|rule| AllowRule { line: rule.span().start, ..rule.into_inner() }).collect())
}

pub(super) fn placed_deny<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<DenyRule>, D::Error> {
    let rules = Vec::<Spanned<DenyRule>>::deserialize(from)?;
    Ok(rules.into_iter().map(|rule| DenyRule { line: rule.span().start, ..rule.into_inner() }).collect())
}

pub(super) fn placed_inbound<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<InboundRule>, D::Error> {
    let rules = Vec::<Spanned<InboundRule>>::deserialize(from)?;
    Ok(rules.into_iter().map(|rule| InboundRule { line: rule.span().start, ..rule.into_inner() }).collect())
}

/// What inbound rules must not say.
pub(super) fn check_inbound(rules: &[InboundRule], daemon: [u16; 2]) -> Result<(), Found> {
    for rule in rules {
        if rule.agents.is_empty() {
            let message = "an empty list opens nobody's ports; leave `agents` out for everyone's";
            return Err(Found::new(rule.line, "agents", message));
        }
        if rule.ports.is_empty() || rule.ports.contains(&0) {
            return Err(Found::new(rule.line, "ports", "name at least one port, 1 to 65535"));
        }
        if let Some(port) = rule.ports.iter().find(|port| daemon.contains(port)) {
            return Err(Found::new(rule.line, "ports", format!("{port} is a port of Caracal's own")));
        }
    }
    Ok(())
}

/// What rules must not say.
pub(super) fn check(agents: &[AgentEntry], allow: &[AllowRule], deny: &[DenyRule]) -> Result<(), Found> {
    let mut names = HashSet::new();
    for agent in agents {
        let pattern = AgentPattern::try_from(agent.name.clone());
        let starts_well = agent.name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !starts_well || !pattern.is_ok_and(|pattern| pattern.0.is_exact()) {
            let message = format!(
                "agent {:?}: a name is 1 to 64 of a-z, 0-9, . _ - and begins with a letter or digit",
                agent.name
            );
            return Err(Found::new(agent.line, "name", message));
        }
        if !names.insert(&agent.name) {
            return Err(Found::new(agent.line, "name", format!("agent {:?} is there twice", agent.name)));
        }
    }
    let mut ids = HashSet::new();
    let given = allow.iter().map(|r| (&r.id, r.line)).chain(deny.iter().map(|r| (&r.id, r.line)));
    for (id, line) in given.filter_map(|(id, line)| id.as_ref().map(|id| (id, line))) {
        check_id(id, line)?;
        if !ids.insert(id) {
            return Err(Found::new(line, "id", format!("rule {id:?} is there twice")));
        }
    }
    allow.iter().try_for_each(check_allow)?;
    deny.iter().try_for_each(check_deny)
}

fn check_id(id: &str, line: usize) -> Result<(), Found> {
    let good = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !good {
        return Err(Found::new(line, "id", format!("{id:?}: an id is 1 to 64 of letters, digits, . _ -")));
    }
    if id == "learn" || ["builtin-", "allow-", "deny-"].iter().any(|taken| id.starts_with(taken)) {
        return Err(Found::new(
            line,
            "id",
            format!("{id:?}: `learn`, `builtin-`, `allow-` and `deny-` are kept for generated ids"),
        ));
    }
    Ok(())
}

fn check_allow(rule: &AllowRule) -> Result<(), Found> {
    let found = |key, message: String| Err(Found::new(rule.line, key, message));
    if rule.hosts.is_empty() {
        return found("hosts", "an allow rule names at least one host; `hosts = [\"*\"]` is every name".into());
    }
    if rule.agents.is_empty() {
        return found("agents", "an empty list allows nobody; leave `agents` out for everyone".into());
    }
    if rule.ports.is_empty() {
        return found("ports", "an empty list allows nothing; leave `ports` out for 80 and 443".into());
    }
    check_ports_and_methods(&rule.ports, &rule.methods, &rule.paths, rule.line)?;
    if rule.mode != RuleMode::Inspect {
        let mode = rule.mode.as_str();
        if !(rule.methods.is_empty() && rule.paths.is_empty() && rule.models.is_empty() && rule.tools.is_empty())
            || rule.free
        {
            return found(
                "mode",
                format!("`{mode}` bytes are not read: `methods`, `paths`, `models` and `free` mean nothing there"),
            );
        }
        if let Some((host, priced)) =
            rule.hosts.iter().find_map(|host| may_be_priced(host).map(|priced| (host, priced)))
        {
            return found(
                "mode",
                format!(
                    "`{mode}` for {host} would let calls to {priced} pass unpriced; use `mode = \"inspect\"`, or name other hosts"
                ),
            );
        }
    }
    if rule.free && rule.paths.is_empty() {
        return found(
            "free",
            "a free rule names its `paths`: without them every path of the host would go unmetered".into(),
        );
    }
    let priced = rule.hosts.iter().any(|host| may_be_priced(host).is_some());
    let paid =
        |glob: &Glob| PAID_PATHS.into_iter().find(|paid| glob.matches(paid) || glob.matches(&format!("{paid}/")));
    if let Some(paid) = rule.paths.iter().filter(|_| rule.free && priced).find_map(paid) {
        return found("free", format!("`paths` of a free rule must not reach {paid}, which is a paid call"));
    }
    Ok(())
}

fn check_deny(rule: &DenyRule) -> Result<(), Found> {
    if rule.agents.is_empty() {
        return Err(Found::new(rule.line, "agents", "an empty list denies nobody; leave `agents` out for everyone"));
    }
    let everything = rule.hosts.is_empty()
        && rule.ports.is_empty()
        && rule.methods.is_empty()
        && rule.paths.is_empty()
        && rule.models.is_empty()
        && rule.tools.is_empty();
    if everything {
        return Err(Found::new(rule.line, "hosts", "say what is denied; `hosts = [\"*\"]` is everything"));
    }
    if !rule.models.is_empty() && !rule.tools.is_empty() {
        return Err(Found::new(rule.line, "tools", "a call is a model's or a tool's: write two rules"));
    }
    check_ports_and_methods(&rule.ports, &rule.methods, &rule.paths, rule.line)
}

fn check_ports_and_methods(ports: &[u16], methods: &[String], paths: &[Glob], line: usize) -> Result<(), Found> {
    if ports.contains(&0) {
        return Err(Found::new(line, "ports", "a port is 1 to 65535"));
    }
    let good = |method: &String| !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if let Some(method) = methods.iter().find(|method| !good(method)) {
        return Err(Found::new(
            line,
            "methods",
            format!("{method:?}: a method is written in capitals, such as \"GET\""),
        ));
    }
    if let Some(path) = paths.iter().find(|path| !path.0.starts_with(['/', '*']) || path.0.contains(['?', '#'])) {
        return Err(Found::new(line, "paths", format!("{:?}: a path begins with / (or *) and has no query", path.0)));
    }
    Ok(())
}
