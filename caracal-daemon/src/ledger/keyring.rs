//! A log's keys over time. Takes the public keys that somebody trusts, and hand-overs; gives keys, each with the sizes of trees that
//! it signs. Believes a hand-over only when the keys before it and the new ones signed it.
//!
//! A hand-over is a signed note (c2sp.org/signed-note). Its text is no checkpoint's: a first line of its own, the log's origin, size
//! and root of the tree at which the keys change, and the two new keys, each on a line.

use super::note::{Checkpoint, NoteError, Verifier, signers};
use crate::event::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The first line of a hand-over.
pub const HAND_OVER: &str = "caracal/key-hand-over/v1";
/// The first line of the final statement of a log that was frozen.
pub const FROZEN: &str = "caracal/log-frozen/v1";
/// Hand-overs that are read: one a day for ten years.
const MAX_HAND_OVERS: usize = 4_096;

/// The text of a hand-over: what is signed.
#[must_use]
pub fn hand_over_text(origin: &str, size: u64, root: &Hash, next: &[Verifier; 2]) -> String {
    let [ecdsa, ed25519] = next;
    format!("{HAND_OVER}\n{origin}\n{size}\n{}\n{ecdsa}\n{ed25519}\n", STANDARD.encode(root))
}

/// The text of a log's final statement: what is signed.
#[must_use]
pub fn frozen_text(frozen: &Frozen) -> String {
    let Frozen { origin, size, root, successor } = frozen;
    format!("{FROZEN}\n{origin}\n{size}\n{}\n{successor}\n", STANDARD.encode(root))
}

/// A log that is closed: its keys signed nothing behind this tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The log.
    pub origin: String,
    /// Its leaves.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The origin of the log that takes its place.
    pub successor: String,
}

/// Keys that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// Every key, those before a hand-over too.
    pub keys: Vec<Verifier>,
    /// The trees at which keys changed: each log must have had exactly these records then.
    pub hand_overs: Vec<Checkpoint>,
    /// Logs that were frozen.
    pub frozen: Vec<Frozen>,
}

impl Keyring {
    /// Reads verifier keys, one a line, and behind them hand-overs, oldest first, which must follow from the keys.
    ///
    /// # Errors
    /// When a key or a hand-over is malformed, or a hand-over does not follow from the keys.
    pub fn parse(text: &str) -> Result<Keyring, NoteError> {
        let (keys, notes) = split(text)?;
        let mut ring = Keyring { keys: Verifier::parse_all(keys)?, ..Keyring::default() };
        for note in notes {
            if !ring.add(&note)? {
                return Err(NoteError::Key("a hand-over of keys does not follow from the keys before it"));
            }
        }
        Ok(ring)
    }

    /// Adds the hand-overs in `text` that follow from keys which are trusted already. Keys that stand in it prove nothing, and
    /// hand-overs that came before are passed over.
    ///
    /// # Errors
    /// When a hand-over that a trusted key signed is not right.
    pub fn follow(&mut self, text: &str) -> Result<(), NoteError> {
        for note in split(text)?.1 {
            self.add(&note)?;
        }
        Ok(())
    }

    /// The hand-overs of the log of this origin.
    #[must_use]
    pub fn hand_overs_of(&self, origin: &str) -> Vec<Checkpoint> {
        self.hand_overs.iter().filter(|one| one.origin == origin).cloned().collect()
    }

    /// The two keys of the log that signed last.
    #[must_use]
    pub fn last_pair(&self, origin: &str) -> Vec<String> {
        let of_log = self.keys.iter().rev().filter(|key| key.name() == origin);
        of_log.take(2).map(ToString::to_string).collect()
    }

    /// Adds a statement of a log's keys. False if no key that is in force has signed it.
    fn add(&mut self, note: &str) -> Result<bool, NoteError> {
        match note.lines().next() {
            Some(FROZEN) => self.freeze(note),
            _ => self.hand_over(note),
        }
    }

