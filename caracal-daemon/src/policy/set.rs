//! A compiled policy set, sliced so that a decision evaluates only the policies that could match.
//!
//! Each policy lies in one slice for each action of its scope, under the one agent and the one host (or suffix) that it can
//! match. An ask is put to the slices of its action for its agent and for any, for its host, each suffix of it, and any.
//! A forbid in one of them denies, else a permit in one of them allows: the same as all policies at once.

use super::facts::Facts;
use super::recent::Recent;
use super::source::{self, Entry, Notes, PolicyError, PolicyProblem, SCHEMA};
use super::{Action, Ask, Decision, Grant, Mode, Verdict};
use crate::address::is_private;
use crate::config::{AllowRule, Config};
use crate::refusal::Reason;
use cedar_policy::{
    Authorizer, Context, Entities, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, Request, Response,
    RestrictedExpression, Schema,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What policies can read of an ask; what none of them names is not built.
pub(super) const ATTRIBUTES: [&str; 14] = [
    "agent",
    "host",
    "named",
    "address",
    "learn",
    "user",
    "comm",
    "port",
    "method",
    "path",
    "provider",
    "model",
    "estimate_nano",
    "tool",
];

/// What the permit of `--learn` reads.
const LEARN_READS: [&str; 3] = ["named", "address", "learn"];

/// A compiled policy set.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) entries: Vec<Entry>,
    pub(super) allow: Vec<AllowRule>,
    pub(super) file: PathBuf,
    /// Why it denies everything.
    broken: Option<Arc<str>>,
    warnings: Vec<PolicyProblem>,
    hash: Arc<str>,
    by_id: HashMap<PolicyId, usize>,
    slices: HashMap<Action, ByAgent>,
    learn: cedar_policy::PolicySet,
    pub(super) read: Vec<&'static str>,
    words: Option<Words>,
    authorizer: Authorizer,
    nobody: Entities,
    errors: AtomicU64,
    recent: Recent,
}

type ByAgent = HashMap<Box<str>, ByHost>;
type ByHost = HashMap<Box<str>, cedar_policy::PolicySet>;

/// Entity names, parsed once.
#[derive(Debug)]
struct Words {
    agent: EntityTypeName,
    host: EntityTypeName,
    model: EntityTypeName,
    tool: EntityTypeName,
    actions: HashMap<Action, EntityUid>,
}

/// A decision, and which policies made it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) decision: Decision,
    /// Places in `entries`.
    pub(super) by: Vec<usize>,
    /// A policy could not be evaluated.
    pub(super) failed: bool,
}

/// What the evaluator said, before it is a decision.
#[derive(Debug, Default)]
pub(super) struct Answer {
    permits: Vec<usize>,
    forbids: Vec<usize>,
    failed: Vec<usize>,
    /// Some ask could not be put at all.
    unasked: bool,
}

impl PolicySet {
    /// Reads, validates and slices all policies of a configuration. Relative Cedar paths are taken from `base_dir`.
    ///
    /// # Errors
    /// Every place that does not parse, does not fit the schema, or cannot be read.
    pub fn compile(config: &Config, base_dir: &Path) -> Result<PolicySet, PolicyError> {
        let (entries, warnings) = source::read(config, base_dir)?;
        PolicySet::of(entries, warnings, config)
    }

    /// A set that denies everything and says `why`.
    #[must_use]
    pub fn deny_all(why: &str) -> PolicySet {
        let broken: Arc<str> = why.into();
        PolicySet { hash: hash(&[], Some(why)), broken: Some(broken), ..PolicySet::empty() }
    }

    fn empty() -> PolicySet {
        PolicySet {
            entries: Vec::new(),
            allow: Vec::new(),
            file: PathBuf::new(),
            broken: None,
            warnings: Vec::new(),
            hash: "".into(),
            by_id: HashMap::new(),
            slices: HashMap::new(),
            learn: cedar_policy::PolicySet::new(),
            read: Vec::new(),
            words: None,
            authorizer: Authorizer::new(),
            nobody: Entities::empty(),
            errors: AtomicU64::new(0),
            recent: Recent::default(),
        }
    }

