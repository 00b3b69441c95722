//! Takes the rules of `caracal.toml`; gives them as Cedar text, each with the slice it belongs to.
//!
//! An allow rule permits, for each of its hosts, to look the name up, to send requests, and to call models and tools there;
//! with `mode = "tcp"` or `"tls-passthrough"`, to look it up and to connect. A rule for an address also permits to connect,
//! to be read. Nothing else is permitted. A deny rule forbids everything that it does not leave out.

use super::Action;
use crate::address::{is_private, is_private_range};
use crate::config::{AgentPattern, AllowRule, DenyRule, Glob, HostPattern, PRICED_HOSTS, RuleMode};
use std::fmt::Write;
use std::sync::Arc;

/// The id of the permit that `run --learn` adds.
pub const LEARN: &str = "learn";

/// One Cedar policy and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Unique in the set.
    pub cedar_id: String,
    /// What records and people call it. Pieces of one rule share it.
    pub id: Arc<str>,
    /// The policy.
    pub text: String,
    /// The actions that it can match.
    pub actions: Vec<Action>,
    /// The one agent that it can match; `None` for any.
    pub agent: Option<String>,
    /// The one host that it can match, or `.suffix` of those; `None` for any.
    pub host: Option<String>,
    /// The rule's line in `caracal.toml`; 0 for what is built in.
    pub line: usize,
}

const READ: [Action; 3] = [Action::Request, Action::Tool, Action::Llm];
const FREE_OF_MODELS: [Action; 2] = [Action::Request, Action::Tool];

/// What holds without any rule: calls that cost money are always read, on the operator's `own` hosts too, and `--learn`
/// lifts the host list.
#[must_use]
pub fn builtin(own: &[String]) -> Vec<Piece> {
    let own = own.iter().map(String::as_str).filter(|host| !PRICED_HOSTS.contains(host));
    let hosts = PRICED_HOSTS.iter().copied().chain(own);
    let forbid = hosts.flat_map(|host| {
        // The part behind the last `*` is what names are found by.
        let Some((_, tail)) = host.rsplit_once('*') else {
            let named = Clauses(vec![format!("context.host == {}", quoted(host))]);
            let below = Clauses(vec![format!("context.host like {}", quoted(&format!("*.{host}")))]);
            return vec![(named, host.to_owned()), (below, format!(".{host}"))];
        };
        let tail = tail.split_once('.').map_or(tail, |(_, tail)| tail);
        let like =
            format!("context.host like {0} || context.host like {1}", quoted(host), quoted(&format!("*.{host}")));
        vec![(Clauses(vec![like]), format!(".{tail}"))]
    });
    let mut pieces: Vec<Piece> = forbid
        .map(|(clauses, host)| {
            let id = "builtin-priced-hosts-are-read";
            let text = policy("forbid", &[("id", id)], "principal", &[Action::Connect], &clauses);
            piece((format!("{id}/{}", clauses.0.concat()), id.into()), text, &[Action::Connect], None, Some(host), 0)
        })
        .collect();
    // A number that some resolvers take for an address is neither.
    let clauses = Clauses(vec!["context.learn".to_owned(), "context.named || context has address".to_owned()]);
    let lifted = [Action::Resolve, Action::Request];
    let text = policy("permit", &[("id", LEARN)], "principal", &lifted, &clauses);
    pieces.push(piece((LEARN.to_owned(), LEARN.into()), text, &lifted, None, None, 0));
    pieces
}

/// The Cedar policies of one allow rule; `number` counts the allow rules from 1.
#[must_use]
pub fn allow(rule: &AllowRule, number: usize) -> Vec<Piece> {
    rule.hosts.iter().flat_map(|host| allow_host(rule, host, number)).collect()
}

