//! A compiled policy set, sliced so that a decision evaluates only the policies that could match.
//!
//! Each policy lies in one slice for each action of its scope, under the one agent and the one host (or suffix) that it can
//! match. An ask is put to the slices of its action for its agent and for any, for its host, each suffix of it, and any.
//! A forbid in one of them denies, else a permit in one of them allows: the same as all policies at once.

mod request;
mod verdict;

pub(super) use request::ATTRIBUTES;
pub(super) use verdict::Outcome;

use super::facts::Facts;
use super::recent::Recent;
use super::source::{self, Entry, PolicyError, PolicyProblem, SCHEMA};
use super::{Action, Ask, Decision};
use crate::config::{AllowRule, Config};
use cedar_policy::{Authorizer, Entities, Policy, PolicyId};
use request::{Words, attributes_read};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
