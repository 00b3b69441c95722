//! The one place where decisions and refusals of names, connections and requests become records. Equal ones within a
//! second become one record with an exact count, which outlives the process from the event on; when there are too many
//! kinds of them, their destination is dropped, then their agent, and never their count.

use super::tally::Tally;
use crate::agent::{Agent, Process};
use crate::clock::Clock;
use crate::event::{Data, Detail, Draft, Kind};
use crate::journal::{Counted, Journal, JournalError};
use crate::policy::{Action, Decision, Verdict};
use crate::refusal::{Refusal, Stage};
use crate::telemetry::Telemetry;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long equal events are counted together.
const WINDOW: Duration = Duration::from_secs(1);
/// Kinds of events counted at once.
const MOST_OPEN: usize = 4_096;
/// From here on only their reasons are told apart: there are fewer of them than what the journal can keep beside.
const MOST_WITHOUT_DESTINATION: usize = 5_120;

/// What makes two events equal: agent, rule, destination, and a call's model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Equal {
    agent: Option<Arc<str>>,
    reason: Option<&'static str>,
    action: Option<&'static str>,
    policies: Vec<Arc<str>>,
    host: Option<String>,
    port: Option<u16>,
    model: Option<Arc<str>>,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) action: Option<Action>,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) method: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    pub(crate) model: Option<&'a Arc<str>>,
}

/// Writes decisions.
#[derive(Debug)]
pub(crate) struct Recorder {
    journal: Journal,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    open: Mutex<HashMap<Equal, Counted>>,
    tally: Tally,
}

impl Recorder {
    pub(crate) fn new(journal: Journal, clock: Clock, telemetry: Arc<Telemetry>) -> Arc<Recorder> {
        Arc::new(Recorder { journal, clock, telemetry, open: Mutex::default(), tally: Tally::default() })
    }

    /// What each agent did so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A draft with what is known of every event.
    pub(crate) fn draft(&self, kind: Kind, agent: &Agent, process: Option<&Process>) -> Draft {
        let data = Data {
            agent: Some(agent.name.clone()),
            cgroup: Some(process.map_or(agent.cgroup.0, |process| process.cgroup.0)),
            pid: process.map(|process| process.tgid),
            comm: process.map(|process| process.comm.clone()),
            netns: process.map(|process| process.netns),
            ..Data::default()
        };
        let detail = Detail { uid: Some(process.map_or(agent.uid, |process| process.uid)), ..Detail::default() };
        Draft { kind, at: self.clock.now(), data: data.into(), detail }
    }

    /// Hands an allowed request to the journal before it is forwarded.
    pub(crate) async fn allowed(&self, agent: &Agent, draft: Draft) -> Result<(), JournalError> {
        self.tally.note(agent.cgroup, &draft);
        self.journal.append(draft).await
    }

    /// Counts a refusal.
    pub(crate) fn refused(
        self: &Arc<Self>,
        agent: &Agent,
        process: Option<&Process>,
        refusal: &Refusal,
        about: About<'_>,
        policies: &[Arc<str>],
        policy_set: Option<Arc<str>>,
    ) {
        Telemetry::count(&self.telemetry.refusals);
        let mut draft = self.draft(Kind::Decision, agent, process);
        draft.data.decision = Some("deny");
        draft.data.reason = Some(refusal.reason.code());
        draft.data.stage = Some(stage_code(refusal.stage));
        draft.data.action = about.action.map(action_code);
        draft.data.policies = policies.to_vec();
        draft.data.policy_set = policy_set;
        draft.data.model = about.model.cloned();
        draft.detail.host = Some(about.host.to_owned()).filter(|host| !host.is_empty());
        draft.detail.port = Some(about.port).filter(|port| *port != 0);
        draft.detail.method = about.method.map(str::to_owned);
        draft.detail.path = about.path.map(str::to_owned);
        draft.detail.sentence = Some(refusal.sentence.clone());
        self.tally.note(agent.cgroup, &draft);
        self.count(draft);
    }

