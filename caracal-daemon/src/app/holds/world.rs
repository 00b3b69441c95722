//! One host, made of the real code wherever money is decided: budgets, holds, records, books, the restoring of a start.
//! Only what lies between them is played: a disk that keeps what was synced, a provider with a bill of its own, clients.

use crate::budget::{BudgetSpec, Budgets, Ending, Hold, Scope, Window};
use crate::clock::{Clock, UnixNanos};
use crate::event::{Data, Detail, Draft, Kind, Scribe};
use crate::ledger::Recovery;
use crate::ledger::books::Changes;
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Clients.
pub(super) const CLIENTS: usize = 3;
/// Daemons that can run on the host: one at a time, as the journal's lock has it.
pub(super) const DAEMONS: u8 = 2;
/// Kills and power cuts in one history.
pub(super) const CRASHES: u8 = 2;

/// What a client asks for: its agent, the least and the most of its hold, and what its edited request can cost at most.
const ASKS: [(&str, u64, u64, u64); CLIENTS] = [("a", 4, 4, 4), ("a", 3, 3, 3), ("b", 4, 6, 4)];

/// The parent's limit, and that of the child over agent `a`.
pub(super) const LIMITS: [(&str, u64); 2] = [("all", 10), ("a", 7)];

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The client asks for a hold.
    Ask(usize),
    /// The client hangs up while it waits or holds.
    Leave(usize),
    /// Its intent becomes durable, and with it all before.
    Intend(usize),
    /// Its request goes out, and the provider bills: 0 is a refusal.
    Send(usize, Bill),
    /// Its end is known, and on its way into the journal.
    End(usize, How),
    /// The journal has the outcome, or could not take it.
    Recorded(usize, bool),
    /// The task is gone without another word.
    Drop(usize),
    /// The journal syncs.
    Sync,
    /// `kill -9`: what the journal took is kept.
    Kill,
    /// A power cut: of what was not synced, so many records are there.
    Cut(usize),
    /// This daemon starts, and dies again when it has written so many outcomes of the calls that were open; `None`: it lives.
    Start(u8, Option<usize>),
}

/// What the provider bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bill {
    Nothing,
    One,
    All,
}

/// How a call that was intended ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// The usage was seen, or the provider's refusal.
    Seen,
    /// It was not.
    Unseen,
    /// Not one byte went out.
    NotSent,
}

/// A record on the disk: its bytes, and the same in the words of the search.
#[derive(Clone)]
struct Written {
    client: usize,
    /// `None`: the intent.
    cost: Option<u64>,
    bytes: Rc<Vec<u8>>,
}

/// The journal's file. What stands before `synced` outlives a power cut.
#[derive(Default)]
struct Disk {
    records: Vec<Written>,
    synced: usize,
}

/// Seals drafts as the product does, each once.
pub(super) struct Paper {
    scribe: Scribe,
    made: RefCell<HashMap<String, Rc<Vec<u8>>>>,
    _keys: tempfile::TempDir,
}

impl Paper {
    pub(super) fn new() -> Paper {
        let keys = tempfile::tempdir().expect("a directory");
        let scribe = Scribe::open("host-1", &keys.path().join("keys")).expect("a scribe");
        Paper { scribe, made: RefCell::default(), _keys: keys }
    }

    fn write(&self, draft: &Draft) -> Written {
        let client = draft.data.call.map_or(0, |call| call.as_u128()) as usize - 1;
        let cost = draft.data.cost.map(|cost| cost.0);
        let mut made = self.made.borrow_mut();
        let bytes = made.entry(format!("{:?}", draft.data)).or_insert_with(|| {
            let mut bytes = Vec::new();
            self.scribe.seal(draft).expect("sealed").place(0, &[0; 32], &mut bytes);
            Rc::new(bytes)
        });
        Written { client, cost, bytes: Rc::clone(bytes) }
    }
}

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
    let [(all, most), (a, part)] = LIMITS;
    let total = |name, limit| BudgetSpec { window: Window::Total, ..BudgetSpec::daily(name, NanoUsd(limit)) };
    vec![total(all, most), BudgetSpec { parent: Some(all.into()), agents: vec![a.into()], ..total(a, part) }]
}

