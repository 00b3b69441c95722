//! Random schedules: hosts that call, crash, are cut off, lose state; a vault that restarts and comes back from a backup.
//! What was really spent and is held never exceeds a limit, after any step.

mod random;

use super::*;
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

const LIMIT: u64 = 400;
const LEASE: u64 = 60_000;
const HOSTS: usize = 3;

/// A vault in memory answers at once.
fn ready<T>(future: impl Future<Output = Result<T, VaultError>>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(value)) => value,
        other => panic!("{:?}", other.map(|result| result.map(drop))),
    }
}

fn key(budget: &str, window: u64) -> WindowKey {
    WindowKey { budget: budget.into(), scope: "".into(), window: format!("hour/{window}").into() }
}

fn book() -> Book {
    Book::new(HashMap::from([("top".into(), NanoUsd(LIMIT)), ("low".into(), NanoUsd(LIMIT / 2))]))
}

fn holder(at: usize, place: u64, known: Known) -> Holder {
    static LOTS: AtomicU64 = AtomicU64::new(0);
    let lot = LOTS.fetch_add(1, Ordering::Relaxed);
    Holder::new(&format!("holder-{at}"), &format!("host-{at}"), &format!("place-{place}"), LEASE, lot, known)
}

/// What a running process has in memory.
#[derive(Debug)]
struct Process {
    holder: Holder,
    slices: BTreeMap<WindowKey, Slice>,
    holds: Vec<(Vec<WindowKey>, u64)>,
    /// What a call waits for that did not fit; another one behind it, for as much.
    waits: u64,
}

#[derive(Debug, Default)]
struct Host {
    process: Option<Process>,
    place: u64,
    /// What the journal says is spent.
    settled: BTreeMap<WindowKey, u64>,
    /// What corrections took off.
    credited: BTreeMap<WindowKey, u64>,
    known: Known,
    /// A copy of all three.
    backup: (BTreeMap<WindowKey, u64>, BTreeMap<WindowKey, u64>, Known),
    /// Steps that are on their way, of this process or of one before it.
    network: Vec<Step>,
    /// It did not start since it, or the vault, came back from a backup.
    forgetful: bool,
}

struct World {
    book: Book,
    backup: Option<(Book, Vec<Known>)>,
    hosts: Vec<Host>,
    now: u64,
    window: u64,
    /// What was really spent.
    truth: BTreeMap<WindowKey, u64>,
}

