//! A few hosts, a vault in memory and the network between them: what can happen, and what is really spent.

use super::{LEASE, LIMIT, book, holder, key, ready};
use crate::budget::escrow::*;
use std::collections::BTreeMap;

/// What a running process has in memory.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) holder: Holder,
    pub(super) slices: BTreeMap<WindowKey, Slice>,
    pub(super) holds: Vec<(Vec<WindowKey>, u64)>,
    /// What a call waits for that did not fit; another one behind it, for as much.
    pub(super) waits: u64,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) process: Option<Process>,
    place: u64,
    /// What the journal says is spent.
    pub(super) settled: BTreeMap<WindowKey, u64>,
    /// What corrections took off.
    credited: BTreeMap<WindowKey, u64>,
    pub(super) known: Known,
    /// A copy of all three.
    backup: (BTreeMap<WindowKey, u64>, BTreeMap<WindowKey, u64>, Known),
    /// Steps that are on their way, of this process or of one before it.
    network: Vec<Step>,
    /// It did not start since it, or the vault, came back from a backup.
    forgetful: bool,
    /// The vault was filled from a dump, and heard nothing since that this host said after this step.
    untold: Option<u64>,
}

pub(super) struct World {
    pub(super) book: Book,
    backup: Option<(Book, Vec<Known>)>,
    pub(super) hosts: Vec<Host>,
    now: u64,
    pub(super) window: u64,
    /// What was really spent.
    truth: BTreeMap<WindowKey, u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Call {
        host: usize,
        amount: u64,
    },
    End {
        host: usize,
        which: usize,
        part: u64,
    },
    /// A charge is put right: the provider billed less.
    Credit {
        host: usize,
        amount: u64,
    },
    Send {
        host: usize,
    },
    Deliver {
        host: usize,
        which: usize,
        answered: bool,
    },
    Lose {
        host: usize,
        which: usize,
    },
    Crash {
        host: usize,
    },
    Start {
        host: usize,
        moved: bool,
    },
    Wait {
        ms: u64,
    },
    Turn,
    VaultStarts,
    VaultBackup,
    /// Its files are put back while it is down.
    VaultRestored,
    /// It is filled from a dump while it runs: whoever remembers may be down for as long as he likes.
    VaultDumped,
    Accept,
    HostBackup {
        host: usize,
    },
    HostRestored {
        host: usize,
    },
    /// An operator writes it off: with all that it had, or with what it really spent.
    WriteOff {
        host: usize,
        truly: bool,
    },
}

impl World {
    pub(super) fn new(hosts: usize) -> World {
        let hosts = (0..hosts).map(|_| Host::default()).collect();
        let mut world = World { book: book(), backup: None, hosts, now: QUIET_MS, window: 0, truth: BTreeMap::new() };
        (0..world.hosts.len()).for_each(|at| world.start(at, false));
        world
    }

    fn keys(&self) -> Vec<WindowKey> {
        ["top", "low"].map(|budget| key(budget, self.window)).to_vec()
    }

    fn limit(key: &WindowKey) -> u64 {
        if &*key.budget == "top" { LIMIT } else { LIMIT / 2 }
    }

    pub(super) fn used(host: &Host, process: &Process, key: &WindowKey, waits: u64) -> Use {
        let held = process.holds.iter().filter(|(keys, _)| keys.contains(key)).map(|(_, amount)| amount).sum();
        let settled = NanoUsd(host.settled.get(key).copied().unwrap_or(0));
        let credited = NanoUsd(host.credited.get(key).copied().unwrap_or(0));
        Use { settled, credited, held: NanoUsd(held), first: NanoUsd(waits), all: NanoUsd(waits * 2) }
    }

    pub(super) fn call(&mut self, at: usize, amount: u64) {
        let keys = self.keys();
        let now = self.now;
        let Some(process) = &self.hosts[at].process else { return };
        let fits = now < process.holder.until()
            && keys.iter().all(|key| {
                let used = World::used(&self.hosts[at], process, key, 0);
                let slice = process.slices.get(key).map_or(0, |slice| slice.granted.0);
                slice >= used.settled.0 + used.held.0 + amount
            });
        let Some(process) = &mut self.hosts[at].process else { return };
        for key in &keys {
            process.slices.entry(key.clone()).or_default().ask(NanoUsd(amount));
        }
        if fits {
            process.holds.push((keys, amount));
        } else {
            process.waits = amount;
        }
    }

