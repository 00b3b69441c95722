//! What each agent did since it started, for the last words of `run`. A convenience: records are the truth.
//! Bounded per agent; what does not fit is counted, not kept.

mod pairs;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::agent::CgroupId;
use crate::event::{Draft, Kind};
use crate::money::NanoUsd;
use crate::policy::learn::{Observed, rules_for};
use crate::policy::{Action, explain::line_that_would_allow};
use crate::refusal::Reason;

/// Distinct refusals, distinct requests, and models that are kept of one agent.
const MOST: usize = 256;
/// Models beyond that: where a price is `*`, an agent chooses their names.
const OTHERS: &str = "others";

/// One agent's doings.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Doings {
    /// Calls and charges by model; those beyond [`MOST`] together as [`OTHERS`].
    models: BTreeMap<String, (u64, NanoUsd)>,
    agent: String,
    requests: u64,
    calls: u64,
    spent: NanoUsd,
    #[serde(with = "pairs")]
    refused: BTreeMap<Refused, Refusals>,
    observed: BTreeMap<String, Observed>,
    left_out: u64,
    /// It ran before the first data path that told what it did.
    #[serde(default)]
    began_before: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Refused {
    host: String,
    /// 0 for a look-up.
    port: u16,
    reason: String,
    /// The sentence, where it tells refusals of one host apart.
    about: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusals {
    count: u64,
    /// The sentence of the first.
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
                doings.charge(draft.data.model.as_deref().unwrap_or("?"), 1, draft.data.cost.unwrap_or_default());
                doings.calls += 1;
                doings.spent = doings.spent.saturating_add(draft.data.cost.unwrap_or_default());
            }
            Kind::Decision if draft.data.decision == Some("deny") => doings.refuse(draft),
            Kind::Decision => doings.observe(draft),
            _ => {}
        }
    }

    /// Gives what was noted, and begins anew.
    pub(crate) fn take(&self) -> HashMap<CgroupId, Doings> {
        std::mem::take(&mut *self.all())
    }

    /// Adds what an agent did at the hands of another data path.
    pub(crate) fn add(&self, agent: CgroupId, doings: Doings) {
        self.all().entry(agent).or_default().add(doings);
    }

    /// Notes that an agent ran before, at the hands of a data path that told nothing.
    pub(crate) fn began_before(&self, agent: CgroupId) {
        self.all().entry(agent).or_default().began_before = true;
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
        let refused: Vec<Value> = doings.refusals().map(|(refused, some)| refused.to_json(some)).collect();
        let policy = learn.then(|| rules_for(&doings.agent, doings.observed.values()));
        let mut text = doings.text();
        if doings.left_out > 0 {
            text.push_str(&format!(
                "; {} more kinds of refusals or requests are in `caracald events`",
                doings.left_out
            ));
        }
        if doings.began_before {
            text.push_str("; what it did before the daemon was started again is in `caracald events`");
        }
        json!({ "text": text, "calls": doings.calls, "spent_nano_usd": doings.spent.0, "refused": refused, "policy": policy })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<CgroupId, Doings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doings {
    fn add(&mut self, other: Doings) {
        if self.agent.is_empty() {
            self.agent = other.agent;
        }
        for (model, (calls, spent)) in other.models {
            self.charge(&model, calls, spent);
        }
        self.requests += other.requests;
        self.calls += other.calls;
        self.spent = self.spent.saturating_add(other.spent);
        self.left_out += other.left_out;
        self.began_before |= other.began_before;
        for (refused, more) in other.refused {
            if self.refused.len() >= MOST && !self.refused.contains_key(&refused) {
                self.left_out += 1;
                continue;
            }
            let mine = self.refused.entry(refused).or_insert(Refusals { count: 0, sentence: more.sentence });
            mine.count += more.count;
        }
        for (key, observed) in other.observed {
            if self.observed.len() >= MOST && !self.observed.contains_key(&key) {
                self.left_out += 1;
                continue;
            }
            self.observed.insert(key, observed);
        }
    }

    fn charge(&mut self, model: &str, calls: u64, spent: NanoUsd) {
        let known = self.models.len() < MOST || self.models.contains_key(model);
        let sum = self.models.entry(if known { model } else { OTHERS }.to_owned()).or_default();
        *sum = (sum.0 + calls, sum.1.saturating_add(spent));
    }

    fn refuse(&mut self, draft: &Draft) {
        let sentence = draft.detail.sentence.clone().unwrap_or_default();
        let reason = draft.data.reason.unwrap_or_default();
        // Sentences of the policy name the path: one line for each would be a list that nobody reads.
        let by_policy = [Reason::HostNotAllowed, Reason::PolicyDenied].iter().any(|one| one.code() == reason);
        let refused = Refused {
            host: draft.detail.host.clone().unwrap_or_default(),
            port: if is_lookup(draft) { 0 } else { draft.detail.port.unwrap_or(443) },
            reason: reason.to_owned(),
            about: (!by_policy).then(|| sentence.clone()),
        };
        if self.refused.len() >= MOST && !self.refused.contains_key(&refused) {
            self.left_out += 1;
            return;
        }
        self.refused.entry(refused).or_insert(Refusals { count: 0, sentence }).count += 1;
    }

    /// What was refused. A refused look-up is answered in such a way that the connection arrives and can be refused in
    /// words: where it did, the look-up is the same refusal and not told again.
    fn refusals(&self) -> impl Iterator<Item = (&Refused, &Refusals)> {
        let told = |one: &Refused| {
            one.port == 0
                && self
                    .refused
                    .keys()
                    .any(|other| other.port != 0 && other.host == one.host && other.reason == one.reason)
        };
        self.refused.iter().filter(move |(one, _)| !told(one))
    }

    fn observe(&mut self, draft: &Draft) {
        let Some(host) = draft.detail.host.clone() else { return };
        let lookup = is_lookup(draft);
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

fn is_lookup(draft: &Draft) -> bool {
    draft.data.action == Some(Action::Resolve.as_str())
}

impl Refused {
    fn to_json(&self, some: &Refusals) -> Value {
        let count = some.count;
        let times = if count > 1 { format!(", {count} times") } else { String::new() };
        let host_rule = self.reason == Reason::HostNotAllowed.code();
        let why = if host_rule || some.sentence.is_empty() { String::new() } else { format!(": {}", some.sentence) };
        let place =
            if self.port == 0 { format!("{}, looked up", self.host) } else { format!("{}:{}", self.host, self.port) };
        json!({
            "what": format!("{place} ({}{times}){why}", self.reason),
            "host": self.host, "port": self.port, "reason": self.reason, "count": count,
            "allow": host_rule.then(|| line_that_would_allow(Action::Request, &self.host, self.port)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, Detail};

    fn draft(action: Action, host: &str, port: Option<u16>, reason: Reason, sentence: &str) -> Draft {
        let data = Data {
            decision: Some("deny"),
            action: Some(action.as_str()),
            reason: Some(reason.code()),
            ..Data::default()
        };
        let sentence = Some(sentence.to_owned()).filter(|text| !text.is_empty());
        let detail = Detail { host: Some(host.to_owned()), port, sentence, ..Detail::default() };
        Draft { kind: Kind::Decision, at: crate::clock::UnixNanos(0), data: data.into(), detail }
    }

    fn told(drafts: &[Draft]) -> Vec<(String, u64, u64)> {
        let tally = Tally::default();
        drafts.iter().for_each(|draft| tally.note(CgroupId(1), draft));
        let summary = tally.summary(CgroupId(1), false);
        let line = |line: &Value| {
            (
                line["what"].as_str().unwrap_or_default().to_owned(),
                line["port"].as_u64().unwrap_or(9),
                line["count"].as_u64().unwrap_or(0),
            )
        };
        summary["refused"].as_array().map(|lines| lines.iter().map(line).collect()).unwrap_or_default()
    }

    #[test]
    fn a_refused_host_is_told_once() {
        let lookup = || draft(Action::Resolve, "a.test", None, Reason::HostNotAllowed, "");
        let request =
            |path: &str| draft(Action::Request, "a.test", Some(443), Reason::HostNotAllowed, &format!("no GET {path}"));
        let once = vec![("a.test:443 (host_not_allowed, 2 times)".to_owned(), 443, 2)];
        assert_eq!(told(&[lookup(), lookup(), request("/1"), request("/2")]), once);
        assert_eq!(told(&[request("/1"), request("/2"), lookup()]), once);
        assert_eq!(told(&[lookup()]), [("a.test, looked up (host_not_allowed)".to_owned(), 0, 1)]);
    }

    #[test]
    fn what_another_data_path_noted_is_added() {
        let lookup = draft(Action::Resolve, "b.test", None, Reason::HostNotAllowed, "");
        let outcome = |cost| Draft {
            kind: Kind::Outcome,
            data: Data { model: Some("m".into()), cost: Some(NanoUsd(cost)), ..Data::default() }.into(),
            ..draft(Action::Llm, "a.test", None, Reason::PriceUnknown, "")
        };
        let (before, after) = (Tally::default(), Tally::default());
        [lookup.clone(), outcome(3)].iter().for_each(|draft| before.note(CgroupId(1), draft));
        [lookup, outcome(4)].iter().for_each(|draft| after.note(CgroupId(1), draft));
        for told in before.take() {
            let sent = serde_json::to_vec(&told).expect("JSON");
            let (agent, doings) = serde_json::from_slice(&sent).expect("the same");
            after.add(agent, doings);
        }
        let summary = after.summary(CgroupId(1), false);
        assert_eq!((&summary["calls"], &summary["spent_nano_usd"]), (&json!(2), &json!(7)));
        assert_eq!(summary["refused"][0]["count"], 2, "{summary}");
        assert!(before.take().is_empty());
    }

    #[test]
    fn models_of_any_name_are_bounded_and_none_of_their_money_is_lost() {
        let outcome = |model: String| Draft {
            kind: Kind::Outcome,
            data: Data { model: Some(model.into()), cost: Some(NanoUsd(2)), ..Data::default() }.into(),
            ..draft(Action::Llm, "a.test", None, Reason::PriceUnknown, "")
        };
        let (before, after) = (Tally::default(), Tally::default());
        for (tally, names) in [(&before, 0..1_000), (&after, 500..1_500)] {
            names.for_each(|name| tally.note(CgroupId(1), &outcome(format!("m{name:04}"))));
        }
        before.take().into_iter().for_each(|(agent, doings)| after.add(agent, doings));
        let summary = after.summary(CgroupId(1), false);
        assert_eq!((&summary["calls"], &summary["spent_nano_usd"]), (&json!(2_000), &json!(4_000)));
        let all = after.take();
        let models = &all[&CgroupId(1)].models;
        assert_eq!((models.len(), models.values().map(|sum| sum.1.0).sum::<u64>()), (MOST + 1, 4_000));
        assert!(models[OTHERS].0 > 1_000);
    }

    #[test]
    fn other_refusals_are_told_apart() {
        let unknown = |model: &str| {
            draft(Action::Llm, "a.test", Some(443), Reason::PriceUnknown, &format!("no price of {model}"))
        };
        let lines = told(&[
            draft(Action::Resolve, "b.test", None, Reason::HostNotAllowed, ""),
            unknown("one"),
            unknown("two"),
            draft(Action::Request, "b.test", Some(443), Reason::PolicyDenied, "policy no forbids it"),
        ]);
        assert_eq!(lines.len(), 4, "{lines:?}");
    }
}
