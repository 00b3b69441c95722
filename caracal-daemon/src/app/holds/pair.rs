//! Two daemons at once, over budgets that they share: what hosts with one vault are to one another. Made of the real code
//! wherever money is decided: budgets and their slices, holders, the vault's rules, records, books. Played are the disks, the
//! network (messages late, out of order, answered to nobody), the provider and the clients.

mod check;

use super::world::{Paper, Written};
use super::{Explored, child_and_parent, intent};
use crate::budget::escrow::{Book, Holder, Known, Opened, Step as Message, Stepped, Vault as _};
use crate::budget::{BudgetSpec, Budgets, Ending, Hold, Scope, Wait, Window};
use crate::clock::{Clock, UnixNanos};
use crate::event::Kind;
use crate::ledger::Recovery;
use crate::ledger::books::Changes;
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const CLIENTS: usize = 3;
const DAEMONS: usize = 2;
/// What a client asks for: its daemon, its agent, its hold. The first two bind the child, the first and the last the parent.
const ASKS: [(usize, &str, u64); CLIENTS] = [(0, "a", 4), (1, "a", 3), (1, "b", 4)];
/// The parent's limit, and that of the child over agent `a`.
const LIMITS: [(&str, u64); 2] = [("all", 7), ("a", 6)];
/// Kills in one history.
const CRASHES: u8 = 1;
/// Messages that a daemon sends in one history, and that are on their way at once.
const MESSAGES: (u8, usize) = (1, 1);
/// A time that is not over: no lease runs out here.
const FAR: u64 = 1 << 60;
const LEASE: u64 = 60_000;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The client asks for a hold.
    Ask(usize),
    /// Its intent is durable, its request goes out, and the provider bills one, or all.
    Send(usize, bool),
    /// Its outcome is in the journal: its bill, or its hold where no usage was seen.
    End(usize, bool),
    /// The daemon says what it has and needs.
    Speak(usize),
    /// The vault hears one of the daemon's messages, and the answer arrives or does not.
    Deliver(usize, usize, bool),
    Kill(usize),
    /// The daemon starts; `false`: it is killed again before it hears that its slices are its own.
    Start(usize, bool),
}

type Grant = Pin<Box<dyn Future<Output = Result<Hold, Refusal>>>>;

enum Phase {
    Idle,
    Waiting(Grant),
    Held(Hold),
    Sent(Hold),
    /// Killed with its daemon after it was sent.
    Open,
    Over,
}

struct Client {
    phase: Phase,
    bill: u64,
    charged: u64,
}

struct Daemon {
    running: Option<(Budgets, Holder)>,
    known: Known,
    starts: u64,
    said: u8,
    disk: Vec<Written>,
    network: Vec<Message>,
}

pub(super) struct Pair<'p> {
    paper: &'p Paper,
    book: Book,
    daemons: [Daemon; DAEMONS],
    clients: [Client; CLIENTS],
    kills: u8,
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A vault in memory and a journal that is played answer at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn specs() -> Vec<BudgetSpec> {
    child_and_parent(LIMITS, |name, limit| BudgetSpec {
        window: Window::Total,
        shared: true,
        warn_at: Vec::new(),
        wait: Wait { calls: CLIENTS, time: Duration::from_secs(3_600) },
        ..BudgetSpec::daily(name, NanoUsd(limit))
    })
}

fn covers(budget: &str, client: usize) -> bool {
    budget == LIMITS[0].0 || budget == ASKS[client].1
}

