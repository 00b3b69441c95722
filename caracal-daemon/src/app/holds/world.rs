//! One host, made of the real code wherever money is decided: budgets, holds, records, books, the restoring of a start.
//! Only what lies between them is played: a disk that keeps what was synced, a provider with a bill of its own, clients.

mod check;
mod disk;
mod steps;

pub(super) use disk::{Paper, Written};
pub(super) use steps::Step;

use super::{child_and_parent, intent};
use crate::budget::{BudgetSpec, Budgets, Ending, Hold, Scope, Window};
use crate::clock::{Clock, UnixNanos};
use crate::event::Kind;
use crate::ledger::Recovery;
use crate::ledger::books::Changes;
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use disk::Disk;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use steps::{Bill, How};

/// Clients.
pub(super) const CLIENTS: usize = 3;
/// Daemons that can run on the host: one at a time, as the journal's lock has it.
pub(super) const DAEMONS: u8 = 2;
/// Kills and power cuts in one history.
pub(super) const CRASHES: u8 = 2;

/// What a client asks for: its agent, the least and the most of its hold, and what its edited request can cost at most.
const ASKS: [(&str, u64, u64, u64); CLIENTS] = [("a", 4, 4, 4), ("a", 3, 3, 3), ("b", 4, 6, 4)];

/// The parent's limit, and that of the child over agent `a`. Both clients of `a` fit into the parent and not into the child; one of
/// them and the client of `b` do not fit into the parent, which alone is above both.
pub(super) const LIMITS: [(&str, u64); 2] = [("all", 7), ("a", 6)];

type Grant = Pin<Box<dyn Future<Output = Result<Hold, Refusal>>>>;
type End = Pin<Box<dyn Future<Output = ()>>>;
/// What the journal says of an outcome: nothing yet, taken, not taken.
type Said = Rc<RefCell<Option<bool>>>;

enum Phase {
    Idle,
    Waiting(Grant),
    Held(Hold),
    Intended(Hold),
    Sent(Hold),
    Ending(End, Said),
    Over,
}

struct Client {
    phase: Phase,
    /// What it holds, as far as it knows.
    hold: u64,
    /// What is charged to it for good.
    charged: u64,
    /// What the provider billed, once it was sent.
    bill: Option<u64>,
    /// The charge that its end names.
    ends_with: u64,
}

pub(super) struct World<'p> {
    paper: &'p Paper,
    clock: Clock,
    disk: Rc<RefCell<Disk>>,
    daemon: Option<(u8, Budgets)>,
    clients: [Client; CLIENTS],
    crashes: u8,
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn specs() -> Vec<BudgetSpec> {
    child_and_parent(LIMITS, |name, limit| BudgetSpec {
        window: Window::Total,
        ..BudgetSpec::daily(name, NanoUsd(limit))
    })
}

/// Whether a client's holds are taken from this budget.
fn covers(budget: &str, client: usize) -> bool {
    budget == LIMITS[0].0 || budget == ASKS[client].0
}

