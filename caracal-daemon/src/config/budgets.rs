//! `[[budget]]`: limits in money, as a tree.

use super::amount::parse_usd;
use super::problem::Found;
use super::rules::{AgentPattern, Glob};
use crate::money::NanoUsd;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use toml::Spanned;

/// How many budgets stand above one another at most: a hold takes from each.
const MAX_DEPTH: usize = 8;

/// One budget.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Its name: `[a-z0-9._-]{1,64}`.
    pub name: String,
    /// How much may be spent in one window.
    #[serde(deserialize_with = "amount")]
    pub limit: NanoUsd,
    /// How long a window is.
    pub window: Window,
    /// Whether windows begin with the calendar's, or slide.
    #[serde(default)]
    pub kind: WindowKind,
    /// Where calendar windows begin. Default UTC.
    #[serde(default = "utc", deserialize_with = "time_zone")]
    pub time_zone: TimeZone,
    /// Whose calls count. Default everyone's.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// Which models count. Default, and when empty, all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// Which providers count. Default, and when empty, all.
    #[serde(default)]
    pub providers: Vec<Glob>,
    /// Which hosts count, as the agent names them. Default, and when empty, all.
    #[serde(default)]
    pub hosts: Vec<Glob>,
    /// Which tools of `[[mcp]]` servers count, by their names there; then no other call does. Default, and when empty, all calls.
    #[serde(default)]
    pub tools: Vec<Glob>,
    /// Whether each agent, model, host or tool has the limit to itself. Default one limit for all.
    #[serde(default)]
    pub per: Per,
    /// The budget that each hold is taken from as well.
    #[serde(default)]
    pub parent: Option<String>,
    /// Kept for calls that are paid by subscription and counted at list price.
    #[serde(default)]
    pub notional: bool,
    /// How long a call that fits only once open holds are settled waits for them, milliseconds. Default 30,000.
    #[serde(default = "half_a_minute")]
    pub wait_ms: u64,
    /// Never refuses a call: what is spent is counted, and said. Default false.
    #[serde(default)]
    pub soft: bool,
    /// At which parts of the limit it is said, percent. Default 50, 80, 95.
    #[serde(default = "half_most_nearly_all")]
    pub warn_at: Vec<u8>,
    /// Many hosts share the limit, which is in `[postgres]` then, or in `[escrow] folder`. Its windows are the calendar's (`kind` does
    /// not roll), and it is not `soft`. Default false: it is this host's own.
    #[serde(default)]
    pub shared: bool,
    /// The line that the budget begins at.
    #[serde(skip)]
    pub line: usize,
}

/// How long a window is, the shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// A day of the calendar, or 24 hours.
    Day,
    /// Monday to Sunday, or 7 times 24 hours.
    Week,
    /// A month of the calendar, or 30 times 24 hours.
    Month,
    /// For ever.
    Total,
}

/// How windows follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// They begin where the calendar's begin, in the budget's time zone.
    #[default]
    Calendar,
    /// The window is what lies before now.
    Rolling,
}

/// What a budget is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Nothing: one limit for all.
    #[default]
    All,
    /// Each agent has the limit to itself.
    Agent,
    /// Each model has the limit to itself.
    Model,
    /// Each host has the limit to itself.
    Host,
    /// Each tool of each `[[mcp]]` server has the limit to itself; no other call counts then.
    Tool,
}

impl Window {
    /// As the file writes it, and as a window's key begins.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Window::Minute => "minute",
            Window::Hour => "hour",
            Window::Day => "day",
            Window::Week => "week",
            Window::Month => "month",
            Window::Total => "total",
        }
    }
}

fn utc() -> TimeZone {
    TimeZone::UTC
}

fn half_a_minute() -> u64 {
    30_000
}

fn half_most_nearly_all() -> Vec<u8> {
    vec![50, 80, 95]
}

fn amount<'de, D: Deserializer<'de>>(from: D) -> Result<NanoUsd, D::Error> {
    let text = String::deserialize(from)?;
    parse_usd(&text).map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}")))
}