    fn of(entries: Vec<Entry>, warnings: Vec<PolicyProblem>, config: &Config) -> Result<PolicySet, PolicyError> {
        let mut slices: HashMap<Action, ByAgent> = HashMap::new();
        let mut learn = cedar_policy::PolicySet::new();
        for entry in &entries {
            if entry.notes.learn {
                add(&mut learn, &entry.policy)?;
                continue;
            }
            for action in &entry.actions {
                let by_host =
                    slices.entry(*action).or_default().entry(entry.agent.as_deref().unwrap_or("").into()).or_default();
                add(by_host.entry(entry.host.as_deref().unwrap_or("").into()).or_default(), &entry.policy)?;
            }
        }
        Ok(PolicySet {
            by_id: entries.iter().enumerate().map(|(at, entry)| (entry.policy.id().clone(), at)).collect(),
            read: attributes_read(&entries),
            hash: hash(&entries, None),
            allow: config.allow.clone(),
            file: config.file.clone(),
            words: Some(Words::new()?),
            entries,
            warnings,
            slices,
            learn,
            ..PolicySet::empty()
        })
    }

    /// Decides. Pure; total: an evaluation error is a denial.
    ///
    /// Where a path can be read in more ways than one, each reading must be allowed. A private address is denied unless a
    /// deciding permit names it.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>) -> Decision {
        self.recent.decision(ask, self.read.contains(&"estimate_nano"), || {
            let outcome = self.outcome(ask);
            if outcome.failed {
                // Told and counted each time, so never answered from memory.
                self.report(ask.action, &outcome);
            }
            (outcome.decision, !outcome.failed)
        })
    }

    pub(super) fn outcome(&self, ask: &Ask<'_>) -> Outcome {
        self.outcome_by(ask, |facts, path, answer| self.put(facts, path, self.relevant(facts), answer))
    }

    /// SHA-256 of the set's source, hex.
    #[must_use]
    pub fn hash(&self) -> Arc<str> {
        Arc::clone(&self.hash)
    }

    /// Why this set denies everything, if it does.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// What the validator finds odd, such as a policy that can never match.
    #[must_use]
    pub fn warnings(&self) -> &[PolicyProblem] {
        &self.warnings
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many asks were denied because a policy could not be evaluated.
    #[must_use]
    pub fn evaluation_errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// All policies as Cedar text, each below a comment that says where it comes from.
    #[must_use]
    pub fn to_cedar(&self) -> String {
        self.entries.iter().map(|entry| format!("// {}\n{}\n\n", entry.place(), entry.text.trim())).collect()
    }

    /// The outcome, with `evaluate` putting the ask to the policies, once for each reading of its path.
    pub(super) fn outcome_by(&self, ask: &Ask<'_>, evaluate: impl Fn(&Facts<'_>, &str, &mut Answer)) -> Outcome {
        if self.broken.is_some() {
            return self.deny(Reason::PolicyDenied, Vec::new());
        }
        let Ok(facts) = Facts::of(ask) else { return self.deny(Reason::HostMismatch, Vec::new()) };
        let outcome_for = |path: &str| {
            let mut answer = Answer::default();
            evaluate(&facts, path, &mut answer);
            self.conclude(&facts, answer)
        };
        let mut outcome = outcome_for(facts.paths.written);
        // Only a policy that reads the path can tell readings apart.
        for path in facts.paths.others.iter().filter(|_| self.read.contains(&"path")) {
            outcome = both(outcome, outcome_for(path));
        }
        let decision = &mut outcome.decision;
        // What is free is judged by its path; one that can be read otherwise could be a paid call.
        if let (Verdict::Allow(grant), false) = (&mut decision.verdict, facts.paths.others.is_empty()) {
            grant.free = false;
        }
        if decision.verdict == Verdict::Deny(Reason::HostNotAllowed) && self.knows_host(ask, &facts) {
            decision.verdict = Verdict::Deny(Reason::PolicyDenied);
        }
        outcome
    }

    /// Whether some rule lets the agent look the name up: then it is not the host that is refused.
    fn knows_host(&self, ask: &Ask<'_>, facts: &Facts<'_>) -> bool {
        let by_name = matches!(facts.action, Action::Connect | Action::Request) && facts.named;
        let look_up = || self.outcome(&Ask { action: Action::Resolve, ..ask.clone() }).decision.verdict;
        by_name && matches!(look_up(), Verdict::Allow(_))
    }

    fn conclude(&self, facts: &Facts<'_>, answer: Answer) -> Outcome {
        if answer.unasked || !answer.failed.is_empty() {
            return Outcome { failed: true, ..self.deny(Reason::PolicyDenied, answer.failed) };
        }
        if !answer.forbids.is_empty() {
            return self.deny(Reason::PolicyDenied, answer.forbids);
        }
        let learned_only = |at: &usize| self.entries.get(*at).is_some_and(|entry| entry.notes.learn);
        let (learned, ruled): (Vec<usize>, Vec<usize>) = answer.permits.into_iter().partition(learned_only);
        let permits = if ruled.is_empty() { learned } else { ruled };
        let notes: Vec<Notes> =
            permits.iter().filter_map(|at| self.entries.get(*at)).map(|entry| entry.notes).collect();
        let Some(mode) = notes.iter().map(|notes| notes.mode).min() else {
            let on_host = !matches!(facts.action, Action::Llm | Action::Tool);
            return self.deny(if on_host { Reason::HostNotAllowed } else { Reason::PolicyDenied }, Vec::new());
        };
        let grant = Grant {
            mode: if facts.action == Action::Connect { mode } else { Mode::Inspect },
            private: notes.iter().any(|notes| notes.private),
            free: notes.iter().any(|notes| notes.free),
            learned: notes.iter().all(|notes| notes.learn),
        };
        if !grant.private && facts.address.is_some_and(is_private) {
            return self.deny(Reason::PrivateAddress, permits);
        }
        self.found(Verdict::Allow(grant), permits)
    }

    fn deny(&self, reason: Reason, by: Vec<usize>) -> Outcome {
        self.found(Verdict::Deny(reason), by)
    }

    /// The reported ids stand once each, in a stable order.
    fn found(&self, verdict: Verdict, by: Vec<usize>) -> Outcome {
        let mut policies: Vec<Arc<str>> =
            by.iter().filter_map(|at| self.entries.get(*at)).map(|entry| Arc::clone(&entry.id)).collect();
        policies.sort_unstable();
        policies.dedup();
        Outcome { decision: Decision { verdict, policies }, by, failed: false }
    }

    fn report(&self, action: Action, outcome: &Outcome) {
        // One line for the first: a retry storm must not fill the log. The count and the records have the rest.
        if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            let policies = &outcome.decision.policies;
            tracing::error!(
                ?policies,
                action = action.as_str(),
                "a policy cannot be evaluated; what it is asked about is denied"
            );
        }
    }

    pub(super) fn relevant<'s>(&'s self, facts: &'s Facts<'_>) -> impl Iterator<Item = &'s cedar_policy::PolicySet> {
        let by_agent = self.slices.get(&facts.action);
        let agents = [facts.agent, ""].into_iter().filter_map(move |agent| by_agent?.get(agent));
        let lifted = facts.learn && matches!(facts.action, Action::Resolve | Action::Request);
        agents
            .flat_map(|by_host| keys(&facts.host).filter_map(|key| by_host.get(key)))
            .chain(lifted.then_some(&self.learn))
    }

    /// Puts an ask to some policies and adds what they say. Where there are none, nothing is built.
    pub(super) fn put<'p>(
        &self,
        facts: &Facts<'_>,
        path: &str,
        policies: impl Iterator<Item = &'p cedar_policy::PolicySet>,
        answer: &mut Answer,
    ) {
        let mut policies = policies.peekable();
        if policies.peek().is_none() {
            return;
        }
        let Some(request) = self.request(facts, path) else {
            answer.unasked = true;
            return;
        };
        for some in policies {
            self.add_to(answer, &self.authorizer.is_authorized(&request, some, &self.nobody));
        }
    }

    fn add_to(&self, answer: &mut Answer, response: &Response) {
        let denied = response.decision() == cedar_policy::Decision::Deny;
        let reasons = response.diagnostics().reason().filter_map(|id| self.by_id.get(id).copied());
        if denied {
            answer.forbids.extend(reasons)
        } else {
            answer.permits.extend(reasons)
        }
        for cedar_policy::AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
            match self.by_id.get(error.policy_id()) {
                Some(at) => answer.failed.push(*at),
                None => answer.unasked = true,
            }
        }
    }

    /// The ask as Cedar wants it; `None` when it cannot be put, which is a denial.
    fn request(&self, facts: &Facts<'_>, path: &str) -> Option<Request> {
        self.request_with(facts, path, None)
    }

    /// The same, checked against the schema if there is one. Tests do; the hot path builds nothing that could fail it.
    pub(super) fn request_with(&self, facts: &Facts<'_>, path: &str, schema: Option<&Schema>) -> Option<Request> {
        let words = self.words.as_ref()?;
        let resource = match facts.action {
            Action::Connect | Action::Resolve | Action::Request => named(&words.host, &facts.host),
            Action::Llm => named(&words.model, &format!("{}/{}", facts.provider, facts.model)),
            Action::Tool => named(&words.tool, &format!("{}/{}", facts.host, facts.tool)),
        };
        let lifted = LEARN_READS.iter().filter(|name| facts.learn && !self.read.contains(name));
        let pairs =
            self.read.iter().chain(lifted).filter_map(|name| Some(((*name).to_owned(), value(facts, path, name)?)));
        let context = Context::from_pairs(pairs).ok()?;
        let action = words.actions.get(&facts.action)?.clone();
        Request::new(named(&words.agent, facts.agent), action, resource, context, schema).ok()
    }
}