impl<'p> World<'p> {
    pub(super) fn new(paper: &'p Paper) -> World<'p> {
        let client = || Client { phase: Phase::Idle, hold: 0, charged: 0, bill: None, ends_with: 0 };
        World {
            paper,
            clock: Clock::fixed(UnixNanos(1)),
            disk: Rc::default(),
            daemon: None,
            clients: std::array::from_fn(|_| client()),
            crashes: 0,
        }
    }

    /// Takes a step, and then the answers that it brought to those who wait.
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Ask(client) => self.ask(client),
            Step::Leave(client) => self.clients[client].phase = Phase::Over,
            Step::Intend(client) => self.intend(client),
            Step::Send(client, bill) => self.send(client, bill),
            Step::End(client, how) => self.end(client, how),
            Step::Recorded(client, taken) => self.recorded(client, taken),
            Step::Drop(client) => self.drop_task(client),
            Step::Sync => self.sync(),
            Step::Kill => self.crash(),
            Step::Cut(kept) => {
                let mut disk = self.disk.borrow_mut();
                let there = disk.synced + kept;
                disk.records.truncate(there);
                drop(disk);
                self.crash();
            }
            Step::Start(which, dies_after) => self.start(which, dies_after),
        }
        self.answers();
    }

    fn budgets(&self) -> &Budgets {
        &self.daemon.as_ref().expect("a daemon runs").1
    }

    fn ask(&mut self, client: usize) {
        let (agent, least, most, _) = ASKS[client];
        let before = self.picture_of_money();
        let (agent, host): (Arc<str>, Arc<str>) = (agent.into(), "h".into());
        let scope = Scope { agent, provider: "openai", model: "m".into(), host, tool: "".into() };
        let budgets = self.budgets().clone();
        let mut grant: Grant = Box::pin(async move { budgets.hold(&scope, NanoUsd(least), NanoUsd(most)).await });
        match poll(grant.as_mut()) {
            Poll::Pending => self.clients[client].phase = Phase::Waiting(grant),
            Poll::Ready(answer) => self.answered(client, answer, &before),
        }
    }

    fn answered(&mut self, client: usize, answer: Result<Hold, Refusal>, before: &BTreeMap<&str, (u64, u64)>) {
        let one = &mut self.clients[client];
        match answer {
            Ok(hold) => {
                assert!((ASKS[client].1..=ASKS[client].2).contains(&hold.amount.0), "granted {}", hold.amount);
                (one.hold, one.phase) = (hold.amount.0, Phase::Held(hold));
            }
            Err(refusal) => {
                // Refused for ever, so it must not be for what others only hold.
                let spent = LIMITS.iter().any(|(budget, limit)| {
                    covers(budget, client) && before.get(budget).map_or(0, |money| money.0) + ASKS[client].1 > *limit
                });
                assert!(spent, "client {client} was refused: {}", refusal.sentence);
                one.phase = Phase::Over;
            }
        }
    }

    /// Who waits is asked again until nobody's answer changes.
    fn answers(&mut self) {
        let before = self.picture_of_money();
        for client in 0..CLIENTS {
            let Phase::Waiting(grant) = &mut self.clients[client].phase else { continue };
            if let Poll::Ready(answer) = poll(grant.as_mut()) {
                self.answered(client, answer, &before);
            }
        }
    }

    fn intend(&mut self, client: usize) {
        let one = &mut self.clients[client];
        let Phase::Held(mut hold) = std::mem::replace(&mut one.phase, Phase::Over) else { panic!("not held") };
        hold.shrink(NanoUsd(ASKS[client].3));
        one.hold = hold.amount.0;
        self.disk.borrow_mut().records.push(self.paper.write(&intent(client, ASKS[client].0, &hold)));
        hold.sent();
        one.phase = Phase::Intended(hold);
        self.sync();
    }

    fn send(&mut self, client: usize, bill: Bill) {
        let one = &mut self.clients[client];
        let Phase::Intended(hold) = std::mem::replace(&mut one.phase, Phase::Over) else { panic!("not intended") };
        one.bill = Some(match bill {
            Bill::Nothing => 0,
            Bill::One => 1,
            Bill::All => one.hold,
        });
        one.phase = Phase::Sent(hold);
    }

    fn end(&mut self, client: usize, how: How) {
        let one = &mut self.clients[client];
        let (Phase::Sent(hold) | Phase::Intended(hold)) = std::mem::replace(&mut one.phase, Phase::Over) else {
            panic!("no intent")
        };
        let ending = match (how, one.bill) {
            (How::NotSent, _) | (How::Seen, Some(0)) => Ending::Released,
            (How::Seen, Some(bill)) => Ending::Settled(NanoUsd(bill)),
            (How::Unseen, _) => Ending::Charged,
            (How::Seen, None) => panic!("nothing was sent"),
        };
        let mut outcome = intent(client, ASKS[client].0, &hold);
        outcome.kind = Kind::Outcome;
        let (settle, cost) = match ending {
            Ending::Released => ("released", NanoUsd::ZERO),
            Ending::Settled(bill) => ("settled", bill),
            Ending::Beyond(bill) => ("charged_max", bill),
            Ending::Charged => ("charged_max", hold.amount),
        };
        (outcome.data.settle, outcome.data.cost) = (Some(settle), Some(cost));
        one.ends_with = cost.0;
        let (record, disk, said) = (self.paper.write(&outcome), Rc::clone(&self.disk), Said::default());
        let asked = Rc::clone(&said);
        let recorded = std::future::poll_fn(move |_| match *asked.borrow() {
            None => Poll::Pending,
            Some(false) => Poll::Ready(Err(())),
            Some(true) => {
                disk.borrow_mut().records.push(record.clone());
                Poll::Ready(Ok(()))
            }
        });
        let mut end: End = Box::pin(async move { drop(hold.end_after(ending, recorded).await) });
        assert!(poll(end.as_mut()).is_pending(), "it ended before the journal had it");
        one.phase = Phase::Ending(end, said);
    }

    fn recorded(&mut self, client: usize, taken: bool) {
        let one = &mut self.clients[client];
        let Phase::Ending(mut end, said) = std::mem::replace(&mut one.phase, Phase::Over) else { panic!("no end") };
        *said.borrow_mut() = Some(taken);
        assert!(poll(end.as_mut()).is_ready(), "the journal answered");
        one.charged = if taken { one.ends_with } else { one.hold };
    }

    /// A panic, or a runtime that is gone: `Drop` is all that runs.
    fn drop_task(&mut self, client: usize) {
        let one = &mut self.clients[client];
        drop(std::mem::replace(&mut one.phase, Phase::Over));
        one.charged = one.hold;
    }

    fn sync(&mut self) {
        let mut disk = self.disk.borrow_mut();
        disk.synced = disk.records.len();
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.daemon = None;
        for client in &mut self.clients {
            if !matches!(client.phase, Phase::Idle) {
                // What its hold does when it drops, it does to a pool that is no more.
                client.phase = Phase::Over;
            }
        }
        self.sync();
    }

    /// The next daemon reads the disk, as `build` does.
    fn start(&mut self, which: u8, dies_after: Option<usize>) {
        let mut changes = Changes::default();
        for (leaf, record) in self.disk.borrow().records.iter().enumerate() {
            changes.post(leaf as u64, &record.bytes, &HashMap::new());
        }
        assert_eq!(changes.strays, 0, "a hold ended twice");
        let totals = changes.totals.into_iter().map(|(key, total)| (key, total.net())).collect();
        let open = changes.opened.into_values().map(|(_, intent)| intent).collect();
        let mut recovery = Recovery { totals, credited: HashMap::new(), open };
        let outcomes = recovery.charge_open(UnixNanos(1));
        for outcome in outcomes.iter().take(dies_after.unwrap_or(usize::MAX)) {
            self.disk.borrow_mut().records.push(self.paper.write(outcome));
            self.sync();
        }
        if dies_after.is_some() {
            self.crashes += 1;
            return;
        }
        for (client, cost) in self.on_disk(self.disk.borrow().records.len()) {
            self.clients[client].charged = cost;
        }
        let budgets = Budgets::new(specs(), self.clock.clone(), recovery.totals).expect("budgets");
        self.daemon = Some((which, budgets));
    }
}
