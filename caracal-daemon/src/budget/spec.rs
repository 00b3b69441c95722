//! What an operator writes of a budget, checked.

use crate::config::Glob;
pub use crate::config::{Per, Window, WindowKind};
use crate::money::NanoUsd;
use jiff::tz::TimeZone;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How long calls may queue for money that open holds have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Calls in the queue, at most.
    pub calls: usize,
    /// Time in the queue, at most.
    pub time: Duration,
}

impl Default for Wait {
    fn default() -> Wait {
        Wait { calls: 256, time: Duration::from_secs(60) }
    }
}

/// One budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSpec {
    /// Its name; unique.
    pub name: Arc<str>,
    /// The most that is spent in one window, nano-USD.
    pub limit: NanoUsd,
    /// How long the limit lasts.
    pub window: Window,
    /// When the window begins.
    pub kind: WindowKind,
    /// An IANA time zone, such as `Europe/Berlin`; empty is UTC.
    pub time_zone: String,
    /// Agents it covers; empty covers all.
    pub agents: Vec<Glob>,
    /// Models it covers, likewise.
    pub models: Vec<Glob>,
    /// Providers it covers, likewise.
    pub providers: Vec<Glob>,
    /// Hosts it covers, likewise.
    pub hosts: Vec<Glob>,
    /// Tools it covers. With tools it is for calls of tools alone.
    pub tools: Vec<Glob>,
    /// What it is divided by.
    pub per: Per,
    /// The budget above it: a hold is taken from that one as well, whatever it covers by itself.
    pub parent: Option<Arc<str>>,
    /// The queue.
    pub wait: Wait,
    /// It counts and warns, and refuses nothing.
    pub soft: bool,
    /// Percent of the limit at which it warns.
    pub warn_at: Vec<u8>,
    /// Many hosts share it: this one spends from a slice.
    pub shared: bool,
}

impl BudgetSpec {
    /// A budget over everything, by day, in UTC.
    #[must_use]
    pub fn daily(name: &str, limit: NanoUsd) -> BudgetSpec {
        BudgetSpec {
            name: name.into(),
            limit,
            window: Window::Day,
            kind: WindowKind::Calendar,
            time_zone: String::new(),
            agents: Vec::new(),
            models: Vec::new(),
            providers: Vec::new(),
            hosts: Vec::new(),
            tools: Vec::new(),
            per: Per::All,
            parent: None,
            wait: Wait::default(),
            soft: false,
            warn_at: Vec::new(),
            shared: false,
        }
    }

    pub(crate) fn zone(&self) -> Result<TimeZone, SpecError> {
        if self.time_zone.is_empty() || self.time_zone == "UTC" {
            return Ok(TimeZone::UTC);
        }
        TimeZone::get(&self.time_zone)
            .map_err(|_| SpecError::Zone { budget: self.name.to_string(), zone: self.time_zone.clone() })
    }
}

/// Why budgets were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two of one name, or one without.
    #[error("two budgets are named {0:?}, or one has no name; give each a name of its own")]
    Name(String),
    /// A parent that is not there.
    #[error("budget {budget:?} has the parent {parent:?}, which does not exist; add it or correct the name")]
    NoParent {
        /// The child.
        budget: String,
        /// The name.
        parent: String,
    },
    /// A budget above itself.
    #[error("budget {0:?} stands above itself; break the circle of parents")]
    Circle(String),
    /// No such time zone.
    #[error(
        "budget {budget:?}: {zone:?} is not a time zone of this host; write it like \"Europe/Berlin\" and have tzdata installed"
    )]
    Zone {
        /// Which.
        budget: String,
        /// The name.
        zone: String,
    },
    /// A total does not roll.
    #[error("budget {0:?}: a total has no end, so it cannot be rolling; choose another window or calendar")]
    RollingTotal(String),
}

/// Checks names, parents, zones.
pub(crate) fn check(specs: &[BudgetSpec]) -> Result<(), SpecError> {
    let mut names = HashSet::new();
    for spec in specs {
        if spec.name.is_empty() || !names.insert(&spec.name) {
            return Err(SpecError::Name(spec.name.to_string()));
        }
        if spec.kind == WindowKind::Rolling && spec.window == Window::Total {
            return Err(SpecError::RollingTotal(spec.name.to_string()));
        }
        spec.zone()?;
    }
    for spec in specs {
        let mut above = spec.parent.as_ref();
        for _ in 0..=specs.len() {
            let Some(name) = above else { break };
            let Some(parent) = specs.iter().find(|other| other.name == *name) else {
                return Err(SpecError::NoParent { budget: spec.name.to_string(), parent: name.to_string() });
            };
            above = parent.parent.as_ref();
        }
        if above.is_some() {
            return Err(SpecError::Circle(spec.name.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let spec = |name: &str, parent: Option<&str>| BudgetSpec {
            parent: parent.map(Arc::from),
            ..BudgetSpec::daily(name, NanoUsd(1))
        };
        assert_eq!(check(&[spec("a", None), spec("b", Some("a"))]), Ok(()));
        assert!(matches!(check(&[spec("a", None), spec("a", None)]), Err(SpecError::Name(_))));
        assert!(matches!(check(&[spec("a", Some("x"))]), Err(SpecError::NoParent { .. })));
        assert!(matches!(check(&[spec("a", Some("b")), spec("b", Some("a"))]), Err(SpecError::Circle(_))));
        assert!(matches!(check(&[spec("a", Some("a"))]), Err(SpecError::Circle(_))));
        let zone = BudgetSpec { time_zone: "Mars/Olympus".to_owned(), ..spec("a", None) };
        assert!(matches!(check(&[zone]), Err(SpecError::Zone { .. })));
        let rolling = BudgetSpec { kind: WindowKind::Rolling, window: Window::Total, ..spec("a", None) };
        assert!(matches!(check(&[rolling]), Err(SpecError::RollingTotal(_))));
    }
}