/// The exact host, each suffix that begins with a dot, and the key of policies for any host.
fn keys(host: &str) -> impl Iterator<Item = &str> {
    let suffixes = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.').filter_map(|(at, _)| host.get(at..));
    std::iter::once(host).chain(suffixes).chain((!host.is_empty()).then_some(""))
}

fn add(set: &mut cedar_policy::PolicySet, policy: &Policy) -> Result<(), PolicyError> {
    set.add(policy.clone()).map_err(|error| {
        PolicyProblem { file: policy.id().to_string(), line: 0, message: error.to_string(), help: None }.into()
    })
}

/// Both readings must be allowed; the grant is what both grant.
fn both(one: Outcome, other: Outcome) -> Outcome {
    let (Verdict::Allow(first), Verdict::Allow(second)) = (&one.decision.verdict, &other.decision.verdict) else {
        return if matches!(one.decision.verdict, Verdict::Deny(_)) { one } else { other };
    };
    let grant = Grant {
        mode: first.mode.min(second.mode),
        private: first.private && second.private,
        free: first.free && second.free,
        learned: first.learned || second.learned,
    };
    let mut policies = [one.decision.policies, other.decision.policies].concat();
    policies.sort_unstable();
    policies.dedup();
    let mut by = [one.by, other.by].concat();
    by.sort_unstable();
    by.dedup();
    Outcome { decision: Decision { verdict: Verdict::Allow(grant), policies }, by, failed: false }
}