fn time_zone<'de, D: Deserializer<'de>>(from: D) -> Result<TimeZone, D::Error> {
    let name = String::deserialize(from)?;
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(&name).map_err(|_| {
        let message = format!(
            "{name:?} is no time zone of this host; write one as \"Europe/Berlin\" or \"UTC\" (package tzdata)"
        );
        serde::de::Error::custom(message)
    })
}

/// Until [`super::Config::parse`] has the text at hand, `line` holds the byte offset.
pub(super) fn placed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Budget>, D::Error> {
    let budgets = Vec::<Spanned<Budget>>::deserialize(from)?;
    Ok(budgets.into_iter().map(|budget| Budget { line: budget.span().start, ..budget.into_inner() }).collect())
}

/// Names are unique, parents exist, nothing is its own ancestor, and a child is not wider than its parent.
pub(super) fn check(budgets: &[Budget]) -> Result<(), Found> {
    let mut by_name = HashMap::new();
    for budget in budgets {
        check_one(budget)?;
        if by_name.insert(budget.name.as_str(), budget).is_some() {
            return Err(Found::new(budget.line, "name", format!("budget {:?} is there twice", budget.name)));
        }
    }
    budgets.iter().try_for_each(|budget| check_ancestors(budget, &by_name))
}

fn check_one(budget: &Budget) -> Result<(), Found> {
    let found = |key, message: String| Err(Found::new(budget.line, key, message));
    let name = &budget.name;
    if !super::is_name(name) {
        return found("name", format!("{name:?}: a budget's name is 1 to 64 of a-z, 0-9, . _ -"));
    }
    if budget.agents.is_empty() {
        return found("agents", "an empty list counts nobody's calls; leave `agents` out for everyone's".into());
    }
    if budget.kind == WindowKind::Rolling && budget.window == Window::Total {
        return found("kind", "`total` never ends, so it cannot roll; leave `kind` out".into());
    }
    if budget.shared && budget.kind == WindowKind::Rolling {
        return found(
            "shared",
            "slices belong to a window of the calendar: a shared budget cannot roll; leave `kind` out, or `shared`"
                .into(),
        );
    }
    if budget.shared && budget.soft {
        return found(
            "shared",
            "a soft budget refuses nothing, so there is nothing to share; leave `soft` out, or `shared`".into(),
        );
    }
    if budget.shared && budget.limit.0 > i64::MAX.unsigned_abs() {
        return found("limit", "PostgreSQL counts up to 9223372036 USD".into());
    }
    if budget.warn_at.len() > 16 || budget.warn_at.iter().any(|percent| !(1..=100).contains(percent)) {
        return found("warn_at", "at most 16 of 1 to 100: percent of the limit".into());
    }
    if budget.wait_ms > 600_000 {
        return found("wait_ms", "at most 600000 ms: clients give up after ten minutes".into());
    }
    Ok(())
}

fn check_ancestors(budget: &Budget, by_name: &HashMap<&str, &Budget>) -> Result<(), Found> {
    let found = |message: String| Err(Found::new(budget.line, "parent", message));
    let mut below = budget;
    let mut chain = vec![budget.name.as_str()];
    while let Some(name) = below.parent.as_deref() {
        let Some(parent) = by_name.get(name) else {
            let names: Vec<&str> = by_name.keys().copied().filter(|other| *other != budget.name).collect();
            let hint = super::problem::suggest(name, &names).map(|hint| format!("; {hint}")).unwrap_or_default();
            return Err(Found::new(below.line, "parent", format!("there is no budget {name:?}{hint}")));
        };
        if chain.contains(&name) {
            chain.push(name);
            return found(format!("budgets stand above themselves: {}", chain.join(" -> ")));
        }
        chain.push(name);
        if chain.len() > MAX_DEPTH {
            return found(format!("at most {MAX_DEPTH} budgets stand above one another"));
        }
        // In a window that is no longer than its parent's, no more can be spent than the parent allows.
        if below.window <= parent.window && below.limit > parent.limit {
            let (own, above) = (super::format_usd(below.limit), super::format_usd(parent.limit));
            let message = format!(
                "a child narrows its parent: {own} per {} is more than the {above} per {} that {name:?} allows",
                below.window.as_str(),
                parent.window.as_str()
            );
            return Err(Found::new(below.line, "limit", message));
        }
        below = parent;
    }
    Ok(())
}
