//! An ask as Cedar wants it: takes facts, puts them to policies as principal, action, resource and context, and adds what
//! they say. Builds only attributes that some policy of the set names. What cannot be put is said so, which is a denial.

use super::PolicySet;
use super::verdict::Answer;
use crate::policy::Action;
use crate::policy::facts::Facts;
use crate::policy::source::{Entry, PolicyError, PolicyProblem};
use cedar_policy::{Context, EntityId, EntityTypeName, EntityUid, Request, Response, RestrictedExpression, Schema};
use std::collections::HashMap;
use std::str::FromStr;

/// What policies can read of an ask; what none of them names is not built.
pub(in crate::policy) const ATTRIBUTES: [&str; 14] = [
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

/// Entity names, parsed once.
#[derive(Debug)]
pub(super) struct Words {
    agent: EntityTypeName,
    host: EntityTypeName,
    model: EntityTypeName,
    tool: EntityTypeName,
    actions: HashMap<Action, EntityUid>,
}

impl Words {
    pub(super) fn new() -> Result<Words, PolicyError> {
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

impl PolicySet {
    /// Puts an ask to some policies and adds what they say. Where there are none, nothing is built.
    pub(in crate::policy) fn put<'p>(
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
    pub(in crate::policy) fn request_with(
        &self,
        facts: &Facts<'_>,
        path: &str,
        schema: Option<&Schema>,
    ) -> Option<Request> {
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
pub(super) fn attributes_read(entries: &[Entry]) -> Vec<&'static str> {
    let ruled = entries.iter().filter(|entry| !entry.notes.learn);
    // `Action::"tool"` names an action, not the attribute.
    let texts: Vec<String> = ruled.map(|entry| entry.text.replace("Action::\"tool\"", "")).collect();
    let named = |name: &str| texts.iter().any(|text| text.contains(name) || text.contains('\\'));
    ATTRIBUTES.into_iter().filter(|name| named(name)).collect()
}
