//! What must hold in every state of two daemons that share, by the clients' own account against that of the product, and what
//! tells two states apart.

use super::{ASKS, CLIENTS, DAEMONS, LIMITS, Pair, Phase, covers};
use crate::budget::Status;
use std::fmt::Write as _;

impl Pair<'_> {
    /// What is charged for good, by the clients' own account.
    pub(super) fn spent(&self, budget: &str) -> u64 {
        let mine = self.clients.iter().enumerate().filter(|(client, _)| covers(budget, *client));
        mine.map(|(client, one)| if matches!(one.phase, Phase::Open) { ASKS[client].2 } else { one.charged }).sum()
    }

    /// What is set aside, by the clients' own account; of one daemon, or of all.
    fn held_of(&self, budget: &str, at: Option<usize>) -> u64 {
        let is_held = |client: &usize| matches!(self.clients[*client].phase, Phase::Held(_) | Phase::Sent(_));
        let mine = (0..CLIENTS).filter(|client| covers(budget, *client) && is_held(client));
        mine.filter(|client| at.is_none_or(|at| ASKS[*client].0 == at)).map(|client| ASKS[client].2).sum()
    }

    pub(super) fn status(&self, at: usize) -> Vec<Status> {
        self.daemons[at].running.as_ref().map(|(budgets, _)| budgets.snapshot()).unwrap_or_default()
    }

    /// Everything that must hold, wherever this stands.
    pub(super) fn sound(&self) {
        assert!(self.book.adds_up(), "the sums are not those of the shares: {}", self.book.picture());
        assert!(self.book.incidents().is_empty(), "nobody forgot anything: {:?}", self.book.incidents());
        let status: Vec<Vec<Status>> = (0..DAEMONS).map(|at| self.status(at)).collect();
        for (budget, limit) in LIMITS {
            let bills: u64 =
                (0..CLIENTS).filter(|client| covers(budget, *client)).map(|client| self.clients[client].bill).sum();
            let (spent, held) = (self.spent(budget), self.held_of(budget, None));
            assert!(bills <= limit, "{budget}: the providers billed {bills} of {limit}");
            assert!(spent + held <= limit, "{budget}: {spent} spent and {held} held of {limit}");
            assert!(spent + held >= bills, "{budget}: a charge is lost: {spent} and {held} of {bills}");
            let mut may = 0;
            for (at, mine) in status.iter().enumerate() {
                let Some(mine) = mine.iter().find(|status| status.key.budget.as_ref() == budget) else { continue };
                assert_eq!(mine.held.0, self.held_of(budget, Some(at)), "{budget}: what daemon {at} holds");
                let slice = mine.slice.as_ref().map_or(0, |slice| slice.granted.0);
                assert!(mine.settled.0 + mine.held.0 <= slice, "{budget}: daemon {at} has {slice}: {mine:?}");
                may += slice;
                let allotted = self.book.window(&mine.key).allotted.0;
                assert!(allotted <= limit, "{budget}: {allotted} given of {limit}");
            }
            assert!(may <= limit, "{budget}: daemons may spend {may} of {limit}");
        }
    }

    /// What all that can follow depends on.
    pub(super) fn picture(&self) -> String {
        let mut out = self.book.picture();
        for (at, daemon) in self.daemons.iter().enumerate() {
            write!(out, "{:?}{}{:?}", daemon.known, daemon.said, daemon.network).expect("a string");
            let Some((budgets, holder)) = &daemon.running else { continue };
            let slices: Vec<_> = self.status(at).into_iter().map(|status| status.slice).collect();
            write!(out, "{}{slices:?}{:?}", budgets.picture(), holder.standing()).expect("a string");
        }
        for one in &self.clients {
            let phase = match &one.phase {
                Phase::Idle => 'i',
                Phase::Waiting(_) => 'w',
                Phase::Held(_) => 'h',
                Phase::Sent(_) => 's',
                Phase::Open => 'k',
                Phase::Over => 'o',
            };
            write!(out, "|{phase}{},{}", one.bill, one.charged).expect("a string");
        }
        write!(out, "{}", self.kills).expect("a string");
        out
    }

    /// Whether a client waits for money of the parent alone, and whether one does for the child's.
    pub(super) fn binding(&self) -> [bool; 2] {
        let mut alone = [false; 2];
        for client in (0..CLIENTS).filter(|client| matches!(self.clients[*client].phase, Phase::Waiting(_))) {
            let lacks = LIMITS.map(|(budget, limit)| {
                let taken = self.spent(budget) + self.held_of(budget, None);
                covers(budget, client) && taken + ASKS[client].2 > limit
            });
            (0..2).for_each(|level| alone[level] |= lacks[level] && !lacks[1 - level]);
        }
        alone
    }
}
