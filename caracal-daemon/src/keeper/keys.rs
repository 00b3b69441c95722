//! Every key of the instance, in the one process that may use them.

use std::path::Path;

use super::authority::Authority;
use super::ledger_key::LedgerKey;
use super::{KeeperError, Signer};
use crate::clock::Clock;

/// The CA, the ledger's keys and the host's key.
#[derive(Debug)]
pub struct Keys {
    authority: Authority,
    ledger: LedgerKey,
}

impl Keys {
    /// Opens the keys below `directory`, making those that are not there.
    ///
    /// # Errors
    /// When one cannot be read or made, or others can read it.
    pub fn open(directory: &Path, host_id: &str, clock: Clock) -> Result<Keys, KeeperError> {
        Ok(Keys { authority: Authority::open(directory, clock)?, ledger: LedgerKey::open(directory, host_id)? })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The public keys that an auditor needs: one verifier key a line.
    #[must_use]
    pub fn public_keys(&self) -> String {
        self.ledger.public_keys()
    }
}

impl Signer for Keys {
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        self.authority.issue_leaf(name, spki)
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        self.ledger.sign_checkpoint(size, root, proof)
    }

    fn sign_chain_head(&self, sequence: u64, leaf_hash: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        self.ledger.sign_chain_head(sequence, &leaf_hash)
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.ledger.prove_chain_head(known, records)
    }
}
