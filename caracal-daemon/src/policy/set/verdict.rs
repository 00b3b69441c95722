//! From what the evaluator said to a decision. Takes the permits, forbids and failures of one ask; gives a verdict and the
//! policies that made it. Refuses where a forbid matches, where a policy could not be evaluated, where one reading of the
//! path is not allowed, and where the address is private and no permit names it. Never allows on an error.

use super::PolicySet;
use crate::address::is_private;
use crate::policy::facts::Facts;
use crate::policy::source::Notes;
use crate::policy::{Action, Ask, Decision, Grant, Mode, Verdict};
use crate::refusal::Reason;
use std::sync::Arc;

/// A decision, and which policies made it.
#[derive(Debug)]
pub(in crate::policy) struct Outcome {
    pub(in crate::policy) decision: Decision,
    /// Places in `entries`.
    pub(in crate::policy) by: Vec<usize>,
    /// A policy could not be evaluated.
    pub(in crate::policy) failed: bool,
}

/// What the evaluator said, before it is a decision.
#[derive(Debug, Default)]
pub(in crate::policy) struct Answer {
    pub(super) permits: Vec<usize>,
    pub(super) forbids: Vec<usize>,
    pub(super) failed: Vec<usize>,
    /// Some ask could not be put at all.
    pub(super) unasked: bool,
}

impl PolicySet {
    /// The outcome, with `evaluate` putting the ask to the policies, once for each reading of its path.
    pub(in crate::policy) fn outcome_by(
        &self,
        ask: &Ask<'_>,
        evaluate: impl Fn(&Facts<'_>, &str, &mut Answer),
    ) -> Outcome {
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
