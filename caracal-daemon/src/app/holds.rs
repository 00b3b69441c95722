//! The theorem of no overspend in small worlds, in every state that they can reach: three clients and a budget above another,
//! each of which runs out while the other has money left; a kill anywhere. In `world` two daemons run on one host, one after the
//! other, and the power may be cut; in `pair` two run at once and share the budgets.
//!
//! In every state: settled + held <= limit in each budget; what the provider billed is settled or held; a start that read the
//! disk now would find the same; no call ends twice; nobody waits for money that is there. The search is exhaustive and its
//! own: holds cannot be copied, so a state is reached by its path (a crate such as stateright searches values).

mod pair;
mod world;

use crate::budget::{BudgetSpec, Hold};
use crate::clock::UnixNanos;
use crate::event::{Data, Detail, Draft, Kind};
use pair::Pair;
use std::collections::HashSet;
use std::fmt::Debug;
use world::{Paper, Step, World};

/// Two budgets of these names and limits: the parent, and its child over the agent of the same name. `total` makes one.
fn child_and_parent(limits: [(&str, u64); 2], total: impl Fn(&str, u64) -> BudgetSpec) -> Vec<BudgetSpec> {
    let [(all, most), (agent, part)] = limits;
    let child = BudgetSpec { parent: Some(all.into()), agents: vec![agent.into()], ..total(agent, part) };
    vec![total(all, most), child]
}

/// The intent of a client's call.
fn intent(client: usize, agent: &str, hold: &Hold) -> Draft {
    let data = Data {
        agent: Some(agent.into()),
        call: Some(uuid::Uuid::from_u128(client as u128 + 1)),
        provider: Some("openai"),
        model: Some("m".into()),
        hold: Some(hold.amount),
        windows: hold.windows.clone(),
        ..Data::default()
    };
    Draft { kind: Kind::Intent, at: UnixNanos(1), data: data.into(), detail: Detail::default() }
}

/// A world that can be searched.
trait Explored {
    type Step: Copy + Debug;

    fn take(&mut self, step: Self::Step);
    /// What can happen now.
    fn steps(&self) -> Vec<Self::Step>;
    /// Everything that must hold, wherever this stands.
    fn check(&self);
    /// What all that can follow depends on.
    fn fingerprint(&self) -> String;
    /// Whether every call is over.
    fn is_at_rest(&self) -> bool;
    /// Money held.
    fn held(&self) -> u64;
    /// Whether a client waits for money of the parent alone, and whether one does for the child's.
    fn alone(&self) -> [bool; 2];
}

impl Explored for World<'_> {
    type Step = Step;

    fn take(&mut self, step: Step) {
        World::take(self, step);
    }

    fn steps(&self) -> Vec<Step> {
        World::steps(self)
    }

    fn check(&self) {
        World::check(self);
    }

    fn fingerprint(&self) -> String {
        World::fingerprint(self)
    }

    fn is_at_rest(&self) -> bool {
        World::is_at_rest(self)
    }

    fn held(&self) -> u64 {
        World::held(self)
    }

    fn alone(&self) -> [bool; 2] {
        World::alone(self)
    }
}

/// What a search saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    states: usize,
    transitions: usize,
    /// States in which every call is over.
    rests: usize,
    /// The longest path.
    deepest: usize,
    /// States in which a client waits for money of the parent alone, and of the child.
    alone: [usize; 2],
}

/// The steps to a state, and those that may follow.
type Ahead<W> = (Vec<<W as Explored>::Step>, Vec<<W as Explored>::Step>);

/// Goes through every state. A broken promise is told with the steps that led to it.
fn search<W: Explored>(new: impl Fn() -> W) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let first = new();
    let mut seen = Seen { states: 1, ..Seen::default() };
    let mut known: HashSet<String> = HashSet::from([first.fingerprint()]);
    let mut open: Vec<Ahead<W>> = vec![(Vec::new(), first.steps())];
    while let Some((mut path, steps)) = open.pop() {
        for step in steps {
            path.push(step);
            let told = Told(&path);
            let mut world = new();
            path.iter().for_each(|step| world.take(*step));
            world.check();
            let rests = world.is_at_rest();
            assert!(!rests || world.held() == 0, "every call is over, and money is held");
            std::mem::forget(told);
            seen.transitions += 1;
            if known.insert(world.fingerprint()) {
                seen.states += 1;
                seen.rests += usize::from(rests);
                seen.deepest = seen.deepest.max(path.len());
                let alone = world.alone();
                (0..2).for_each(|level| seen.alone[level] += usize::from(alone[level]));
                open.push((path.clone(), world.steps()));
            }
            path.pop();
        }
    }
    seen
}

/// Says on a panic how it was got to.
struct Told<'a, S: Debug>(&'a [S]);

impl<S: Debug> Drop for Told<'_, S> {
    fn drop(&mut self) {
        eprintln!("after {:?}", self.0);
    }
}

#[test]
fn no_state_of_three_clients_and_two_daemons_overspends_or_forgets() {
    let paper = Paper::new();
    let seen = search(|| World::new(&paper));
    println!("{seen:?}");
    // Exactly: a search that became smaller without anybody's meaning it proves less.
    let want = Seen { states: 40_928, transitions: 116_901, rests: 10_407, deepest: 21, alone: [675, 501] };
    assert_eq!(seen, want);
}

#[test]
fn no_state_of_two_daemons_that_share_budgets_overspends_or_forgets() {
    let paper = Paper::new();
    let seen = search(|| Pair::new(&paper));
    println!("{seen:?}");
    // About 16,600 and 50,400: the order of the claims in a message is a map's.
    assert!(seen.states > 15_000 && seen.transitions > 45_000 && seen.rests > 400, "a smaller search: {seen:?}");
    assert!(seen.deepest >= 14 && seen.alone.iter().all(|states| *states > 1_500), "a smaller search: {seen:?}");
}
