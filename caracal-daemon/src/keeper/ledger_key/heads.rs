//! The heads of the host's chain that were signed, so that no second history gets a signature: none of another record at a place
//! that was signed, and none before the last place that is not shown to lead there.
//!
//! Two ask, the ledger's thread once a second and the bus for each run, and the bus may be far behind and asks again for what
//! was not acknowledged. So a place before the last one is signed once the records between it and a known place behind it are
//! shown: each names the hash of the one before. A record is hashed here and its fixed beginning read; nothing else is.

use super::files::{key_error, replace};
use crate::event::write::read_place;
use crate::event::{Hash, leaf_hash};
use crate::keeper::KeeperError;
use crate::ledger::note::Verifier;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that remembers the last head, beside the keys: the host key's hash, sequence number and leaf hash.
pub const SIGNED_HEAD: &str = "host-signed";
/// Places that are known at most. With more, every other one is forgotten, and proofs become longer.
const MOST: usize = 1 << 16;
/// How often the file is synced at most. A process that is killed takes nothing of it; a power loss may take the heads of
/// so long, whose records were durable.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// What was signed, and what is known to lead there.
pub(super) struct Heads {
    path: PathBuf,
    /// Another key is another enrolment, and may begin another chain.
    key: String,
    /// Places by sequence number. The last one is the last that was signed.
    known: BTreeMap<u64, Hash>,
    file: Option<File>,
    synced: Option<Instant>,
}

impl Heads {
    /// Reads what the key of `verifier` signed.
    ///
    /// # Errors
    /// When the file is there and does not say it.
    pub(super) fn open(dir: &Path, verifier: &Verifier) -> Result<Heads, KeeperError> {
        let path = dir.join(SIGNED_HEAD);
        let key = hex::encode(Sha256::digest(verifier.to_string()));
        let mut known = BTreeMap::new();
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let (whose, sequence, leaf) = parse(&text).ok_or_else(|| {
                    key_error(&path, "it does not say what was signed; restore it from a backup".into())
                })?;
                if whose == key {
                    known.insert(sequence, leaf);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(key_error(&path, error.to_string())),
        }
        Ok(Heads { path, key, known, file: None, synced: None })
    }

    /// Allows a signature, and remembers it first.
    ///
    /// # Errors
    /// `HeadFork` when another record has that place; `HeadBehind` when the place lies before a known one and was not
    /// shown to lead there; or the file cannot be written.
    pub(super) fn allow(&mut self, sequence: u64, leaf: &Hash) -> Result<(), KeeperError> {
        match self.known.range(sequence..).next() {
            Some((known, signed)) if *known == sequence => {
                if signed == leaf {
                    Ok(())
                } else {
                    Err(KeeperError::HeadFork { asked: sequence })
                }
            }
            Some((known, _)) => Err(KeeperError::HeadBehind { asked: sequence, known: *known }),
            None => {
                self.store(sequence, leaf)?;
                self.learn(sequence, *leaf);
                Ok(())
            }
        }
    }

    /// Learns the place before `records`, which follow each other and end at the place `known`.
    ///
    /// # Errors
    /// `HeadFork` when `known` is not known, or they are not the records that lead there.
    pub(super) fn prove(&mut self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        let mut leaf = *self.known.get(&known).ok_or(KeeperError::HeadFork { asked: known })?;
        let mut sequence = known;
        for record in records.iter().rev() {
            let prev = match read_place(record) {
                Some((place, prev)) if place == sequence && leaf_hash(record) == leaf => prev,
                _ => return Err(KeeperError::HeadFork { asked: sequence }),
            };
            let Some(before) = sequence.checked_sub(1) else { return Ok(()) };
            (sequence, leaf) = (before, prev);
        }
        self.learn(sequence, leaf);
        Ok(())
    }

    fn learn(&mut self, sequence: u64, leaf: Hash) {
        self.known.insert(sequence, leaf);
        if self.known.len() > MOST {
            // The last one is never forgotten.
            let mut keep = self.known.len().is_multiple_of(2);
            self.known.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    fn store(&mut self, sequence: u64, leaf: &Hash) -> Result<(), KeeperError> {
        let text = format!("{} {sequence:020} {}\n", self.key, hex::encode(leaf));
        let fail = |error: std::io::Error| key_error(&self.path, error.to_string());
        let Some(file) = &self.file else {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            replace(dir, SIGNED_HEAD, 0o600, text.as_bytes())?;
            self.file = Some(OpenOptions::new().write(true).open(&self.path).map_err(fail)?);
            self.synced = Some(Instant::now());
            return Ok(());
        };
        // Each text is as long as any other, and lies in one sector.
        file.write_all_at(text.as_bytes(), 0).map_err(fail)?;
        if self.synced.is_none_or(|at| at.elapsed() >= SYNC_EVERY) {
            file.sync_data().map_err(fail)?;
            self.synced = Some(Instant::now());
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<(String, u64, Hash)> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let (key, sequence, leaf) = (words.next()?, words.next()?, words.next()?);
    let mut hash = [0u8; 32];
    hex::decode_to_slice(leaf, &mut hash).ok()?;
    words.next().is_none().then_some((key.to_owned(), sequence.parse().ok()?, hash))
}

#[cfg(test)]
mod tests;
