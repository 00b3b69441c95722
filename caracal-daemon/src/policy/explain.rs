//! Takes a decision; gives the words for it: the refusal's sentence, the deciding policies, the nearest rule, and the lines of
//! `caracal.toml` that would allow it.

use super::facts::Facts;
use super::set::Outcome;
use super::{Action, Ask, Decision, Grant, Mode, PolicySet, Verdict};
use crate::config::{AllowRule, Glob, HostPattern, RuleMode, may_be_priced};
use crate::refusal::{Reason, Refusal, Side, Stage};
use std::fmt;

/// Why an ask is decided as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The deciding policies: id, place and Cedar text.
    pub policies: Vec<(String, String, String)>,
    /// For a denial that no rule demands: the allow rule that comes nearest, and what it lacks.
    pub nearest: Option<String>,
    /// For such a denial: what to add to `caracal.toml`.
    pub would_allow: Option<String>,
    /// The policy set's own trouble.
    pub broken: Option<String>,
}

/// The lines of `caracal.toml` that would allow `action` on `host` and `port`, and as little else as can be said of them.
#[must_use]
pub fn line_that_would_allow(action: Action, host: &str, port: u16) -> String {
    let mut text = format!("[[allow]]\nhosts = [{}]\n", quoted(host));
    if port != 0 && port != 80 && port != 443 {
        text += &format!("ports = [{port}]\n");
    }
    if action == Action::Connect && host.parse().is_ok_and(|host| may_be_priced(&host).is_none()) {
        text += "mode = \"tcp\"\n";
    }
    text
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One thing that an allow rule asks for and an ask does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Miss {
    Host,
    Agent,
    Port,
    Method,
    Path,
    Model,
    Tool,
    Mode,
}

impl PolicySet {
    /// Why `ask` is decided as it is.
    #[must_use]
    pub fn explain(&self, ask: &Ask<'_>) -> Explanation {
        let Outcome { decision, by, .. } = self.outcome(ask);
        let shown = by.iter().filter_map(|at| self.entries.get(*at));
        let policies = shown.map(|entry| (entry.id.to_string(), entry.place(), entry.text.trim().to_owned())).collect();
        let unnamed = matches!(decision.verdict, Verdict::Deny(Reason::HostNotAllowed | Reason::PolicyDenied));
        let unpermitted = unnamed && decision.policies.is_empty() && self.broken().is_none();
        let private = decision.verdict == Verdict::Deny(Reason::PrivateAddress);
        let would_allow = (unpermitted || private).then(|| self.lines_for(ask, private));
        let nearest = if unpermitted { self.nearest(ask) } else { None };
        Explanation { decision, policies, nearest, would_allow, broken: self.broken().map(ToOwned::to_owned) }
    }

    /// The refusal that a denial is, with a sentence for the agent's screen; `None` when it is allowed.
    #[must_use]
    pub fn refusal(&self, ask: &Ask<'_>, decision: &Decision) -> Option<Refusal> {
        let Verdict::Deny(reason) = decision.verdict else { return None };
        Some(self.denied(ask, decision, reason))
    }

    /// The refusal that this denial for `reason` is.
    pub(crate) fn denied(&self, ask: &Ask<'_>, decision: &Decision, reason: Reason) -> Refusal {
        let (stage, us) =
            (Stage::Policy, |sentence| Refusal { stage: Stage::Policy, side: Side::Us, reason, sentence, limit: None });
        if let Some(why) = self.broken() {
            let why = one_line(why);
            return us(format!(
                "Caracal denies everything because its policy is broken: {why}. Correct it and run `caracald policy reload`."
            ));
        }
        if self.outcome(ask).failed {
            let (what, policies) = (what(ask), list(decision));
            return us(format!(
                "Caracal refused {what}: policy {policies} cannot be evaluated; see `caracald policy explain`."
            ));
        }
        Refusal { stage, side: Side::Agent, reason, sentence: self.sentence(ask, decision, reason), limit: None }
    }

    fn sentence(&self, ask: &Ask<'_>, decision: &Decision, reason: Reason) -> String {
        let (what, agent, file) = (what(ask), &ask.agent.name, self.file.display());
        let host = display(ask.host);
        if reason == Reason::HostMismatch {
            return format!("Caracal refused {what}: the address in the request is not the one that was connected to.");
        }
        if reason == Reason::PrivateAddress {
            return format!(
                "Caracal refused {what}: it leads to a private address and no rule that allows it says so. If that is meant, write `private = true` in the rule {} of {file}.",
                list(decision)
            );
        }
        if !decision.policies.is_empty() {
            return format!("Caracal refused {what} to agent {agent}: policy {} forbids it.", list(decision));
        }
        let rule = match self.nearest_rule(ask) {
            Some((rule, misses)) => {
                format!("rule {} allows {host}, but not this {}", self.name_of(rule), words(&misses))
            }
            None => format!("no rule allows {host} to agent {agent}"),
        };
        let lines = self.lines_for(ask, false);
        let keys: Vec<&str> = lines.lines().skip(1).collect();
        format!(
            "Caracal refused {what}: {rule}. To allow it, add an [[allow]] rule with {} to {file}.",
            keys.join(", ")
        )
    }

    /// The lines that would allow this very ask.
    fn lines_for(&self, ask: &Ask<'_>, private: bool) -> String {
        let mut text = line_that_would_allow(ask.action, ask.host, ask.port);
        if let Some(model) = ask.model.filter(|_| ask.action == Action::Llm) {
            text += &format!("models = [{}]\n", quoted(model));
        }
        if let Some(tool) = ask.tool.filter(|_| ask.action == Action::Tool) {
            text += &format!("tools = [{}]\n", quoted(tool));
        }
        if private {
            text += "private = true\n";
        }
        text
    }

    /// The nearest rule in words.
    fn nearest(&self, ask: &Ask<'_>) -> Option<String> {
        let place = |rule: &AllowRule| format!("{} ({}:{})", self.name_of(rule), self.file.display(), rule.line);
        if let Some((rule, misses)) = self.nearest_rule(ask) {
            return Some(format!("rule {} allows this host, but not this {}", place(rule), words(&misses)));
        }
        let hosts = self.allow.iter().flat_map(|rule| rule.hosts.iter().map(move |host| (rule, host.to_string())));
        let (distance, rule, host) = hosts
            .map(|(rule, host)| (strsim::levenshtein(&host, ask.host), rule, host))
            .min_by_key(|(distance, ..)| *distance)?;
        (distance <= 3).then(|| format!("rule {} is for {host}, which is not {}", place(rule), display(ask.host)))
    }

    /// The allow rule for this host with the fewest things that the ask lacks. Runs on each refusal: no work for other hosts.
    fn nearest_rule(&self, ask: &Ask<'_>) -> Option<(&AllowRule, Vec<Miss>)> {
        let facts = Facts::of(ask).ok()?;
        let for_host = self.allow.iter().filter(|rule| rule.hosts.iter().any(|host| fits(host, &facts)));
        for_host.map(|rule| (rule, misses(rule, &facts))).min_by_key(|(_, misses)| misses.len())
    }

    fn name_of(&self, rule: &AllowRule) -> String {
        let number = self.allow.iter().position(|each| each == rule).map_or(0, |at| at + 1);
        rule.id.clone().unwrap_or_else(|| format!("allow-{number}"))
    }
}

/// Whether the host, as an allow rule means it, is the ask's.
fn fits(host: &HostPattern, facts: &Facts<'_>) -> bool {
    match (host, facts.address.filter(|_| !facts.named && facts.action != Action::Resolve)) {
        (HostPattern::Address(own), Some(address)) => *own == address,
        (HostPattern::Range(range), Some(address)) => range.contains(address),
        _ => facts.named && host.matches_name(&facts.host),
    }
}

/// What the rule asks for and the ask does not have. Reads the rule itself, not its Cedar text.
fn misses(rule: &AllowRule, facts: &Facts<'_>) -> Vec<Miss> {
    let any = |globs: &[Glob], text: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(text));
    let paths = || std::iter::once(facts.paths.written).chain(facts.paths.others.iter().map(String::as_str));
    let resolve = facts.action == Action::Resolve;
    let read = !matches!(facts.action, Action::Resolve | Action::Connect);
    let by_host = rule.hosts.iter().any(|host| fits(host, facts));
    let by_address = !facts.named && by_host;
    let mode_fits = match facts.action {
        Action::Resolve => true,
        Action::Connect => rule.mode != RuleMode::Inspect || by_address,
        Action::Request | Action::Llm | Action::Tool => rule.mode == RuleMode::Inspect,
    };
    [
        (Miss::Host, by_host),
        (Miss::Agent, rule.agents.iter().any(|agent| agent.glob().matches(facts.agent))),
        (Miss::Port, resolve || rule.ports.contains(&facts.port)),
        (Miss::Method, !read || rule.methods.is_empty() || rule.methods.iter().any(|method| *method == facts.method)),
        (Miss::Path, !read || paths().all(|path| any(&rule.paths, path))),
        (Miss::Model, facts.action != Action::Llm || any(&rule.models, facts.model)),
        (Miss::Tool, facts.action != Action::Tool || any(&rule.tools, facts.tool)),
        (Miss::Mode, mode_fits),
    ]
    .into_iter()
    .filter_map(|(miss, fits)| (!fits).then_some(miss))
    .collect()
}

