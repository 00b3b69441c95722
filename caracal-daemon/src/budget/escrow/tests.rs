//! Random schedules: hosts that call, crash, are cut off, lose state; a vault that restarts and comes back from a backup.
//! What was really spent and is held never exceeds a limit, after any step.

mod random;
mod rules;
mod world;

use super::*;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use world::{Act, World};

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
