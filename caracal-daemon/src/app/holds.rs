//! The theorem of no overspend in a small world, in every state that it can reach: three clients, two daemons that may run on
//! the host one after the other, a budget above another, a kill or a power cut anywhere.
//!
//! In every state: settled + held <= limit in each budget; what the provider billed is settled or held; a start that read the
//! disk now would find the same; no call ends twice; nobody waits for money that is there. The search is exhaustive and its
//! own: holds cannot be copied, so a state is reached by its path (a crate such as stateright searches values).

mod world;

use std::collections::HashSet;
use world::{Paper, Step, World};

/// What a search saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    states: usize,
    transitions: usize,
    /// States in which every call is over.
    rests: usize,
    /// The longest path.
    deepest: usize,
}

fn replay<'p>(paper: &'p Paper, path: &[Step]) -> World<'p> {
    let mut world = World::new(paper);
    path.iter().for_each(|step| world.take(*step));
    world
}

/// Goes through every state. A broken promise is told with the steps that led to it.
fn search() -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let paper = Paper::new();
    let first = World::new(&paper);
    let mut seen = Seen { states: 1, ..Seen::default() };
    let mut known: HashSet<String> = HashSet::from([first.fingerprint()]);
    let mut open: Vec<(Vec<Step>, Vec<Step>)> = vec![(Vec::new(), first.steps())];
    while let Some((mut path, steps)) = open.pop() {
        for step in steps {
            path.push(step);
            let told = Told(&path);
            let world = replay(&paper, &path);
            world.check();
            let rests = world.is_at_rest();
            assert!(!rests || world.held() == 0, "every call is over, and money is held");
            std::mem::forget(told);
            seen.transitions += 1;
            if known.insert(world.fingerprint()) {
                seen.states += 1;
                seen.rests += usize::from(rests);
                seen.deepest = seen.deepest.max(path.len());
                open.push((path.clone(), world.steps()));
            }
            path.pop();
        }
    }
    seen
}

/// Says on a panic how it was got to.
struct Told<'a>(&'a [Step]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("after {:?}", self.0);
    }
}

#[test]
fn no_state_of_three_clients_and_two_daemons_overspends_or_forgets() {
    let seen = search();
    println!("{seen:?}");
    // Exactly: a search that became smaller without anybody's meaning it proves less.
    let want = Seen { states: 110_085, transitions: 336_126, rests: 27_250, deepest: 21 };
    assert_eq!(seen, want);
}
