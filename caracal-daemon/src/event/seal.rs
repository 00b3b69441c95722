//! Takes the detail of a record; gives it sealed with AES-256-GCM under its subject's key, and opens it again.
//!
//! A subject is an agent's name. Its key is a file of 32 random bytes, mode 0600. Deleting the file erases every
//! detail sealed with it, here and in every copy of the ledger. Never writes a detail in the clear.

use super::{Detail, Record};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use rand::RngCore as _;
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

/// The subject of records that belong to no agent. No agent's name begins with an underscore.
pub(crate) const HOST_SUBJECT: &str = "_host";
const NONCE_BYTES: usize = 12;
const MAX_CACHED: usize = 4_096;

/// Why a record could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A key file or the directory of keys.
    #[error("detail key {path}: {why}; records cannot be written without it")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The subject is no agent's name.
    #[error("{0:?} cannot name a detail key")]
    Subject(String),
    /// The budget windows are longer than a record can carry.
    #[error("a record of {0} bytes is too long; use shorter or fewer budget names")]
    TooLong(usize),
}

/// The keys of a host's sealed details.
pub struct DetailKeys {
    dir: PathBuf,
    cached: RwLock<HashMap<String, Arc<LessSafeKey>>>,
}

impl std::fmt::Debug for DetailKeys {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("DetailKeys").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl DetailKeys {
    /// The keys in `dir`, which is made with mode 0700 if need be.
    ///
    /// # Errors
    /// When it cannot be made, or others may read it.
    pub fn open(dir: &Path) -> Result<DetailKeys, SealError> {
        let fail = |why: String| SealError::Key { path: dir.to_owned(), why };
        if let Err(error) = DirBuilder::new().mode(0o700).recursive(true).create(dir) {
            return Err(fail(error.to_string()));
        }
        let mode = std::fs::metadata(dir).map_err(|error| fail(error.to_string()))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(fail(format!("mode {mode:o} lets others in; run chmod 0700 on it")));
        }
        Ok(DetailKeys::read_only(dir))
    }

    /// The keys in `dir` for a reader: nothing is made or checked.
    #[must_use]
    pub fn read_only(dir: &Path) -> DetailKeys {
        DetailKeys { dir: dir.to_owned(), cached: RwLock::default() }
    }

    /// Seals `plain` for `subject`; `context` (the event's id) must be given again to open it.
    ///
    /// # Errors
    /// When the subject's key can neither be read nor made.
    pub fn seal(&self, subject: &str, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.key(subject, true)?;
        let mut nonce = [0u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(NONCE_BYTES + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context),
                &mut sealed[NONCE_BYTES..],
            )
            .map_err(|_| SealError::Key { path: self.path(subject), why: "AES-GCM failed".into() })?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens the detail of `record`: `None` if it has none, or its key is erased, unreadable or another one.
    #[must_use]
    pub fn open_detail(&self, record: &Record) -> Option<Detail> {
        let key = self.key(record.subject.as_deref()?, false).ok()?;
        let mut sealed = base64::engine::general_purpose::STANDARD.decode(record.sealed.as_deref()?).ok()?;
        let nonce: [u8; NONCE_BYTES] = sealed.get(..NONCE_BYTES)?.try_into().ok()?;
        let body = sealed.get_mut(NONCE_BYTES..)?;
        let plain =
            key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(record.id.as_bytes()), body).ok()?;
        serde_json::from_slice(plain).ok()
    }

    /// Erases `subject`: deletes its key. What was sealed with it can never be opened again. False if there was none.
    ///
    /// # Errors
    /// When the file is there and cannot be deleted.
    pub fn erase(&self, subject: &str) -> Result<bool, SealError> {
        check_subject(subject)?;
        if let Ok(mut cached) = self.cached.write() {
            cached.remove(subject);
        }
        let path = self.path(subject);
        match std::fs::remove_file(&path).and_then(|()| File::open(&self.dir)?.sync_all()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(SealError::Key { path, why: error.to_string() }),
        }
    }

