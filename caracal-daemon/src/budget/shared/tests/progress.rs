//! Money that nobody spends reaches whoever waits for it, however the slices of several levels lie.

use super::{Host, scope};
use crate::budget::escrow::{Book, QUIET_MS};
use crate::budget::{BudgetSpec, Hold, Per, Wait};
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinHandle;

const HOSTS: usize = 4;
/// Of three levels, one below the other; the names are not in that order.
const LIMITS: [(&str, u64); 3] = [("company", 1_200), ("team", 1_100), ("seat", 1_000)];
/// The largest call.
const MOST: u64 = 400;
const AGENTS: [&str; 2] = ["one", "two"];

struct Plant {
    book: Book,
    hosts: Vec<Host>,
    random: StdRng,
    waiting: Vec<JoinHandle<Result<Hold, Refusal>>>,
    open: Vec<Hold>,
    now: u64,
}

fn levels(per: Per) -> Vec<BudgetSpec> {
    let mut parent = None;
    let level = |(name, limit): (&str, u64)| {
        let wait = Wait { calls: 1_000, time: Duration::from_secs(3_600) };
        let spec = BudgetSpec { wait, shared: true, warn_at: Vec::new(), ..BudgetSpec::daily(name, NanoUsd(limit)) };
        BudgetSpec { parent: parent.replace(name.into()), per: if name == "seat" { per } else { spec.per }, ..spec }
    };
    LIMITS.into_iter().map(level).collect()
}

impl Plant {
    async fn new(seed: u64, per: Per) -> Plant {
        let mut book =
            Book::new(LIMITS.into_iter().map(|(name, limit)| (name.into(), NanoUsd(limit))).collect::<HashMap<_, _>>());
        let mut hosts = Vec::new();
        for at in 0..HOSTS {
            hosts.push(Host::with(&mut book, at as u64, levels(per)).await);
        }
        let (random, now) = (StdRng::seed_from_u64(seed), QUIET_MS);
        Plant { book, hosts, random, waiting: Vec::new(), open: Vec::new(), now }
    }

    fn calls(&mut self) {
        let host = self.random.random_range(0..HOSTS);
        let amount = self.random.random_range(1..=MOST);
        let agent = AGENTS[self.random.random_range(0..AGENTS.len())];
        let scope = crate::budget::Scope { agent: agent.into(), ..scope() };
        self.waiting.push(self.hosts[host].call_of(scope, amount));
    }

    async fn talks(&mut self) {
        self.now += self.random.random_range(5..100);
        self.book.set(self.now);
        let host = self.random.random_range(0..HOSTS);
        self.hosts[host].talk_at(&mut self.book, self.now).await;
        self.answers().await;
    }

    /// Takes what was granted meanwhile.
    async fn answers(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let (done, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(JoinHandle::is_finished);
        self.waiting = waiting;
        for call in done {
            self.open.push(call.await.expect("a task").expect("so little is spent that no call is refused"));
        }
    }

    /// One of the open calls ends; it cost nothing that matters.
    fn ends(&mut self) {
        if !self.open.is_empty() {
            let which = self.random.random_range(0..self.open.len());
            self.open.swap_remove(which).settle(NanoUsd::ZERO);
        }
    }
}

async fn every_call_is_served(seed: u64, per: Per) {
    let mut plant = Plant::new(seed, per).await;
    for _ in 0..120 {
        match plant.random.random_range(0..4) {
            0 => plant.calls(),
            1 | 2 => plant.talks().await,
            _ => plant.ends(),
        }
    }
    // Nobody calls any more, and each call ends as soon as it was served.
    for _ in 0..4_000 {
        plant.talks().await;
        while !plant.open.is_empty() {
            plant.ends();
        }
        if plant.waiting.is_empty() {
            return;
        }
    }
    let picture: Vec<String> = plant.hosts.iter().map(|host| host.budgets.picture()).collect();
    panic!("seed {seed}: {} calls wait for money that nobody spends: {picture:#?}", plant.waiting.len());
}

#[tokio::test]
async fn hosts_that_wait_for_different_levels_do_not_wait_for_one_another() {
    for seed in 0..300 {
        every_call_is_served(seed, Per::All).await;
        every_call_is_served(seed, Per::Agent).await;
    }
}
