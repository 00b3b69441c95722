//! What the same keys signed on another host. Believes only what these keys, or those before a hand-over, signed as a checkpoint
//! of this log with both of their lines.

use super::LedgerKey;
use super::files::{Signed, Turn, key_error, store_signed};
use super::rotate::{HISTORY, read_history};
use crate::keeper::KeeperError;
use crate::ledger::keyring::Keyring;
use crate::ledger::note::{Checkpoint, NoteError};

impl LedgerKey {
    /// The log's origin.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The tree of a checkpoint that the log's keys signed, wherever that was.
    ///
    /// # Errors
    /// When it is no checkpoint, another log's, or not signed by both keys that were in force at its size; or the keys' history
    /// cannot be read.
    pub fn own_checkpoint(&self, note: &[u8]) -> Result<Signed, KeeperError> {
        let fail = |error: NoteError| key_error(&self.dir.join(HISTORY), error.to_string());
        let keys = read_history(&self.dir)?.unwrap_or_else(|| self.public_keys());
        let mut keys = Keyring::parse(&keys).map_err(fail)?.keys;
        // The host's key signs other things.
        keys.retain(|key| key.name() == self.origin);
        let text = std::str::from_utf8(note).map_err(|_| NoteError::Malformed("it is no text"));
        let opened = text.and_then(|text| {
            let opened = Checkpoint::open(text, &keys)?;
            opened.must_have_lines_of(&keys)?;
            Ok(opened)
        });
        let Checkpoint { size, root, .. } = opened.map_err(|error| KeeperError::Refused(error.to_string()))?;
        Ok(Signed { size, root })
    }

    /// Remembers a tree that these keys signed elsewhere, if it is larger than all that they signed here.
    ///
    /// # Errors
    /// `Fork` when they signed another tree of that size here; or the file cannot be written.
    pub fn remember(&self, elsewhere: Signed) -> Result<(), KeeperError> {
        let mut state = self.state();
        let _turn = Turn::take(&self.dir)?;
        self.refresh(&mut state)?;
        let here = state.largest();
        if elsewhere.size == here.size && elsewhere.root != here.root {
            return Err(KeeperError::Fork { asked: elsewhere.size, signed: here.size });
        }
        if elsewhere.size > here.size {
            store_signed(&self.dir, elsewhere)?;
            state.signed = Some(elsewhere);
        }
        Ok(())
    }
}
