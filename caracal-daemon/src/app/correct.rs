//! A charge is put right: read in the ledger, held against what was charged, recorded, and only then counted.

use serde_json::{Value, json};
use std::time::Duration;

use super::build::Stages;
use crate::event::DetailKeys;
use crate::intercept::record_warnings;
use crate::journal::JournalError;
use crate::keeper::order::CorrectionAsked;
use crate::ledger::corrections::{Asker, Charge, CorrectionError, record_at};
use crate::ledger::{SqliteStore, StoreError, charges};

/// How long the ledger may take to have all earlier corrections. Orders wait meanwhile, and the keeper for them.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Why a charge was not put right. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CorrectError {
    /// Not allowed.
    #[error("{0} ({code})", code = .0.code())]
    Correction(#[from] CorrectionError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was corrected before is not known for certain.
    #[error("the ledger is behind the journal ({0}), so earlier corrections are not known: try again (ledger_behind)")]
    Behind(String),
    /// No record, no correction.
    #[error("the correction could not be recorded, so nothing was changed: {0}")]
    Journal(#[from] JournalError),
}

impl Stages {
    /// Adds to a charge, or takes off it, what is asked for. Orders are obeyed one at a time, and each begins when the ledger
    /// has the one before: two corrections cannot take the same money back.
    pub(super) async fn correct(&self, asked: &CorrectionAsked, uid: u32) -> Result<Value, CorrectError> {
        match tokio::time::timeout(CATCH_UP, self.ledger.flush()).await {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return Err(CorrectError::Behind(why)),
            Err(_) => return Err(CorrectError::Behind("it did not catch up in time".to_owned())),
        }
        let mut store = SqliteStore::read(&self.state.ledger()).await?;
        let missing = || CorrectionError::NoCharge { leaf: asked.leaf, call: asked.call.clone() };
        let charge = record_at(&mut store, asked.leaf).await?.and_then(Charge::of).ok_or_else(missing)?;
        // A second outcome of a call is a stray, which was never charged.
        let first = charges::of_call(&self.state, charge.call).await?;
        if charge.call.to_string() != asked.call || first.is_none_or(|first| first.leaf != asked.leaf) {
            return Err(missing().into());
        }
        let earlier = store.corrections(Some(&asked.call)).await?;
        let detail = DetailKeys::read_only(&self.state.detail_keys()).open_detail(&charge.record);
        let asker = Asker { uid, reason: asked.reason.clone() };
        let draft = charge.correct(&earlier, asked.nano, &asker, detail, self.clock.now())?;
        let left = charge.allows(&earlier, asked.nano)?;
        let windows = draft.data.windows.clone();
        // Durable before it counts: after a crash the ledger says what the budgets did.
        self.journal.durable(draft.clone()).await?;
        let warnings = self.budgets.correct(&windows, asked.nano);
        record_warnings(&self.journal, &warnings, (draft.at, draft.data.agent, draft.data.call)).await;
        Ok(json!({
            "call": asked.call, "leaf": asked.leaf, "charged_nano_usd": charge.cost.0, "by_nano_usd": asked.nano,
            "left_nano_usd": left.0, "windows": windows,
        }))
    }
}
