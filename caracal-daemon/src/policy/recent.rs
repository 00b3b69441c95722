//! Decisions just made, by everything that was asked. A set never changes, so the same question has the same answer for
//! as long as the set is in force; a new set begins with none. Bounded, and compared whole: a hash alone decides nothing.

use super::{Action, Ask, Decision};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Decisions kept; each has one place where it can stand.
const PLACES: usize = 512;
/// The longest question that is kept, bytes of text.
const LONGEST: usize = 1_024;

/// What a decision can depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question<'a> {
    agent: &'a str,
    learn: bool,
    user: u32,
    comm: Option<&'a str>,
    action: Action,
    host: &'a str,
    port: u16,
    address: Option<IpAddr>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    model: Option<&'a str>,
    provider: Option<&'a str>,
    tool: Option<&'a str>,
    estimate: Option<u64>,
}

#[derive(Debug)]
struct Kept {
    agent: Box<str>,
    learn: bool,
    user: u32,
    comm: Option<Box<str>>,
    action: Action,
    host: Box<str>,
    port: u16,
    address: Option<IpAddr>,
    method: Option<Box<str>>,
    path: Option<Box<str>>,
    model: Option<Box<str>>,
    provider: Option<Box<str>>,
    tool: Option<Box<str>>,
    estimate: Option<u64>,
    decision: Decision,
}

/// Decisions of one set.
#[derive(Debug)]
pub(super) struct Recent {
    hasher: RandomState,
    places: Vec<Mutex<Option<Box<Kept>>>>,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { hasher: RandomState::new(), places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }
}

impl Recent {
    /// The decision on `ask`, from memory or from `decide`, which also says whether it may be kept. `by_estimate`: some
    /// policy reads the estimate, so that two asks with different ones differ.
    pub(super) fn decision(
        &self,
        ask: &Ask<'_>,
        by_estimate: bool,
        decide: impl FnOnce() -> (Decision, bool),
    ) -> Decision {
        let question = Question::of(ask, by_estimate);
        let hash = self.hasher.hash_one(question);
        let at = usize::try_from(hash % PLACES as u64).unwrap_or(0);
        let Some(place) = self.places.get(at).filter(|_| question.length() <= LONGEST) else { return decide().0 };
        if let Some(kept) = &*place.lock().unwrap_or_else(PoisonError::into_inner)
            && kept.question() == question
        {
            return kept.decision.clone();
        }
        let (decision, keep) = decide();
        if keep {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(question.keep(decision.clone())));
        }
        decision
    }
}

impl<'a> Question<'a> {
    fn of(ask: &Ask<'a>, by_estimate: bool) -> Question<'a> {
        Question {
            agent: &ask.agent.name,
            learn: ask.agent.learn,
            user: ask.process.map_or(ask.agent.uid, |process| process.uid),
            comm: ask.process.map(|process| &*process.comm),
            action: ask.action,
            host: ask.host,
            port: ask.port,
            address: ask.address,
            method: ask.method,
            path: ask.path,
            model: ask.model,
            provider: ask.provider,
            tool: ask.tool,
            estimate: ask.estimate.filter(|_| by_estimate).map(|estimate| estimate.0),
        }
    }

    fn length(&self) -> usize {
        let texts = [self.comm, self.method, self.path, self.model, self.provider, self.tool];
        self.agent.len() + self.host.len() + texts.into_iter().flatten().map(str::len).sum::<usize>()
    }

    fn keep(&self, decision: Decision) -> Kept {
        Kept {
            agent: self.agent.into(),
            learn: self.learn,
            user: self.user,
            comm: self.comm.map(Box::from),
            action: self.action,
            host: self.host.into(),
            port: self.port,
            address: self.address,
            method: self.method.map(Box::from),
            path: self.path.map(Box::from),
            model: self.model.map(Box::from),
            provider: self.provider.map(Box::from),
            tool: self.tool.map(Box::from),
            estimate: self.estimate,
            decision,
        }
    }
}

impl Kept {
    fn question(&self) -> Question<'_> {
        Question {
            agent: &self.agent,
            learn: self.learn,
            user: self.user,
            comm: self.comm.as_deref(),
            action: self.action,
            host: &self.host,
            port: self.port,
            address: self.address,
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            model: self.model.as_deref(),
            provider: self.provider.as_deref(),
            tool: self.tool.as_deref(),
            estimate: self.estimate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;
    use crate::policy::Verdict;
    use crate::policy::table::named_agent;
    use crate::refusal::Reason;

    fn denied() -> Decision {
        Decision { verdict: Verdict::Deny(Reason::PolicyDenied), policies: vec!["one".into()] }
    }

    /// Whether `ask` had to be decided anew.
    fn anew(recent: &Recent, ask: &Ask<'_>, by_estimate: bool) -> bool {
        let mut asked = false;
        let decision = recent.decision(ask, by_estimate, || {
            asked = true;
            (denied(), true)
        });
        assert_eq!(decision, denied());
        asked
    }

    #[test]
    fn only_the_very_same_question_is_answered_from_memory() {
        let recent = Recent::default();
        let (agent, other, learning) = (named_agent("a", false), named_agent("b", false), named_agent("a", true));
        let ask = Ask { method: Some("GET"), path: Some("/x"), ..Ask::new(&agent, Action::Request, "h.test", 443) };
        assert!(anew(&recent, &ask, false));
        assert!(!anew(&recent, &ask, false));
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let different = [
            Ask { agent: &other, ..ask.clone() },
            Ask { agent: &learning, ..ask.clone() },
            Ask { action: Action::Llm, ..ask.clone() },
            Ask { host: "h.tes", ..ask.clone() },
            Ask { port: 444, ..ask.clone() },
            Ask { address, ..ask.clone() },
            Ask { method: Some("POST"), ..ask.clone() },
            Ask { method: None, ..ask.clone() },
            Ask { path: Some("/y"), ..ask.clone() },
            Ask { model: Some("/x"), ..ask.clone() },
            Ask { provider: Some("/x"), ..ask.clone() },
            Ask { tool: Some("/x"), ..ask.clone() },
        ];
        for ask in &different {
            assert!(anew(&recent, ask, false), "{ask:?}");
        }
    }

    #[test]
    fn an_estimate_counts_where_a_policy_reads_it() {
        let recent = Recent::default();
        let agent = named_agent("a", false);
        let cheap = Ask { estimate: Some(NanoUsd(1)), ..Ask::new(&agent, Action::Llm, "h.test", 443) };
        let dear = Ask { estimate: Some(NanoUsd(2)), ..cheap.clone() };
        assert!(anew(&recent, &cheap, false) && !anew(&recent, &dear, false));
        assert!(anew(&recent, &cheap, true) && anew(&recent, &dear, true));
    }

    #[test]
    fn what_could_not_be_decided_is_asked_again_and_what_is_long_is_not_kept() {
        let recent = Recent::default();
        let agent = named_agent("a", false);
        let ask = Ask::new(&agent, Action::Request, "h.test", 443);
        recent.decision(&ask, false, || (denied(), false));
        assert!(anew(&recent, &ask, false));
        let long = "/".repeat(LONGEST);
        let ask = Ask { path: Some(&long), ..ask.clone() };
        assert!(anew(&recent, &ask, false) && anew(&recent, &ask, false));
    }
}