/// Whether a client's holds are taken from this budget.
fn covers(budget: &str, client: usize) -> bool {
    budget == LIMITS[0].0 || budget == ASKS[client].0
}

fn intent(client: usize, hold: &Hold) -> Draft {
    Draft {
        kind: Kind::Intent,
        at: UnixNanos(1),
        data: Data {
            agent: Some(ASKS[client].0.into()),
            call: Some(uuid::Uuid::from_u128(client as u128 + 1)),
            provider: Some("openai"),
            model: Some("m".into()),
            hold: Some(hold.amount),
            windows: hold.windows.clone(),
            ..Data::default()
        },
        detail: Detail::default(),
    }
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

    /// What can happen now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let disk = self.disk.borrow();
        if self.daemon.is_none() {
            let open = self.open(disk.records.len()).len();
            let dies = (0..=open).map(Some).filter(|_| self.crashes < CRASHES);
            let lives = (0..DAEMONS).map(|which| Step::Start(which, None));
            return lives.chain(dies.map(|after| Step::Start(0, after))).collect();
        }
        for (client, one) in self.clients.iter().enumerate() {
            match &one.phase {
                Phase::Idle => steps.push(Step::Ask(client)),
                Phase::Waiting(_) => steps.push(Step::Leave(client)),
                Phase::Held(_) => steps.extend([Step::Leave(client), Step::Intend(client)]),
                Phase::Intended(_) => {
                    let sends = [Bill::Nothing, Bill::One, Bill::All].map(|bill| Step::Send(client, bill));
                    steps.extend(sends);
                    steps.extend([Step::End(client, How::NotSent), Step::Drop(client)]);
                }
                Phase::Sent(_) => {
                    let ends = [How::Seen, How::Unseen].map(|how| Step::End(client, how));
                    steps.extend(ends);
                    steps.push(Step::Drop(client));
                }
                Phase::Ending(..) => steps.extend([true, false].map(|taken| Step::Recorded(client, taken))),
                Phase::Over => {}
            }
        }
        let unsynced = disk.records.len() - disk.synced;
        if unsynced > 0 {
            steps.push(Step::Sync);
        }
        if self.crashes < CRASHES {
            steps.push(Step::Kill);
            steps.extend((0..unsynced).map(Step::Cut));
        }
        steps
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
        self.disk.borrow_mut().records.push(self.paper.write(&intent(client, &hold)));
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
        let mut outcome = intent(client, &hold);
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

    /// What the first `length` records charge each call that they know: its outcome's cost, or its hold.
    fn on_disk(&self, length: usize) -> BTreeMap<usize, u64> {
        let disk = self.disk.borrow();
        let mut charges = BTreeMap::new();
        let mut ended = [false; CLIENTS];
        for record in disk.records.iter().take(length) {
            match record.cost {
                None => drop(charges.insert(record.client, self.clients[record.client].hold)),
                Some(cost) => {
                    assert!(charges.contains_key(&record.client), "an outcome without an intent");
                    assert!(!std::mem::replace(&mut ended[record.client], true), "a call ended twice");
                    charges.insert(record.client, cost);
                }
            }
        }
        charges
    }

    fn open(&self, length: usize) -> Vec<usize> {
        let disk = self.disk.borrow();
        let records = || disk.records.iter().take(length);
        let ended = |client| records().any(|record| record.client == client && record.cost.is_some());
        records().filter(|record| record.cost.is_none() && !ended(record.client)).map(|record| record.client).collect()
    }

    /// Settled and held of each budget, by the clients' own account.
    fn picture_of_money(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let money = |(budget, _): &(&'static str, u64)| {
            let mine = self.clients.iter().enumerate().filter(|(client, _)| covers(budget, *client));
            let sums = mine.fold((0, 0), |(settled, held), (_, one)| match one.phase {
                Phase::Held(_) | Phase::Intended(_) | Phase::Sent(_) | Phase::Ending(..) => (settled, held + one.hold),
                _ => (settled + one.charged, held),
            });
            (*budget, sums)
        };
        LIMITS.iter().map(money).collect()
    }

    /// Everything that must hold, wherever this stands.
    pub(super) fn check(&self) {
        let money = self.picture_of_money();
        let records = self.disk.borrow().records.len();
        let synced = self.disk.borrow().synced;
        for (budget, limit) in LIMITS {
            let mine = |client: usize| covers(budget, client);
            let bills: u64 =
                (0..CLIENTS).filter(|client| mine(*client)).filter_map(|client| self.clients[client].bill).sum();
            assert!(bills <= limit, "{budget}: the provider billed {bills} of {limit}");
            // What a start would find after a kill, and after each power cut.
            for length in synced..=records {
                let found: u64 =
                    self.on_disk(length).iter().filter(|(client, _)| mine(**client)).map(|(_, cost)| cost).sum();
                assert!(found <= limit, "{budget}: a start after {length} records would find {found} of {limit} spent");
                assert!(found >= bills, "{budget}: a start after {length} records would have forgotten {bills}");
            }
            let Some((_, budgets)) = &self.daemon else { continue };
            let status = budgets.snapshot().into_iter().find(|status| status.key.budget.as_ref() == budget);
            let status = status.expect("a budget");
            let (settled, held) = (status.settled.0, status.held.0);
            assert!(settled + held <= limit, "{budget}: {settled} settled and {held} held of {limit}");
            assert!(settled + held >= bills, "{budget}: a charge is lost: {settled} and {held} of {bills}");
            assert_eq!((settled, held), money[budget], "{budget}: settled and held");
        }
        if self.daemon.is_some() && money[LIMITS[0].0].1 == 0 {
            let waits = self.clients.iter().any(|one| matches!(one.phase, Phase::Waiting(_)));
            assert!(!waits, "nothing is held, and a client waits for it");
        }
    }

    /// What all that can follow depends on.
    pub(super) fn fingerprint(&self) -> String {
        let mut out = String::new();
        let disk = self.disk.borrow();
        // Which of the daemons it is changes nothing: they are one program.
        out.push_str(&self.daemon.as_ref().map_or_else(String::new, |(_, budgets)| budgets.picture()));
        for one in &self.clients {
            let phase = match &one.phase {
                Phase::Idle => 'i',
                Phase::Waiting(_) => 'w',
                Phase::Held(_) => 'h',
                Phase::Intended(_) => 'n',
                Phase::Sent(_) => 's',
                Phase::Ending(..) => 'e',
                Phase::Over => 'o',
            };
            let bill = one.bill.map_or(-1, |bill| bill as i64);
            write!(out, "|{phase}{},{bill},{},{}", one.hold, one.charged, one.ends_with).expect("a string");
        }
        // The order of what is synced changes nothing any more.
        let tag = |record: &Written| (record.client, record.cost);
        let (synced, rest) = disk.records.split_at(disk.synced);
        let mut synced: Vec<_> = synced.iter().map(tag).collect();
        synced.sort_unstable();
        let rest: Vec<_> = rest.iter().map(tag).collect();
        write!(out, "{synced:?}{rest:?}{}", self.crashes).expect("a string");
        out
    }

    /// Whether every call is over under a daemon that runs.
    pub(super) fn is_at_rest(&self) -> bool {
        self.daemon.is_some() && self.clients.iter().all(|one| matches!(one.phase, Phase::Over))
    }

    /// Money held of a budget.
    pub(super) fn held(&self) -> u64 {
        self.budgets().snapshot().iter().map(|status| status.held.0).sum()
    }
}
