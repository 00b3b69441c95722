mod progress;

use crate::budget::escrow::{Book, Holder, Known, Opened, Stepped, Vault as _};
use crate::budget::{BudgetSpec, Budgets, Hold, Scope, Wait};
use crate::clock::{self, Clock, UnixNanos};
use crate::event::WindowKey;
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const NOON: u64 = 1_795_521_600_000_000_000; // 2026-11-24T12:00:00Z
const LEASE: u64 = 600_000;

/// A host, and its talk with a vault in memory.
struct Host {
    budgets: Arc<Budgets>,
    holder: Holder,
}

fn scope() -> Scope {
    Scope { agent: "a".into(), provider: "openai", model: "m".into(), host: "api.openai.com".into(), tool: "".into() }
}

fn book(limit: u64) -> Book {
    Book::new(HashMap::from([("all".into(), NanoUsd(limit)), ("part".into(), NanoUsd(limit))]))
}

impl Host {
    async fn new(book: &mut Book, at: u64, limit: u64, time: Duration) -> Host {
        let all = BudgetSpec {
            wait: Wait { calls: 100, time },
            shared: true,
            warn_at: Vec::new(),
            ..BudgetSpec::daily("all", NanoUsd(limit))
        };
        let part = BudgetSpec { parent: Some("all".into()), name: "part".into(), ..all.clone() };
        Host::with(book, at, vec![all, part]).await
    }

    async fn with(book: &mut Book, at: u64, specs: Vec<BudgetSpec>) -> Host {
        let budgets = Budgets::new(specs, Clock::fixed(UnixNanos(NOON)), HashMap::new()).expect("budgets");
        let holder = Holder::new(&at.to_string(), "host", "here", LEASE, at, Known::default());
        let mut host = Host { budgets: Arc::new(budgets), holder };
        let opening = host.holder.opening();
        let answer = book.open(&opening).await.expect("memory answers");
        let Opened::Yes { shares, .. } = &answer else { panic!("{answer:?}") };
        host.budgets.take_up(shares);
        host.holder.opened(&answer, clock::boottime_ms());
        host.budgets.lend(host.holder.until(), None);
        host
    }

    async fn talk(&mut self, book: &mut Book) {
        self.talk_at(book, clock::boottime_ms()).await;
    }

    /// At `now`, as far as what is needed is measured by the time.
    async fn talk_at(&mut self, book: &mut Book, now: u64) {
        let step = self.holder.step(self.budgets.claims(now, false).claims, false);
        let answer = book.step(&step).await.expect("memory answers");
        assert!(self.holder.stepped(step.step, &answer, clock::boottime_ms()), "{answer:?}");
        let Stepped::Served { given, .. } = &answer else { panic!("{answer:?}") };
        self.budgets.hear(&step.claims, given);
        self.budgets.lend(self.holder.until(), None);
    }

    fn call(&self, amount: u64) -> tokio::task::JoinHandle<Result<Hold, Refusal>> {
        self.call_of(scope(), amount)
    }

    fn call_of(&self, scope: Scope, amount: u64) -> tokio::task::JoinHandle<Result<Hold, Refusal>> {
        let budgets = Arc::clone(&self.budgets);
        tokio::spawn(async move { budgets.hold(&scope, NanoUsd(amount), NanoUsd(amount)).await })
    }

    /// Once a call waits, the slice is asked for.
    async fn served(&mut self, book: &mut Book, amount: u64) -> Hold {
        let call = self.call(amount);
        while !self.budgets.claims(clock::boottime_ms(), false).waiting && !call.is_finished() {
            tokio::task::yield_now().await;
        }
        self.talk(book).await;
        call.await.expect("a task").expect("a hold")
    }
}

#[tokio::test]
async fn a_call_waits_for_a_slice_and_the_next_one_does_not() {
    let mut book = book(10_000);
    let mut host = Host::new(&mut book, 0, 10_000, Duration::from_secs(60)).await;
    host.served(&mut book, 100).await.settle(NanoUsd(70));
    // There is room for one more without a word to the vault.
    let held = host.call(100).await.expect("a task").expect("a hold");
    let key = WindowKey { budget: "all".into(), scope: "".into(), window: "day/2026-11-24".into() };
    assert_eq!(book.window(&key).spent, NanoUsd::ZERO, "the vault heard of nothing since");
    assert!(book.window(&key).allotted >= NanoUsd(170));
    held.settle(NanoUsd(100));
    host.talk(&mut book).await;
    assert_eq!(book.window(&key).spent, NanoUsd(170));
    let status = host.budgets.snapshot().into_iter().find(|status| status.key == key).expect("a status");
    assert_eq!((status.settled, status.left), (NanoUsd(170), NanoUsd(9_830)));
    assert!(status.slice.is_some_and(|slice| slice.granted > NanoUsd(170)));
}

