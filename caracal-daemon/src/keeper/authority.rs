//! The local certificate authority. Takes a directory; gives leaf certificates for names and addresses.
//! Refuses a key that others can read, a name that is neither a DNS name nor an address, and a key that is not P-256.
//! Never signs anything but leaves: the path length is 0 and nothing here can make a second CA.

use crate::clock::{Clock, UnixNanos};
use crate::keeper::KeeperError;
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The certificate's file in the authority's directory.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// The private key's file in the authority's directory; mode 0600.
pub const KEY_FILE: &str = "ca.key";

/// How long the CA certificate is valid.
const CA_DAYS: u64 = 3_650;
/// How long a leaf is valid.
const LEAF_DAYS: u64 = 7;
/// How far a certificate is dated back, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3_600);
const DAY: u64 = 86_400;

/// The CA's key and certificate, ready to sign leaves.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    clock: Clock,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// What `ca show` prints.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateFacts {
    /// The subject's distinguished name.
    pub subject: String,
    /// Start of validity.
    pub not_before: String,
    /// End of validity.
    pub not_after: String,
    /// SHA-256 of the certificate, upper-case hex with colons, as browsers and openssl print it.
    pub sha256: String,
}

impl Authority {
    /// Opens the authority in `directory`, or makes it there if neither of its files exists.
    ///
    /// # Errors
    /// When a file cannot be read or written, the key is readable by group or others, or the two do not belong together.
    pub fn open(directory: &Path, clock: Clock) -> Result<Authority, KeeperError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        match (certificate_path.exists(), key_path.exists()) {
            (false, false) => create(directory, &clock)?,
            // The key is written first: a crash in between leaves a key that no certificate names yet.
            (false, true) => certify(directory, &read_key(&key_path)?, &clock)?,
            (true, false) => {
                return Err(failed(
                    &key_path,
                    "is missing while ca.pem is there: restore it, or remove ca.pem to start a new authority",
                ));
            }
            (true, true) => {}
        }
        Authority::load(&certificate_path, &key_path, clock)
    }

    fn load(certificate_path: &Path, key_path: &Path, clock: Clock) -> Result<Authority, KeeperError> {
        let key = read_key(key_path)?;
        let (certificate_pem, certificate) = read_certificate(certificate_path)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| failed(certificate_path, &format!("is not a certificate: {error}")))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(failed(
                certificate_path,
                "was made for another key than ca.key: restore the pair that belongs together",
            ));
        }
        if !parsed.is_ca() {
            return Err(failed(certificate_path, "is not a CA certificate"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| failed(certificate_path, &format!("cannot be used to sign: {error}")))?;
        Ok(Authority { issuer, certificate_pem, certificate, clock })
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A leaf certificate (DER) for `name` and the P-256 public key `spki` (DER, RFC 5480).
    ///
    /// # Errors
    /// [`KeeperError::BadName`] when `name` is neither a DNS name nor an IP address; [`KeeperError::Key`] when `spki` is
    /// not a P-256 key or signing fails.
    pub fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        let subject = subject_name(name)?;
        let public = SubjectPublicKeyInfo::from_der(spki).map_err(|error| leaf_failed(&error.to_string()))?;
        if public.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(leaf_failed("a leaf key must be ECDSA P-256"));
        }
        let mut params = CertificateParams::default();
        set_validity(&mut params, self.clock.now(), LEAF_DAYS);
        params.serial_number = Some(serial());
        params.distinguished_name = DistinguishedName::new();
        // A common name holds at most 64 characters (RFC 5280 A.1); clients read the alternative name.
        if name.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = vec![subject];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&public, &self.issuer).map_err(|error| leaf_failed(&error.to_string()))?;
        Ok(leaf.der().to_vec())
    }
}

/// Subject, fingerprint and validity of a certificate in PEM: for `ca show`.
///
/// # Errors
/// When it is none.
pub fn show(pem: &str) -> Result<CertificateFacts, KeeperError> {
    let path = Path::new(CERTIFICATE_FILE);
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| failed(path, &format!("is not a certificate in PEM: {error}")))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| failed(path, &format!("is not a certificate: {error}")))?;
    let digest = Sha256::digest(&der);
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let validity = parsed.validity();
    Ok(CertificateFacts {
        subject: parsed.subject().to_string(),
        sha256: pairs.join(":"),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
    })
}

