//! The rules one at a time: fences, backups, quiet, credits, lost records, the size of slices.

use super::*;

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

/// Whoever knows what a dump forgot may be down: nobody else gets that money meanwhile, and it is spent once he was heard.
#[test]
fn a_vault_that_was_filled_from_a_dump_frees_nothing() {
    let mut world = World::new(2);
    world.call(1, 10);
    world.talk(1);
    world.act(Act::VaultBackup);
    world.call(0, LIMIT / 4);
    world.talk(0);
    world.call(0, LIMIT / 4);
    world.act(Act::End { host: 0, which: 0, part: 8 });
    world.crash(0);
    world.act(Act::VaultDumped);
    for _ in 0..3 {
        world.call(1, LIMIT / 2 - 10);
        world.talk(1);
        world.act(Act::Wait { ms: TURN_MS });
        world.sound().expect("what was spent is not given again");
    }
    let standing = |world: &World, host: usize| {
        let process = world.hosts[host].process.as_ref().expect("it runs");
        process.holder.standing().clone()
    };
    assert!(matches!(standing(&world, 1), Standing::Halted(_)), "{:?}", standing(&world, 1));
    world.act(Act::Accept);
    world.talk(1);
    assert_eq!(standing(&world, 1), Standing::Live);
    assert_eq!(world.book.window(&key("low", 0)).spent, NanoUsd(LIMIT / 4), "what was spent is spent");
    world.call(1, 10);
    world.sound().expect("and is not given again");
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
