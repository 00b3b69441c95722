//! The ledger's signing keys. Takes a tree's size and root, or a chain head; gives a signature.
//! Refuses to sign what contradicts what it signed before, across restarts, and a larger tree without the proof that it
//! begins with that: whoever asks cannot fork the log. Never gives a private key away.

use super::KeeperError;
use crate::event::Hash;
use crate::journal::head;
use crate::ledger::note::{self, Verifier};
use crate::ledger::proof::check_consistency;
use ed25519_dalek::Signer as _;
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

const ECDSA: &str = "ledger-p256.pem";
const ED25519: &str = "ledger-ed25519.pem";
const HOST: &str = "host-p256.pem";
const SIGNED: &str = "ledger-signed";
/// Hashes of the longest consistency proof: one a level on either side, and the levels of 2^64 leaves are 64.
const MAX_PROOF: usize = 128;
/// The file with the public keys, beside the private ones.
pub const PUBLIC: &str = "ledger.pub";

/// The largest tree that was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its leaves.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// The three keys of a host: two for its ledger's checkpoints, one for its chain heads.
pub struct LedgerKey {
    dir: PathBuf,
    host_id: String,
    origin: String,
    ecdsa: p256::ecdsa::SigningKey,
    ed25519: ed25519_dalek::SigningKey,
    host: p256::ecdsa::SigningKey,
    verifiers: [Verifier; 2],
    host_verifier: Verifier,
    signed: Mutex<Option<Signed>>,
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
    /// When a file is readable by others, is no such key, or cannot be made.
    pub fn open(dir: &Path, host_id: &str) -> Result<LedgerKey, KeeperError> {
        if host_id.is_empty() || host_id.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+' || c == '/') {
            return Err(key_error(dir, format!("{host_id:?} cannot be a host id: it stands in key names")));
        }
        DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(|error| key_error(dir, error.to_string()))?;
        let ecdsa = p256_key(&dir.join(ECDSA))?;
        let host = p256_key(&dir.join(HOST))?;
        let ed25519 = ed25519_key(&dir.join(ED25519))?;
        let origin = note::origin(host_id);
        let verifiers =
            [p256_verifier(dir, &origin, &ecdsa)?, Verifier::ed25519(&origin, ed25519.verifying_key().to_bytes())];
        let host_verifier = p256_verifier(dir, &note::host_key_name(host_id), &host)?;
        let signed = read_signed(dir)?;
        let key = LedgerKey {
            dir: dir.to_owned(),
            host_id: host_id.to_owned(),
            origin,
            ecdsa,
            ed25519,
            host,
            verifiers,
            host_verifier,
            signed: Mutex::new(signed),
        };
        key.write_public().map_err(|error| key_error(&dir.join(PUBLIC), error.to_string()))?;
        Ok(key)
    }

    fn write_public(&self) -> std::io::Result<()> {
        let (path, draft) = (self.dir.join(PUBLIC), self.dir.join(format!("{PUBLIC}.new")));
        std::fs::write(&draft, self.public_keys())?;
        std::fs::rename(draft, path)
    }

    /// Signs a checkpoint: the note with its ECDSA P-256 and its Ed25519 line. What was signed is on disk before
    /// the note is given out. `proof` shows that the tree begins with the largest one that was signed before.
    ///
    /// # Errors
    /// `Fork` when the size is smaller than one signed before, or the same with another root; `Unproven` when it is
    /// larger and the proof does not hold.
    pub fn sign_checkpoint(&self, size: u64, root: Hash, proof: &[Hash]) -> Result<String, KeeperError> {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = *signed {
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
        let ecdsa: p256::ecdsa::Signature = self.ecdsa.sign(text.as_bytes());
        let ed25519 = self.ed25519.sign(text.as_bytes());
        let [ecdsa_key, ed25519_key] = &self.verifiers;
        let note = format!(
            "{text}\n{}\n{}\n",
            note::signature_line(ecdsa_key, ecdsa.normalize_s().to_der().as_bytes()),
            note::signature_line(ed25519_key, &ed25519.to_bytes()),
        );
        let now = Signed { size, root };
        if *signed != Some(now) {
            store_signed(&self.dir, now).map_err(|error| key_error(&self.dir.join(SIGNED), error.to_string()))?;
            *signed = Some(now);
        }
        Ok(note)
    }

    /// The host key's signature over the head of the journal's chain, ASN.1 DER.
    #[must_use]
    pub fn sign_chain_head(&self, sequence: u64, leaf: &Hash) -> Vec<u8> {
        let signature: p256::ecdsa::Signature = self.host.sign(&head::signed_bytes(&self.host_id, sequence, leaf));
        signature.normalize_s().to_der().as_bytes().to_vec()
    }

    /// The verifier keys of the checkpoints: ECDSA P-256, Ed25519.
    #[must_use]
    pub fn verifiers(&self) -> &[Verifier; 2] {
        &self.verifiers
    }

    /// The verifier key of the chain heads.
    #[must_use]
    pub fn host_verifier(&self) -> &Verifier {
        &self.host_verifier
    }

    /// Every public key, one a line: what an auditor keeps.
    #[must_use]
    pub fn public_keys(&self) -> String {
        let [ecdsa, ed25519] = &self.verifiers;
        format!("{ecdsa}\n{ed25519}\n{}\n", self.host_verifier)
    }
}

