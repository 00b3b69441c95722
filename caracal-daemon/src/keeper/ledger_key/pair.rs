//! The two private keys that sign a log's checkpoints, in files.

use super::files::{key_error, read_private, write_private};
use crate::keeper::KeeperError;
use crate::ledger::note::{self, Verifier};
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use std::path::Path;
use zeroize::Zeroizing;

/// The files of the pair that is in force.
pub(super) const CURRENT: [&str; 2] = ["ledger-p256.pem", "ledger-ed25519.pem"];
/// The files of a pair that is about to be.
pub(super) const NEXT: [&str; 2] = ["ledger-p256.pem.next", "ledger-ed25519.pem.next"];

/// An ECDSA P-256 and an Ed25519 key.
pub(super) struct Pair {
    ecdsa: p256::ecdsa::SigningKey,
    ed25519: ed25519_dalek::SigningKey,
    /// Their public keys under the log's name, in this order.
    pub(super) verifiers: [Verifier; 2],
}

impl Pair {
    /// Reads the files of these names, and makes those that are not there.
    pub(super) fn open(dir: &Path, [ecdsa, ed25519]: [&str; 2], origin: &str) -> Result<Pair, KeeperError> {
        let (ecdsa, ed25519) = (p256_key(&dir.join(ecdsa))?, ed25519_key(&dir.join(ed25519))?);
        let verifiers =
            [p256_verifier(dir, origin, &ecdsa)?, Verifier::ed25519(origin, ed25519.verifying_key().to_bytes())];
        Ok(Pair { ecdsa, ed25519, verifiers })
    }

    /// The public keys of the files of these names, of those that are there.
    pub(super) fn public(
        dir: &Path,
        [ecdsa, ed25519]: [&str; 2],
        origin: &str,
    ) -> Result<[Option<Verifier>; 2], KeeperError> {
        let there = |name: &str| dir.join(name).exists().then(|| dir.join(name));
        let ecdsa = there(ecdsa).map(|path| p256_verifier(dir, origin, &p256_key(&path)?)).transpose()?;
        let ed25519 = there(ed25519).map(|path| ed25519_key(&path)).transpose()?;
        Ok([ecdsa, ed25519.map(|key| Verifier::ed25519(origin, key.verifying_key().to_bytes()))])
    }

    /// The signature lines over a note's text, each with its newline.
    pub(super) fn sign(&self, text: &str) -> String {
        let ecdsa: p256::ecdsa::Signature = self.ecdsa.sign(text.as_bytes());
        let ed25519 = self.ed25519.sign(text.as_bytes());
        let [ecdsa_key, ed25519_key] = &self.verifiers;
        format!(
            "{}\n{}\n",
            note::signature_line(ecdsa_key, ecdsa.normalize_s().to_der().as_bytes()),
            note::signature_line(ed25519_key, &ed25519.to_bytes()),
        )
    }
}

pub(super) fn p256_verifier(dir: &Path, name: &str, key: &p256::ecdsa::SigningKey) -> Result<Verifier, KeeperError> {
    let spki = key.verifying_key().to_public_key_der().map_err(|error| key_error(dir, error.to_string()))?;
    Verifier::p256(name, spki.as_bytes()).map_err(|error| key_error(dir, error.to_string()))
}

pub(super) fn p256_key(path: &Path) -> Result<p256::ecdsa::SigningKey, KeeperError> {
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
