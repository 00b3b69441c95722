//! Which processes do not trust the local CA. A client that distrusts it often says nothing at all, so this does.

use crate::agent::Process;
use crate::clock::{Clock, UnixNanos};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Processes remembered.
const MOST_PROCESSES: usize = 1_024;

/// What the handshakes of one process came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Trust {
    /// The agent's name.
    pub agent: String,
    /// Process id.
    pub tgid: u32,
    /// Task name.
    pub comm: String,
    /// Handshakes after which the process sent a request.
    pub trusted: u64,
    /// Handshakes that ended with an alert, or without one byte after them.
    pub untrusted: u64,
    /// The server name of the last one that was not trusted.
    pub last_host: Option<String>,
    /// When that was.
    pub last: UnixNanos,
}

impl Trust {
    /// It has broken off handshakes and never once gone through with one.
    #[must_use]
    pub fn is_untrusting(&self) -> bool {
        self.untrusted > 0 && self.trusted == 0
    }
}

/// The processes seen, the most recent [`MOST_PROCESSES`] of them.
#[derive(Debug)]
pub struct TrustTable {
    clock: Clock,
    seen: Mutex<HashMap<(u64, u32), Trust>>,
}

impl TrustTable {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(clock: Clock) -> TrustTable {
        TrustTable { clock, seen: Mutex::new(HashMap::new()) }
    }

    /// A process sent a request through TLS that we ended.
    pub fn trusted(&self, agent: &str, process: &Process) {
        self.with(agent, process, |trust, _| trust.trusted += 1);
    }

    /// A process broke a handshake off.
    pub fn untrusted(&self, agent: &str, process: &Process, host: Option<&str>) {
        self.with(agent, process, |trust, now| {
            trust.untrusted += 1;
            trust.last_host = host.map(str::to_owned);
            trust.last = now;
        });
    }

    /// Every process that broke a handshake off, the latest first.
    #[must_use]
    pub fn broken_off(&self) -> Vec<Trust> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Trust> = seen.values().filter(|trust| trust.untrusted > 0).cloned().collect();
        all.sort_by_key(|trust| std::cmp::Reverse(trust.last));
        all
    }

    fn with(&self, agent: &str, process: &Process, change: impl FnOnce(&mut Trust, UnixNanos)) {
        let now = self.clock.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (process.cgroup.0, process.tgid);
        if seen.len() >= MOST_PROCESSES && !seen.contains_key(&key) {
            // Those that trust us are worth least, then the oldest.
            let goes = seen.iter().min_by_key(|(_, trust)| (trust.is_untrusting(), trust.last)).map(|(key, _)| *key);
            if let Some(goes) = goes {
                seen.remove(&goes);
            }
        }
        let trust = seen.entry(key).or_insert_with(|| Trust {
            agent: agent.to_owned(),
            tgid: process.tgid,
            comm: process.comm.clone(),
            trusted: 0,
            untrusted: 0,
            last_host: None,
            last: now,
        });
        change(trust, now);
    }
}