    pub(super) fn end(&mut self, at: usize, which: usize, part: u64) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.as_mut().filter(|process| !process.holds.is_empty()) else { return };
        let (keys, amount) = process.holds.swap_remove(which % process.holds.len());
        for key in keys {
            *host.settled.entry(key.clone()).or_default() += amount * part / 8;
            *self.truth.entry(key).or_default() += amount * part / 8;
        }
    }

    /// What the process would say now.
    fn step(&mut self, at: usize) -> Option<Step> {
        let (keys, now) = (self.keys(), self.now);
        let mut process = self.hosts[at].process.take()?;
        let waits = std::mem::take(&mut process.waits);
        let mut slices = std::mem::take(&mut process.slices);
        let claims = slices.iter_mut().map(|(key, slice)| {
            let current = keys.contains(key);
            let used = World::used(&self.hosts[at], &process, key, if current { waits } else { 0 });
            slice.claim(key, current.then_some(NanoUsd(World::limit(key))), &used, now)
        });
        let claims = claims.collect();
        process.slices = slices;
        let step = (!process.holder.must_open()).then(|| process.holder.step(claims, false));
        self.hosts[at].known = process.holder.known();
        self.hosts[at].process = Some(process);
        step
    }

    fn deliver(&mut self, at: usize, step: &Step, answered: bool) {
        self.book.set(self.now);
        let answer = ready(Vault::step(&mut self.book, step));
        let now = self.now;
        let host = &mut self.hosts[at];
        host.untold = host.untold.filter(|said| step.step <= *said);
        let Some(process) = host.process.as_mut().filter(|_| answered) else { return };
        // The answer reaches the process that asked, and only while it waits for this one.
        let asked = process.holder.known().epoch == step.epoch && process.holder.known().sent == step.step;
        if asked && process.holder.stepped(step.step, &answer, now) {
            host.known = process.holder.known();
            if let Stepped::Served { given, .. } = &answer {
                for (claim, given) in step.claims.iter().zip(given) {
                    process.slices.get_mut(&claim.key).expect("a slice").hear(claim, given);
                }
            }
        }
    }

    /// No more than the charge was, and from every window that it was in.
    fn credit(&mut self, at: usize, amount: u64) {
        if self.hosts[at].process.is_none() {
            return;
        }
        for key in self.keys() {
            let host = &mut self.hosts[at];
            let charged = host.settled.entry(key.clone()).or_default();
            let off = amount.min(*charged);
            *charged -= off;
            *host.credited.entry(key.clone()).or_default() += off;
            let truth = self.truth.entry(key).or_default();
            *truth = truth.saturating_sub(off);
        }
    }

    pub(super) fn talk(&mut self, at: usize) {
        if let Some(step) = self.step(at) {
            self.deliver(at, &step, true);
        }
    }

    pub(super) fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.take() else { return };
        for (keys, amount) in process.holds {
            for key in keys {
                *host.settled.entry(key.clone()).or_default() += amount;
                *self.truth.entry(key).or_default() += amount;
            }
        }
    }

    pub(super) fn start(&mut self, at: usize, moved: bool) {
        if self.hosts[at].process.is_some() {
            return;
        }
        self.book.set(self.now);
        let now = self.now;
        let host = &mut self.hosts[at];
        host.place += u64::from(moved);
        let mut holder = holder(at, host.place, host.known);
        let answer = ready(self.book.open(&holder.opening()));
        host.known = holder.known();
        holder.opened(&answer, now);
        let Opened::Yes { shares, .. } = answer else { return };
        // What the vault knows, and what the host knows that the vault may have forgotten.
        let keys = shares.into_iter().map(|(key, _, _)| key).chain(host.settled.keys().cloned());
        let settled = |key: &WindowKey| NanoUsd(host.settled.get(key).copied().unwrap_or(0));
        let slices = keys.map(|key| (key.clone(), Slice::taken_up(settled(&key), None))).collect();
        host.known = holder.known();
        host.forgetful = false;
        host.process = Some(Process { holder, slices, holds: Vec::new(), waits: 0 });
    }

    fn write_off(&mut self, at: usize, truly: bool) {
        self.book.set(self.now);
        let order = |which, stated| WriteOff {
            holder: format!("holder-{at}").into(),
            which,
            stated,
            why: "a test".into(),
            lease_ms: LEASE,
        };
        if !truly {
            let _refused_while_alive = ready(self.book.write_off(&order(Which::default(), None)));
            return;
        }
        // Of a host that lost records nobody knows the truth by them.
        if self.hosts[at].forgetful {
            return;
        }
        for key in self.keys() {
            let host = &self.hosts[at];
            let used = host.process.as_ref().map(|process| World::used(host, process, &key, 0).taken());
            let spent = used.unwrap_or(NanoUsd(host.settled.get(&key).copied().unwrap_or(0)));
            let which =
                Which { budget: Some(key.budget.to_string()), window: Some(key.window.to_string()), scope: None };
            let _refused_while_alive = ready(self.book.write_off(&order(which, Some(Stated::Spent(spent)))));
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Call { host, amount } => self.call(host, amount),
            Act::End { host, which, part } => self.end(host, which, part),
            Act::Credit { host, amount } => self.credit(host, amount),
            Act::Send { host } => {
                if let Some(step) = self.step(host).filter(|_| self.hosts[host].network.len() < 4) {
                    self.hosts[host].network.push(step);
                }
            }
            Act::Deliver { host, which, answered } => {
                if !self.hosts[host].network.is_empty() {
                    let which = which % self.hosts[host].network.len();
                    let step = self.hosts[host].network.remove(which);
                    self.deliver(host, &step, answered);
                }
            }
            Act::Lose { host, which } => {
                let network = &mut self.hosts[host].network;
                if !network.is_empty() {
                    network.remove(which % network.len());
                }
            }
            Act::Crash { host } => self.crash(host),
            Act::Start { host, moved } => self.start(host, moved),
            Act::Wait { ms } => self.now += ms,
            Act::Turn => self.window += 1,
            Act::VaultStarts => {
                self.book.set(self.now);
                self.book.start();
            }
            Act::VaultBackup => {
                self.backup = Some((self.book.clone(), self.hosts.iter().map(|host| host.known).collect()));
            }
            Act::VaultRestored => self.restore(false),
            Act::VaultDumped => self.restore(true),
            Act::Accept => {
                // As the operator is told: once each host has spoken.
                for at in 0..self.hosts.len() {
                    self.start(at, false);
                    self.talk(at);
                }
                if self.hosts.iter().all(|host| host.process.is_some()) {
                    self.book.accept();
                }
            }
            Act::HostBackup { host } => {
                let host = &mut self.hosts[host];
                host.backup = (host.settled.clone(), host.credited.clone(), host.known);
            }
            // It can be seen only where the vault heard of the host since, and remembers.
            Act::HostRestored { host } => {
                let heard = self.book.heard(&format!("holder-{host}")) > self.hosts[host].backup.2.sent;
                // Of two that forgot the same, neither says so.
                let alone = !self.hosts[host].forgetful && self.hosts[host].untold.is_none();
                if self.hosts[host].process.is_none() && heard && alone {
                    let host = &mut self.hosts[host];
                    host.forgetful = true;
                    (host.settled, host.credited, host.known) = host.backup.clone();
                }
            }
            Act::WriteOff { host, truly } => self.write_off(host, truly),
        }
    }

    /// The vault comes back from its backup. From a copy of its files it is the same, and that can be seen only while somebody
    /// lives who spoke with it since: what nobody remembers, nobody can count. From a dump it is not what was accepted.
    fn restore(&mut self, dump: bool) {
        let Some((book, known)) = self.backup.take() else { return };
        let witness = |(host, known): (&Host, &Known)| {
            host.process.as_ref().is_some_and(|process| {
                (process.holder.known().epoch, process.holder.known().step) > (known.epoch, known.step)
            })
        };
        // Of two that forgot the same, neither says so.
        let losses = |book: &Book| book.incidents().iter().filter(|(_, halts)| !halts).count();
        let twice = self.hosts.iter().any(|host| host.forgetful) || losses(&book) != losses(&self.book);
        if twice || (!dump && !self.hosts.iter().zip(&known).any(witness)) {
            return;
        }
        self.hosts.iter_mut().for_each(|host| host.forgetful = host.process.is_none());
        self.book = book;
        self.book.set(self.now);
        if dump {
            self.hosts.iter_mut().for_each(|host| host.untold = Some(host.known.sent));
            return self.book.filled();
        }
        self.book.start();
        // Connections end with a server. Those who live speak within the vault's quiet time.
        self.hosts.iter_mut().for_each(|host| host.network.clear());
        (0..self.hosts.len()).for_each(|at| self.talk(at));
    }

    pub(super) fn sound(&self) -> Result<(), String> {
        if !self.book.adds_up() {
            return Err(format!("the sums are not those of the shares: {:?}", self.book));
        }
        for window in 0..=self.window {
            for budget in ["top", "low"] {
                let key = key(budget, window);
                let processes = self.hosts.iter().filter_map(|host| host.process.as_ref());
                let holds = processes.flat_map(|process| &process.holds).filter(|(keys, _)| keys.contains(&key));
                let held: u64 = holds.map(|(_, amount)| amount).sum();
                let spent = self.truth.get(&key).copied().unwrap_or(0);
                if spent + held > World::limit(&key) {
                    return Err(format!("{key:?}: {spent} spent, {held} held"));
                }
            }
        }
        Ok(())
    }
}
