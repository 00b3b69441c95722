//! Totals, charges and corrections that PostgreSQL keeps beside the records, held against them.

use super::Audit;
use crate::event::WindowKey;
use crate::ledger::books::{Spend, SpendKey};
use crate::ledger::corrections::{Charge, Found, faults, record_at};
use crate::ledger::fleet::FleetStore as _;
use crate::ledger::postgres::{PostgresStore, number, total};
use sqlx::Row as _;
use std::collections::BTreeMap;

impl Audit {
    pub(super) async fn money(&mut self, store: &mut PostgresStore, log: i32) -> Result<(), sqlx::Error> {
        let connection = store.database().up().await?;
        let rows =
            sqlx::query(r#"SELECT host, budget, scope, "window", nano, credited FROM totals WHERE log = $1"#).bind(log);
        let mut totals = BTreeMap::new();
        for row in rows.fetch_all(&mut *connection).await? {
            let text = |name: &str| row.try_get::<String, _>(name).map(Into::into);
            let key = WindowKey { budget: text("budget")?, scope: text("scope")?, window: text("window")? };
            totals.insert((row.try_get::<String, _>("host")?, key), total(&row)?);
        }
        let rows = sqlx::query(
            "SELECT host, agent, provider, model, minute, sum(calls)::bigint AS calls, sum(nano)::bigint AS nano, \
             sum(input)::bigint AS input, sum(cache_read)::bigint AS cache_read, \
             sum(cache_write_5m)::bigint AS cache_write_5m, sum(cache_write_1h)::bigint AS cache_write_1h, \
             sum(output)::bigint AS output, sum(reasoning)::bigint AS reasoning, sum(web_searches)::bigint AS web_searches, \
             sum(charged_max)::bigint AS charged_max, sum(credited)::bigint AS credited, sum(sent)::bigint AS sent, \
             sum(received)::bigint AS received FROM charges WHERE log = $1 GROUP BY 1, 2, 3, 4, 5",
        );
        let mut charges = BTreeMap::new();
        for row in rows.bind(log).fetch_all(connection).await? {
            let key = SpendKey {
                agent: row.try_get("agent")?,
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                day: row.try_get("minute")?,
            };
            let mut values = [0; Spend::NUMBERS.len()];
            for (value, name) in values.iter_mut().zip(Spend::NUMBERS) {
                *value = number(&row, name)?;
            }
            charges.insert((row.try_get::<String, _>("host")?, key), values);
        }
        let made = self.hosts.iter().flat_map(|(host, state)| {
            state.recount.totals().into_iter().map(move |(key, total)| ((host.clone(), key), total))
        });
        if made.collect::<BTreeMap<_, _>>() != totals {
            self.report.find("totals", "the stored totals of budget windows are not those of the records".into());
        }
        let made = self.hosts.iter().flat_map(|(host, state)| {
            state.recount.spend().into_iter().map(move |(key, spend)| ((host.clone(), key), spend.numbers()))
        });
        if made.collect::<BTreeMap<_, _>>() != charges {
            self.report.find("spend", "the stored charges are not those of the records".into());
        }
        Ok(())
    }

    /// Holds each correction against the charge that it names.
    pub(super) async fn corrections(&mut self, store: &mut PostgresStore) {
        let made = std::mem::take(&mut self.corrections);
        self.report.corrections = made.len() as u64;
        let mut read: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for (host, correction) in made {
            let began = self.hosts.get_mut(&host).map_or(0, |state| state.chain.began);
            // A chain that began anew since has another record at this place.
            let mut leaf = store.leaf_of(&host, correction.sequence, began).await.ok().flatten();
            if leaf.is_none_or(|leaf| leaf > correction.leaf) {
                leaf = store.leaf_of(&host, correction.sequence, 0).await.ok().flatten();
            }
            let mut charge = None;
            if let Some(leaf) = leaf {
                let outcome = record_at(store, leaf).await.ok().flatten().and_then(Charge::of);
                charge = outcome.filter(|charge| charge.call.to_string() == correction.call);
            }
            let record = record_at(store, correction.leaf).await.ok().flatten();
            read.entry(host).or_default().push(Found { correction, record, charge });
        }
        let faults = read.values().flat_map(|of_host| faults(of_host));
        faults.for_each(|what| self.report.find("correction", what));
    }
}
