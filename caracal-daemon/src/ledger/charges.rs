//! Every charge in the ledger, one by one: for what the sums by day do not tell. Reads; never writes.

use super::books::{Corrected, call_of};
use super::corrections::Charge;
use super::sqlite::SqliteStore;
use super::state::StateDir;
use super::store::{Store, StoreError};
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
    each: impl FnMut(Charged) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    if !state.ledger().is_file() {
        return Ok(());
    }
    let keys = DetailKeys::read_only(&state.detail_keys());
    let mut store = SqliteStore::read(&state.ledger()).await?;
    store.freeze().await?;
    let mut walk = Walk { corrections: HashMap::new(), hosts: false, keys: Some(&keys), calls: Calls::within(span) };
    for correction in store.corrections(None).await? {
        walk.corrections.entry((String::new(), correction.call.clone())).or_default().push(correction);
    }
    walk.charges(&mut store, span, each).await
}

/// The same of a log of many hosts, whose details nobody here can read. Corrections are read out of the log itself, from the
/// first day of `span` on.
///
/// # Errors
/// When the log cannot be read.
pub async fn each_of_log(
    store: &mut impl Store,
    span: Span,
    each: impl FnMut(Charged) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    store.freeze().await?;
    let mut walk = Walk { corrections: HashMap::new(), hosts: true, keys: None, calls: Calls::within(span) };
    let after = Span { from: span.from.saturating_sub(SET_BACK_MS), ..Span::ALL };
    let corrections = &mut walk.corrections;
    records(store, after, &[CORRECTION], |leaf, record| {
        if let Some((source, correction)) = corrected(leaf, record) {
            corrections.entry((source, correction.call.clone())).or_default().push(correction);
        }
        ControlFlow::Continue(())
    })
    .await?;
    walk.charges(store, span, each).await
}

/// How far a clock may have been set back between a call's intent and what follows it, milliseconds.
const SET_BACK_MS: u64 = 3_600_000;
const INTENT: &[u8] = br#""type":"caracal.intent.v1""#;
const OUTCOME: &[u8] = br#""type":"caracal.outcome.v1""#;
const CORRECTION: &[u8] = br#""type":"caracal.correction.v1""#;

fn is_of(record: &[u8], kind: &[u8]) -> bool {
    record.get(PLACE_BYTES..).unwrap_or_default().starts_with(kind)
}

/// Gives each record of some kinds that may be within `span`, with its leaf, until it breaks.
async fn records(
    store: &mut impl Store,
    span: Span,
    kinds: &[&[u8]],
    mut each: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut next = 0;
    loop {
        let chunks = store.chunks_within(next, (span.from, span.to), CHUNKS_AT_ONCE).await?;
        let Some(last) = chunks.last() else { return Ok(()) };
        next = last.first.saturating_add(1);
        for chunk in &chunks {
            for (leaf, record) in (chunk.first..).zip(chunk.records()) {
                if kinds.iter().any(|kind| is_of(record, kind)) && each(leaf, record).is_break() {
                    return Ok(());
                }
            }
        }
    }
}

/// A correction's record: whose, and what it says.
fn corrected(leaf: u64, record: &[u8]) -> Option<(String, Corrected)> {
    let record = Record::parse(record).ok()?;
    let (call, nano) = (record.data.call?, record.data.correction?);
    Some((record.source, Corrected { leaf, call, nano, sequence: record.data.corrects? }))
}

/// What a walk over charges needs and remembers.
struct Walk<'a> {
    /// By source, where there are several, and call.
    corrections: HashMap<(String, String), Vec<Corrected>>,
    /// There are several hosts: none can say anything of another one's calls.
    hosts: bool,
    keys: Option<&'a DetailKeys>,
    calls: Calls,
}

impl Walk<'_> {
    async fn charges(
        &mut self,
        store: &mut impl Store,
        span: Span,
        mut each: impl FnMut(Charged) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        records(store, span, &[INTENT, OUTCOME], |leaf, record| {
            if is_of(record, INTENT) {
                let source = if self.hosts { source_of(record) } else { Some(String::new()) };
                self.calls.open.extend(source.zip(call_of(record)));
                return ControlFlow::Continue(());
            }
            let Some(charge) = Record::parse(record).ok().and_then(Charge::of) else {
                return ControlFlow::Continue(());
            };
            let source = if self.hosts { charge.record.source.clone() } else { String::new() };
            // A second one of a call is a stray, as in the sums.
            if !self.calls.end(&source, charge.call) || !span.has(charge.record.at.0 / 1_000_000) {
                return ControlFlow::Continue(());
            }
            let detail = self.keys.and_then(|keys| keys.open_detail(&charge.record));
            let corrections = self.corrections.get(&(source, charge.call.to_string())).cloned().unwrap_or_default();
            each(Charged { leaf, charge, detail, corrections })
        })
        .await
    }
}

/// Calls on the way through a ledger, each with its source where there are several. Remembers those that are open; of those
/// whose intents may stand where nobody reads, because they were made before the span or soon after it began, also which ended.
struct Calls {
    /// Where intents are seen.
    seen: Span,
    open: HashSet<(String, uuid::Uuid)>,
    ended: HashSet<(String, uuid::Uuid)>,
}

impl Calls {
    fn within(span: Span) -> Calls {
        let from = if span.from == 0 { 0 } else { span.from.saturating_add(SET_BACK_MS) };
        Calls { seen: Span { from, ..span }, open: HashSet::new(), ended: HashSet::new() }
    }

    /// An outcome of `call`: whether it is the one that ends it.
    fn end(&mut self, source: &str, call: uuid::Uuid) -> bool {
        let key = (source.to_owned(), call);
        let was_open = self.open.remove(&key);
        if self.seen.has(made_at(call)) { was_open } else { self.ended.insert(key) }
    }
}

fn source_of(record: &[u8]) -> Option<String> {
    Record::parse(record).ok().map(|record| record.source)
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
    let span = Span { from: made.saturating_sub(SET_BACK_MS), ..Span::ALL };
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
