//! Plays a ledger's past again: its records by time, host, agent, decision and model, oldest first, however many there are.
//! Takes a selection; hands each record on as it is read. Reads; never writes.

use super::query::{Event, Filter};
use super::store::{Store, StoreError};
use crate::clock::UnixNanos;
use crate::event::DetailKeys;

/// Rows read at once: some thousand records.
const CHUNKS_AT_ONCE: u32 = 16;

/// What is asked for. An empty list asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only records of this time or later.
    pub since: Option<UnixNanos>,
    /// Only records before this time.
    pub until: Option<UnixNanos>,
    /// Only records of these agents.
    pub agents: Vec<String>,
    /// Only records with one of these decisions, or whose call ended in one of these ways.
    pub decisions: Vec<String>,
    /// Only records of these models.
    pub models: Vec<String>,
    /// Only records of these hosts, and what the ledger says of their chains.
    pub hosts: Vec<String>,
}

impl Selection {
    /// Whether `event` is asked for.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let (at, data) = (event.record.at, &event.record.data);
        let among = |wanted: &[String], found: &[Option<&String>]| {
            wanted.is_empty() || found.iter().flatten().any(|found| wanted.contains(found))
        };
        (self.hosts.is_empty() || self.hosts.iter().any(|host| host == event.host()))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && among(&self.agents, &[data.agent.as_ref()])
            && among(&self.decisions, &[data.decision.as_ref(), data.settle.as_ref()])
            && among(&self.models, &[data.model.as_ref()])
    }

    /// The times that a row may have to be looked at, Unix milliseconds, both included.
    fn span(&self) -> (u64, u64) {
        let ms = |at: UnixNanos| at.0 / 1_000_000;
        // A record's row is found by the time in its id, which may be a moment off the time that it tells.
        let slack = 60_000;
        (
            self.since.map_or(0, |since| ms(since).saturating_sub(slack)),
            self.until.map_or(i64::MAX as u64, |until| ms(until).saturating_add(slack)),
        )
    }
}

/// Hands each record of the ledger that is asked for to `each`, oldest first, until it says that this is enough.
///
/// # Errors
/// The database's.
pub async fn select<S: Store>(
    store: &mut S,
    selection: &Selection,
    keys: &DetailKeys,
    each: &mut (dyn FnMut(Event) -> bool + Send),
) -> Result<(), StoreError> {
    store.freeze().await?;
    let (filter, mut next) = (Filter::default(), 0);
    loop {
        let chunks = store.chunks_within(next, selection.span(), CHUNKS_AT_ONCE).await?;
        let Some(last) = chunks.last() else { return Ok(()) };
        next = last.first.saturating_add(1);
        for chunk in &chunks {
            let events = (chunk.first..).zip(chunk.records());
            for event in events.filter_map(|(index, record)| filter.read(Some(index), record, keys)) {
                if selection.takes(&event) && !each(event) {
                    return Ok(());
                }
            }
        }
    }
}
