//! Takes paths of PEM files; gives the certificates in them, each once. Refuses what is not PEM certificates and stops
//! at its bounds. Never follows a directory below a directory, never blocks on a pipe or device.

use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::HashSet;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Where distributions keep their bundle. The first one that holds certificates is the system's store.
pub const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL, Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",   // older RHEL
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/var/lib/ca-certificates/ca-bundle.pem", // SUSE
    "/etc/pki/tls/cacert.pem",            // OpenELEC
    "/etc/ssl/cert.pem",                  // Alpine, OpenSSL's own default
];

/// At most this many bytes are read of all files together.
pub const MAX_BYTES: u64 = 4 << 20;
/// At most this many files are read.
pub const MAX_FILES: usize = 256;
/// At most this many names of a directory are looked at.
const MAX_NAMES: usize = 4096;

/// An inherited file that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The variable that named it.
    pub variable: String,
    /// The file.
    pub path: PathBuf,
    /// Why, for people.
    pub why: String,
}

/// The certificates found.
#[derive(Debug)]
pub struct Collected {
    /// DER, each once, the local CA first.
    pub certificates: Vec<Vec<u8>>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

/// Reads files within the bounds.
#[derive(Debug)]
pub struct Collector {
    certificates: Vec<Vec<u8>>,
    seen: HashSet<Vec<u8>>,
    skipped: Vec<Skipped>,
    bytes: u64,
    files: usize,
}

impl Collector {
    /// Starts with the local CA.
    #[must_use]
    pub fn new(ca: &[Vec<u8>]) -> Collector {
        let mut collector =
            Collector { certificates: vec![], seen: HashSet::new(), skipped: vec![], bytes: 0, files: 0 };
        collector.keep(ca.to_vec());
        collector
    }

    /// Adds the system's bundle: the first of `candidates` that holds certificates.
    pub fn add_system(&mut self, candidates: &[&str]) {
        for path in candidates {
            // The system's own store is trusted as it is: one odd certificate in it must not cost all others.
            if let Ok(found) = self.read(Path::new(path), parse_valid) {
                self.keep(found);
                return;
            }
        }
    }

    /// Adds the file (or directory, which curl's and requests' variables may name) at `path`.
    pub fn add_path(&mut self, variable: &str, path: &Path) {
        if path.is_dir() {
            return self.add_dir(variable, path);
        }
        match self.read(path, parse) {
            Ok(found) => self.keep(found),
            Err(why) => self.skipped.push(Skipped { variable: variable.into(), path: path.into(), why }),
        }
    }

    /// Adds the certificate files of a directory, as OpenSSL's hashed directories hold them.
    pub fn add_dir(&mut self, variable: &str, dir: &Path) {
        let mut names: Vec<PathBuf> = match std::fs::read_dir(dir) {
            Ok(entries) => entries.take(MAX_NAMES).filter_map(|e| e.ok().map(|e| e.path())).collect(),
            Err(e) => {
                return self.skipped.push(Skipped { variable: variable.into(), path: dir.into(), why: e.to_string() });
            }
        };
        names.sort();
        // A hash link and its target are one file: only distinct files count against the bound.
        let mut distinct = HashSet::new();
        for name in names {
            let real = std::fs::canonicalize(&name).unwrap_or(name);
            if !distinct.insert(real.clone()) || real.is_dir() {
                continue;
            }
            if self.files >= MAX_FILES {
                let why = format!("more than {MAX_FILES} files of certificates");
                return self.skipped.push(Skipped { variable: variable.into(), path: dir.into(), why });
            }
            // Such directories hold other things as well (a README, keys): what is no certificate is not an error.
            if let Ok(found) = self.read(&real, parse) {
                self.keep(found);
            }
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Collected {
        Collected { certificates: self.certificates, skipped: self.skipped }
    }

    fn keep(&mut self, found: Vec<Vec<u8>>) {
        for der in found {
            if self.seen.insert(der.clone()) {
                self.certificates.push(der);
            }
        }
    }

    fn read(&mut self, path: &Path, parse: Parser) -> Result<Vec<Vec<u8>>, String> {
        if self.files >= MAX_FILES {
            return Err(format!("more than {MAX_FILES} files of certificates"));
        }
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|e| e.to_string())?;
        let meta = file.metadata().map_err(|e| e.to_string())?;
        if !meta.is_file() {
            return Err("not a regular file".into());
        }
        let left = MAX_BYTES.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        let read = file.take(left + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())? as u64;
        if read > left {
            return Err(format!("more than {MAX_BYTES} bytes of certificates"));
        }
        let found = parse(&bytes)?;
        self.bytes += read;
        self.files += 1;
        Ok(found)
    }
}

type Parser = fn(&[u8]) -> Result<Vec<Vec<u8>>, String>;

/// As [`parse`], but leaves out what is no certificate.
fn parse_valid(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .filter(|der| matches!(x509_parser::parse_x509_certificate(der), Ok(([], _))))
        .map(|der| der.to_vec())
        .collect();
    if found.is_empty() { Err("holds no certificate".into()) } else { Ok(found) }
}

/// The X.509 certificates (DER) of a PEM file. Other sections (keys, CRLs) are left out.
///
/// # Errors
/// When a section is malformed, a certificate does not parse, or there is none.
pub fn parse(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der.map_err(|e| format!("not PEM: {e}"))?;
        match x509_parser::parse_x509_certificate(&der) {
            Ok(([], _)) => found.push(der.to_vec()),
            _ => return Err("a section is not an X.509 certificate".into()),
        }
    }
    if found.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(found)
}

/// PEM text of `certificates` (RFC 7468: 64 characters a line).
#[must_use]
pub fn to_pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(der);
        for (i, c) in encoded.chars().enumerate() {
            if i > 0 && i % 64 == 0 {
                text.push('\n');
            }
            text.push(c);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn what_is_written_reads_back() {
        let both = parse((pem() + &pem()).as_bytes()).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(parse(to_pem(&both).as_bytes()).unwrap(), both);
    }

    #[test]
    fn nothing_but_certificates_is_trusted() {
        assert!(parse(b"").is_err());
        assert!(parse(b"hello").is_err());
        assert!(parse(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        let cut = pem().replace("-----END CERTIFICATE-----", "");
        assert!(parse((pem() + &cut).as_bytes()).is_err(), "a cut section spoils the file");
    }

    #[test]
    fn bounds_hold_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let big = dir.path().join("big.pem");
        std::fs::write(&big, pem() + &" ".repeat(MAX_BYTES as usize)).unwrap();
        let mut collector = Collector::new(&[]);
        collector.add_path("PIP_CERT", &big);
        collector.add_path("PIP_CERT", Path::new("/dev/zero"));
        collector.add_path("PIP_CERT", Path::new("/does/not/exist"));
        let found = collector.finish();
        assert!(found.certificates.is_empty());
        assert_eq!(found.skipped.len(), 3);

        let many = dir.path().join("many");
        std::fs::create_dir(&many).unwrap();
        let one = pem();
        for i in 0..MAX_FILES + 5 {
            std::fs::write(many.join(format!("{i}.pem")), &one).unwrap();
        }
        let mut collector = Collector::new(&[]);
        collector.add_dir("SSL_CERT_DIR", &many);
        let found = collector.finish();
        assert_eq!((found.certificates.len(), found.skipped.len()), (1, 1));
    }

    proptest::proptest! {
        #[test]
        fn parse_never_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