impl<'p> Pair<'p> {
    pub(super) fn new(paper: &'p Paper) -> Pair<'p> {
        let daemon = || Daemon {
            running: None,
            known: Known::default(),
            starts: 0,
            said: 0,
            disk: Vec::new(),
            network: Vec::new(),
        };
        let limits = LIMITS.iter().map(|(name, limit)| ((*name).into(), NanoUsd(*limit))).collect();
        let mut pair = Pair {
            paper,
            book: Book::new(limits),
            daemons: std::array::from_fn(|_| daemon()),
            clients: std::array::from_fn(|_| Client { phase: Phase::Idle, bill: 0, charged: 0 }),
            kills: 0,
        };
        (0..DAEMONS).for_each(|at| pair.start(at, true));
        pair
    }

    fn of(at: usize) -> impl Iterator<Item = usize> {
        (0..CLIENTS).filter(move |client| ASKS[*client].0 == at)
    }

    fn budgets(&self, client: usize) -> &Budgets {
        &self.daemons[ASKS[client].0].running.as_ref().expect("its daemon runs").0
    }

    fn ask(&mut self, client: usize) {
        let (_, agent, amount) = ASKS[client];
        let (agent, host): (Arc<str>, Arc<str>) = (agent.into(), "h".into());
        let scope = Scope { agent, provider: "openai", model: "m".into(), host, tool: "".into() };
        let budgets = self.budgets(client).clone();
        let grant = async move { budgets.hold(&scope, NanoUsd(amount), NanoUsd(amount)).await };
        self.clients[client].phase = Phase::Waiting(Box::pin(grant));
    }

    /// Who waits is asked again.
    fn answers(&mut self) {
        for (client, (_, _, amount)) in ASKS.into_iter().enumerate() {
            let Phase::Waiting(grant) = &mut self.clients[client].phase else { continue };
            let Poll::Ready(answer) = poll(grant.as_mut()) else { continue };
            self.clients[client].phase = match answer {
                Ok(hold) => Phase::Held(hold),
                Err(refusal) => {
                    // For ever, so not for what others only hold.
                    let lacks = |(name, limit): (&str, u64)| covers(name, client) && self.spent(name) + amount > limit;
                    assert!(LIMITS.into_iter().any(lacks), "client {client} was refused: {}", refusal.sentence);
                    Phase::Over
                }
            };
        }
    }

    fn send(&mut self, client: usize, all: bool) {
        let Phase::Held(mut hold) = std::mem::replace(&mut self.clients[client].phase, Phase::Over) else {
            panic!("not held")
        };
        self.daemons[ASKS[client].0].disk.push(self.paper.write(&intent(client, ASKS[client].1, &hold)));
        hold.sent();
        self.clients[client].bill = if all { hold.amount.0 } else { 1 };
        self.clients[client].phase = Phase::Sent(hold);
    }

    fn end(&mut self, client: usize, seen: bool) {
        let Phase::Sent(hold) = std::mem::replace(&mut self.clients[client].phase, Phase::Over) else {
            panic!("not sent")
        };
        let bill = self.clients[client].bill;
        let (ending, settle, cost) = match seen {
            true => (Ending::Settled(NanoUsd(bill)), "settled", bill),
            false => (Ending::Charged, "charged_max", hold.amount.0),
        };
        let mut outcome = intent(client, ASKS[client].1, &hold);
        outcome.kind = Kind::Outcome;
        (outcome.data.settle, outcome.data.cost) = (Some(settle), Some(NanoUsd(cost)));
        let (disk, record) = (&mut self.daemons[ASKS[client].0].disk, self.paper.write(&outcome));
        let recorded = async {
            disk.push(record);
            Ok::<(), ()>(())
        };
        let _warnings = now(hold.end_after(ending, recorded));
        self.clients[client].charged = cost;
    }

    fn speak(&mut self, at: usize) {
        let daemon = &mut self.daemons[at];
        let Some((budgets, holder)) = &mut daemon.running else { panic!("it does not run") };
        let message = holder.step(budgets.claims(0, false).claims, false);
        daemon.known = holder.known();
        daemon.said += 1;
        daemon.network.push(message);
    }

    fn deliver(&mut self, at: usize, which: usize, answered: bool) {
        let daemon = &mut self.daemons[at];
        let message = daemon.network.remove(which);
        let answer = now(self.book.step(&message)).expect("memory answers");
        let Some((budgets, holder)) = daemon.running.as_mut().filter(|_| answered) else { return };
        // The answer reaches the process that asked, and only while it waits for this one.
        if holder.known().epoch != message.epoch || holder.known().sent != message.step {
            return;
        }
        if holder.stepped(message.step, &answer, FAR)
            && let Stepped::Served { given, .. } = &answer
        {
            daemon.known = holder.known();
            budgets.hear(&message.claims, given);
        }
        budgets.lend(holder.until(), None);
    }

    fn kill(&mut self, at: usize) {
        self.kills += 1;
        self.daemons[at].running = None;
        for client in Pair::of(at) {
            let one = &mut self.clients[client];
            one.phase = match std::mem::replace(&mut one.phase, Phase::Over) {
                Phase::Sent(_) => Phase::Open,
                Phase::Idle => Phase::Idle,
                Phase::Waiting(_) | Phase::Held(_) | Phase::Open | Phase::Over => Phase::Over,
            };
        }
    }

    /// The daemon reads its disk, and takes its slices up.
    fn start(&mut self, at: usize, lives: bool) {
        let mut changes = Changes::default();
        for (leaf, record) in self.daemons[at].disk.iter().enumerate() {
            changes.post(leaf as u64, &record.bytes, &HashMap::new());
        }
        assert_eq!(changes.strays, 0, "a hold ended twice");
        let totals = changes.totals.into_iter().map(|(key, total)| (key, total.net())).collect();
        let open = changes.opened.into_values().map(|(_, intent)| intent).collect();
        let mut recovery = Recovery { totals, credited: HashMap::new(), open };
        for outcome in recovery.charge_open(UnixNanos(1)) {
            let record = self.paper.write(&outcome);
            self.clients[record.client].charged = record.cost.expect("an outcome's cost");
            self.clients[record.client].phase = Phase::Over;
            self.daemons[at].disk.push(record);
        }
        let budgets = Budgets::new(specs(), Clock::fixed(UnixNanos(1)), recovery.totals).expect("budgets");
        let daemon = &mut self.daemons[at];
        daemon.starts += 1;
        let lot = daemon.starts * 10 + at as u64;
        let mut holder = Holder::new(&format!("holder-{at}"), "host", "here", LEASE, lot, daemon.known);
        let opening = holder.opening();
        daemon.known = holder.known();
        let answer = now(self.book.open(&opening)).expect("memory answers");
        if !lives {
            self.kills += 1;
            return;
        }
        let Opened::Yes { shares, .. } = &answer else { panic!("{answer:?}") };
        budgets.take_up(shares);
        holder.opened(&answer, FAR);
        daemon.known = holder.known();
        budgets.lend(holder.until(), None);
        daemon.running = Some((budgets, holder));
    }
}

impl Explored for Pair<'_> {
    type Step = Step;

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(client) => self.ask(client),
            Step::Send(client, all) => self.send(client, all),
            Step::End(client, seen) => self.end(client, seen),
            Step::Speak(at) => self.speak(at),
            Step::Deliver(at, which, answered) => self.deliver(at, which, answered),
            Step::Kill(at) => self.kill(at),
            Step::Start(at, lives) => self.start(at, lives),
        }
        self.answers();
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, daemon) in self.daemons.iter().enumerate() {
            for which in 0..daemon.network.len() {
                steps.extend([true, false].map(|answered| Step::Deliver(at, which, answered)));
            }
            if daemon.running.is_none() {
                steps.push(Step::Start(at, true));
                steps.extend((self.kills < CRASHES + 1).then_some(Step::Start(at, false)));
                continue;
            }
            steps.extend((self.kills < CRASHES).then_some(Step::Kill(at)));
            let speaks = daemon.said < MESSAGES.0 && daemon.network.len() < MESSAGES.1;
            steps.extend(speaks.then_some(Step::Speak(at)));
            for client in Pair::of(at) {
                match self.clients[client].phase {
                    Phase::Idle => steps.push(Step::Ask(client)),
                    Phase::Held(_) => steps.extend([false, true].map(|all| Step::Send(client, all))),
                    Phase::Sent(_) => steps.extend([false, true].map(|seen| Step::End(client, seen))),
                    Phase::Waiting(_) | Phase::Open | Phase::Over => {}
                }
            }
        }
        steps
    }

    fn check(&self) {
        self.sound();
    }

    fn fingerprint(&self) -> String {
        self.picture()
    }

    fn is_at_rest(&self) -> bool {
        self.clients.iter().all(|one| matches!(one.phase, Phase::Over))
    }

    fn held(&self) -> u64 {
        (0..DAEMONS).flat_map(|at| self.status(at)).map(|status| status.held.0).sum()
    }

    fn alone(&self) -> [bool; 2] {
        self.binding()
    }
}
