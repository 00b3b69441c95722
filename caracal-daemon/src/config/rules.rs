//! `[[agent]]`, `[[allow]]`, `[[deny]]` and `[[inbound]]`: the simple door to the policy, as a file writes them.

mod check;
mod patterns;

pub(super) use check::{check, check_inbound};
pub use patterns::{AgentPattern, Glob};

use super::hosts::HostPattern;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use toml::Spanned;

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
