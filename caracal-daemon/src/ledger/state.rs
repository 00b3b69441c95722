//! The names of what a host keeps below its state directory.

use std::path::{Path, PathBuf};

/// A state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The state directory at `root`.
    #[must_use]
    pub fn new(root: &Path) -> StateDir {
        StateDir(root.to_owned())
    }

    /// The journal's segments. The data path's own.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("data/journal")
    }

    /// The keys of sealed details. The data path's own.
    #[must_use]
    pub fn detail_keys(&self) -> PathBuf {
        self.0.join("data/keys")
    }

    /// The ledger. The data path's own.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.0.join("data").join(super::sqlite::FILE)
    }

    /// The keys that sign. The keeper's own.
    #[must_use]
    pub fn ledger_keys(&self) -> PathBuf {
        self.0.join("keeper")
    }

    /// The public keys of the ledger.
    #[must_use]
    pub fn public_keys(&self) -> PathBuf {
        self.ledger_keys().join(crate::keeper::ledger_key::PUBLIC)
    }
}
