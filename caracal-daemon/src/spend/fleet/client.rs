//! Takes `[redis]`; gives a client of it. Never speaks in the clear where `[redis.tls]` is there.

use super::FleetError;
use crate::config::Redis;
use redis::{ClientTlsConfig, RedisError, TlsCertificates};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// The client; it connects when it is first used.
///
/// # Errors
/// When a file cannot be read or holds something else, or the URL is none or of another kind than `[redis.tls]` needs.
pub(super) fn open(redis: &Redis) -> Result<redis::Client, FleetError> {
    let url = redis.url()?;
    let Some(tls) = &redis.tls else { return Ok(redis::Client::open(url)?) };
    if !url.starts_with("rediss:") {
        return Err(FleetError::NotTls);
    }
    let root_cert = tls.roots.as_deref().map(certificates).transpose()?;
    let client_tls = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: certificates(certificate)?, client_key: private_key(key)? })
        }
        _ => None,
    };
    Ok(redis::Client::build_with_tls(url, TlsCertificates { client_tls, root_cert })?)
}

/// A file with certificates: one without any would trust nobody, and say nothing of the file.
fn certificates(path: &Path) -> Result<Vec<u8>, FleetError> {
    let pem = read(path)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(pem),
        _ => Err(FleetError::NotPem(path.to_owned(), "no certificates in PEM")),
    }
}

fn private_key(path: &Path) -> Result<Vec<u8>, FleetError> {
    let pem = read(path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(_) => Err(FleetError::NotPem(path.to_owned(), "no private key in PEM")),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl From<RedisError> for FleetError {
    fn from(error: RedisError) -> FleetError {
        match tls_error(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => FleetError::Untrusted(error),
            Some(rustls::Error::AlertReceived(_)) => FleetError::Unwelcome(error),
            _ => FleetError::Redis(error),
        }
    }
}

/// What TLS said. It is inside of an input or output error, whose source leaves it out, and that is behind a pointer.
fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    shared.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref()
}
