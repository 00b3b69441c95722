//! The end of a log whose keys are not to be trusted any more: a final statement, and then nothing. On a host the keys of the log in
//! its place lie where the old ones lay; what is left of these is put aside.

use super::files::{SIGNED, Signed, Turn, key_error, replace};
use super::pair::CURRENT;
use super::rotate::{HISTORY, read_history, settled};
use super::{LedgerKey, PUBLIC};
use crate::keeper::KeeperError;
use crate::ledger::keyring::{Frozen, Keyring, frozen_text};
use crate::ledger::note;
use std::io::ErrorKind;
use std::path::Path;

/// The file with the first leaf of a log of many hosts that takes the place of a frozen one.
pub const PREDECESSOR: &str = "ledger-predecessor";
/// The file with the log's name, where that is not the host's id.
const NAME: &str = "ledger-name";

/// The name of the log whose keys are in `dir`: `host_id`, until a log was frozen there.
///
/// # Errors
/// When it cannot be read.
pub fn log_name(dir: &Path, host_id: &str) -> Result<String, KeeperError> {
    let path = dir.join(NAME);
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(name.trim_end().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(host_id.to_owned()),
        Err(error) => Err(key_error(&path, error.to_string())),
    }
}

impl LedgerKey {
    /// The largest tree that was signed.
    #[must_use]
    pub fn signed(&self) -> Signed {
        self.state().largest()
    }

    /// The log's final statement, and the note that says so; where there is none, signs one that names the log in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn freeze(&self, successor: &str) -> Result<(Frozen, String), KeeperError> {
        let mut state = self.state();
        let _turn = Turn::take(&self.dir)?;
        self.refresh(&mut state)?;
        let at = state.largest();
        let frozen = state.frozen.clone().unwrap_or_else(|| Frozen {
            origin: self.origin.clone(),
            size: at.size,
            root: at.root,
            successor: successor.to_owned(),
        });
        let text = frozen_text(&frozen);
        let note = format!("{text}\n{}", state.pair.sign(&text));
        if state.frozen.is_none() {
            self.append(&state, &note)?;
            state.settle(settled(&self.dir, &self.origin)?);
        }
        Ok((frozen, note))
    }

    /// Puts aside what is left of the keys of a frozen log; the next ones that are opened here are those of the log `name`.
    ///
    /// # Errors
    /// When the log is not frozen, or a file cannot be moved.
    pub fn make_room(self, name: &str) -> Result<(), KeeperError> {
        let _turn = Turn::take(&self.dir)?;
        if self.state().frozen.is_none() {
            return Err(KeeperError::Refused(format!("{} is not frozen", self.origin)));
        }
        let old = note::name_of(&self.origin);
        let aside = self.dir.join(format!("frozen-{old}"));
        let fail = |error: std::io::Error| key_error(&aside, error.to_string());
        std::fs::create_dir_all(&aside).map_err(fail)?;
        for entry in std::fs::read_dir(&self.dir).map_err(fail)?.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let public = [HISTORY, PUBLIC, SIGNED].contains(&&*file) || file.starts_with("hand-over-");
            if public {
                std::fs::copy(entry.path(), aside.join(&file)).map_err(fail)?;
            }
        }
        // The name is the commit: from here on the files are nobody's.
        replace(&self.dir, NAME, 0o644, format!("{name}\n").as_bytes())?;
        clear_frozen(&self.dir, &note::origin(name))
    }
}

/// Removes the keys of the log that `origin` takes the place of, where a crash left them.
pub(super) fn clear_frozen(dir: &Path, origin: &str) -> Result<(), KeeperError> {
    let Some(history) = read_history(dir)? else { return Ok(()) };
    let ring = Keyring::parse(&history).map_err(|error| key_error(&dir.join(HISTORY), error.to_string()))?;
    if !ring.frozen.iter().any(|frozen| frozen.successor == origin) {
        return Ok(());
    }
    // The history last: it is what says that the others are old.
    for file in CURRENT.iter().chain(&[SIGNED, HISTORY]) {
        match std::fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(key_error(&dir.join(file), error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}
