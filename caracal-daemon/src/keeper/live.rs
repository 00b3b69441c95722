//! Attached workloads while they run: the sockets that they hold ([`super::sweep`]) and the trust that they need
//! ([`super::trust`]). Takes a governed cgroup; gives the report that `attach` prints and `status` repeats. Everything
//! that is done here is undone by a detach.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::KeeperError;
use super::cgroup::{Cgroup, Hierarchy};
use super::control::AttachOptions;
use super::kernel::Kernel;
use super::serve::Places;
use super::sweep::{Done, Found, Made, Seen, Socket, Sweep, summary, unmark};
use super::trust::{self, Store};
use crate::agent::{Agent, CgroupId};

/// What is remembered of attached workloads.
#[derive(Debug)]
pub struct Live {
    /// The root of the hierarchy.
    root: File,
    seen: Mutex<BTreeMap<CgroupId, Seen>>,
    trust: Store,
    /// What the attach said of each agent's trust.
    judged: Mutex<BTreeMap<CgroupId, trust::Report>>,
}

/// What an attach found and did.
#[derive(Debug)]
pub struct Report {
    sockets: Vec<Socket>,
    settled: bool,
    trust: trust::Report,
}

impl Report {
    /// For the ledger: counts, and nobody's name.
    #[must_use]
    pub fn summary(&self) -> String {
        let unsettled = if self.settled { "" } else { "; the workload did not settle" };
        let distrust = self.trust.processes.iter().filter(|one| one.verdict != trust::judge::Trusts::Trusted).count();
        let (processes, places) = (self.trust.processes.len(), self.trust.places.len());
        format!(
            "{}{unsettled}; {processes} processes, {distrust} of them not known to trust the CA, {places} changes for trust",
            summary(&self.sockets)
        )
    }

    /// For the caller.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "sockets": self.sockets, "settled": self.settled, "summary": summary(&self.sockets), "trust": self.trust,
        })
    }
}

impl Live {
    /// Nothing attached yet.
    ///
    /// # Errors
    /// When the hierarchy cannot be opened.
    pub fn new(hierarchy: &Hierarchy, places: &Places, instance: &str, ca: &str) -> Result<Live, KeeperError> {
        let root = File::open(hierarchy.root()).map_err(|error| KeeperError::Cgroup(error.to_string()))?;
        let trust = Store::open(places, instance, ca)?;
        Ok(Live { root, seen: Mutex::default(), trust, judged: Mutex::default() })
    }

    /// An earlier keeper attached this cgroup: it is looked at like one of our own.
    pub fn adopt(&self, agent: CgroupId) {
        self.seen().insert(agent, Seen::of_an_earlier_keeper());
        self.trust.adopt(agent.0);
    }

    /// What a workload held before it was attached is listed, and destroyed or fenced.
    ///
    /// # Errors
    /// When a socket can be neither, unless `options` allow it. Nothing is changed then.
    pub fn attach(
        &self,
        kernel: &Mutex<Kernel>,
        cgroup: &Cgroup,
        agent: &Agent,
        options: AttachOptions,
    ) -> Result<Report, String> {
        let mut all = self.seen();
        let mut seen = Seen::default();
        let mut sweep = Sweep::new(kernel, &self.root, cgroup);
        let found = sweep.find(&mut seen).map_err(|error| error.to_string());
        let found = found.and_then(|(found, settled)| match open(&found) {
            Some(why) if !options.allow_degraded => Err(why),
            _ => Ok((found, settled)),
        });
        let (found, mut settled) = found.inspect_err(|_| {
            let _ = unmark_all(kernel, cgroup);
            lower(kernel, &all);
        })?;
        let mut sockets = sweep.end(found, &mut seen);
        // What was passed around while the others were ended.
        match sweep.find(&mut seen) {
            Ok((late, quiet)) => {
                settled &= quiet;
                sockets.extend(sweep.end(late, &mut seen));
            }
            Err(error) => tracing::error!(%error, agent = &*agent.name, "A socket is not fenced."),
        }
        all.insert(cgroup.id, seen);
        drop(all);
        self.trust.adopt(cgroup.id.0);
        let trust = self.trust.extend(cgroup, options.trust_system, true);
        self.judged().insert(cgroup.id, trust.clone());
        Ok(Report { sockets, settled, trust })
    }

