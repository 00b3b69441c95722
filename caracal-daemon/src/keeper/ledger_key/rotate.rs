//! A new pair of keys in the place of the one that signs. What was signed stays what is remembered, and the keys' history says up to
//! which tree each pair signed. The history is the commit: whatever a crash leaves, the pair that it names last is in force.

use super::files::{Signed, Turn, key_error, replace};
use super::pair::{CURRENT, NEXT, Pair};
use super::{LedgerKey, State};
use crate::keeper::KeeperError;
use crate::ledger::keyring::{Frozen, Keyring, hand_over_text};
use crate::ledger::note::{self, Verifier};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// The file with every key that ever signed, and the hand-overs between them. There is none before the first one.
pub const HISTORY: &str = "ledger-history";

/// The file of the checkpoint that both pairs signed at a hand-over.
#[must_use]
pub fn hand_over_file(size: u64) -> String {
    format!("hand-over-{size}.checkpoint")
}

impl LedgerKey {
    /// Makes a new pair of keys and hands over to it at the largest tree that was signed; gives that tree. Other processes that
    /// sign with these keys take the new ones at their next signature. The private keys before it are gone then.
    ///
    /// # Errors
    /// When a file cannot be written. The pair that was in force then still is, or the new one.
    pub fn rotate(&self) -> Result<Signed, KeeperError> {
        let mut state = self.state();
        let _turn = Turn::take(&self.dir)?;
        self.refresh(&mut state)?;
        if state.frozen.is_some() {
            return Err(KeeperError::Refused(format!("{} was frozen: its keys sign nothing more", self.origin)));
        }
        let at = state.largest();
        remove_next(&self.dir)?;
        let next = Pair::open(&self.dir, NEXT, &self.origin)?;
        let text = hand_over_text(&self.origin, at.size, &at.root, &next.verifiers);
        let note = format!("{text}\n{}{}", state.pair.sign(&text), next.sign(&text));
        let checkpoint = note::checkpoint_text(&self.origin, at.size, &at.root);
        let checkpoint = format!("{checkpoint}\n{}{}", state.pair.sign(&checkpoint), next.sign(&checkpoint));
        replace(&self.dir, &hand_over_file(at.size), 0o644, checkpoint.as_bytes())?;
        self.append(&state, &note)?;
        state.settle(settled(&self.dir, &self.origin)?);
        self.write_public(&state)?;
        Ok(at)
    }
}

impl LedgerKey {
    /// Adds a statement to the keys' history: it holds from then on.
    pub(super) fn append(&self, state: &State, note: &str) -> Result<(), KeeperError> {
        let before = read_history(&self.dir)?.unwrap_or_else(|| {
            let head = format!("# Every key of {}, oldest first: what an auditor keeps.\n", self.origin);
            head + &self.public(&state.pair)
        });
        replace(&self.dir, HISTORY, 0o644, format!("{before}\n{note}").as_bytes())
    }
}

/// What the history says.
pub(super) struct Settled {
    pub(super) pair: Pair,
    /// Its length, bytes.
    pub(super) history: u64,
    pub(super) frozen: Option<Frozen>,
}

/// The pair that is in force. Ends a hand-over that a crash cut off.
pub(super) fn settled(dir: &Path, origin: &str) -> Result<Settled, KeeperError> {
    let text = read_history(dir)?;
    let mut frozen = None;
    if let Some(text) = &text {
        let ring = Keyring::parse(text).map_err(|error| key_error(&dir.join(HISTORY), error.to_string()))?;
        end_hand_over(dir, origin, &ring)?;
        frozen = ring.frozen.into_iter().find(|one| one.origin == origin);
    }
    remove_next(dir)?;
    Ok(Settled { pair: Pair::open(dir, CURRENT, origin)?, history: text.map_or(0, |text| text.len() as u64), frozen })
}

/// Moves the keys that the history names last to their place, where they are not there yet.
fn end_hand_over(dir: &Path, origin: &str, ring: &Keyring) -> Result<(), KeeperError> {
    let fail = |why: String| key_error(&dir.join(HISTORY), why);
    let last = ring.last_pair(origin);
    let in_force = |key: &Option<Verifier>| key.as_ref().is_some_and(|key| last.contains(&key.to_string()));
    let (current, next) = (Pair::public(dir, CURRENT, origin)?, Pair::public(dir, NEXT, origin)?);
    for at in [0, 1] {
        if in_force(&current[at]) {
            continue;
        }
        if !in_force(&next[at]) {
            let why = format!("it names other keys of {origin} than those beside it; restore both from one backup");
            return Err(fail(why));
        }
        std::fs::rename(dir.join(NEXT[at]), dir.join(CURRENT[at]))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|error| key_error(&dir.join(NEXT[at]), error.to_string()))?;
    }
    Ok(())
}

/// The keys' history, if there was a hand-over.
///
/// # Errors
/// When it cannot be read.
pub fn read_history(dir: &Path) -> Result<Option<String>, KeeperError> {
    let path = dir.join(HISTORY);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(key_error(&path, error.to_string())),
    }
}

/// The history's length, bytes; 0 if there is none.
pub(super) fn history_bytes(dir: &Path) -> Result<u64, KeeperError> {
    let path = dir.join(HISTORY);
    match std::fs::metadata(&path) {
        Ok(file) => Ok(file.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(key_error(&path, error.to_string())),
    }
}

/// What a hand-over that never was has left.
fn remove_next(dir: &Path) -> Result<(), KeeperError> {
    for name in NEXT {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(key_error(&dir.join(name), error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}
