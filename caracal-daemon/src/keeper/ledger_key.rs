//! The ledger's signing keys. Takes a tree's size and root, or a chain head; gives a signature.
//! Refuses to sign what contradicts what it signed before, across restarts and hand-overs of its keys, and a larger tree without the
//! proof that it begins with that: whoever asks cannot fork the log. Likewise for the host's chain (`heads.rs`). Never gives a
//! private key away.

mod elsewhere;
mod files;
mod freeze;
mod heads;
mod pair;
mod rotate;

pub use files::{Signed, read_signed};
pub use freeze::{PREDECESSOR, log_name};
pub use heads::SIGNED_HEAD;
pub use rotate::{HISTORY, hand_over_file, read_history};

use super::KeeperError;
use crate::event::Hash;
use crate::journal::head;
use crate::ledger::keyring::Frozen;
use crate::ledger::note::{self, Verifier};
use crate::ledger::proof::check_consistency;
use crate::ledger::tree::empty_root;
use files::{Turn, key_error, store_signed};
use heads::Heads;
use p256::ecdsa::signature::Signer as _;
use pair::{Pair, p256_key, p256_verifier};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const HOST: &str = "host-p256.pem";
/// Hashes of the longest consistency proof: one a level on either side, and the levels of 2^64 leaves are 64.
const MAX_PROOF: usize = 128;
/// The file with the public keys, beside the private ones.
pub const PUBLIC: &str = "ledger.pub";

/// The three keys of a host: two for its ledger's checkpoints, one for its chain heads.
pub struct LedgerKey {
    dir: PathBuf,
    host_id: String,
    origin: String,
    host: p256::ecdsa::SigningKey,
    host_verifier: Verifier,
    heads: Mutex<Heads>,
    state: Mutex<State>,
}

/// What another process may change: a hand-over, and what was signed.
struct State {
    pair: Pair,
    /// Length of the keys' history when they were read, bytes.
    history: u64,
    /// The log is closed: the origin of the one in its place.
    frozen: Option<Frozen>,
    signed: Option<Signed>,
}

impl State {
    /// The largest tree that was signed; before the first, the empty one.
    fn largest(&self) -> Signed {
        self.signed.unwrap_or(Signed { size: 0, root: empty_root() })
    }

    fn settle(&mut self, settled: rotate::Settled) {
        (self.pair, self.history, self.frozen) = (settled.pair, settled.history, settled.frozen);
    }
}

impl std::fmt::Debug for LedgerKey {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("LedgerKey").field("dir", &self.dir).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl LedgerKey {
    /// Reads the keys in `dir`, or makes them on first use: PKCS#8 PEM, mode 0600.
    ///
    /// # Errors
    /// When a file is readable by others, is no such key, is not the one that the keys' history says, or cannot be made.
    pub fn open(dir: &Path, host_id: &str) -> Result<LedgerKey, KeeperError> {
        if host_id.is_empty() || host_id.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+' || c == '/') {
            return Err(key_error(dir, format!("{host_id:?} cannot be a host id: it stands in key names")));
        }
        DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(|error| key_error(dir, error.to_string()))?;
        let _turn = Turn::take(dir)?;
        let origin = note::origin(&log_name(dir, host_id)?);
        freeze::clear_frozen(dir, &origin)?;
        let rotate::Settled { pair, history, frozen } = rotate::settled(dir, &origin)?;
        let host = p256_key(&dir.join(HOST))?;
        let host_verifier = p256_verifier(dir, &note::host_key_name(host_id), &host)?;
        let heads = Mutex::new(Heads::open(dir, &host_verifier)?);
        let state = State { pair, history, frozen, signed: read_signed(dir)? };
        let key = LedgerKey {
            dir: dir.to_owned(),
            host_id: host_id.to_owned(),
            origin,
            host,
            host_verifier,
            heads,
            state: Mutex::new(state),
        };
        key.write_public(&key.state())?;
        Ok(key)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_public(&self, state: &State) -> Result<(), KeeperError> {
        files::replace(&self.dir, PUBLIC, 0o644, self.public(&state.pair).as_bytes())
    }

