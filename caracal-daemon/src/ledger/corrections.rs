//! Charges that are put right. Takes the outcome of a call and what is to be added to its charge; gives the record of the
//! correction, or refuses. All corrections of a charge together leave at least nothing of it: no correction makes money.

use super::books::Corrected;
use super::store::{Chunk, Store, StoreError};
use crate::clock::UnixNanos;
use crate::event::write::read_place;
use crate::event::{Correction, Data, Detail, Draft, Kind, Record};
use crate::meter::Provider;
use crate::money::NanoUsd;

/// The longest reason, bytes: none is cut in its record.
pub const MAX_REASON_BYTES: usize = 1_000;

/// Why a charge was not put right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorrectionError {
    /// The leaf is not the outcome of the call.
    #[error("leaf {leaf} does not say how call {call} ended; `caracald events --json` shows calls and their leaves")]
    NoCharge {
        /// The leaf.
        leaf: u64,
        /// The call.
        call: String,
    },
    /// It would take more than was charged.
    #[error(
        "call {call} was charged {left} (corrections so far included), so {asked} cannot be taken off; take off at most {left}"
    )]
    BelowZero {
        /// The call.
        call: String,
        /// What is left of the charge.
        left: NanoUsd,
        /// What was to be taken off.
        asked: NanoUsd,
    },
    /// It would add more than can be counted.
    #[error("{0} cannot be added to a charge: it is more than any bill")]
    TooLarge(NanoUsd),
    /// It changes nothing.
    #[error("an amount of 0 changes nothing; say by how much the charge goes up, or down with a minus")]
    Nothing,
    /// Nobody could tell later why.
    #[error("a correction needs a reason, at most {MAX_REASON_BYTES} bytes of text")]
    Reason,
}

impl CorrectionError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            CorrectionError::NoCharge { .. } => "correction_no_charge",
            CorrectionError::BelowZero { .. } => "correction_below_zero",
            CorrectionError::TooLarge(_) => "correction_too_large",
            CorrectionError::Nothing => "correction_of_nothing",
            CorrectionError::Reason => "correction_without_reason",
        }
    }
}

/// Who asks for a correction, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The user id.
    pub uid: u32,
    /// In their words.
    pub reason: String,
}

/// What a call was charged, as its outcome says.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The call.
    pub call: uuid::Uuid,
    /// What it was charged, without corrections.
    pub cost: NanoUsd,
    /// Its whole hold was charged, because nobody saw what it used.
    pub at_hold: bool,
    /// The outcome.
    pub record: Record,
}

impl Charge {
    /// The charge that a record is about: `None` if it is no outcome.
    #[must_use]
    pub fn of(record: Record) -> Option<Charge> {
        if record.kind != Kind::Outcome.code() {
            return None;
        }
        let call = record.data.call.as_deref()?.parse().ok()?;
        let released = record.data.settle.as_deref() == Some("released");
        // As the books have it: without a cost, the longest bill.
        let cost =
            record.data.cost.unwrap_or(if released { NanoUsd::ZERO } else { record.data.hold.unwrap_or_default() });
        let at_hold = record.data.settle.as_deref() == Some("charged_max");
        Some(Charge { call, cost, at_hold, record })
    }

    /// What is left of the charge after `corrections` of it.
    #[must_use]
    pub fn left(&self, corrections: &[Corrected]) -> NanoUsd {
        let sum = corrections.iter().fold(i128::from(self.cost.0), |sum, one| sum + i128::from(one.nano));
        NanoUsd(u64::try_from(sum.max(0)).unwrap_or(u64::MAX))
    }

    /// Whether `nano` may be added to the charge after `corrections` of it. Gives what is left then.
    ///
    /// # Errors
    /// When less than nothing would be left, or more than can be counted.
    pub fn allows(&self, corrections: &[Corrected], nano: i64) -> Result<NanoUsd, CorrectionError> {
        let (left, amount) = (self.left(corrections), NanoUsd(nano.unsigned_abs()));
        match nano {
            0 => Err(CorrectionError::Nothing),
            1.. => {
                // SQL's integers and ours are signed at the widest.
                let sum = left.checked_add(amount).filter(|sum| i64::try_from(sum.0).is_ok());
                sum.ok_or(CorrectionError::TooLarge(amount))
            }
            _ => left.checked_sub(amount).ok_or_else(|| CorrectionError::BelowZero {
                call: self.call.to_string(),
                left,
                asked: amount,
            }),
        }
    }

