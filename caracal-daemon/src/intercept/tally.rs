//! What each agent did since it started, for the last words of `run`. A convenience: records are the truth.
//! Bounded per agent; what does not fit is counted, not kept.

mod words;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::agent::CgroupId;
use crate::event::{Draft, Kind};
use crate::money::NanoUsd;
use crate::policy::learn::{Observed, rules_for};
use crate::policy::{Action, explain::line_that_would_allow};
use crate::refusal::Reason;

/// Distinct refusals, and distinct requests, that are kept of one agent.
const MOST: usize = 256;

/// One agent's doings.
#[derive(Debug, Default)]
struct Doings {
    /// Calls and charges by model: as many as the price book has.
    models: BTreeMap<String, (u64, NanoUsd)>,
    agent: String,
    requests: u64,
    calls: u64,
    spent: NanoUsd,
    refused: BTreeMap<Refused, u64>,
    observed: BTreeMap<String, Observed>,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refused {
    host: String,
    port: u16,
    reason: String,
    sentence: String,
}

/// Every agent's doings.
#[derive(Debug, Default)]
pub struct Tally(Mutex<HashMap<CgroupId, Doings>>);

impl Tally {
    /// Takes note of a record that is about to be written.
    pub(crate) fn note(&self, agent: CgroupId, draft: &Draft) {
        let mut all = self.all();
        let doings = all.entry(agent).or_default();
        if let Some(name) = draft.data.agent.as_deref()
            && doings.agent.is_empty()
        {
            name.clone_into(&mut doings.agent);
        }
        match draft.kind {
            Kind::Outcome => {
                let model = doings.models.entry(draft.data.model.as_deref().unwrap_or("?").to_owned()).or_default();
                *model = (model.0 + 1, model.1.saturating_add(draft.data.cost.unwrap_or_default()));
                doings.calls += 1;
                doings.spent = doings.spent.saturating_add(draft.data.cost.unwrap_or_default());
            }
            Kind::Decision if draft.data.decision == Some("deny") => doings.refuse(draft),
            Kind::Decision => doings.observe(draft),
            _ => {}
        }
    }

    /// Forgets an agent that is gone.
    pub fn forget(&self, agent: CgroupId) {
        self.all().remove(&agent);
    }

    /// `text`, `refused` (each with the rule that would allow it), and with `learn` the `policy` that would have sufficed.
    #[must_use]
    pub fn summary(&self, agent: CgroupId, learn: bool) -> Value {
        let all = self.all();
        let Some(doings) = all.get(&agent) else { return json!({ "text": "nothing was sent" }) };
        let refused: Vec<Value> = doings.refused.iter().map(|(refused, count)| refused.to_json(*count)).collect();
        let policy = learn.then(|| rules_for(&doings.agent, doings.observed.values()));
        let mut text = doings.text();
        if doings.left_out > 0 {
            text.push_str(&format!("; {} more kinds of refusals or requests are in `caracald events`", doings.left_out));
        }
        json!({ "text": text, "calls": doings.calls, "spent_nano_usd": doings.spent.0, "refused": refused, "policy": policy })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<CgroupId, Doings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doings {
    fn refuse(&mut self, draft: &Draft) {
        let refused = Refused {
            host: draft.detail.host.clone().unwrap_or_default(),
            port: draft.detail.port.unwrap_or(443),
            reason: draft.data.reason.unwrap_or_default().to_owned(),
            sentence: draft.detail.sentence.clone().unwrap_or_default(),
        };
        if self.refused.len() >= MOST && !self.refused.contains_key(&refused) {
            self.left_out += 1;
            return;
        }
        *self.refused.entry(refused).or_default() += 1;
    }

    fn observe(&mut self, draft: &Draft) {
        let Some(host) = draft.detail.host.clone() else { return };
        let lookup = draft.data.action == Some(Action::Resolve.as_str());
        if !lookup {
            self.requests += 1;
        }
        let observed = Observed {
            host,
            port: if lookup { 0 } else { draft.detail.port.unwrap_or(443) },
            method: draft.detail.method.clone(),
            path: draft.detail.path.clone(),
        };
        let key = format!("{observed:?}");
        if self.observed.len() >= MOST && !self.observed.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        self.observed.insert(key, observed);
    }
}

impl Refused {
    fn to_json(&self, count: u64) -> Value {
        let times = if count > 1 { format!(", {count} times") } else { String::new() };
        let host_rule = self.reason == Reason::HostNotAllowed.code();
        let why = if host_rule { String::new() } else { format!(": {}", self.sentence) };
        json!({
            "what": format!("{}:{} ({}{times}){why}", self.host, self.port, self.reason),
            "host": self.host, "port": self.port, "reason": self.reason, "count": count,
            "allow": host_rule.then(|| line_that_would_allow(Action::Request, &self.host, self.port)),
        })
    }
}
