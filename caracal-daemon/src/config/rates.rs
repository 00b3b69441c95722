//! `[[rate]]`: how often, and how many tokens in a while.

use super::budgets::{Per, Window};
use super::problem::Found;
use super::rules::{AgentPattern, Glob};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// One limit on requests, tokens, or both.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Its name: `[a-z0-9._-]{1,64}`.
    pub name: String,
    /// Requests in one window.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Tokens in one window, input and output together, as the provider reports them.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// How long a window is: minute, hour or day.
    pub window: Window,
    /// Whose requests count. Default everyone's.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// Which models count. Default, and when empty, all, and requests that are no call of a model too.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// Which providers count, likewise.
    #[serde(default)]
    pub providers: Vec<Glob>,
    /// Which hosts count. Default, and when empty, all.
    #[serde(default)]
    pub hosts: Vec<Glob>,
    /// Who has the limit to itself. Default each agent.
    #[serde(default = "each_agent")]
    pub per: Per,
    /// The line that the limit begins at.
    #[serde(skip)]
    pub line: usize,
}

fn each_agent() -> Per {
    Per::Agent
}

/// Until [`super::Config::parse`] has the text at hand, `line` holds the byte offset.
pub(super) fn placed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Rate>, D::Error> {
    let rates = Vec::<Spanned<Rate>>::deserialize(from)?;
    Ok(rates.into_iter().map(|rate| Rate { line: rate.span().start, ..rate.into_inner() }).collect())
}

/// Names are unique, each limit limits something, and a window is short.
pub(super) fn check(rates: &[Rate]) -> Result<(), Found> {
    for (index, rate) in rates.iter().enumerate() {
        let found = |key, message: String| Err(Found::new(rate.line, key, message));
        if !super::is_name(&rate.name) {
            return found("name", format!("{:?}: a limit's name is 1 to 64 of a-z, 0-9, . _ -", rate.name));
        }
        if rates.iter().take(index).any(|other| other.name == rate.name) {
            return found("name", format!("limit {:?} is there twice", rate.name));
        }
        if rate.agents.is_empty() {
            return found("agents", "an empty list counts nobody's requests; leave `agents` out for everyone's".into());
        }
        let limits = [rate.requests, rate.tokens];
        if limits == [None, None] || limits.contains(&Some(0)) {
            return found("requests", "say how many `requests` or `tokens`, at least 1; a [[deny]] allows none".into());
        }
        if !matches!(rate.window, Window::Minute | Window::Hour | Window::Day) {
            return found("window", "minute, hour or day: for more, a [[budget]] lasts over a restart".into());
        }
    }
    Ok(())
}
