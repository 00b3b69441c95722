//! Takes the listener; gives [`Captured`] connections, at most so many at once for all agents and for each.
//! A probe of our own, known by its port, is answered here after it has gone through policy and journal.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use caracal_common::flow::DNS_PORT;

use super::Captured;
use super::flows::{Flows, original, process};
use super::roster::Roster;
use crate::agent::CgroupId;
use crate::telemetry::Telemetry;

/// What an accepted connection turned out to be.
#[derive(Debug)]
pub enum Accepted {
    /// An agent's.
    Agent(Captured, Permit),
    /// Our own probe.
    Probe(TcpStream),
    /// An agent's, and one too many.
    TooMany(Captured),
    /// Nobody's that we know: closed.
    Stranger,
}

/// Limits on open connections.
#[derive(Debug)]
pub struct Limits {
    configured: usize,
    most: usize,
    total: Arc<Semaphore>,
    per_agent: usize,
    open: Mutex<HashMap<CgroupId, usize>>,
}

impl Limits {
    /// At most `configured` connections, or as many as this process has descriptors for (`allowed`), and `per_agent` of each
    /// agent. What is beyond is refused, not left without a descriptor: a probe must always get one.
    #[must_use]
    pub fn new(configured: usize, allowed: usize, per_agent: usize) -> Arc<Limits> {
        let most = configured.min(allowed).min(Semaphore::MAX_PERMITS);
        Arc::new(Limits { configured, most, total: Arc::new(Semaphore::new(most)), per_agent, open: Mutex::default() })
    }

    /// How many connections are taken at once, and how many the configuration says.
    #[must_use]
    pub fn most(&self) -> (usize, usize) {
        (self.most, self.configured)
    }

    /// Whether any connection is open.
    #[must_use]
    pub fn in_use(&self) -> bool {
        !self.open().is_empty()
    }

    fn take(self: &Arc<Limits>, agent: CgroupId) -> Option<Permit> {
        let total = Arc::clone(&self.total).try_acquire_owned().ok()?;
        let mut open = self.open();
        let count = open.entry(agent).or_default();
        if *count >= self.per_agent {
            return None;
        }
        *count += 1;
        Some(Permit { limits: Arc::clone(self), agent, _total: total })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<CgroupId, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    agent: CgroupId,
    _total: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        if let Some(count) = open.get_mut(&self.agent) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.agent);
            }
        }
    }
}

/// The source ports of probes that are on their way.
#[derive(Debug, Default)]
pub struct Probes(Mutex<HashSet<SocketAddr>>);

impl Probes {
    /// A probe from this address is coming.
    pub fn expect(&self, from: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
    }

    /// Whether it was expected; it is no longer.
    pub fn forget(&self, from: SocketAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&from)
    }
}

/// Everything that tells one accepted socket from another.
#[derive(Debug)]
pub struct Gate {
    /// The cookie of our own network namespace.
    pub netns: u64,
    /// The kernel's flows.
    pub flows: Flows,
    /// The agents.
    pub roster: Roster,
    /// The probes under way.
    pub probes: Probes,
    /// The limits.
    pub limits: Arc<Limits>,
    /// Our own counters.
    pub telemetry: Arc<Telemetry>,
}

impl Gate {
    /// Accepts the next connection of a listener in the namespace with the cookie `netns`.
    ///
    /// # Errors
    /// When the process is out of descriptors; the caller waits a little and goes on.
    pub async fn accept(&self, listener: &TcpListener, netns: u64) -> std::io::Result<Accepted> {
        let (stream, peer) = listener.accept().await?;
        // Probes come from our own namespace: in another one the same address is somebody else's.
        if netns == self.netns && self.probes.forget(peer) {
            return Ok(Accepted::Probe(stream));
        }
        Telemetry::count(&self.telemetry.connections);
        // Of a connection that was reset meanwhile the source address may be another socket's, and the flow that of another
        // agent: it is asked for no such one, and a connection that has a peer after the look-up had its address all along.
        let lives = || stream.peer_addr().is_ok();
        let known = if lives() { self.flows.take_connection(netns, peer) } else { None };
        let known = known.filter(|_| lives());
        // A source port is told apart by its own namespace and address only: one that asked for a resolver has another listener.
        let known = known.filter(|flow| flow.port != DNS_PORT);
        let known = known.and_then(|flow| Some((flow, self.roster.agent(CgroupId(flow.agent))?)));
        let Some((flow, agent)) = known else {
            Telemetry::count(&self.telemetry.refusals);
            return Ok(Accepted::Stranger);
        };
        let permit = self.limits.take(agent.cgroup);
        let captured = Captured { stream, original: original(&flow), agent, process: process(&flow) };
        Ok(match permit {
            Some(permit) => Accepted::Agent(captured, permit),
            None => Accepted::TooMany(captured),
        })
    }
}