    /// The record that adds `nano` to the charge. `detail` is that of the outcome, where its key is still there.
    ///
    /// # Errors
    /// When there is no reason, or the correction is not allowed.
    pub fn correct(
        &self,
        corrections: &[Corrected],
        nano: i64,
        asker: &Asker,
        detail: Option<Detail>,
        at: UnixNanos,
    ) -> Result<Draft, CorrectionError> {
        let reason = asker.reason.trim();
        if reason.is_empty() || reason.len() > MAX_REASON_BYTES {
            return Err(CorrectionError::Reason);
        }
        self.allows(corrections, nano)?;
        let fields = &self.record.data;
        let detail = detail.unwrap_or_default();
        Ok(Draft {
            kind: Kind::Correction,
            at,
            data: Box::new(Data {
                agent: fields.agent.as_deref().map(Into::into),
                call: Some(self.call),
                provider: fields.provider.as_deref().and_then(Provider::named).map(Provider::name),
                model: fields.model.as_deref().map(Into::into),
                windows: fields.windows.clone(),
                correction: Some(Correction { nano, sequence: self.record.sequence, charged_at: self.record.at }),
                ..Data::default()
            }),
            detail: Detail {
                host: detail.host,
                port: detail.port,
                uid: detail.uid,
                note: Some(reason.to_owned()),
                asked_by: Some(asker.uid),
                ..Detail::default()
            },
        })
    }

    /// Whether `correction` is one of this charge: the same call, agent, model, windows and day.
    #[must_use]
    pub fn is_corrected_by(&self, correction: &Record) -> bool {
        let (own, its) = (&self.record.data, &correction.data);
        let at: Option<UnixNanos> =
            its.charged_at.as_deref().and_then(|at| at.parse().ok()).and_then(super::books::nanos);
        its.call == own.call
            && its.agent == own.agent
            && its.provider == own.provider
            && its.model == own.model
            && its.windows == own.windows
            && its.corrects == Some(self.record.sequence)
            && at == Some(self.record.at)
    }
}

/// The record with this sequence number that `wanted` wants, in the ledger of one host with `size` leaves. The sequence
/// numbers of its leaves never fall, so a binary search finds it; leaves about a broken chain share one with a record.
///
/// # Errors
/// The store's.
pub async fn find(
    store: &mut impl Store,
    size: u64,
    sequence: u64,
    wanted: impl Fn(&[u8]) -> bool + Send,
) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut low, mut high) = (0, size);
    // The first leaf with this number or a higher one.
    while low < high {
        let middle = low + (high - low) / 2;
        let chunk = chunk_at(store, middle).await?;
        let mut places = chunk.records().map(place_of);
        let first = places.next().unwrap_or(0);
        let last = places.last().unwrap_or(first);
        if sequence <= first {
            high = chunk.first;
        } else if sequence > last {
            low = chunk.first.saturating_add(chunk.count);
        } else {
            low = chunk.first;
            break;
        }
    }
    while low < size {
        let chunk = chunk_at(store, low).await?;
        let here = |record: &&[u8]| place_of(record) == sequence;
        if let Some(found) = chunk.records().filter(here).find(|record| wanted(record)) {
            return Ok(Some(found.to_vec()));
        }
        if chunk.records().any(|record| place_of(record) > sequence) {
            break;
        }
        low = chunk.first.saturating_add(chunk.count.max(1));
    }
    Ok(None)
}

async fn chunk_at(store: &mut impl Store, leaf: u64) -> Result<Chunk, StoreError> {
    store.chunk(leaf).await?.ok_or_else(|| StoreError::Damaged(format!("leaf {leaf} is missing")))
}

fn place_of(record: &[u8]) -> u64 {
    read_place(record).map_or(0, |place| place.0)
}

/// The record at `leaf`, read.
///
/// # Errors
/// The store's.
pub async fn record_at(store: &mut impl Store, leaf: u64) -> Result<Option<Record>, StoreError> {
    let Some(chunk) = store.chunk(leaf).await? else { return Ok(None) };
    let at = usize::try_from(leaf.saturating_sub(chunk.first)).unwrap_or(usize::MAX);
    Ok(chunk.records().nth(at).and_then(|record| Record::parse(record).ok()))
}

/// A correction as an audit found it.
#[derive(Debug)]
pub(super) struct Found {
    /// What the books have of it.
    pub(super) correction: Corrected,
    /// Its record.
    pub(super) record: Option<Record>,
    /// The charge of its call, at the place that it names.
    pub(super) charge: Option<Charge>,
}

/// What is wrong with `corrections`, which are in the order of their leaves: one that is not of the charge it names, or takes
/// more than was left of it.
pub(super) fn faults(corrections: &[Found]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut before: std::collections::HashMap<&str, Vec<Corrected>> = std::collections::HashMap::new();
    for Found { correction, record, charge } in corrections {
        let leaf = correction.leaf;
        let Some(charge) = charge else {
            wrong.push(format!("leaf {leaf} corrects a charge of call {} that is not there", correction.call));
            continue;
        };
        if !record.as_ref().is_some_and(|record| charge.is_corrected_by(record)) {
            wrong.push(format!("leaf {leaf} does not count where the charge of call {} does", correction.call));
        }
        let earlier = before.entry(&correction.call).or_default();
        if let Err(error) = charge.allows(earlier, correction.nano) {
            wrong.push(format!("leaf {leaf}: {error}"));
        }
        earlier.push(correction.clone());
    }
    wrong
}

#[cfg(test)]
mod tests;
