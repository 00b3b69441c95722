//! Takes an agent, an action and what it aims at; gives a [`Decision`].
//! Refuses when no policy permits, when one forbids, and when the set is empty or broken.
//! Never does I/O while deciding and never reads the clock. Next: `meter`.
//!
//! Cedar is the one evaluator. The rules of `caracal.toml` are written out as Cedar text ([`sugar`]), join the operator's
//! own Cedar files ([`source`]), are validated strictly against one schema, and are sliced by action, agent and host
//! ([`set`]) so that the cost of a decision does not grow with the number of rules.

mod engine;
pub mod explain;
mod facts;
pub mod learn;
mod recent;
mod set;
mod source;
pub mod sugar;
pub mod table;

pub use engine::Engine;
pub(crate) use facts::other_readings;
pub use set::PolicySet;
pub use source::{PolicyError, PolicyProblem};

use crate::agent::{Agent, Process};
use crate::money::NanoUsd;
use std::net::IpAddr;
use std::sync::Arc;

/// What an agent wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open a connection whose content is not read (`tcp`, `tls-passthrough`), or an address without a name.
    ///
    /// A denial is not the last word: a connection that is then read as HTTP is decided by [`Action::Request`].
    /// Allowed with [`Mode::Inspect`] means: read it.
    Connect,
    /// Look a name up.
    Resolve,
    /// Send an HTTP request.
    Request,
    /// Call a model. Asked after [`Action::Request`] was allowed, with the same method and path.
    Llm,
    /// Call a tool. Asked after [`Action::Request`] was allowed.
    Tool,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] = [Action::Connect, Action::Resolve, Action::Request, Action::Llm, Action::Tool];

    /// As Cedar, records and commands write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Connect => "connect",
            Action::Resolve => "resolve",
            Action::Request => "request",
            Action::Llm => "llm",
            Action::Tool => "tool",
        }
    }
}

impl std::str::FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Action, String> {
        let known = Action::ALL.into_iter().find(|action| action.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no action; write connect, resolve, request, llm or tool"))
    }
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
    /// The address, where it is what the rule is about (no name, or a private address). With a name: the address that is
    /// about to be dialled, so that a deny rule's range and the refusal of private addresses hold; ask again once it is known.
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

impl<'a> Ask<'a> {
    /// A question with nothing but who, what and where.
    #[must_use]
    pub fn new(agent: &'a Agent, action: Action, host: &'a str, port: u16) -> Ask<'a> {
        Ask {
            agent,
            process: None,
            action,
            host,
            port,
            address: None,
            method: None,
            path: None,
            model: None,
            provider: None,
            tool: None,
            estimate: None,
        }
    }
}

/// How the bytes of an allowed connection are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
///
/// Each permit that matched would have sufficed alone. So `private` and `free` hold when any of them says so, and `mode`
/// is that of the one that reads the most.
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

#[cfg(test)]
mod tests;