#[tokio::test]
async fn what_others_spent_is_denied_at_once_and_what_they_hold_is_waited_for() {
    let mut book = book(1_000);
    let (mut one, mut other) = (
        Host::new(&mut book, 0, 1_000, Duration::from_secs(60)).await,
        Host::new(&mut book, 1, 1_000, Duration::from_millis(20)).await,
    );
    let held = one.served(&mut book, 800).await;
    let call = other.call(300);
    while !other.budgets.claims(clock::boottime_ms(), false).waiting {
        tokio::task::yield_now().await;
    }
    other.talk(&mut book).await;
    let refusal = call.await.expect("a task").expect_err("it waited in vain");
    assert_eq!(refusal.reason, Reason::BudgetWaitTimeout, "{refusal}");
    held.settle(NanoUsd(750));
    one.talk(&mut book).await;
    other.talk(&mut book).await;
    let refusal = other.call(300).await.expect("a task").expect_err("250 are left");
    assert_eq!(refusal.reason, Reason::BudgetExceeded, "{refusal}");
    assert!(refusal.sentence.contains("$0.00000025 left"), "{refusal}");
}

#[tokio::test]
async fn the_host_whose_charge_passes_a_mark_says_so_and_counts_what_the_others_spent() {
    let mut book = book(1_000);
    let spec = BudgetSpec { shared: true, warn_at: vec![50, 80, 95], ..BudgetSpec::daily("all", NanoUsd(1_000)) };
    let mut one = Host::with(&mut book, 0, vec![spec.clone()]).await;
    let mut other = Host::with(&mut book, 1, vec![spec]).await;
    let said = |warnings: Vec<crate::budget::Warning>| -> Vec<(u8, u64)> {
        warnings.iter().map(|warning| (warning.percent, warning.settled.0)).collect()
    };
    let hold = one.served(&mut book, 300).await;
    assert_eq!(said(hold.settle(NanoUsd(300))), [], "three of ten");
    one.talk(&mut book).await;
    other.talk(&mut book).await;
    let hold = other.served(&mut book, 300).await;
    assert_eq!(said(hold.settle(NanoUsd(300))), [(50, 600)], "its own three are above the half with the others'");
}

#[tokio::test]
async fn nothing_is_spent_without_a_lease_and_the_refusal_says_why() {
    let mut book = book(10_000);
    let mut host = Host::new(&mut book, 0, 10_000, Duration::from_millis(20)).await;
    let held = host.served(&mut book, 100).await;
    host.budgets.lend(0, Some("the database is away".into()));
    let refusal = host.call(1).await.expect("a task").expect_err("no lease");
    assert_eq!(refusal.reason, Reason::BudgetWaitTimeout);
    assert!(refusal.sentence.contains("the database is away"), "{refusal}");
    // What is open ends as it does otherwise, and is told.
    held.settle(NanoUsd(40));
    host.talk(&mut book).await;
    assert!(host.call(1).await.expect("a task").is_ok(), "the lease is back");
}

#[tokio::test]
async fn a_daemon_that_ends_gives_back_what_is_not_spent() {
    let mut book = book(10_000);
    let mut host = Host::new(&mut book, 0, 10_000, Duration::from_secs(60)).await;
    host.served(&mut book, 100).await.settle(NanoUsd(70));
    let step = host.holder.step(host.budgets.claims(clock::boottime_ms(), true).claims, true);
    book.step(&step).await.expect("memory answers");
    for budget in ["all", "part"] {
        let key = WindowKey { budget: budget.into(), scope: "".into(), window: "day/2026-11-24".into() };
        let window = book.window(&key);
        assert_eq!((window.allotted, window.spent), (NanoUsd(70), NanoUsd(70)));
    }
}