/// Whether the rule, read by itself, allows the ask. For tests: a second opinion that does not go through Cedar.
#[cfg(test)]
pub(super) fn rule_allows(rule: &AllowRule, facts: &Facts<'_>) -> bool {
    misses(rule, facts).is_empty()
}

fn words(misses: &[Miss]) -> String {
    let word = |miss: &Miss| match miss {
        Miss::Host => "host",
        Miss::Agent => "agent",
        Miss::Port => "port",
        Miss::Method => "method",
        Miss::Path => "path",
        Miss::Model => "model",
        Miss::Tool => "tool",
        Miss::Mode => "mode",
    };
    misses.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// What was asked for, in words. Names come from an agent, so nothing in them may break the line.
fn what(ask: &Ask<'_>) -> String {
    let host = display(ask.host);
    let place = if ask.port == 0 || ask.port == 443 { host.clone() } else { format!("{host}:{}", ask.port) };
    match ask.action {
        Action::Connect => format!("a connection to {host}:{}", ask.port),
        Action::Resolve => format!("to look up {host}"),
        Action::Request => format!(
            "{} {place}{}",
            display(ask.method.unwrap_or("a request to")),
            display(ask.path.unwrap_or_default())
        ),
        Action::Llm => format!("a call of model {} at {host}", display(ask.model.unwrap_or_default())),
        Action::Tool => format!("a call of tool {} at {host}", display(ask.tool.unwrap_or_default())),
    }
}

/// At most 200 characters, control characters escaped.
fn display(text: &str) -> String {
    let shown: String = text
        .chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(200).is_some() { shown + "..." } else { shown }
}

fn one_line(text: &str) -> String {
    display(&text.replace('\n', "; "))
}

fn list(decision: &Decision) -> String {
    decision.policies.iter().map(|id| &**id).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision.verdict {
            Verdict::Allow(grant) => writeln!(out, "allowed{}", grant_words(grant))?,
            Verdict::Deny(reason) => writeln!(out, "denied: {}", reason.code())?,
        }
        if let Some(why) = &self.broken {
            writeln!(out, "the policy is broken, so everything is denied: {why}")?;
        } else if self.policies.is_empty() {
            writeln!(out, "no policy permits it")?;
        }
        for (id, place, text) in &self.policies {
            let private = self.decision.verdict == Verdict::Deny(Reason::PrivateAddress);
            let how = if private { "allowed, but for no private address, by" } else { "decided by" };
            writeln!(out, "\n{how} {id} ({place}):\n{text}")?;
        }
        if let Some(nearest) = &self.nearest {
            writeln!(out, "nearest: {nearest}")?;
        }
        self.would_allow.as_ref().map_or(Ok(()), |lines| write!(out, "\nto allow it, add to caracal.toml:\n\n{lines}"))
    }
}

fn grant_words(grant: &Grant) -> String {
    let mode = match grant.mode {
        Mode::Inspect => None,
        Mode::TlsPassthrough => Some("TLS is passed through"),
        Mode::Tcp => Some("bytes are copied unread"),
    };
    let more = [
        mode,
        grant.private.then_some("may be a private address"),
        grant.free.then_some("not metered"),
        grant.learned.then_some("only because of --learn"),
    ];
    let said: Vec<&str> = more.into_iter().flatten().collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}
