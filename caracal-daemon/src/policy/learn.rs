//! Takes what an agent did under `--learn`; gives the `[[allow]]` rules that would have sufficed, and no more.

use super::explain::quoted;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Paths of one host beyond which a rule would be a list that nobody reads: then the rule has none.
const MAX_PATHS: usize = 8;

/// One thing that was allowed only because of `--learn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Observed {
    /// The name, or the address as text.
    pub host: String,
    /// The port; 0 for a look-up.
    pub port: u16,
    /// The method; `None` for a look-up.
    pub method: Option<String>,
    /// The path without its query.
    pub path: Option<String>,
}

/// How one host was used; hosts that were used alike share a rule.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    ports: BTreeSet<u16>,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

/// The rules, in TOML, that would have allowed all requests of `observed`, for `agent` only.
/// Names that were looked up and not used stand in a comment.
#[must_use]
pub fn rules_for<'a>(agent: &str, observed: impl IntoIterator<Item = &'a Observed>) -> String {
    let mut hosts: BTreeMap<&str, Used> = BTreeMap::new();
    for one in observed {
        let used = hosts.entry(&one.host).or_default();
        if let Some(method) = &one.method {
            used.ports.insert(one.port);
            used.methods.insert(method.to_ascii_uppercase());
            used.paths.insert(one.path.clone().unwrap_or_default());
        }
    }
    let mut alike: BTreeMap<Used, Vec<&str>> = BTreeMap::new();
    for (host, mut used) in hosts {
        // A `*` in a rule is any text, and an empty path (CONNECT) cannot be written.
        let plain = used
            .paths
            .iter()
            .all(|path| path.starts_with('/') && !path.contains(['*', '?', '#']) && path.len() <= 1024);
        if used.paths.len() > MAX_PATHS || !plain {
            used.paths.clear();
        }
        alike.entry(used).or_default().push(host);
    }
    let mut text = String::new();
    for (used, hosts) in &alike {
        let list = |texts: &mut dyn Iterator<Item = &str>| texts.map(quoted).collect::<Vec<_>>().join(", ");
        if used.ports.is_empty() {
            let _ = writeln!(text, "# looked up only: {}", list(&mut hosts.iter().copied()));
            continue;
        }
        let _ =
            writeln!(text, "[[allow]]\nagents = [{}]\nhosts = [{}]", quoted(agent), list(&mut hosts.iter().copied()));
        let _ = writeln!(text, "ports = {:?}", used.ports.iter().collect::<Vec<_>>());
        let _ = writeln!(text, "methods = [{}]", list(&mut used.methods.iter().map(String::as_str)));
        if !used.paths.is_empty() {
            let _ = writeln!(text, "paths = [{}]", list(&mut used.paths.iter().map(String::as_str)));
        }
        text.push('\n');
    }
    text
}
