//! Up to where the shared bus has this host's records: a file beside the segments. It may be behind, after a crash; then
//! records are published again, and the ledger knows them by their chain.

use crate::journal::{JournalError, Start, beside};
use std::path::Path;

const NAME: &str = "published";
const MAGIC: &str = "caracal-published/1";

/// The place of the first record that the bus is not known to have; `None` where nothing was ever published.
///
/// # Errors
/// When the file is there and cannot be read.
pub(super) fn load(dir: &Path) -> Result<Option<Start>, JournalError> {
    let path = dir.join(NAME);
    let Some(text) = beside::read(&path)? else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| {
        JournalError::Corrupt(format!(
            "{} does not say what was published; delete it: what the bus has already is then published again, and dropped there",
            path.display()
        ))
    })
}

/// Replaces it; durable when this returns.
///
/// # Errors
/// When it cannot be written.
pub(super) fn store(dir: &Path, next: Start) -> std::io::Result<()> {
    beside::replace(dir, NAME, &format!("{MAGIC}\n{}\n{}\n", next.sequence, hex::encode(next.prev)))
}

fn parse(text: &str) -> Option<Start> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let sequence = lines.next()?.parse().ok()?;
    let mut prev = [0; 32];
    hex::decode_to_slice(lines.next()?, &mut prev).ok()?;
    lines.next().is_none().then_some(Start { sequence, prev })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("none"), None);
        let next = Start { sequence: 7, prev: [3; 32] };
        store(dir.path(), next).expect("stored");
        assert_eq!(load(dir.path()).expect("there"), Some(next));
        std::fs::write(dir.path().join(NAME), "7").expect("written");
        assert!(matches!(load(dir.path()), Err(JournalError::Corrupt(_))));
    }
}
