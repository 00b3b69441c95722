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
        self.data().join("journal")
    }

    /// The keys of sealed details. The data path's own.
    #[must_use]
    pub fn detail_keys(&self) -> PathBuf {
        self.data().join("keys")
    }

    /// The ledger. The data path's own.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.data().join(super::sqlite::FILE)
    }

    /// Keys, and what was signed with them. The keeper's own.
    #[must_use]
    pub fn keeper(&self) -> PathBuf {
        self.0.join("keeper")
    }

    /// Journal, ledger, detail keys. The data path's own.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The public keys of the ledger.
    #[must_use]
    pub fn public_keys(&self) -> PathBuf {
        self.keeper().join(crate::keeper::ledger_key::PUBLIC)
    }
}