    fn path(&self, subject: &str) -> PathBuf {
        self.dir.join(format!("{subject}.key"))
    }

    fn key(&self, subject: &str, make: bool) -> Result<Arc<LessSafeKey>, SealError> {
        if let Some(key) = self.cached.read().ok().and_then(|cached| cached.get(subject).cloned()) {
            return Ok(key);
        }
        check_subject(subject)?;
        let path = self.path(subject);
        let bytes = match read_key(&path) {
            Err(error) if make && error.kind() == ErrorKind::NotFound => self.make_key(&path),
            other => other,
        };
        let key = bytes
            .and_then(|bytes| UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| ErrorKind::InvalidData.into()))
            .map_err(|error| SealError::Key { path, why: error.to_string() })?;
        let key = Arc::new(LessSafeKey::new(key));
        if let Ok(mut cached) = self.cached.write() {
            if cached.len() >= MAX_CACHED {
                cached.clear();
            }
            cached.insert(subject.to_owned(), Arc::clone(&key));
        }
        Ok(key)
    }

    /// Makes a key and syncs it before anything is sealed with it. Two makers agree on whose name came first.
    fn make_key(&self, path: &Path) -> std::io::Result<[u8; 32]> {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let draft = path.with_extension(format!("new-{}", hex::encode(rand::random::<[u8; 8]>())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let linked =
            file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&draft, path));
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return read_key(path),
            other => other?,
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(bytes)
    }
}

fn read_key(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(std::io::Error::other(format!("mode {mode:o} lets others read it; run chmod 0600 on it")));
    }
    let mut bytes = [0u8; 32];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// An agent's name, or [`HOST_SUBJECT`]: nothing that could leave the directory.
fn check_subject(subject: &str) -> Result<(), SealError> {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(byte);
    let first = subject.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if subject == HOST_SUBJECT || (first && subject.len() <= 64 && subject.as_bytes().iter().all(inner)) {
        return Ok(());
    }
    Err(SealError::Subject(subject.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;
    use crate::event::write::tests::{paid, scribe};
    use std::os::unix::fs::PermissionsExt as _;

    fn record(scribe: &crate::event::Scribe) -> Record {
        let mut bytes = Vec::new();
        scribe.seal(&paid(Kind::Intent, uuid::Uuid::nil())).expect("sealed").place(0, &[0; 32], &mut bytes);
        Record::parse(&bytes).expect("a record")
    }

    #[test]
    fn deleting_the_key_erases() {
        let (_dir, scribe) = scribe();
        let first = record(&scribe);
        assert!(scribe.keys().open_detail(&first).is_some());
        assert!(scribe.keys().erase("coder").expect("erased"));
        assert_eq!(scribe.keys().open_detail(&first), None);
        let second = record(&scribe);
        assert!(scribe.keys().open_detail(&second).is_some());
        assert!(!scribe.keys().erase("nobody").expect("nothing to erase"));
        assert_eq!(scribe.keys().open_detail(&first), None, "a new key does not open what the old one sealed");
    }

    #[test]
    fn a_detail_belongs_to_its_record() {
        let (_dir, scribe) = scribe();
        let (first, mut second) = (record(&scribe), record(&scribe));
        second.sealed = first.sealed;
        assert_eq!(scribe.keys().open_detail(&second), None);
    }

    #[test]
    fn loose_modes_and_odd_subjects_are_refused() {
        let (dir, scribe) = scribe();
        record(&scribe);
        let key = dir.path().join("keys/coder.key");
        assert_eq!(std::fs::metadata(&key).expect("the key").mode() & 0o777, 0o600);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let fresh = DetailKeys::read_only(&dir.path().join("keys"));
        assert!(matches!(fresh.seal("coder", b"", b""), Err(SealError::Key { .. })));
        for subject in ["", "../x", "A", ".hidden", "_other", "a/b"] {
            assert!(matches!(fresh.seal(subject, b"", b""), Err(SealError::Subject(_))), "{subject}");
        }
    }
}