    /// Adds a log's final statement.
    fn freeze(&mut self, note: &str) -> Result<bool, NoteError> {
        let (text, _) = signers(note, &[])?;
        let lines: Vec<&str> = text.lines().collect();
        let [FROZEN, origin, size, root, successor] = lines[..] else {
            return Err(NoteError::Malformed("a log's final statement has five lines of text"));
        };
        let at = Checkpoint::parse_text(&format!("{origin}\n{size}\n{root}\n"))?;
        let frozen =
            Frozen { origin: origin.to_owned(), size: at.size, root: at.root, successor: successor.to_owned() };
        if frozen_text(&frozen) != text || successor.is_empty() {
            return Err(NoteError::Malformed("a log's final statement has another spelling"));
        }
        let before: Vec<Verifier> =
            self.keys.iter().filter(|key| key.name() == origin && key.is_in_force()).cloned().collect();
        let old = signers(note, &before)?.1;
        if old.is_empty() {
            return Ok(false);
        }
        if before.iter().any(|key| !old.contains(&key) || !key.signs(at.size)) {
            return Err(NoteError::Key(
                "a log's final statement is not signed by all of its keys, or is of an older tree",
            ));
        }
        for key in self.keys.iter_mut().filter(|key| key.name() == origin && key.is_in_force()) {
            key.ends_at(at.size);
        }
        self.hand_overs.push(at);
        self.frozen.push(frozen);
        Ok(true)
    }

    /// Adds one hand-over. False if no key that is in force has signed it, or it leads to one that is trusted already.
    fn hand_over(&mut self, note: &str) -> Result<bool, NoteError> {
        let (text, _) = signers(note, &[])?;
        let lines: Vec<&str> = text.lines().collect();
        let [HAND_OVER, origin, size, root, ecdsa, ed25519] = lines[..] else {
            return Err(NoteError::Malformed("a hand-over of keys has six lines of text"));
        };
        let next = [Verifier::parse(ecdsa)?, Verifier::parse(ed25519)?];
        let Checkpoint { size, root, .. } = Checkpoint::parse_text(&format!("{origin}\n{size}\n{root}\n"))?;
        if hand_over_text(origin, size, &root, &next) != text {
            return Err(NoteError::Malformed("a hand-over of keys has another spelling"));
        }
        let [one, other] = &next;
        if !one.is_ecdsa() || other.is_ecdsa() || next.iter().any(|key| key.name() != origin) {
            return Err(NoteError::Key("a hand-over names an ECDSA and an Ed25519 key of its log"));
        }
        let before: Vec<Verifier> =
            self.keys.iter().filter(|key| key.name() == origin && key.is_in_force()).cloned().collect();
        // To keys that are there, theirs too: it was before them.
        let is_known = |key: &Verifier| self.keys.iter().any(|one| one.to_string() == key.to_string());
        let old = signers(note, &before)?.1;
        if old.is_empty() || next.iter().any(is_known) {
            return Ok(false);
        }
        if before.iter().any(|key| !old.contains(&key)) {
            return Err(NoteError::Key("a hand-over is not signed by all keys before it"));
        }
        if before.iter().any(|key| !key.signs(size)) {
            return Err(NoteError::Key("a hand-over goes back to an older tree"));
        }
        let new = signers(note, &next)?.1;
        if next.iter().any(|key| !new.contains(&key)) {
            return Err(NoteError::Key("a hand-over is not signed by the new keys"));
        }
        if self.hand_overs.len() >= MAX_HAND_OVERS {
            return Err(NoteError::Key("there are too many hand-overs"));
        }
        for key in self.keys.iter_mut().filter(|key| key.name() == origin && key.is_in_force()) {
            key.ends_at(size);
        }
        self.keys.extend(next.map(|key| key.from_size(size)));
        let signed_by = Vec::new();
        self.hand_overs.push(Checkpoint { origin: origin.to_owned(), size, root, signed_by });
        Ok(true)
    }
}

/// The keys at the beginning, and the notes behind them.
fn split(text: &str) -> Result<(&str, Vec<String>), NoteError> {
    let mut notes: Vec<String> = Vec::new();
    let mut keys = text.len();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if [HAND_OVER, FROZEN].contains(&line.trim_end_matches('\n')) {
            keys = keys.min(at);
            if notes.len() > MAX_HAND_OVERS {
                return Err(NoteError::Key("there are too many hand-overs"));
            }
            notes.push(String::new());
        }
        at += line.len();
        if let Some(note) = notes.last_mut() {
            note.push_str(line);
        }
    }
    // Empty lines between two notes belong to neither.
    let trim = |note: String| format!("{}\n", note.trim_end_matches('\n'));
    Ok((text.get(..keys).unwrap_or_default(), notes.into_iter().map(trim).collect()))
}

#[cfg(test)]
mod tests;
