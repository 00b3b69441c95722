//! Takes a name; gives a certificate for it under the local CA. One key for the process, a certificate per name, a bounded
//! number of them kept.

use crate::clock::{Clock, UnixNanos};
use crate::keeper::{KeeperError, Signer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Certificates kept.
const MOST_LEAVES: usize = 4_096;
/// A certificate lives seven days; it is made anew well before.
const RENEW_AFTER_NS: u64 = 3 * 86_400 * 1_000_000_000;

/// Certificates by name.
pub struct Leaves {
    signer: Arc<dyn Signer>,
    clock: Clock,
    key: Arc<dyn rustls::sign::SigningKey>,
    spki: Vec<u8>,
    kept: Mutex<HashMap<Box<str>, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    certified: Arc<CertifiedKey>,
    made: UnixNanos,
    used: UnixNanos,
}

impl std::fmt::Debug for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl Leaves {
    /// No certificates yet, and a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(signer: Arc<dyn Signer>, clock: Clock) -> Result<Leaves, KeeperError> {
        let failed = |why: String| KeeperError::Key { path: "the leaf key".to_owned(), why };
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| failed(error.to_string()))?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|error| failed(error.to_string()))?;
        Ok(Leaves { signer, clock, key, spki, kept: Mutex::new(HashMap::new()) })
    }

    /// The certificate for `name`.
    ///
    /// # Errors
    /// When the name cannot stand in one, or the keeper is gone.
    pub async fn get(&self, name: &str) -> Result<Arc<CertifiedKey>, KeeperError> {
        let now = self.clock.now();
        if let Some(certified) = self.kept_leaf(name, now) {
            return Ok(certified);
        }
        let (signer, spki, owned) = (self.signer.clone(), self.spki.clone(), name.to_owned());
        let der = tokio::task::spawn_blocking(move || signer.issue_leaf(&owned, &spki))
            .await
            .map_err(|error| KeeperError::Gone(error.to_string()))??;
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(der)], self.key.clone()));
        self.keep(name, Leaf { certified: certified.clone(), made: now, used: now });
        Ok(certified)
    }

    fn kept_leaf(&self, name: &str, now: UnixNanos) -> Option<Arc<CertifiedKey>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let leaf = kept.get_mut(name)?;
        if now.0.saturating_sub(leaf.made.0) > RENEW_AFTER_NS || now < leaf.made {
            return None;
        }
        leaf.used = now;
        Some(leaf.certified.clone())
    }

    /// Keeps a certificate; when there are too many, the half that was not used for longest goes.
    fn keep(&self, name: &str, leaf: Leaf) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_LEAVES {
            let mut used: Vec<UnixNanos> = kept.values().map(|leaf| leaf.used).collect();
            let middle = used.len() / 2;
            let (_, median, _) = used.select_nth_unstable(middle);
            let median = *median;
            kept.retain(|_, leaf| leaf.used > median);
        }
        kept.insert(name.into(), leaf);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
