//! What a host must know over a restart to take its slices up again: an id that was made with the state directory, and how
//! far it has spoken. A small file beside the ledger, replaced before each message is sent.

use crate::budget::escrow::Known;
use crate::journal::{JournalError, beside};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const NAME: &str = "escrow";
const MAGIC: &str = "caracal-escrow/1";

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file.
    #[error(transparent)]
    Unreadable(#[from] JournalError),
    /// It is damaged.
    #[error(
        "{0} does not say how far this host has spoken of shared budgets; delete it: what the host had of them then counts as spent"
    )]
    Damaged(PathBuf),
    /// The directory.
    #[error("{0}: {1}")]
    Directory(PathBuf, std::io::Error),
}

/// The file.
#[derive(Clone, Debug)]
pub struct Kept {
    dir: PathBuf,
    /// The holder's id.
    pub id: String,
    /// How far it has spoken.
    pub known: Known,
}

impl Kept {
    /// Reads it, or begins one with a new id.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(dir: &Path) -> Result<Kept, KeptError> {
        let path = dir.join(NAME);
        let (id, known) = match beside::read(&path)? {
            None => (uuid::Uuid::now_v7().to_string(), Known::default()),
            Some(text) => parse(&text).ok_or(KeptError::Damaged(path))?,
        };
        Ok(Kept { dir: dir.to_owned(), id, known })
    }

    /// Replaces it; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&mut self, known: Known) -> std::io::Result<()> {
        let opening = known.opening.map_or_else(|| "-".to_owned(), |lot| lot.to_string());
        let Known { epoch, step, sent, .. } = known;
        beside::replace(&self.dir, NAME, &format!("{MAGIC}\n{}\n{epoch} {step} {sent} {opening}\n", self.id))?;
        self.known = known;
        Ok(())
    }

    /// Where this runs: machine and boot, and which directory. Two that have the same are one after the other, since the
    /// journal has one writer.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn place(&self) -> Result<String, KeptError> {
        let directory = |error| KeptError::Directory(self.dir.clone(), error);
        let found = std::fs::metadata(&self.dir).map_err(directory)?;
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(boot).map_err(|error| KeptError::Directory(boot.to_owned(), error))?;
        Ok(format!("{}/{}:{}", boot.trim(), found.dev(), found.ino()))
    }
}

fn parse(text: &str) -> Option<(String, Known)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let id = lines.next()?.to_owned();
    let mut numbers = lines.next()?.split(' ');
    let mut number = || numbers.next()?.parse().ok();
    let (epoch, step, sent) = (number()?, number()?, number()?);
    let opening = match numbers.next()? {
        "-" => None,
        lot => Some(lot.parse().ok()?),
    };
    let end = numbers.next().is_none() && lines.next().is_none();
    end.then_some((id, Known { epoch, step, sent, opening }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut kept = Kept::load(dir.path()).expect("a new one");
        assert_eq!(kept.known, Known::default());
        for opening in [None, Some(9)] {
            let known = Known { epoch: 2, step: 5, sent: 7, opening };
            kept.store(known).expect("stored");
            let again = Kept::load(dir.path()).expect("there");
            assert_eq!((&again.id, again.known, again.place().ok()), (&kept.id, known, kept.place().ok()));
        }
        std::fs::write(dir.path().join(NAME), "7").expect("written");
        assert!(matches!(Kept::load(dir.path()), Err(KeptError::Damaged(_))));
    }
}
