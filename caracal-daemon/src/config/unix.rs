//! `[[unix]]`: the unix sockets outside of an agent that it may reach. They bite with `require = "full"`; at `network` only
//! `run` asks for them, which hides known ones that no rule names.

use super::problem::Found;
use super::rules::AgentPattern;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// The longest name that a unix socket can have, bytes: `sun_path` of `unix(7)`.
const LONGEST: usize = 108;

/// `[[unix]]`: agents that may connect to these sockets, whoever listens there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixRule {
    /// Which agents. Default everyone.
    #[serde(default = "AgentPattern::everyone")]
    pub agents: Vec<AgentPattern>,
    /// Paths as the listener bound them, `@NAME` for abstract ones; `*` at the end for all that begin so.
    pub sockets: Vec<String>,
    /// The line that the rule begins at.
    #[serde(skip)]
    pub line: usize,
}

impl UnixRule {
    /// Whether the rule is for the agent of this name.
    #[must_use]
    pub fn is_for(&self, agent: &str) -> bool {
        self.agents.iter().any(|pattern| pattern.glob().matches(agent))
    }

    /// Whether it gives the socket at this path to the agent of this name.
    #[must_use]
    pub fn names(&self, agent: &str, path: &str) -> bool {
        let fits = |socket: &String| match socket.strip_suffix('*') {
            Some(begins) => path.starts_with(begins),
            None => socket == path,
        };
        self.is_for(agent) && self.sockets.iter().any(fits)
    }

    /// Whether it gives something in this directory to the agent of this name.
    #[must_use]
    pub fn names_below(&self, agent: &str, directory: &str) -> bool {
        let below = |socket: &String| socket.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        self.is_for(agent) && self.sockets.iter().any(below)
    }
}

/// Until [`super::Config::parse`] has the text at hand, `line` holds the byte offset.
pub(super) fn placed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<UnixRule>, D::Error> {
    let rules = Vec::<Spanned<UnixRule>>::deserialize(from)?;
    Ok(rules.into_iter().map(|rule| UnixRule { line: rule.span().start, ..rule.into_inner() }).collect())
}

/// What such rules must not say.
pub(super) fn check(rules: &[UnixRule]) -> Result<(), Found> {
    for rule in rules {
        if rule.agents.is_empty() {
            return Err(Found::new(
                rule.line,
                "agents",
                "an empty list allows nobody; leave `agents` out for everyone",
            ));
        }
        if rule.sockets.is_empty() {
            return Err(Found::new(
                rule.line,
                "sockets",
                "name at least one socket, such as \"/run/systemd/journal/*\"",
            ));
        }
        let good = |socket: &String| {
            let name = socket.strip_suffix('*').unwrap_or(socket);
            socket.len() <= LONGEST
                && (name.starts_with('/') || name.starts_with('@'))
                && !name.bytes().any(|byte| byte == 0 || byte == b'*')
        };
        if let Some(bad) = rule.sockets.iter().find(|socket| !good(socket)) {
            let message = format!(
                "{bad:?}: a socket is an absolute path or @NAME of at most {LONGEST} bytes, with * at most at its end"
            );
            return Err(Found::new(rule.line, "sockets", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::UnixRule;

    #[test]
    fn a_rule_names_paths_whole_or_by_their_beginning() {
        let rule: UnixRule =
            toml::from_str("agents = [\"db-*\"]\nsockets = [\"/run/a\", \"/run/nscd/*\"]").expect("a rule");
        assert!(rule.names("db-1", "/run/a") && rule.names("db-1", "/run/nscd/socket"));
        assert!(rule.names_below("db-1", "/run") && rule.names_below("db-1", "/run/nscd"));
        assert!(!rule.names_below("web", "/run") && !rule.names_below("db-1", "/run/n"));
        assert!(!rule.names("web", "/run/a") && !rule.names("db-1", "/run/a/b") && !rule.names("db-1", "/run/nscd"));
    }
}
