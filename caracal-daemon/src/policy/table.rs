//! Takes a table of expected decisions; gives each with what was really decided.
//! Refuses unknown keys and cases without an expectation.

use super::{Action, Ask, Decision, PolicySet, Verdict};
use crate::agent::{Agent, CgroupId};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::Path;

/// The file: `[[case]]` entries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    case: Vec<Case>,
}

/// One expected decision.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Default `agent`.
    #[serde(default = "any_agent")]
    pub agent: String,
    /// The agent runs with `--learn`. Default false.
    #[serde(default)]
    pub learn: bool,
    /// `connect`, `resolve`, `request`, `llm` or `tool`. Default `request`.
    #[serde(default = "request")]
    pub action: String,
    /// The host's name, or an address.
    pub host: String,
    /// Default 443.
    #[serde(default = "https")]
    pub port: u16,
    /// The address that the name leads to, where that matters.
    pub address: Option<IpAddr>,
    /// Default `GET`.
    pub method: Option<String>,
    /// Default `/`.
    pub path: Option<String>,
    /// The provider of a model call.
    pub provider: Option<String>,
    /// The model of a model call.
    pub model: Option<String>,
    /// The tool of a tool call.
    pub tool: Option<String>,
    /// The most that a call can cost, such as `"0.10 USD"`.
    pub estimate: Option<String>,
    /// What must be decided.
    pub expect: Expect,
    /// The reason code of a denial, where it matters.
    pub reason: Option<String>,
}

/// What must be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// A case and what was decided.
#[derive(Clone, Debug)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// The decision.
    pub decision: Decision,
    /// Whether it is the expected one.
    pub passed: bool,
}

fn any_agent() -> String {
    "agent".to_owned()
}

fn request() -> String {
    "request".to_owned()
}

fn https() -> u16 {
    443
}

/// Reads the table and decides every case.
///
/// # Errors
/// When the table does not parse, has no case, or a case asks something that cannot be asked.
pub fn run(text: &str, path: &Path, set: &PolicySet) -> anyhow::Result<Vec<Row>> {
    let file = path.display();
    let table: Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| crate::config::position(text, span.start).0);
        anyhow::anyhow!("{file}:{line}: {}", error.message())
    })?;
    anyhow::ensure!(!table.case.is_empty(), "{file}: there is no [[case]]");
    let decided = |(case, number): (Case, usize)| {
        Row::of(case, set).map_err(|error| anyhow::anyhow!("{file}: case {number}: {error}"))
    };
    table.case.into_iter().zip(1..).map(decided).collect()
}

/// An agent that is only a name, for asking what would be decided.
#[must_use]
pub fn named_agent(name: &str, learn: bool) -> Agent {
    Agent { name: name.into(), cgroup: CgroupId(0), path: String::new(), uid: 0, learn }
}

impl Case {
    /// Puts the case's question to `answer`.
    ///
    /// # Errors
    /// When the action or the amount is not known.
    pub fn ask<T>(&self, answer: impl FnOnce(&Ask<'_>) -> T) -> Result<T, String> {
        let action: Action = self.action.parse()?;
        let agent = named_agent(&self.agent, self.learn);
        let estimate =
            self.estimate.as_deref().map(crate::config::parse_usd).transpose().map_err(|error| error.to_string())?;
        Ok(answer(&Ask {
            address: self.address,
            method: Some(self.method.as_deref().unwrap_or("GET")),
            path: Some(self.path.as_deref().unwrap_or("/")),
            provider: self.provider.as_deref(),
            model: self.model.as_deref(),
            tool: self.tool.as_deref(),
            estimate,
            ..Ask::new(&agent, action, &self.host, self.port)
        }))
    }
}

impl Row {
    fn of(case: Case, set: &PolicySet) -> Result<Row, String> {
        let decision = case.ask(|ask| set.decide(ask))?;
        let passed = match decision.verdict {
            Verdict::Allow(_) => case.expect == Expect::Allow,
            Verdict::Deny(reason) => {
                case.expect == Expect::Deny && case.reason.as_deref().is_none_or(|expected| expected == reason.code())
            }
        };
        Ok(Row { case, decision, passed })
    }
}
