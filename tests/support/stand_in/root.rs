//! The test root and a leaf for each server name, made when it is first asked for.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The host that wants to see a client's certificate.
pub const ASKS_FOR_A_CERTIFICATE: &str = "client-certificate.example";
/// Names that other programs serve, with a certificate of this root's.
pub const ELSEWHERE: [&str; 2] = ["grpc.example", "db.example"];
/// Whom the client certificate names.
pub const CLIENT: &str = "caracal of this test";

/// The root and the leaves made so far.
#[derive(Debug)]
pub struct Root {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: CertifiedIssuer<'static, KeyPair>,
    leaves: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root")
    }
}

impl Root {
    /// A fresh root.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn new() -> Result<Root> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Stand-in test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Root { inner: Arc::new(Inner { issuer, leaves: Mutex::default() }) })
    }

    /// The root certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.inner.issuer.pem()
    }

    /// TLS settings of the servers: the leaf follows the server name.
    ///
    /// # Errors
    /// When the provider has no usable protocol versions.
    pub fn server(&self) -> Result<Arc<rustls::ServerConfig>> {
        self.settings(None)
    }

    /// The same for [`ASKS_FOR_A_CERTIFICATE`]: a client without one of this root's is turned away.
    ///
    /// # Errors
    /// When the provider has no usable protocol versions.
    pub fn asking_server(&self) -> Result<Arc<rustls::ServerConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.inner.issuer.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        self.settings(Some(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?))
    }

    /// A certificate and key, both PEM, that [`Root::asking_server`] takes.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn client(&self) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, CLIENT);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((params.signed_by(&key, &self.inner.issuer)?.pem(), key.serialize_pem()))
    }

    /// A certificate and key, both PEM, of a server with this name.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn server_of(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        Ok((params.signed_by(&key, &self.inner.issuer)?.pem(), key.serialize_pem()))
    }

    fn settings(&self, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<Arc<rustls::ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let leaves: Arc<dyn ResolvesServerCert> = self.inner.clone();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(leaves);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Inner {
    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(name) {
            return Ok(Arc::clone(leaf));
        }
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let leaf = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], any_supported_type(&secret)?));
        leaves.insert(name.to_owned(), Arc::clone(&leaf));
        Ok(leaf)
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        // A certificate for another name: what a hijacked address would show.
        let shown = if name == "wrong-certificate.example" { "another.example" } else { name };
        self.leaf(shown).ok()
    }
}