fn allow_host(rule: &AllowRule, host: &HostPattern, number: usize) -> Vec<Piece> {
    let id: Arc<str> = rule.id.clone().unwrap_or_else(|| format!("allow-{number}-{}", slug(host))).into();
    let who = Who::of(&rule.agents);
    let is_address = matches!(host, HostPattern::Address(_) | HostPattern::Range(_));
    let private = rule.private || names_private_address(host);
    let mut notes = vec![("id", &*id)];
    if private {
        notes.push(("private", "true"));
    }
    if rule.free {
        notes.push(("free", "true"));
    }
    let place = who.clauses.and(allowed_host(host));
    let ported = place.clone().and(ports(&rule.ports));
    let requested =
        ported.clone().and(any_equal("context.method", &rule.methods)).and(any_like("context.path", &rule.paths));
    let called = requested.clone().and(any_like("context.model", &rule.models));
    let used = requested.clone().and(any_like("context.tool", &rule.tools));
    let mut pieces = Vec::new();
    let mut add = |part: &str, actions: &[Action], clauses: &Clauses, mode: Option<RuleMode>| {
        let mut notes = notes.clone();
        notes.extend(mode.map(|mode| ("mode", mode.as_str())));
        let text = policy("permit", &notes, &who.scope, actions, clauses);
        let ids = (format!("{id}/{host}/{part}/{number}"), Arc::clone(&id));
        pieces.push(piece(ids, text, actions, who.exact.clone(), host_key(host), rule.line));
    };
    if !is_address {
        add("resolve", &[Action::Resolve], &place, None);
    }
    if rule.mode != RuleMode::Inspect || is_address {
        add("connect", &[Action::Connect], &ported, Some(rule.mode));
    }
    match (rule.models.is_empty(), rule.tools.is_empty()) {
        _ if rule.mode != RuleMode::Inspect => {}
        (true, true) => add("request", &READ, &requested, None),
        (false, true) => {
            add("request", &FREE_OF_MODELS, &requested, None);
            add("llm", &[Action::Llm], &called, None);
        }
        (_, false) => {
            add("request", &[Action::Request], &requested, None);
            add("llm", &[Action::Llm], &called, None);
            add("tool", &[Action::Tool], &used, None);
        }
    }
    pieces
}

/// The Cedar policies of one deny rule; `number` counts the deny rules from 1.
#[must_use]
pub fn deny(rule: &DenyRule, number: usize) -> Vec<Piece> {
    let everywhere = [HostPattern::Any];
    let hosts = if rule.hosts.is_empty() { &everywhere[..] } else { &rule.hosts };
    hosts.iter().map(|host| deny_host(rule, host, number)).collect()
}

fn deny_host(rule: &DenyRule, host: &HostPattern, number: usize) -> Piece {
    let id: Arc<str> = rule.id.clone().unwrap_or_else(|| format!("deny-{number}-{}", slug(host))).into();
    let who = Who::of(&rule.agents);
    let actions: &[Action] = if !rule.tools.is_empty() {
        &[Action::Tool]
    } else if !rule.models.is_empty() {
        &[Action::Llm]
    } else if !rule.methods.is_empty() || !rule.paths.is_empty() {
        &READ
    } else if !rule.ports.is_empty() {
        &[Action::Connect, Action::Request, Action::Tool, Action::Llm]
    } else {
        &Action::ALL
    };
    let clauses = who
        .clauses
        .and(denied_host(host))
        .and(ports(&rule.ports))
        .and(any_equal("context.method", &rule.methods))
        .and(any_like("context.path", &rule.paths))
        .and(any_like("context.model", &rule.models))
        .and(any_like("context.tool", &rule.tools));
    let text = policy("forbid", &[("id", &*id)], &who.scope, actions, &clauses);
    piece((format!("{id}/{host}/{number}"), id), text, actions, who.exact, host_key(host), rule.line)
}

fn piece(
    ids: (String, Arc<str>),
    text: String,
    actions: &[Action],
    agent: Option<String>,
    host: Option<String>,
    line: usize,
) -> Piece {
    Piece { cedar_id: ids.0, id: ids.1, text, actions: actions.to_vec(), agent, host, line }
}

/// Whom a rule is about: the scope, conditions beside it, and the one agent if there is but one.
struct Who {
    scope: String,
    clauses: Clauses,
    exact: Option<String>,
}