fn named(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// One attribute of the context, if the schema has it for the action.
fn value(facts: &Facts<'_>, path: &str, name: &str) -> Option<RestrictedExpression> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let ported = facts.action != Action::Resolve;
    let read = ported && facts.action != Action::Connect;
    let llm = facts.action == Action::Llm;
    Some(match name {
        "agent" => text(facts.agent),
        "host" => text(&facts.host),
        "named" => RestrictedExpression::new_bool(facts.named),
        "address" => RestrictedExpression::new_ip(facts.address?.to_string()),
        "learn" => RestrictedExpression::new_bool(facts.learn),
        "user" => RestrictedExpression::new_long(i64::from(facts.user)),
        "comm" => text(facts.comm),
        "port" if ported => RestrictedExpression::new_long(i64::from(facts.port)),
        "method" if read => text(&facts.method),
        "path" if read => text(path),
        "provider" if llm => text(facts.provider),
        "model" if llm => text(facts.model),
        "estimate_nano" if llm => RestrictedExpression::new_long(facts.estimate),
        "tool" if facts.action == Action::Tool => text(facts.tool),
        _ => return None,
    })
}

/// A name that stands nowhere in the source cannot be read. An escape could spell it, so with one all are built.
/// The permit of `--learn` does not count: what it reads is built for those who learn.
fn attributes_read(entries: &[Entry]) -> Vec<&'static str> {
    let ruled = entries.iter().filter(|entry| !entry.notes.learn);
    // `Action::"tool"` names an action, not the attribute.
    let texts: Vec<String> = ruled.map(|entry| entry.text.replace("Action::\"tool\"", "")).collect();
    let named = |name: &str| texts.iter().any(|text| text.contains(name) || text.contains('\\'));
    ATTRIBUTES.into_iter().filter(|name| named(name)).collect()
}

/// SHA-256 over the schema and all policies in the order of their ids, each with its length before it.
fn hash(entries: &[Entry], broken: Option<&str>) -> Arc<str> {
    let mut texts: Vec<(&str, &str)> = entries.iter().map(|entry| (&*entry.id, entry.text.trim())).collect();
    texts.sort_unstable();
    let mut hasher = Sha256::new();
    for part in
        [SCHEMA, broken.unwrap_or_default()].into_iter().chain(texts.into_iter().flat_map(|(id, text)| [id, text]))
    {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize()).into()
}

impl Words {
    fn new() -> Result<Words, PolicyError> {
        let kind = |name: &str| {
            EntityTypeName::from_str(name).map_err(|error| {
                PolicyError::from(PolicyProblem {
                    file: name.to_owned(),
                    line: 0,
                    message: error.to_string(),
                    help: None,
                })
            })
        };
        let action = kind("Action")?;
        Ok(Words {
            agent: kind("Agent")?,
            host: kind("Host")?,
            model: kind("Model")?,
            tool: kind("Tool")?,
            actions: Action::ALL.into_iter().map(|each| (each, named(&action, each.as_str()))).collect(),
        })
    }
}