#[derive(Clone, Debug)]
enum Act {
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
    VaultRestored,
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
    fn new(hosts: usize) -> World {
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

    fn used(host: &Host, process: &Process, key: &WindowKey, waits: u64) -> Use {
        let held = process.holds.iter().filter(|(keys, _)| keys.contains(key)).map(|(_, amount)| amount).sum();
        let settled = NanoUsd(host.settled.get(key).copied().unwrap_or(0));
        let credited = NanoUsd(host.credited.get(key).copied().unwrap_or(0));
        Use { settled, credited, held: NanoUsd(held), first: NanoUsd(waits), all: NanoUsd(waits * 2) }
    }

    fn call(&mut self, at: usize, amount: u64) {
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

    fn end(&mut self, at: usize, which: usize, part: u64) {
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

    fn talk(&mut self, at: usize) {
        if let Some(step) = self.step(at) {
            self.deliver(at, &step, true);
        }
    }

    fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.take() else { return };
        for (keys, amount) in process.holds {
            for key in keys {
                *host.settled.entry(key.clone()).or_default() += amount;
                *self.truth.entry(key).or_default() += amount;
            }
        }
    }

    fn start(&mut self, at: usize, moved: bool) {
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

    fn act(&mut self, act: Act) {
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
            Act::VaultRestored => self.restore(),
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
                if self.hosts[host].process.is_none() && heard && !self.hosts[host].forgetful {
                    let host = &mut self.hosts[host];
                    host.forgetful = true;
                    (host.settled, host.credited, host.known) = host.backup.clone();
                }
            }
            Act::WriteOff { host, truly } => self.write_off(host, truly),
        }
    }

    /// The vault comes back from its backup. It can be seen only while somebody lives who spoke with it since: what nobody
    /// remembers, nobody can count.
    fn restore(&mut self) {
        let Some((book, known)) = self.backup.take() else { return };
        let witness = |(host, known): (&Host, &Known)| {
            host.process.as_ref().is_some_and(|process| {
                (process.holder.known().epoch, process.holder.known().step) > (known.epoch, known.step)
            })
        };
        // Of two that forgot the same, neither says so.
        let losses = |book: &Book| book.incidents().iter().filter(|(_, halts)| !halts).count();
        let twice = self.hosts.iter().any(|host| host.forgetful) || losses(&book) != losses(&self.book);
        if twice || !self.hosts.iter().zip(&known).any(witness) {
            return;
        }
        self.hosts.iter_mut().for_each(|host| host.forgetful = host.process.is_none());
        self.book = book;
        self.book.set(self.now);
        self.book.start();
        // Connections end with a server. Those who live speak within the vault's quiet time.
        self.hosts.iter_mut().for_each(|host| host.network.clear());
        (0..self.hosts.len()).for_each(|at| self.talk(at));
    }

    fn sound(&self) -> Result<(), String> {
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

/// Runs a schedule; gives what is wrong with it.
fn run(acts: Vec<Act>) -> Result<(), String> {
    let mut world = World::new(HOSTS);
    for act in acts {
        world.act(act.clone());
        world.sound().map_err(|error| format!("after {act:?}: {error}"))?;
    }
    // Money that nobody needs and nobody lost comes to who asks for it.
    world.act(Act::Wait { ms: LEASE });
    world.act(Act::Accept);
    for at in 0..HOSTS {
        let fenced =
            world.hosts[at].process.as_ref().is_some_and(|process| process.holder.standing() == &Standing::Fenced);
        if fenced {
            world.crash(at);
            world.start(at, false);
        }
        while world.hosts[at].process.as_ref().is_some_and(|process| !process.holds.is_empty()) {
            world.act(Act::End { host: at, which: 0, part: 8 });
        }
    }
    let top = key("top", world.window);
    for _ in 0..60 {
        world.act(Act::Wait { ms: TURN_MS });
        let all = LIMIT.saturating_sub(world.book.window(&top).spent.0);
        let process = world.hosts[0].process.as_mut().ok_or("host 0 does not run")?;
        process.slices.entry(top.clone()).or_default().ask(NanoUsd(1));
        process.waits = all;
        (0..HOSTS).for_each(|at| world.talk(at));
        world.sound()?;
    }
    let host = &world.hosts[0];
    let process = host.process.as_ref().ok_or("host 0 does not run")?;
    let left = process.slices[&top].granted.0 - World::used(host, process, &top, 0).settled.0;
    let window = world.book.window(&top);
    // More, where a host that lost records counts twice.
    if left + window.spent.0 < LIMIT {
        return Err(format!("host 0 has {left} left, of {window:?}"));
    }
    Ok(())
}

/// Every schedule of two hosts, up to a length, over the acts that matter most.
#[test]
fn no_short_schedule_overspends() {
    let mut acts = vec![Act::VaultStarts, Act::Wait { ms: LEASE }];
    for host in 0..2 {
        acts.extend([
            Act::Call { host, amount: 100 },
            Act::End { host, which: 0, part: 8 },
            Act::Credit { host, amount: 60 },
            Act::Send { host },
            Act::Deliver { host, which: 0, answered: true },
            Act::Deliver { host, which: 0, answered: false },
            Act::Crash { host },
            Act::Start { host, moved: false },
        ]);
    }
    let (length, mut schedules) = (4, 0_u64);
    // Both have asked and been served once, so that few acts reach deep.
    for number in 0..acts.len().pow(length) {
        let mut world = World::new(2);
        for host in 0..2 {
            world.act(Act::Call { host, amount: 100 });
            world.talk(host);
        }
        let mut rest = number;
        for _ in 0..length {
            world.act(acts[rest % acts.len()].clone());
            rest /= acts.len();
            world.sound().unwrap_or_else(|error| panic!("schedule {number}: {error}"));
        }
        schedules += 1;
    }
    assert_eq!(schedules, 104_976);
}

fn open(book: &mut Book, holder: &mut Holder, now: u64) {
    let opening = holder.opening();
    holder.opened(&ready(book.open(&opening)), now);
}

#[test]
fn a_second_process_of_a_host_waits_and_fences_the_first() {
    let mut book = book();
    let mut first = holder(0, 1, Known::default());
    open(&mut book, &mut first, 0);
    assert_eq!((first.standing(), first.until()), (&Standing::Live, 50_000));
    let mut second = holder(0, 2, first.known());
    book.set(QUIET_MS + 10_000);
    open(&mut book, &mut second, 0);
    assert_eq!(second.standing(), &Standing::Busy(50_000));
    book.set(QUIET_MS + LEASE);
    open(&mut book, &mut second, 60_000);
    assert_eq!(second.standing(), &Standing::Live);
    let step = first.step(Vec::new(), false);
    assert!(!first.stepped(step.step, &ready(Vault::step(&mut book, &step)), 70_000));
    assert_eq!((first.standing(), first.until()), (&Standing::Fenced, 0));
    // One that was started again where the last one ran need not wait.
    let mut third = holder(0, 2, second.known());
    open(&mut book, &mut third, 60_001);
    assert_eq!(third.standing(), &Standing::Live);
}

#[test]
fn a_vault_from_a_backup_halts_everybody_until_it_is_accepted() {
    let mut world = World::new(2);
    for host in 0..2 {
        world.call(host, 10);
        world.talk(host);
    }
    world.act(Act::VaultBackup);
    world.call(0, 70);
    world.talk(0);
    world.call(0, 70);
    let known = |world: &World| world.book.window(&key("top", 0)).allotted;
    let before = known(&world);
    world.act(Act::VaultRestored);
    assert_eq!(known(&world), before, "what a host has counts, though the vault forgot it");
    for host in 0..2 {
        let process = world.hosts[host].process.as_ref().expect("it runs");
        assert!(matches!(process.holder.standing(), Standing::Halted(_)), "{:?}", process.holder);
        assert_eq!(process.holder.until(), 0);
    }
    world.act(Act::Accept);
    world.act(Act::Wait { ms: QUIET_MS });
    world.talk(1);
    assert_eq!(world.hosts[1].process.as_ref().expect("it runs").holder.standing(), &Standing::Live);
}

#[test]
fn a_vault_that_has_just_started_gives_nothing() {
    let mut world = World::new(1);
    world.act(Act::VaultStarts);
    for (ms, fits) in [(0, false), (QUIET_MS - 1, false), (1, true)] {
        world.act(Act::Wait { ms });
        world.call(0, 10);
        world.talk(0);
        let process = world.hosts[0].process.as_ref().expect("it runs");
        assert_eq!(process.slices[&key("top", 0)].granted > NanoUsd::ZERO, fits, "after {ms} ms");
    }
}

#[test]
fn a_credit_gives_money_back_and_is_no_lost_record() {
    let mut world = World::new(2);
    world.call(0, 100);
    world.talk(0);
    world.call(0, 100);
    world.end(0, 0, 8);
    world.talk(0);
    let before = world.book.window(&key("top", 0));
    assert_eq!(before.spent, NanoUsd(100));
    world.act(Act::Credit { host: 0, amount: 40 });
    world.talk(0);
    let after = world.book.window(&key("top", 0));
    assert_eq!(after.spent, NanoUsd(60), "{after:?}");
    assert!(after.allotted.0 <= LIMIT, "{after:?}");
    assert!(world.book.incidents().is_empty(), "{:?}", world.book.incidents());
    // And over a restart, which knows what was charged and what was taken off.
    world.crash(0);
    world.start(0, false);
    world.talk(0);
    assert_eq!((world.book.window(&key("top", 0)).spent, world.book.incidents().len()), (NanoUsd(60), 0));
}

#[test]
fn a_host_that_lost_records_has_spent_all_that_it_had() {
    for told in [true, false] {
        lose_records(told);
    }
}

/// With the host's records goes the file that says how often it spoke, or not.
fn lose_records(told: bool) {
    let mut world = World::new(1);
    world.call(0, 100);
    world.talk(0);
    world.call(0, 100);
    world.end(0, 0, 8);
    world.talk(0);
    let had = world.book.window(&key("top", 0)).allotted;
    world.crash(0);
    world.hosts[0].settled.clear();
    if told {
        world.hosts[0].known = Known::default();
    }
    world.start(0, false);
    world.talk(0);
    let window = world.book.window(&key("top", 0));
    assert!(window.spent == had && had > NanoUsd(100), "{window:?}");
    let incidents = world.book.incidents();
    assert!(!incidents.is_empty() && incidents.iter().all(|(_, halts)| !halts), "{incidents:?}");
}

#[test]
fn slices_grow_with_what_is_taken_and_shrink_near_the_limit() {
    let key = key("top", 0);
    let (mut book, mut now) = (Book::new(HashMap::from([("top".into(), NanoUsd(1_000_000))])), QUIET_MS);
    let mut holders = [holder(0, 0, Known::default()), holder(1, 0, Known::default())];
    for holder in &mut holders {
        open(&mut book, holder, now);
    }
    let (mut slice, mut settled, mut sizes) = (Slice::default(), NanoUsd::ZERO, Vec::new());
    // 10 a call; ever more calls a turn.
    for turn in 0_u64..20_000 {
        let calls = (turn / 4 + 1).min(400);
        now += TURN_MS;
        book.set(now);
        slice.ask(NanoUsd(10));
        let used = Use { settled, first: NanoUsd(10), all: NanoUsd(10), ..Use::default() };
        let claim = slice.claim(&key, Some(NanoUsd(1_000_000)), &used, now);
        let step = holders[0].step(vec![claim.clone()], false);
        let Stepped::Served { given, .. } = ready(Vault::step(&mut book, &step)) else { panic!("it is served") };
        holders[0].stepped(step.step, &Stepped::Served { given: given.clone(), halted: None }, now);
        // The other host lives, and takes nothing.
        let other = holders[1].step(Vec::new(), false);
        ready(Vault::step(&mut book, &other));
        slice.hear(&claim, &given[0]);
        let left = slice.granted.0 - settled.0;
        sizes.push(left);
        settled.0 += (calls * 10).min(left / 10 * 10);
        if settled.0 == 1_000_000 {
            break;
        }
    }
    assert_eq!(settled, NanoUsd(1_000_000), "all of it is spent in the end: {slice:?}");
    let largest = *sizes.iter().max().expect("sizes");
    assert!(sizes[3] < 200 && largest > 5_000, "it grows: {} to {largest}", sizes[3]);
    assert!(
        sizes.iter().rev().take(3).all(|size| *size < largest / 10),
        "it shrinks: {:?}",
        &sizes[sizes.len() - 10..]
    );
}
