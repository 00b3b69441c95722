//! What the story of a connection needs: the stages, and how much of each one connection may take.

use crate::agent::{Agent, CgroupId};
use crate::budget::{Budgets, Rates};
use crate::clock::Clock;
use crate::dns::pins::Pins;
use crate::dns::resolve::Resolver;
use crate::http::body::Patience;
use crate::http::listeners::Listeners;
use crate::http::pool::Pool;
use crate::http::room::Room;
use crate::intercept::record::Recorder;
use crate::intercept::remember::Remembered;
use crate::intercept::tally::Tally;
use crate::journal::Journal;
use crate::meter::Meter;
use crate::policy::{Decision, Engine};
use crate::telemetry::Telemetry;
use crate::tls::accept::Acceptor;
use crate::tls::trust::TrustTable;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Bounds of one connection or request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a connection may take to show what it speaks, and a handshake to finish.
    pub handshake: Duration,
    /// How long a connection may wait before its first byte.
    pub first_byte: Duration,
    /// How long an HTTP/1 connection may wait for its next whole head.
    pub head: Duration,
    /// The longest body that is read for pricing, bytes.
    pub priced_body: usize,
    /// What is held of all such bodies at once, bytes; one agent has a quarter of it.
    pub priced_bodies: usize,
    /// How long such a body may take.
    pub patience: Patience,
    /// The lowest output cap that a clamp may set, tokens.
    pub min_output: u64,
    /// Responses over a WebSocket are metered; otherwise the upgrade is refused.
    pub websockets: bool,
    /// What is still read of an answer after the agent hung up, bytes.
    pub drain_bytes: u64,
    /// How long it is read.
    pub drain_time: Duration,
    /// Answers read on at once after their agents hung up.
    pub drains: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(15),
            first_byte: Duration::from_secs(300),
            head: Duration::from_secs(300),
            priced_body: 64 * 1_024 * 1_024,
            priced_bodies: 1_024 * 1_024 * 1_024,
            patience: Patience::default(),
            min_output: 4_096,
            websockets: false,
            drain_bytes: 64 * 1_024 * 1_024,
            drain_time: Duration::from_secs(600),
            drains: 1_024,
        }
    }
}

/// The stages and values that a [`Stack`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Tells the time.
    pub clock: Clock,
    /// Decides.
    pub policy: Arc<Engine>,
    /// Prices.
    pub meter: Arc<Meter>,
    /// Holds.
    pub budgets: Arc<Budgets>,
    /// Counts requests and tokens.
    pub rates: Rates,
    /// Records.
    pub journal: Journal,
    /// Looks names up.
    pub resolver: Arc<Resolver>,
    /// Keeps connections to upstreams.
    pub pool: Arc<Pool>,
    /// Ends TLS with agents.
    pub acceptor: Acceptor,
    /// Counts.
    pub telemetry: Arc<Telemetry>,
    /// Bounds.
    pub limits: Limits,
    /// Cookie of this process's own network namespace (`SO_NETNS_COOKIE`): loopback is dialled for agents in it and no others.
    pub netns: u64,
}

/// Everything that a connection meets on its way. One per process.
#[derive(Debug)]
pub struct Stack {
    pub(crate) clock: Clock,
    pub(crate) policy: Arc<Engine>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) rates: Rates,
    pub(crate) journal: Journal,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) acceptor: Acceptor,
    pub(crate) trust: TrustTable,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limits: Limits,
    pub(crate) netns: u64,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) remembered: Remembered,
    pub(crate) pins: Pins,
    pub(crate) drains: Arc<Semaphore>,
    pub(crate) room: Arc<Room>,
    pub(crate) listeners: Arc<Listeners>,
    leaving: watch::Sender<bool>,
}

impl Stack {
    /// A stack of `parts`. Call it inside a tokio runtime.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Stack> {
        Arc::new(Stack {
            trust: TrustTable::new(parts.clock.clone()),
            recorder: Recorder::new(parts.journal.clone(), parts.clock.clone(), parts.telemetry.clone()),
            remembered: Remembered::default(),
            pins: Pins::default(),
            leaving: watch::channel(false).0,
            drains: Arc::new(Semaphore::new(parts.limits.drains)),
            room: Room::new(parts.limits.priced_bodies),
            listeners: Arc::default(),
            clock: parts.clock,
            policy: parts.policy,
            meter: parts.meter,
            budgets: parts.budgets,
            rates: parts.rates,
            journal: parts.journal,
            resolver: parts.resolver,
            pool: parts.pool,
            acceptor: parts.acceptor,
            telemetry: parts.telemetry,
            limits: parts.limits,
            netns: parts.netns,
        })
    }

    /// Asks connections to end with the requests that they have.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// Turns true when connections are to end.
    pub(crate) fn leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// Which processes do not trust the local CA, for `status`.
    #[must_use]
    pub fn trust(&self) -> &TrustTable {
        &self.trust
    }

    /// What each agent did so far, for the last words of `run`.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.recorder.tally()
    }

    /// The resolver, for the agent-facing loops.
    #[must_use]
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// Records the decision about a look-up, equal ones of a second as one, and remembers which name its addresses were
    /// told for: what `dns::serve` calls.
    pub fn name_decided(&self, agent: &Arc<Agent>, host: &str, decision: &Decision, addresses: Vec<IpAddr>) {
        self.pins.pin(agent.cgroup, host, addresses);
        let policy_set = self.policy.current().hash();
        self.recorder.name(agent, host, decision, policy_set);
    }

    /// Forgets what an agent that is no more looked up.
    pub fn forget_names(&self, agent: CgroupId) {
        self.pins.forget(agent);
    }

    /// Forgets the refusals that are answered again unasked: after a reload of policy or budgets.
    pub fn forget_refusals(&self) {
        self.remembered.clear();
    }

    /// Whether an answer is still read whose agent has hung up.
    #[must_use]
    pub fn reads_on(&self) -> bool {
        self.drains.available_permits() < self.limits.drains
    }

    /// Writes every count that is still open: before the process ends.
    pub async fn flush(&self) {
        self.recorder.flush().await;
    }
}
