//! What `[[agent]]`, `[[allow]]`, `[[deny]]` and `[[inbound]]` must not say. Takes rules that were read; refuses what would
//! mean nothing, what would mean everything by accident, and what would let a paid call pass unpriced.

use super::{AgentEntry, AgentPattern, AllowRule, DenyRule, Glob, InboundRule, RuleMode};
use crate::config::priced::may_be_priced;
use crate::config::problem::Found;
use std::collections::HashSet;

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

/// What inbound rules must not say.
pub(in crate::config) fn check_inbound(rules: &[InboundRule], daemon: [u16; 2]) -> Result<(), Found> {
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
pub(in crate::config) fn check(agents: &[AgentEntry], allow: &[AllowRule], deny: &[DenyRule]) -> Result<(), Found> {
    let mut names = HashSet::new();
    for agent in agents {
        let pattern = AgentPattern::try_from(agent.name.clone());
        let starts_well = agent.name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !starts_well || !pattern.is_ok_and(|pattern| pattern.glob().is_exact()) {
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
    let mut written = paths.iter().map(Glob::as_str);
    if let Some(path) = written.find(|path| !path.starts_with(['/', '*']) || path.contains(['?', '#'])) {
        return Err(Found::new(line, "paths", format!("{path:?}: a path begins with / (or *) and has no query")));
    }
    Ok(())
}
