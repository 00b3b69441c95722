//! What must hold in every state of the small world, by the clients' own account against that of the product, and what
//! tells two states apart.

use super::disk::Written;
use super::{ASKS, CLIENTS, LIMITS, Phase, World, covers};
use std::collections::BTreeMap;
use std::fmt::Write as _;

impl World<'_> {
    /// What the first `length` records charge each call that they know: its outcome's cost, or its hold.
    pub(super) fn on_disk(&self, length: usize) -> BTreeMap<usize, u64> {
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

    /// Settled and held of each budget, by the clients' own account.
    pub(super) fn picture_of_money(&self) -> BTreeMap<&'static str, (u64, u64)> {
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
    pub(in crate::app::holds) fn check(&self) {
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
    pub(in crate::app::holds) fn fingerprint(&self) -> String {
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

    /// Whether a client waits for money of the parent alone, and whether one does for the child's.
    pub(in crate::app::holds) fn alone(&self) -> [bool; 2] {
        let money = self.picture_of_money();
        let mut alone = [false; 2];
        for client in (0..CLIENTS).filter(|client| matches!(self.clients[*client].phase, Phase::Waiting(_))) {
            let lacks = LIMITS.map(|(budget, limit)| {
                covers(budget, client) && money[budget].0 + money[budget].1 + ASKS[client].1 > limit
            });
            (0..2).for_each(|level| alone[level] |= lacks[level] && !lacks[1 - level]);
        }
        alone
    }

    /// Whether every call is over under a daemon that runs.
    pub(in crate::app::holds) fn is_at_rest(&self) -> bool {
        self.daemon.is_some() && self.clients.iter().all(|one| matches!(one.phase, Phase::Over))
    }

    /// Money held of a budget.
    pub(in crate::app::holds) fn held(&self) -> u64 {
        self.budgets().snapshot().iter().map(|status| status.held.0).sum()
    }
}
