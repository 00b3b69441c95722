//! Throw-away certificates, and TLS as every party of the benchmark uses it: 1.3, HTTP/1.1, no resumption.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The host name that is asked for: priced, so that whoever meters has to.
pub(super) const HOST: &str = "api.openai.com";

/// Writes `NAME.pem` (certificate) and `NAME.key` of a new authority, and, signed by it, `HOST.pem` and `HOST.key`
/// into `directory/NAME/`.
pub(super) fn authority(directory: &Path, name: &str) -> Result<()> {
    let home = directory.join(name);
    fs::create_dir_all(&home)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("caracal bench {name}"));
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;
    fs::write(home.join("ca.pem"), issuer.pem())?;
    fs::write(home.join("ca.key"), issuer.key().serialize_pem())?;
    fs::write(home.join("leaf.pem"), leaf.pem())?;
    fs::write(home.join("leaf.key"), key.serialize_pem())?;
    Ok(())
}

/// A server that shows the leaf in `home`.
pub(super) fn server(home: &Path) -> Result<Arc<ServerConfig>> {
    let leaf = home.join("leaf.pem");
    let chain = certificates(&leaf)?;
    let key = PrivateKeyDer::from_pem_file(home.join("leaf.key"))?;
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The load never resumes; tickets that nobody uses would only blur the handshake's price.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client that trusts the authority in `trust` and nobody else.
pub(super) fn client(trust: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    // A bundle may hold a root that rustls does not take; none of ours is one.
    roots.add_parsable_certificates(certificates(trust)?);
    let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .with_context(|| path.display().to_string())?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| path.display().to_string())
}
