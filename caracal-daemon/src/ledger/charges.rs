//! Every charge in the ledger, one by one: for what the sums by day do not tell. Reads; never writes.

use super::books::{Corrected, call_of};
use super::corrections::Charge;
use super::sqlite::SqliteStore;
use super::state::StateDir;
use super::store::StoreError;
use crate::event::write::PLACE_BYTES;
use crate::event::{Detail, DetailKeys, Record};
use crate::money::NanoUsd;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

const CHUNKS_AT_ONCE: u32 = 64;

/// A time from and to, Unix milliseconds; both are within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

impl Span {
    /// All of it.
    pub const ALL: Span = Span { from: 0, to: i64::MAX as u64 };

    /// The days from `first` to `last`, UTC. `None`: from the beginning, or for ever.
    #[must_use]
    pub fn days(first: Option<jiff::civil::Date>, last: Option<jiff::civil::Date>) -> Span {
        let midnight = |date: jiff::civil::Date| {
            let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            u64::try_from(at.timestamp().as_millisecond()).ok()
        };
        let after = last.map(|last| last.tomorrow().ok().and_then(midnight).unwrap_or(Span::ALL.to));
        Span {
            from: first.and_then(midnight).unwrap_or(Span::ALL.from),
            to: after.map_or(Span::ALL.to, |after| after.saturating_sub(1)),
        }
    }

    /// Whether a time in Unix milliseconds is within.
    #[must_use]
    pub fn has(self, ms: u64) -> bool {
        (self.from..=self.to).contains(&ms)
    }
}

/// A charge in the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Charged {
    /// The leaf of its outcome.
    pub leaf: u64,
    /// The charge.
    pub charge: Charge,
    /// Its sealed detail, when the key is readable.
    pub detail: Option<Detail>,
    /// Its corrections, in their order.
    pub corrections: Vec<Corrected>,
}

impl Charged {
    /// What is left of it after its corrections.
    #[must_use]
    pub fn left(&self) -> NanoUsd {
        self.charge.left(&self.corrections)
    }
}

/// Gives `each` charge within `span` (the outcome that ended its call), in the order of the ledger, until it breaks.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn each(
    state: &StateDir,
    span: Span,
    mut each: impl FnMut(Charged) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    if !state.ledger().is_file() {
        return Ok(());
    }
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut store = SqliteStore::read(&state.ledger()).await?;
    store.freeze().await?;
    let mut corrections: HashMap<String, Vec<Corrected>> = HashMap::new();
    for correction in store.corrections(None).await? {
        corrections.entry(correction.call.clone()).or_default().push(correction);
    }
    let (mut next, mut calls) = (0, Calls { span, open: HashSet::new(), ended: HashSet::new() });
    loop {
        let chunks = store.chunks_within(next, (span.from, span.to), CHUNKS_AT_ONCE).await?;
        let Some(last) = chunks.last() else { return Ok(()) };
        next = last.first.saturating_add(1);
        for chunk in &chunks {
            for (leaf, record) in (chunk.first..).zip(chunk.records()) {
                let kind = record.get(PLACE_BYTES..).unwrap_or_default();
                if kind.starts_with(br#""type":"caracal.intent.v1""#) {
                    calls.open.extend(call_of(record));
                    continue;
                }
                if !kind.starts_with(br#""type":"caracal.outcome.v1""#) {
                    continue;
                }
                let Some(charge) = Record::parse(record).ok().and_then(Charge::of) else { continue };
                // A second one of a call is a stray, as in the sums.
                if !calls.end(charge.call) || !span.has(charge.record.at.0 / 1_000_000) {
                    continue;
                }
                let detail = keys.open_detail(&charge.record);
                let corrections = corrections.get(&charge.call.to_string()).cloned().unwrap_or_default();
                if each(Charged { leaf, charge, detail, corrections }).is_break() {
                    return Ok(());
                }
            }
        }
    }
}

/// Calls on the way through a ledger. Remembers those that are open; of those that were made outside of the span also which ended, since
/// their intents may stand where nobody reads.
struct Calls {
    span: Span,
    open: HashSet<uuid::Uuid>,
    ended: HashSet<uuid::Uuid>,
}

impl Calls {
    /// An outcome of `call`: whether it is the one that ends it.
    fn end(&mut self, call: uuid::Uuid) -> bool {
        let was_open = self.open.remove(&call);
        if self.span.has(made_at(call)) { was_open } else { self.ended.insert(call) }
    }
}

/// When a call was made, Unix milliseconds, as its id says; 0 where it does not.
fn made_at(call: uuid::Uuid) -> u64 {
    call.get_timestamp().map_or(0, |at| {
        let (seconds, nanos) = at.to_unix();
        seconds.saturating_mul(1_000).saturating_add(u64::from(nanos) / 1_000_000)
    })
}

/// The charge of a call, if the ledger has it. A call's id says when it was made, so what came before is not read.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn of_call(state: &StateDir, call: uuid::Uuid) -> Result<Option<Charged>, StoreError> {
    let made = made_at(call);
    // The clock may have been set back a little in between.
    let span = Span { from: made.saturating_sub(3_600_000), ..Span::ALL };
    let mut found = None;
    each(state, span, |charged| {
        if charged.charge.call == call {
            found = Some(charged);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(found)
}