/// A DNS name or an IP address, strictly: what else could stand in a request never reaches a certificate.
fn subject_name(name: &str) -> Result<SanType, KeeperError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if !is_dns_name(name) {
        return Err(KeeperError::BadName(name.chars().take(253).collect()));
    }
    let name = name.try_into().map_err(|_| KeeperError::BadName(name.to_owned()))?;
    Ok(SanType::DnsName(name))
}

/// Lower-case letters, digits, hyphens and underscores in labels of 1 to 63; at most 253 in all; the last label not all digits.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && !last_is_number && name.split('.').all(label)
}

fn create(directory: &Path, clock: &Clock) -> Result<(), KeeperError> {
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error.to_string()))?;
    let key_path = directory.join(KEY_FILE);
    let key =
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&key_path, &error.to_string()))?;
    let pem = zeroize::Zeroizing::new(key.serialize_pem());
    write_whole(&key_path, pem.as_bytes(), 0o600)?;
    certify(directory, &key, clock)
}

/// Makes the CA certificate for `key` and writes it.
fn certify(directory: &Path, key: &KeyPair, clock: &Clock) -> Result<(), KeeperError> {
    let path = directory.join(CERTIFICATE_FILE);
    let mut tag = [0_u8; 4];
    rand::rng().fill_bytes(&mut tag);
    let mut params = CertificateParams::default();
    set_validity(&mut params, clock.now(), CA_DAYS);
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Caracal");
    // Two hosts' authorities must not look alike in one trust store.
    params.distinguished_name.push(DnType::CommonName, format!("Caracal local CA {}", hex::encode(tag)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key).map_err(|error| failed(&path, &error.to_string()))?;
    write_whole(&path, certificate.pem().as_bytes(), 0o644)
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeeperError> {
    let error = |error: std::io::Error| failed(path, &error.to_string());
    let part = PathBuf::from(format!("{}.{}.part", path.display(), std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part).map_err(error)?;
    let written = file
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, path));
    if let Err(failure) = written {
        fs::remove_file(&part).ok();
        return Err(error(failure));
    }
    if let Some(directory) = path.parent().and_then(|parent| fs::File::open(parent).ok()) {
        directory.sync_all().map_err(error)?;
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<KeyPair, KeeperError> {
    let file = fs::File::open(path).map_err(|error| failed(path, &format!("cannot be read: {error}")))?;
    let facts = file.metadata().map_err(|error| failed(path, &error.to_string()))?;
    if facts.mode() & 0o077 != 0 {
        let mode = facts.mode() & 0o777;
        return Err(failed(
            path,
            &format!(
                "is open to group or others (mode {mode:04o}): run chmod 0600 on it, and make a new authority if others may have read it"
            ),
        ));
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    (&file).read_to_end(&mut bytes).map_err(|error| failed(path, &format!("cannot be read: {error}")))?;
    // What is no text is no PEM.
    let key = KeyPair::from_pem(std::str::from_utf8(&bytes).unwrap_or_default()).map_err(|error| {
        let why = "restore it, or remove it and ca.pem to start a new authority, which agents have to trust anew";
        failed(path, &format!("is not a private key in PEM ({error}): {why}"))
    })?;
    if !key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        return Err(failed(path, "is not an ECDSA P-256 key"));
    }
    Ok(key)
}

fn read_certificate(path: &Path) -> Result<(String, CertificateDer<'static>), KeeperError> {
    let pem = fs::read_to_string(path).map_err(|error| failed(path, &format!("cannot be read: {error}")))?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| failed(path, &format!("is not a certificate in PEM: {error}")))?;
    Ok((pem, der))
}

/// Valid from an hour before `now` until `days` after it.
fn set_validity(params: &mut CertificateParams, now: UnixNanos, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_nanos(now.0 - now.0 % 1_000_000_000);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + Duration::from_secs(days * DAY);
}

/// 127 random bits: positive, and at most 20 octets (RFC 5280 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

fn failed(path: &Path, why: &str) -> KeeperError {
    KeeperError::Key { path: path.display().to_string(), why: why.to_owned() }
}

fn leaf_failed(why: &str) -> KeeperError {
    KeeperError::Key { path: "the leaf key".to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;