    /// Reads again what another process that has these keys may have changed. To be called in turn.
    fn refresh(&self, state: &mut State) -> Result<(), KeeperError> {
        if rotate::history_bytes(&self.dir)? != state.history {
            state.settle(rotate::settled(&self.dir, &self.origin)?);
        }
        let stored = read_signed(&self.dir)?;
        if stored.map(|one| one.size) > state.signed.map(|one| one.size) {
            state.signed = stored;
        }
        Ok(())
    }

    /// Signs a checkpoint: the note with its ECDSA P-256 and its Ed25519 line. What was signed is on disk before
    /// the note is given out. `proof` shows that the tree begins with the largest one that was signed before.
    ///
    /// # Errors
    /// `Fork` when the size is smaller than one signed before, or the same with another root; `Unproven` when it is
    /// larger and the proof does not hold.
    pub fn sign_checkpoint(&self, size: u64, root: Hash, proof: &[Hash]) -> Result<String, KeeperError> {
        let mut state = self.state();
        let _turn = Turn::take(&self.dir)?;
        self.refresh(&mut state)?;
        if let Some(Frozen { size, successor, .. }) = &state.frozen {
            let why = format!("{} was frozen at {size} records, and {successor} took its place", self.origin);
            return Err(KeeperError::Refused(why));
        }
        if let Some(before) = state.signed {
            let (asked, signed) = (size, before.size);
            if asked < signed || (asked == signed && root != before.root) {
                return Err(KeeperError::Fork { asked, signed });
            }
            // Every tree begins with the empty one.
            let proven = asked == signed
                || signed == 0
                || proof.len() <= MAX_PROOF && check_consistency(signed, asked, &before.root, &root, proof);
            if !proven {
                return Err(KeeperError::Unproven { asked, signed });
            }
        }
        let text = note::checkpoint_text(&self.origin, size, &root);
        let note = format!("{text}\n{}", state.pair.sign(&text));
        let now = Signed { size, root };
        if state.signed != Some(now) {
            store_signed(&self.dir, now)?;
            state.signed = Some(now);
        }
        Ok(note)
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host key's signature over the head of the journal's chain, ASN.1 DER. The same head is signed again, and one behind
    /// the last; that it was signed is written down first.
    ///
    /// # Errors
    /// `HeadFork` when another record was signed at this place; `HeadBehind` when it lies before one that was, and
    /// [`LedgerKey::prove_chain_head`] has not shown that it leads there.
    pub fn sign_chain_head(&self, sequence: u64, leaf: &Hash) -> Result<Vec<u8>, KeeperError> {
        self.heads().allow(sequence, leaf)?;
        Ok(self.head_signature(sequence, leaf))
    }

    /// Shows that the record before `records` leads to the one at `known`, their last.
    ///
    /// # Errors
    /// `HeadFork` when they are not the records between the two.
    pub fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.heads().prove(known, records)
    }

    /// Signs whatever it is given: what forged histories are made with in tests.
    #[cfg(test)]
    pub(crate) fn sign_any_head(&self, sequence: u64, leaf: &Hash) -> Vec<u8> {
        self.head_signature(sequence, leaf)
    }

    fn head_signature(&self, sequence: u64, leaf: &Hash) -> Vec<u8> {
        let signature: p256::ecdsa::Signature = self.host.sign(&head::signed_bytes(&self.host_id, sequence, leaf));
        signature.normalize_s().to_der().as_bytes().to_vec()
    }

    /// The verifier key of the chain heads.
    #[must_use]
    pub fn host_verifier(&self) -> &Verifier {
        &self.host_verifier
    }

    /// Every public key that is in force, one a line: what an auditor keeps.
    #[must_use]
    pub fn public_keys(&self) -> String {
        self.public(&self.state().pair)
    }

    fn public(&self, pair: &Pair) -> String {
        let [ecdsa, ed25519] = &pair.verifiers;
        format!("{ecdsa}\n{ed25519}\n{}\n", self.host_verifier)
    }
}

#[cfg(test)]
mod tests;
