//! Takes a name; gives a certificate for it under the local CA, in settings ready for a handshake. One key for the
//! process, a certificate per name, a bounded number of them kept.

use crate::clock::{Clock, UnixNanos};
use crate::keeper::{KeeperError, Signer};
use crate::tls::accept::Offer;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Certificates kept.
const MOST_LEAVES: usize = 4_096;
/// A certificate lives seven days; it is made anew well before.
const RENEW_AFTER_NS: u64 = 3 * 86_400 * 1_000_000_000;

/// Settings of a handshake that shows one certificate, for each offer.
#[derive(Debug)]
pub struct Settings {
    both: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
}

/// Certificates by name.
pub struct Leaves {
    provider: Arc<rustls::crypto::CryptoProvider>,
    signer: Arc<dyn Signer>,
    clock: Clock,
    key: Arc<dyn rustls::sign::SigningKey>,
    spki: Vec<u8>,
    kept: Mutex<HashMap<Box<str>, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    settings: Arc<Settings>,
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
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| failed(error.to_string()))?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|error| failed(error.to_string()))?;
        let provider = super::crypto();
        Ok(Leaves { provider, signer, clock, key, spki, kept: Mutex::new(HashMap::new()) })
    }

    /// The settings that show a certificate for `name`.
    ///
    /// # Errors
    /// When the name cannot stand in one, or the keeper is gone.
    pub async fn get(&self, name: &str) -> Result<Arc<Settings>, KeeperError> {
        let now = self.clock.now();
        if let Some(settings) = self.kept_leaf(name, now) {
            return Ok(settings);
        }
        let (signer, spki, owned) = (self.signer.clone(), self.spki.clone(), name.to_owned());
        let der = tokio::task::spawn_blocking(move || signer.issue_leaf(&owned, &spki))
            .await
            .map_err(|error| KeeperError::Gone(error.to_string()))??;
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(der)], self.key.clone()));
        let settings = Settings::new(&self.provider, &certified);
        let settings = Arc::new(
            settings.map_err(|error| KeeperError::Key { path: "the leaf key".to_owned(), why: error.to_string() })?,
        );
        self.keep(name, Leaf { settings: settings.clone(), made: now, used: now });
        Ok(settings)
    }

    fn kept_leaf(&self, name: &str, now: UnixNanos) -> Option<Arc<Settings>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let leaf = kept.get_mut(name)?;
        if now.0.saturating_sub(leaf.made.0) > RENEW_AFTER_NS || now < leaf.made {
            return None;
        }
        leaf.used = now;
        Some(leaf.settings.clone())
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

impl Settings {
    fn new(
        provider: &Arc<rustls::crypto::CryptoProvider>,
        certified: &Arc<CertifiedKey>,
    ) -> Result<Settings, rustls::Error> {
        let config = |protocols: &[&[u8]]| {
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Only(certified.clone())));
            // Ours is the side that knows what is cheap on this host.
            config.ignore_client_order = true;
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            // A resumed handshake saves the server nothing, and a ticket would outlive the policy that the handshake met.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        Ok(Settings { both: config(&[b"h2", b"http/1.1"])?, http1: config(&[b"http/1.1"])? })
    }

    /// Those that offer `offer`.
    pub(crate) fn of(&self, offer: Offer) -> Arc<ServerConfig> {
        match offer {
            Offer::Both => self.both.clone(),
            Offer::Http1 => self.http1.clone(),
        }
    }
}

/// One certificate, whatever is asked for.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