/// The largest tree that the keys in `dir` signed, if any.
///
/// # Errors
/// When the file that says so is unreadable or damaged.
pub fn read_signed(dir: &Path) -> Result<Option<Signed>, KeeperError> {
    let path = dir.join(SIGNED);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(key_error(&path, error.to_string())),
    };
    let parse = || {
        let (size, root) = text.trim_end().split_once(' ')?;
        let mut hash = [0u8; 32];
        hex::decode_to_slice(root, &mut hash).ok()?;
        Some(Signed { size: size.parse().ok()?, root: hash })
    };
    parse()
        .map(Some)
        .ok_or_else(|| key_error(&path, "it does not say what was signed; restore it from a backup".into()))
}

fn store_signed(dir: &Path, signed: Signed) -> std::io::Result<()> {
    let draft = dir.join(format!("{SIGNED}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(format!("{} {}\n", signed.size, hex::encode(signed.root)).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, dir.join(SIGNED))?;
    File::open(dir)?.sync_all()
}

fn p256_verifier(dir: &Path, name: &str, key: &p256::ecdsa::SigningKey) -> Result<Verifier, KeeperError> {
    let spki = key.verifying_key().to_public_key_der().map_err(|error| key_error(dir, error.to_string()))?;
    Verifier::p256(name, spki.as_bytes()).map_err(|error| key_error(dir, error.to_string()))
}

fn p256_key(path: &Path) -> Result<p256::ecdsa::SigningKey, KeeperError> {
    let fail = |why: String| key_error(path, why);
    if let Some(pem) = read_private(path)? {
        return p256::ecdsa::SigningKey::from_pkcs8_pem(&pem).map_err(|error| fail(error.to_string()));
    }
    loop {
        let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
        // Fails for zero and for what is not below the group's order: as good as never.
        if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&*bytes) {
            let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| fail(error.to_string()))?;
            write_private(path, pem.as_bytes())?;
            return Ok(key);
        }
    }
}

fn ed25519_key(path: &Path) -> Result<ed25519_dalek::SigningKey, KeeperError> {
    let fail = |why: String| key_error(path, why);
    if let Some(pem) = read_private(path)? {
        return ed25519_dalek::SigningKey::from_pkcs8_pem(&pem).map_err(|error| fail(error.to_string()));
    }
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    let key = ed25519_dalek::SigningKey::from_bytes(&bytes);
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| fail(error.to_string()))?;
    write_private(path, pem.as_bytes())?;
    Ok(key)
}

fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeeperError> {
    let fail = |why: String| key_error(path, why);
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let mode = file.metadata().map_err(|error| fail(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(format!(
            "mode {mode:o} lets others read it; run chmod 0600 on it, and replace it if others could"
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    Ok(Some(text))
}

/// Writes a new key; it is durable when this returns, so that nothing is signed with a key that a crash takes.
fn write_private(path: &Path, pem: &[u8]) -> Result<(), KeeperError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(pem)?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error: std::io::Error| key_error(path, error.to_string()))
}

fn key_error(path: &Path, why: String) -> KeeperError {
    KeeperError::Key { path: path.display().to_string(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::note::Checkpoint;
    use crate::ledger::proof::{consistency, tests::tiles};
    use crate::ledger::tree::tests::{leaves, naive_root};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_checkpoint_opens_with_the_exported_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = LedgerKey::open(dir.path(), "h").expect("keys");
        let note = key.sign_checkpoint(3, [7; 32], &[]).expect("signed");
        let trusted = Verifier::parse_all(&key.public_keys()).expect("public keys");
        let opened = Checkpoint::open(&note, &trusted).expect("opened");
        assert_eq!((opened.size, opened.root, opened.signed_by.len()), (3, [7; 32], 2));
        assert_eq!(Checkpoint::open(&note.replace("\n3\n", "\n4\n"), &trusted).map(|_| ()).ok(), None);
        let signature = key.sign_chain_head(9, &[1; 32]);
        assert!(key.host_verifier().verify(&head::signed_bytes("h", 9, &[1; 32]), &signature));
        assert!(!key.host_verifier().verify(&head::signed_bytes("h", 8, &[1; 32]), &signature));
    }

    #[test]
    fn a_fork_is_refused_across_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let leaves = leaves(40);
        let root = |size: usize| naive_root(&leaves[..size]);
        let prove = |old: u64, new: usize| consistency(old, new as u64, &tiles(&leaves[..new])).expect("a proof");
        LedgerKey::open(dir.path(), "h").expect("keys").sign_checkpoint(5, root(5), &[]).expect("signed");
        let key = LedgerKey::open(dir.path(), "h").expect("the same keys");
        assert!(matches!(key.sign_checkpoint(4, root(4), &[]), Err(KeeperError::Fork { asked: 4, signed: 5 })));
        assert!(matches!(key.sign_checkpoint(5, root(6), &[]), Err(KeeperError::Fork { .. })));
        key.sign_checkpoint(5, root(5), &[]).expect("the same again");
        key.sign_checkpoint(6, root(6), &prove(5, 6)).expect("a larger one");
        key.sign_checkpoint(40, root(40), &prove(6, 40)).expect("a much larger one");
    }

    /// What a data path that was taken over would ask for.
    #[test]
    fn a_larger_tree_that_does_not_begin_with_the_signed_one_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = LedgerKey::open(dir.path(), "h").expect("keys");
        let honest = leaves(300);
        let root = |size: usize| naive_root(&honest[..size]);
        let prove = |leaves: &[Hash], old: u64| consistency(old, leaves.len() as u64, &tiles(leaves)).expect("a proof");
        key.sign_checkpoint(0, crate::ledger::tree::empty_root(), &[]).expect("the empty tree");
        key.sign_checkpoint(100, root(100), &[]).expect("every tree begins with the empty one");
        let mut forged = honest.clone();
        forged[42][0] ^= 1;
        let refused = |size: usize, root: Hash, proof: &[Hash]| {
            let answer = key.sign_checkpoint(size as u64, root, proof);
            assert!(matches!(answer, Err(KeeperError::Unproven { signed: 100, .. })), "{answer:?}");
        };
        // Its own proof, the honest tree's proof, none, one for another size, and one without an end.
        refused(300, naive_root(&forged), &prove(&forged, 100));
        refused(300, naive_root(&forged), &prove(&honest, 100));
        refused(300, root(300), &[]);
        refused(300, root(300), &prove(&honest, 101));
        refused(300, root(300), &vec![[0; 32]; 1 << 16]);
        // What was refused is not remembered as signed.
        assert_eq!(read_signed(dir.path()).expect("readable").map(|signed| signed.size), Some(100));
        key.sign_checkpoint(300, root(300), &prove(&honest, 100)).expect("the honest tree");
    }

    #[test]
    fn loose_modes_are_refused() {
        for name in [ECDSA, ED25519, HOST] {
            let dir = tempfile::tempdir().expect("a directory");
            LedgerKey::open(dir.path(), "h").expect("keys");
            let path = dir.path().join(name);
            assert_eq!(std::fs::metadata(&path).expect("a key").mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
            let error = LedgerKey::open(dir.path(), "h").expect_err("a loose mode");
            assert!(error.to_string().contains("chmod 0600"), "{error}");
        }
    }
}