impl Who {
    fn of(agents: &[AgentPattern]) -> Who {
        let anyone = |clauses| Who { scope: "principal".to_owned(), clauses, exact: None };
        match agents {
            _ if agents.iter().any(|agent| agent.glob().is_any()) => anyone(Clauses(Vec::new())),
            [one] if one.glob().is_exact() => {
                let name = one.glob().as_str();
                let scope = format!("principal == Agent::{}", quoted(name));
                Who { scope, clauses: Clauses(Vec::new()), exact: Some(name.to_owned()) }
            }
            _ => {
                let globs: Vec<Glob> = agents.iter().map(|agent| agent.glob().clone()).collect();
                anyone(Clauses(any_like("context.agent", &globs).into_iter().collect()))
            }
        }
    }
}

/// Conditions that must all hold, one `when` each.
#[derive(Clone, Debug)]
struct Clauses(Vec<String>);

impl Clauses {
    fn and(mut self, more: impl IntoIterator<Item = String>) -> Clauses {
        self.0.extend(more);
        self
    }
}

fn policy(effect: &str, notes: &[(&str, &str)], scope: &str, actions: &[Action], clauses: &Clauses) -> String {
    let mut text = String::new();
    for (key, value) in notes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "@{key}({})", quoted(value));
    }
    let names: Vec<String> = actions.iter().map(|action| format!("Action::\"{}\"", action.as_str())).collect();
    let action = match names.as_slice() {
        [one] => format!("action == {one}"),
        all if all.len() == Action::ALL.len() => "action".to_owned(),
        some => format!("action in [{}]", some.join(", ")),
    };
    let _ = write!(text, "{effect} ({scope}, {action}, resource)");
    for clause in &clauses.0 {
        let _ = write!(text, "\nwhen {{ {clause} }}");
    }
    text.push(';');
    text
}

fn allowed_host(host: &HostPattern) -> Vec<String> {
    match host {
        // An address rule is about connections without a name: a name that leads there needs a rule of its own.
        HostPattern::Address(_) | HostPattern::Range(_) => {
            let mut clauses = vec!["!context.named".to_owned()];
            clauses.extend(denied_host(host));
            clauses
        }
        HostPattern::Any => vec!["context.named".to_owned()],
        _ => denied_host(host),
    }
}

fn denied_host(host: &HostPattern) -> Vec<String> {
    match host {
        HostPattern::Any => Vec::new(),
        HostPattern::Name(name) => vec![format!("context.host == {}", quoted(name))],
        HostPattern::Suffix(suffix) => vec![format!("context.host like {}", quoted(&format!("*.{suffix}")))],
        HostPattern::Address(address) => vec![format!("context has address && context.address == ip(\"{address}\")")],
        HostPattern::Range(range) => vec![format!("context has address && context.address.isInRange(ip(\"{range}\"))")],
    }
}

fn ports(ports: &[u16]) -> Option<String> {
    match ports {
        [] => None,
        [one] => Some(format!("context.port == {one}")),
        some => Some(format!("{some:?}.contains(context.port)")),
    }
}

fn any_equal(what: &str, values: &[String]) -> Option<String> {
    let list: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    match list.as_slice() {
        [] => None,
        [one] => Some(format!("{what} == {one}")),
        some => Some(format!("[{}].contains({what})", some.join(", "))),
    }
}

fn any_like(what: &str, globs: &[Glob]) -> Option<String> {
    if globs.is_empty() || globs.iter().any(Glob::is_any) {
        return None;
    }
    let test =
        |glob: &Glob| format!("{what} {} {}", if glob.is_exact() { "==" } else { "like" }, quoted(glob.as_str()));
    Some(globs.iter().map(test).collect::<Vec<_>>().join(" || "))
}

fn names_private_address(host: &HostPattern) -> bool {
    match host {
        HostPattern::Address(address) => is_private(*address),
        HostPattern::Range(range) => is_private_range(range),
        _ => false,
    }
}

fn host_key(host: &HostPattern) -> Option<String> {
    match host {
        HostPattern::Name(name) => Some(name.clone()),
        HostPattern::Suffix(suffix) => Some(format!(".{suffix}")),
        _ => None,
    }
}

/// The host as a part of an id.
fn slug(host: &HostPattern) -> String {
    host.to_string().replace('*', "any").replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// A Cedar string literal; in a `like` a `*` keeps its meaning.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
