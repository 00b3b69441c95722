//! The stages to the right of the data path, as the tests need them.

use crate::agent::{Agent, CgroupId, Process};
use crate::budget::{Budgets, RateSpec, Rates};
use crate::clock::Clock;
use crate::journal::Journal;
use crate::meter::Meter;
use crate::policy::Engine;
use std::path::Path;
use std::sync::Arc;

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
    pub(crate) bytes: (Option<u64>, Option<u64>),
}

/// The stages that other files own.
pub(crate) struct Stages {
    pub(crate) policy: Arc<Engine>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) rates: Rates,
    pub(crate) journal: Journal,
}

/// Two requests an hour of the agent `hasty`.
fn rate(name: &str, host: &str) -> RateSpec {
    RateSpec {
        name: name.into(),
        requests: Some(2),
        tokens: None,
        window: crate::budget::Window::Hour,
        agents: vec!["hasty".into()],
        models: Vec::new(),
        providers: Vec::new(),
        hosts: vec![host.into()],
        per: crate::budget::Per::Agent,
    }
}

impl Stages {
    /// Everyone may: any `*.test` but `denied.test` on any port, loopback meant; `public.test` without private addresses;
    /// `api.openai.com`; `b.test` without DELETE and `/admin`; 127.0.0.9 and `tcp.example` as tcp; `pass.test` as tls-passthrough. Nothing else.
    pub(crate) fn new(directory: &Path, clock: &Clock, broken: bool) -> Stages {
        std::fs::write(directory.join("rules.cedar"), RULES).expect("rules");
        let config = crate::config::Config::parse("[policy]\ncedar = [\"rules.cedar\"]\n", Path::new("caracal.toml"))
            .expect("config");
        let mut poor = crate::budget::BudgetSpec::daily("poor", crate::money::NanoUsd(1));
        poor.agents = vec!["poor".into()];
        let watched = crate::budget::BudgetSpec {
            agents: vec!["watched".into()],
            soft: true,
            warn_at: vec![50, 80],
            ..crate::budget::BudgetSpec::daily("watched", crate::money::NanoUsd(1))
        };
        let all = crate::budget::BudgetSpec::daily("all", crate::money::NanoUsd(1_000_000_000_000));
        let mut options = crate::journal::Options { kept: 6_000, ..crate::journal::Options::default() };
        if broken {
            (options.segment_bytes, options.max_bytes) = (1 << 18, 1 << 19);
            options.room_within = std::time::Duration::from_millis(50);
        }
        let (journal, _) = Journal::open(&directory.join("journal"), &directory.join("keys"), "host-1", options, clock)
            .expect("journal");
        if broken {
            fill(&journal);
        }
        Stages {
            policy: Arc::new(Engine::load(&config, directory).expect("policy")),
            meter: Arc::new(Meter::new(crate::meter::PriceBook::built_in().expect("prices"), [])),
            budgets: Arc::new(
                Budgets::new(vec![all, poor, watched], clock.clone(), Default::default()).expect("budgets"),
            ),
            rates: Rates::new(vec![rate("hasty-calls", "*.com"), rate("hasty-requests", "*.test")]),
            journal,
        }
    }

    /// Every record so far.
    pub(crate) fn records(&self) -> Vec<Seen> {
        let mut reader = self.journal.reader(0);
        let mut all = Vec::new();
        loop {
            let batch = reader.batch(1_000, 1 << 22).expect("readable");
            if batch.is_empty() {
                break;
            }
            for entry in batch {
                let json: serde_json::Value = serde_json::from_slice(&entry.bytes).expect("json");
                let d = &json["data"];
                let text = |key: &str| d[key].as_str().map(str::to_owned);
                let number = |key: &str| d[key].as_u64().or_else(|| d[key].as_str().and_then(|t| t.parse().ok()));
                all.push(Seen {
                    kind: json["type"].as_str().unwrap_or("").to_owned(),
                    decision: text("caracal.decision"),
                    reason: text("caracal.reason"),
                    action: text("caracal.action"),
                    settle: text("caracal.settle"),
                    cost: number("caracal.cost.nano_usd"),
                    hold: number("caracal.hold.nano_usd"),
                    count: number("caracal.count").unwrap_or(1),
                    call: text("caracal.call"),
                    bytes: (number("caracal.bytes.sent"), number("caracal.bytes.received")),
                });
            }
        }
        all
    }

    /// Waits until what was handed to the journal before can be read.
    pub(crate) async fn written(&self) {
        self.journal.flush().await.expect("written");
    }
}

/// Writes until the journal's limit says no.
fn fill(journal: &Journal) {
    use crate::event::{Data, Detail, Draft, Kind};
    let journal = journal.clone();
    let filling = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let data = Data { message: Some("x".repeat(8_000)), ..Data::default() };
        let draft = Draft {
            kind: Kind::Lifecycle,
            at: crate::clock::UnixNanos(1),
            data: data.into(),
            detail: Detail::default(),
        };
        runtime.block_on(async { while journal.durable(draft.clone()).await.is_ok() {} });
    });
    filling.join().expect("filled");
}

const RULES: &str = r#"
@id("names") @private("true") permit(principal, action in [Action::"resolve", Action::"request", Action::"llm", Action::"tool"], resource)
when { (context.host like "*.test" && context.host != "denied.test" && context.host != "public.test") || context.host == "api.openai.com" };
@id("no-admin") forbid(principal, action == Action::"request", resource) when { context.host == "b.test" && (context.method == "DELETE" || context.path like "/admin*") };
@id("public") permit(principal, action in [Action::"resolve", Action::"request"], resource) when { context.host == "public.test" };
@id("tcp") @private("true") @mode("tcp") permit(principal, action == Action::"connect", resource) when { context.host == "127.0.0.9" || context.host == "tcp.example" };
@id("pass") @private("true") @mode("tls-passthrough") permit(principal, action == Action::"connect", resource) when { context.host == "pass.test" };
"#;

/// An agent of this name; `other` is in a cgroup of its own.
pub(crate) fn agent(name: &str) -> Arc<Agent> {
    let cgroup = CgroupId(if name == "other" { 8 } else { 7 });
    Arc::new(Agent { name: Arc::from(name), cgroup, path: "/test".to_owned(), uid: 1_000, learn: false })
}

/// A process of it.
pub(crate) fn process() -> Process {
    Process { cgroup: CgroupId(7), pid: 42, tgid: 42, uid: 1_000, comm: "agent".to_owned(), netns: 1 }
}
