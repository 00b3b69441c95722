//! What any vault must answer. Each is held to the answers of the one in memory.

use crate::budget::escrow::{
    Book, Claim, Given, Holder, Known, NotWrittenOff, Opened, Slice, Stated, Stepped, Use, Vault, VaultError, Which,
    WriteOff,
};
use crate::clock::UnixNanos;
use crate::event::WindowKey;
use crate::money::NanoUsd;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Of the budget `top`, and half of it of `low`.
pub(super) const LIMIT: NanoUsd = NanoUsd(1_000_000);
/// A day: nothing here depends on how long it takes.
pub(super) const LEASE: u64 = 86_400_000;
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// The budgets and their limits.
pub(super) fn limits() -> [(&'static str, NanoUsd); 2] {
    [("top", LIMIT), ("low", NanoUsd(LIMIT.0 / 2))]
}

pub(super) fn key(budget: &str) -> WindowKey {
    WindowKey { budget: budget.into(), scope: "builder".into(), window: "hour/2026-11-24T12Z".into() }
}

pub(super) fn holder(at: u64, place: &str, known: Known) -> Holder {
    Holder::new(&format!("holder-{at}"), "host", place, LEASE, at, known)
}

pub(super) fn claim(budget: &str, granted: u64, settled: u64, first: u64, want: u64) -> Claim {
    Claim {
        key: key(budget),
        ends: Some(UnixNanos(u64::MAX / 4)),
        limit: limits().iter().find(|(name, _)| *name == budget).map_or(LIMIT, |(_, limit)| *limit),
        granted: NanoUsd(granted),
        settled: NanoUsd(settled),
        credited: NanoUsd::ZERO,
        first: NanoUsd(first),
        need: NanoUsd(first),
        want: NanoUsd(want),
    }
}

pub(super) async fn take_up<V: Vault>(vault: &mut V, holder: &mut Holder) -> Opened {
    let opening = holder.opening();
    let answer = vault.open(&opening).await.expect("an answer");
    holder.opened(&answer, 0);
    answer
}

pub(super) async fn say<V: Vault>(vault: &mut V, holder: &mut Holder, claims: Vec<Claim>) -> Stepped {
    let step = holder.step(claims, false);
    let answer = vault.step(&step).await.expect("an answer");
    holder.stepped(step.step, &answer, 0);
    answer
}

pub(super) fn only(answer: Stepped) -> Given {
    let Stepped::Served { mut given, halted: None } = answer else { panic!("{answer:?}") };
    given.pop().expect("one")
}

/// Asks until something is given: it has just started.
pub(super) async fn calm<V: Vault>(vault: &mut V, holder: &mut Holder) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let given = only(say(vault, holder, vec![claim("top", 0, 0, 1, 10)]).await);
        if given.granted > NanoUsd::ZERO {
            return given.granted.0;
        }
        assert!(Instant::now() < deadline, "it never gives anything");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Nothing while it has just started; one process at a time; no message twice.
pub(super) async fn one_process_at_a_time<V: Vault>(vault: &mut V) {
    let mut first = holder(0, "here", Known::default());
    assert!(matches!(take_up(vault, &mut first).await, Opened::Yes { halted: None, .. }));
    let given = only(say(vault, &mut first, vec![claim("top", 0, 0, 1, 10)]).await);
    assert_eq!(given.granted, NanoUsd::ZERO, "it has just started");
    assert_eq!(calm(vault, &mut first).await, 10);

    // Another process with the same state.
    let mut second = holder(0, "there", first.known());
    assert!(matches!(take_up(vault, &mut second).await, Opened::Busy(ms) if ms > LEASE / 2));
    let mut again = holder(0, "here", first.known());
    assert!(matches!(take_up(vault, &mut again).await, Opened::Yes { .. }));
    assert_eq!(say(vault, &mut first, Vec::new()).await, Stepped::Fenced);
    let late = again.step(vec![claim("top", 10, 4, 0, 0)], false);
    let Stepped::Served { .. } = say(vault, &mut again, vec![claim("top", 20, 5, 0, 0)]).await else {
        panic!("it is served")
    };
    assert_eq!(vault.step(&late).await, Ok(Stepped::Stale));
}

/// A copy from before its last grant is in the vault's place: what the host has counts, and everybody is halted until somebody
/// has looked. `swap` puts the copy there and gives the vault.
pub(super) async fn comes_from_a_backup<V: Vault>(
    vault: &mut V,
    copy: impl AsyncFnOnce(),
    swap: impl AsyncFnOnce() -> V,
    accept: impl AsyncFnOnce(),
) {
    let of = |claim: Claim| Claim { key: WindowKey { scope: "backup".into(), ..key("top") }, ..claim };
    let mut host = holder(40, "here", Known::default());
    take_up(vault, &mut host).await;
    let mut other = holder(41, "here", Known::default());
    take_up(vault, &mut other).await;
    copy().await;
    let deadline = Instant::now() + PATIENCE;
    let granted = loop {
        let said = say_again(vault, &mut host, vec![of(claim("top", 0, 0, 1, 500))]).await;
        let given = said.map_or(NanoUsd::ZERO, |answer| only(answer).granted);
        if given > NanoUsd::ZERO {
            break given.0;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut vault = swap().await;
    let held = of(claim("top", granted, 0, 0, 0));
    let answer = say(&mut vault, &mut host, vec![held.clone()]).await;
    let Stepped::Served { given, halted: Some(_) } = &answer else { panic!("{answer:?}") };
    assert_eq!(given.first().map(|given| given.granted), Some(NanoUsd(granted)), "what the host has counts");
    // The other one hears of it, too, and gets nothing.
    let answer = say(&mut vault, &mut other, vec![of(claim("top", 0, 0, 1, 500))]).await;
    let Stepped::Served { given, halted: Some(_) } = &answer else { panic!("{answer:?}") };
    assert_eq!(given.first().map(|given| given.granted), Some(NanoUsd::ZERO));
    accept().await;
    assert_eq!(only(say(&mut vault, &mut host, vec![held]).await).granted, NanoUsd(granted));
}

/// A host whose lease has run out is written off: on the operator's word in one window, with all that it had in another. It is
/// fenced, and when it is started again what it spent counts, if that is more.
pub(super) async fn a_lost_host_is_written_off<V: Vault>(vault: &mut V) {
    let of = |claim: Claim| Claim { key: WindowKey { scope: "lost".into(), ..claim.key }, ..claim };
    let which = |budget: &str| Which { budget: Some(budget.to_owned()), scope: Some("lost".to_owned()), window: None };
    let order = |which: Which, stated: Option<Stated>| WriteOff {
        holder: "holder-50".into(),
        which,
        stated,
        why: "uid 0: its disk is gone".to_owned(),
        lease_ms: 0,
    };
    let all = || Which { scope: Some("lost".to_owned()), ..Which::default() };
    let nobody = vault.write_off(&order(all(), None)).await;
    assert_eq!(nobody, Ok(Err(NotWrittenOff::Unknown)));

    let mut lost = holder(50, "here", Known::default());
    take_up(vault, &mut lost).await;
    let deadline = Instant::now() + PATIENCE;
    // It may have just started.
    while only(say(vault, &mut lost, vec![of(claim("top", 0, 0, 1_000, 1_000))]).await).granted != NanoUsd(1_000) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let claims = || vec![of(claim("top", 1_000, 300, 0, 0)), of(claim("low", 0, 0, 500, 500))];
    assert_eq!(only(say(vault, &mut lost, claims()).await).granted, NanoUsd(500));

    // While it may be alive, and while the vault may have forgotten that it is.
    let alive = vault.write_off(&order(all(), None)).await.expect("an answer").expect_err("it lives");
    assert!(matches!(alive, NotWrittenOff::Alive(ms) if ms > LEASE / 2), "{alive:?}");
    let young = WriteOff { lease_ms: u64::MAX / 2, ..order(all(), None) };
    let young = vault.write_off(&young).await.expect("an answer").expect_err("it is young");
    assert!(matches!(young, NotWrittenOff::Young(_)), "{young:?}");

    // Its last word, after which its lease has run out; it gives nothing back.
    let last = lost.step(vec![of(claim("top", 1_000, 300, 0, 0)), of(claim("low", 500, 0, 0, 0))], true);
    let answer = vault.step(&last).await.expect("an answer");
    lost.stepped(last.step, &answer, 0);
    let (said, granted) = (NanoUsd(300), NanoUsd(1_000));
    for (which, stated, want) in [
        (all(), Stated::Spent(NanoUsd(400)), NotWrittenOff::Several(2)),
        (which("none"), Stated::Spent(NanoUsd(400)), NotWrittenOff::NoSlice),
        (which("top"), Stated::Spent(NanoUsd(299)), NotWrittenOff::Outside { said, granted }),
        (which("top"), Stated::Spent(NanoUsd(1_001)), NotWrittenOff::Outside { said, granted }),
        (which("top"), Stated::Unspent(NanoUsd(701)), NotWrittenOff::Outside { said, granted }),
        (which("top"), Stated::Unspent(NanoUsd(u64::MAX)), NotWrittenOff::Outside { said, granted }),
    ] {
        assert_eq!(vault.write_off(&order(which, Some(stated))).await, Ok(Err(want)));
    }
    let found = vault.holders().await.expect("an answer");
    let found = found.iter().find(|held| &*held.holder == "holder-50").expect("it is listed");
    assert_eq!((found.lease_ms, found.shares.len()), (0, 2), "what was refused changed nothing: {found:?}");

    let ended = vault.write_off(&order(which("top"), Some(Stated::Unspent(NanoUsd(600))))).await;
    let ended = ended.expect("an answer").expect("written off");
    assert_eq!(
        ended.iter().map(|one| (one.said, one.spent, one.returned())).collect::<Vec<_>>(),
        [(said, NanoUsd(400), NanoUsd(600))]
    );
    // All that nobody has is for the others, and that is no more.
    let mut other = holder(51, "here", Known::default());
    take_up(vault, &mut other).await;
    let rest = LIMIT.0 - 400;
    let given = only(say(vault, &mut other, vec![of(claim("top", 0, 0, rest, rest))]).await);
    assert_eq!((given.granted, given.elsewhere, given.free), (NanoUsd(rest), NanoUsd(400), NanoUsd::ZERO));
    let given = only(say(vault, &mut other, vec![of(claim("top", rest, 0, 1, 1))]).await);
    assert_eq!(given.granted, NanoUsd(rest));

    // With all that it had, and nothing is left to write off.
    let ended = vault.write_off(&order(all(), None)).await.expect("an answer").expect("written off");
    assert_eq!(
        ended.iter().map(|one| (one.spent, one.returned())).collect::<Vec<_>>(),
        [(NanoUsd(500), NanoUsd::ZERO)]
    );
    assert_eq!(vault.write_off(&order(all(), None)).await, Ok(Ok(Vec::new())));

    // It was alive after all: what it says is not heard, and what it had is not spent from.
    assert_eq!(say(vault, &mut lost, claims()).await, Stepped::Fenced);
    assert_eq!(lost.until(), 0);
    // Started again, it says that it spent less in one window, and more in the other.
    let mut again = holder(50, "there", lost.known());
    assert!(matches!(take_up(vault, &mut again).await, Opened::Yes { halted: None, .. }));
    let claims = vec![of(claim("top", 350, 350, 0, 0)), of(claim("low", 520, 520, 0, 0))];
    let answer = say(vault, &mut again, claims).await;
    let Stepped::Served { given, halted: None } = answer else { panic!("{answer:?}") };
    assert_eq!(given.iter().map(|given| given.granted.0).collect::<Vec<_>>(), [350, 520]);
    let given = only(say(vault, &mut other, vec![of(claim("top", rest, 0, 0, 0)), of(claim("low", 0, 0, 0, 0))]).await);
    assert_eq!(given.elsewhere, NanoUsd(520), "what it spent counts where that is more");
    let given = only(say(vault, &mut other, vec![of(claim("top", rest, 0, 0, 0))]).await);
    assert_eq!(given.elsewhere, NanoUsd(400), "what it was written off with counts where that is more");
}

#[tokio::test]
async fn memory_writes_a_lost_host_off() {
    let mut book = Book::new(limits().into_iter().map(|(name, limit)| (name.into(), limit)).collect());
    a_lost_host_is_written_off(&mut book).await;
    assert!(book.adds_up());
    assert_eq!(book.incidents().iter().filter(|(what, halts)| !halts && what.starts_with("written off")).count(), 3);
}

/// The same message, whose answer may get lost.
async fn say_again<V: Vault>(vault: &mut V, holder: &mut Holder, claims: Vec<Claim>) -> Result<Stepped, VaultError> {
    let step = holder.step(claims, false);
    let answer = vault.step(&step).await?;
    holder.stepped(step.step, &answer, 0);
    Ok(answer)
}

/// Eight hosts take all that there is, each through a vault of its own, while `hurt` is done to what holds it. Gives what they spent.
pub(super) async fn together<V: Vault + 'static>(vault: impl Fn() -> V, hurt: impl AsyncFnOnce()) -> u64 {
    let window = WindowKey { scope: "together".into(), ..key("top") };
    let hosts: Vec<_> = (20..28_u64).map(|at| tokio::spawn(spend(vault(), at, window.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    hurt().await;
    let mut spent = 0;
    for host in hosts {
        spent += host.await.expect("a host that came to its end");
    }
    spent
}

/// The same messages, the same answers.
/// `others` is how many holders the vault has already whose lease has not run out.
pub(super) async fn same_as_memory<V: Vault>(vault: &mut V, others: u64) {
    let mut book = Book::new(limits().into_iter().map(|(name, limit)| (name.into(), limit)).collect::<HashMap<_, _>>());
    let mut dice = StdRng::seed_from_u64(11);
    let mut holders: Vec<Holder> = (10..13).map(|at| holder(at, "here", Known::default())).collect();
    let mut slices = [[(0_u64, 0_u64); 2]; 3];
    // What others took before is not this test's: its windows are its own.
    let of = |budget: &str, claim: Claim| Claim { key: WindowKey { scope: "same".into(), ..key(budget) }, ..claim };
    for extra in 0..others {
        let opening = holder(1_000 + extra, "x", Known::default()).opening();
        book.open(&opening).await.expect("memory answers");
    }
    for round in 0..400 {
        let at = dice.random_range(0..3);
        if round < 3 || dice.random_range(0..40) == 0 {
            let at = if round < 3 { round } else { at };
            holders[at] = holder(10 + at as u64, "here", holders[at].known());
            let opening = holders[at].opening();
            let (one, other) = (vault.open(&opening).await.expect("an answer"), book.open(&opening).await);
            assert_eq!(Ok(&one), other.as_ref(), "round {round}");
            holders[at].opened(&one, 0);
            continue;
        }
        let mut claims = Vec::new();
        for (budget, (granted, settled)) in ["top", "low"].iter().zip(&mut slices[at]) {
            *settled += dice.random_range(0..=(*granted - *settled));
            *granted -= dice.random_range(0..=(*granted - *settled) / 4);
            // Now and then records are lost.
            if dice.random_range(0..60) == 0 {
                (*granted, *settled) = (*settled / 2, *settled / 2);
            }
            let first = if dice.random() { dice.random_range(0..60_000) } else { 0 };
            claims.push(of(budget, claim(budget, *granted, *settled, first, dice.random_range(0..200_000))));
        }
        let step = holders[at].step(claims, false);
        let one = vault.step(&step).await.expect("an answer");
        let other = Vault::step(&mut book, &step).await.expect("memory answers");
        assert_eq!(one, other, "round {round}");
        holders[at].stepped(step.step, &one, 0);
        let Stepped::Served { given, .. } = one else { panic!("{one:?}") };
        for (given, (granted, _)) in given.iter().zip(&mut slices[at]) {
            *granted = given.granted.0;
        }
    }
    assert!(book.adds_up() && !book.incidents().is_empty(), "records were lost: {:?}", book.incidents());
}

/// A host that spends 1,000 a call for as long as there is any.
pub(super) async fn spend<V: Vault>(mut vault: V, at: u64, window: WindowKey) -> u64 {
    const CALL: NanoUsd = NanoUsd(1_000);
    let mut holder = holder(at, "here", Known::default());
    let (mut slice, mut settled) = (Slice::default(), NanoUsd::ZERO);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{slice:?}");
        if holder.must_open() {
            let opening = holder.opening();
            match vault.open(&opening).await {
                Ok(answer) => holder.opened(&answer, 0),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            continue;
        }
        slice.ask(CALL);
        let used = Use { settled, first: CALL, all: CALL, ..Use::default() };
        let said = slice.claim(&window, Some(LIMIT), &used, crate::clock::boottime_ms());
        let step = holder.step(vec![said.clone()], false);
        match vault.step(&step).await {
            Ok(Stepped::Served { given, halted: None }) => {
                holder.stepped(step.step, &Stepped::Served { given: given.clone(), halted: None }, 0);
                slice.hear(&said, &given[0]);
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while slice.granted >= settled.saturating_add(CALL) {
            settled = settled.saturating_add(CALL);
        }
        // The others wait for ever for what this one spent and did not say.
        let told = slice.is_done(&Use { settled, ..Use::default() });
        if told && settled.saturating_add(slice.elsewhere) >= LIMIT {
            return settled.0;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
