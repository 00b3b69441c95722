//! The stages to the right of the data path, as the tests need them.

use crate::agent::{Agent, CgroupId, Process};
use crate::budget::Budgets;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::meter::Meter;
use crate::policy::{Action, Ask, Decision, Engine, Grant, Mode, Verdict};
use crate::refusal::Reason;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// One record, as far as the tests look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) decision: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) settle: Option<String>,
    pub(crate) cost: Option<u64>,
    pub(crate) hold: Option<u64>,
    pub(crate) count: u64,
    pub(crate) call: Option<String>,
}

/// The stages that other files own.
pub(crate) struct Stages {
    pub(crate) policy: Arc<Engine>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) journal: Journal,
}

impl Stages {
    /// Everyone may: any `*.test` but `denied.test` on any port, loopback meant; `public.test` without private addresses;
    /// `api.openai.com`; `tcp.test`'s address 127.0.0.9 as tcp; `pass.test` as tls-passthrough. Nothing else.
    /// With a `broken` journal nothing can be recorded.
    pub(crate) fn new(_directory: &Path, _clock: &Clock, broken: bool) -> Stages {
        Stages {
            policy: Arc::new(Engine { judge }),
            meter: Arc::new(Meter {}),
            budgets: Arc::new(Budgets {}),
            journal: Journal { kept: Arc::default(), failing: Arc::new(AtomicBool::new(broken)) },
        }
    }

    /// Every record so far.
    pub(crate) fn records(&self) -> Vec<Seen> {
        let kept = self.journal.kept.lock().expect("lock");
        kept.iter()
            .map(|draft| Seen {
                kind: draft.kind.code().to_owned(),
                decision: draft.data.decision.map(str::to_owned),
                reason: draft.data.reason.map(str::to_owned),
                action: draft.data.action.map(str::to_owned),
                settle: draft.data.settle.map(str::to_owned),
                cost: draft.data.cost.map(|cost| cost.0),
                hold: draft.data.hold.map(|hold| hold.0),
                count: draft.data.count.unwrap_or(1),
                call: draft.data.call.map(|call| call.to_string()),
            })
            .collect()
    }

    /// Waits until what was handed to the journal before can be read.
    pub(crate) async fn written(&self) {}
}

fn judge(ask: &Ask<'_>) -> Decision {
    let allow = |mode, private| Decision {
        verdict: Verdict::Allow(Grant { mode, private, ..Grant::default() }),
        policies: vec![Arc::from("test-rule")],
    };
    match (ask.action, ask.host) {
        (_, "denied.test") => {}
        (Action::Connect, "127.0.0.9") => return allow(Mode::Tcp, true),
        (Action::Connect, "pass.test") => return allow(Mode::TlsPassthrough, true),
        (Action::Connect, _) => {}
        (Action::Resolve | Action::Request, "public.test") => return allow(Mode::Inspect, false),
        (Action::Resolve | Action::Request | Action::Llm, host) if host.ends_with(".test") || host == "api.openai.com" => {
            return allow(Mode::Inspect, true);
        }
        _ => {}
    }
    Decision { verdict: Verdict::Deny(Reason::PolicyDenied), policies: Vec::new() }
}

/// An agent of this name.
pub(crate) fn agent(name: &str) -> Arc<Agent> {
    Arc::new(Agent { name: Arc::from(name), cgroup: CgroupId(7), path: "/test".to_owned(), uid: 1_000, learn: false })
}

/// A process of it.
pub(crate) fn process() -> Process {
    Process { cgroup: CgroupId(7), pid: 42, tgid: 42, uid: 1_000, comm: "agent".to_owned(), netns: 1 }
}
