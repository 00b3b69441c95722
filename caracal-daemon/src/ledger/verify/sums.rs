//! What a ledger keeps beside its records (where it stands, totals, spend, open calls, corrections), held against them.

use super::Audit;
use crate::event::{Record, WindowKey};
use crate::ledger::books::{Spend, SpendKey, Total};
use crate::ledger::corrections::{Charge, Found, faults, find, record_at};
use crate::ledger::sqlite::SqliteStore;
use crate::ledger::store::{State, StoreError};
use std::collections::HashMap;

impl Audit<'_> {
    pub(super) fn state(&mut self, state: &State) {
        self.report.root = hex::encode(self.tree.root());
        let made = Some((self.origin.clone(), self.tree.size(), self.tree.root(), self.cursor));
        let stored = state.position.as_ref().map(|at| (at.origin.clone(), at.size, at.root, at.cursor));
        if stored != made && !(stored.is_none() && self.tree.size() == 0) {
            self.report.find("position", "the stored size, root, origin or cursor is not that of the records".into());
        }
        let edges = state.edges.iter().filter(|edge| !edge.is_empty());
        if !edges.eq(self.tree.edges().iter().filter(|edge| !edge.is_empty())) {
            self.report.find("edge", "the stored open tiles are not those of the records".into());
        }
    }

    pub(super) fn money(&mut self, state: &State, totals: HashMap<WindowKey, Total>, spend: Vec<(SpendKey, Spend)>) {
        if self.recount.totals() != totals {
            self.report.find("totals", "the stored totals of budget windows are not those of the records".into());
        }
        if self.recount.spend() != spend.into_iter().collect() {
            self.report.find("spend", "the stored spend is not that of the records".into());
        }
        if self.recount.open() != state.open {
            self.report.find("open_intents", "the stored open calls are not those of the records".into());
        }
    }

    /// Holds each correction against the charge that it names.
    pub(super) async fn corrections(&mut self, store: &mut SqliteStore) -> Result<(), StoreError> {
        let made = std::mem::take(&mut self.recount.corrections);
        if made != store.corrections(None).await? {
            self.report.find("corrections", "the stored corrections are not those of the records".into());
        }
        self.report.corrections = made.len() as u64;
        let mut read = Vec::with_capacity(made.len());
        for correction in made {
            let of = |record: &[u8]| {
                let charge = Record::parse(record).ok().and_then(Charge::of);
                charge.filter(|charge| charge.call.to_string() == correction.call)
            };
            let wanted = |record: &[u8]| of(record).is_some();
            let found = find(store, self.tree.size(), correction.sequence, wanted).await.ok().flatten();
            let record = record_at(store, correction.leaf).await.ok().flatten();
            let charge = found.as_deref().and_then(of);
            read.push(Found { correction, record, charge });
        }
        faults(&read).into_iter().for_each(|what| self.report.find("correction", what));
        Ok(())
    }
}