    /// Counts a decision about a name.
    pub(crate) fn name(self: &Arc<Self>, agent: &Agent, host: &str, decision: &Decision, policy_set: Arc<str>) {
        let mut draft = self.draft(Kind::Decision, agent, None);
        match &decision.verdict {
            Verdict::Allow(grant) => {
                draft.data.decision = Some("allow");
                draft.data.reason = grant.learned.then_some("learned");
            }
            Verdict::Deny(reason) => {
                Telemetry::count(&self.telemetry.refusals);
                draft.data.decision = Some("deny");
                draft.data.reason = Some(reason.code());
                draft.data.stage = Some(stage_code(Stage::Policy));
            }
        }
        draft.data.action = Some(action_code(Action::Resolve));
        draft.data.policies = decision.policies.clone();
        draft.data.policy_set = Some(policy_set);
        draft.detail.host = Some(host.to_owned());
        self.tally.note(agent.cgroup, &draft);
        self.count(draft);
    }

    fn count(self: &Arc<Self>, draft: Draft) {
        let mut equal = Equal {
            agent: draft.data.agent.clone(),
            reason: draft.data.reason,
            action: draft.data.action,
            policies: draft.data.policies.clone(),
            host: draft.detail.host.clone(),
            port: draft.detail.port,
            model: draft.data.model.clone(),
        };
        let mut draft = draft;
        let mut open = self.open();
        if let Some(counted) = open.get_mut(&equal) {
            counted.add();
            return;
        }
        let kinds = open.len();
        if kinds >= MOST_OPEN {
            (equal.host, equal.port, equal.model) = (None, None, None);
            equal.policies = Vec::new();
            draft.data.model = None;
            draft.detail = Detail::default();
        }
        if kinds >= MOST_WITHOUT_DESTINATION {
            (equal.agent, equal.action) = (None, None);
            let data = Data { decision: draft.data.decision, reason: draft.data.reason, ..Data::default() };
            draft = Draft { kind: draft.kind, at: draft.at, data: data.into(), detail: Detail::default() };
        }
        if let Some(counted) = open.get_mut(&equal) {
            counted.add();
            return;
        }
        drop(open);
        let Some(new) = self.begin(draft) else { return };
        let mut open = self.open();
        match open.entry(equal) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().add();
            }
            Entry::Vacant(entry) => {
                let equal = entry.key().clone();
                if !entry.insert(new).add() {
                    tracing::warn!(
                        "too many kinds of refusals at once: a kill within the second would lose this count"
                    );
                }
                drop(open);
                let recorder = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(WINDOW).await;
                    recorder.write(&equal).await;
                });
            }
        }
    }

    /// A count that begins with `draft`; without its detail where that cannot be sealed.
    fn begin(&self, draft: Draft) -> Option<Counted> {
        let plain = match self.journal.count(&draft) {
            Ok(counted) => return Some(counted),
            Err(error) => {
                tracing::error!(%error, "a refusal is recorded without its detail");
                Draft { detail: Detail::default(), ..draft }
            }
        };
        self.journal.count(&plain).inspect_err(|error| tracing::error!(%error, "a refusal cannot be recorded")).ok()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Equal, Counted>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was counted of one kind, once the journal takes it. Until then it is counted on.
    async fn write(&self, equal: &Equal) {
        let mut told = false;
        while let Some(why) = self.journal.tail().failure() {
            if !std::mem::replace(&mut told, true) {
                tracing::error!(why, "a refusal waits for the journal");
            }
            tokio::time::sleep(WINDOW).await;
        }
        let taken = self.open().remove(equal);
        let Some(mut counted) = taken else { return };
        while let Err((error, back)) = self.journal.append_counted(counted).await {
            tracing::error!(%error, count = back.count(), "a refusal waits for the journal");
            counted = back;
            tokio::time::sleep(WINDOW).await;
        }
    }

    /// Writes every count at once.
    pub(crate) async fn flush(&self) {
        let all: Vec<Counted> = self.open().drain().map(|(_, counted)| counted).collect();
        for counted in all {
            if let Err((error, counted)) = self.journal.append_counted(counted).await {
                tracing::error!(%error, count = counted.count(), "a refusal waits for the next start");
            }
        }
    }
}

/// The code of an action, as records carry it.
pub(crate) fn action_code(action: Action) -> &'static str {
    match action {
        Action::Connect => "connect",
        Action::Resolve => "resolve",
        Action::Request => "request",
        Action::Llm => "llm",
        Action::Tool => "tool",
    }
}

fn stage_code(stage: Stage) -> &'static str {
    match stage {
        Stage::Capture => "capture",
        Stage::Dns => "dns",
        Stage::Tls => "tls",
        Stage::Http => "http",
        Stage::Policy => "policy",
        Stage::Meter => "meter",
        Stage::Budget => "budget",
        Stage::Journal => "journal",
    }
}