    /// Looks once more at an attached workload. Gives what is to be recorded.
    pub fn look_again(&self, kernel: &Mutex<Kernel>, cgroup: &Cgroup, agent: &Agent) -> Vec<String> {
        // Held to the end: a detach must not take the marks off while this sets them.
        let mut all = self.seen();
        let Some(seen) = all.get_mut(&cgroup.id) else { return Vec::new() };
        let mut sweep = Sweep::new(kernel, &self.root, cgroup);
        let message = match sweep.find(seen) {
            Ok((found, _)) => {
                // Sockets of its own are governed, whatever they did before.
                let came: Vec<Found> = found.into_iter().filter(|found| foreign(found.socket())).collect();
                let sockets = sweep.end(came, seen);
                let what = if seen.adopted { "held by adopted" } else { "came into" };
                (!sockets.is_empty()).then(|| format!("{what} agent {}: {}", agent.name, summary(&sockets)))
            }
            Err(error) => Some(format!("a socket that came into agent {} is not fenced: {error}", agent.name)),
        };
        seen.adopted = false;
        message.into_iter().collect()
    }

    /// Gives new mount namespaces of an attached workload the CA. Gives what is to be recorded. Takes as long as the
    /// workload's file systems do: not for the thread that fences.
    pub fn trust_again(&self, cgroup: &Cgroup, agent: &Agent) -> Vec<String> {
        let report = self.trust.extend(cgroup, false, false);
        if !report.places.is_empty() {
            let mut judged = self.judged();
            let places = &mut judged.entry(cgroup.id).or_default().places;
            places.extend_from_slice(&report.places);
            let over = places.len().saturating_sub(64);
            places.drain(..over);
        }
        report.places.iter().map(|place| format!("agent {}: {place}", agent.name)).collect()
    }

    /// Undoes what was done for an attached workload.
    ///
    /// # Errors
    /// When a mark cannot be taken off, or a change for trust cannot be undone.
    pub fn detach(&self, kernel: &Mutex<Kernel>, cgroup: &Cgroup) -> Result<(), String> {
        {
            let mut all = self.seen();
            all.remove(&cgroup.id);
            unmark_all(kernel, cgroup).map_err(|error| error.to_string())?;
            lower(kernel, &all);
        }
        self.judged().remove(&cgroup.id);
        self.trust.withdraw(Some(cgroup.id.0))
    }

    /// The lines of an agent for `status`.
    #[must_use]
    pub fn status(&self, agent: CgroupId) -> Value {
        let trust = self.judged().get(&agent).cloned();
        match self.seen().get(&agent) {
            Some(seen) => json!({ "sockets": seen.sockets, "summary": summary(&seen.sockets), "trust": trust }),
            None => Value::Null,
        }
    }

    fn judged(&self) -> MutexGuard<'_, BTreeMap<CgroupId, trust::Report>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<CgroupId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the fence down when nobody needs it.
fn lower(kernel: &Mutex<Kernel>, all: &BTreeMap<CgroupId, Seen>) {
    // What an adopted agent holds is not known until it is looked at.
    if all.values().any(|seen| seen.marked || seen.adopted) {
        return;
    }
    if let Err(error) = kernel.lock().unwrap_or_else(PoisonError::into_inner).lower_fence() {
        tracing::warn!(%error, "The fence stays up.");
    }
}

fn unmark_all(kernel: &Mutex<Kernel>, cgroup: &Cgroup) -> Result<(), KeeperError> {
    unmark(cgroup, |socket| kernel.lock().unwrap_or_else(PoisonError::into_inner).unmark_foreign(socket, cgroup.id))
}

/// What came from elsewhere and matters: a closed unix socket does not.
fn foreign(socket: &Socket) -> bool {
    match socket.done {
        Done::Open | Done::Uncovered => true,
        Done::Fenced | Done::Destroyed => socket.made != Made::Here,
        Done::Left => false,
    }
}

/// A sentence about the sockets that nothing can fence.
fn open(found: &[Found]) -> Option<String> {
    let open: Vec<String> = found
        .iter()
        .map(Found::socket)
        .filter(|socket| socket.done == Done::Open)
        .map(|socket| {
            let Socket { process, pid, fd, kind, why, .. } = socket;
            format!("{process} (process {pid}) holds a {kind} socket as descriptor {fd}: {why}")
        })
        .collect();
    let shown = open.get(..open.len().min(8))?.join("; ");
    (!open.is_empty()).then(|| {
        format!(
            "{} sockets in it cannot be closed off: {shown}. End these processes first, or say --allow-degraded to govern \
             it all the same; that is recorded",
            open.len()
        )
    })
}
