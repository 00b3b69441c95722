//! Takes the local CA's PEM, the inherited environment and a private directory; gives the files and the variables
//! that make a child's programs accept the CA. Refuses a CA that is not a certificate. Never trusts a file that is
//! not PEM certificates, and never removes a root that the user's own variables named.
//!
//! | what | how |
//! |---|---|
//! | variables that *replace* a program's roots | the full bundle: system roots, the user's own, the CA |
//! | variables that *add* to them | the CA, and what the inherited value held |
//! | `SSL_CERT_DIR` | its files go into the bundle and it is unset: curl ignores `SSL_CERT_FILE` beside it |
//! | `JAVA_TOOL_OPTIONS` | a trust store with the full bundle, appended to the inherited options |
//! | `NODE_USE_SYSTEM_CA`, `NODE_OPTIONS` | left alone |

pub mod bundle;
pub mod jks;

#[cfg(test)]
mod runtime_tests;

use bundle::{Collected, Collector, Skipped};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Variables whose file replaces the program's roots. They all get the full bundle.
pub const REPLACING: &[&str] = &[
    "SSL_CERT_FILE",      // OpenSSL, Go, rustls, httpx, aiohttp, curl, Claude Code, Codex
    "REQUESTS_CA_BUNDLE", // Python requests
    "CURL_CA_BUNDLE",     // curl, requests
    "GIT_SSL_CAINFO",     // git
    "PIP_CERT",           // pip
    "CARGO_HTTP_CAINFO",  // cargo
    "npm_config_cafile",  // npm; either spelling
    "NPM_CONFIG_CAFILE",
    "AWS_CA_BUNDLE",                    // AWS CLI and SDKs
    "BUNDLE_SSL_CA_CERT",               // Ruby's bundler
    "DENO_CERT",                        // Deno
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", // gRPC's core library: C++, Python, Ruby, PHP
];

/// Variables whose file is read beside the program's own roots. They get the CA and what the inherited value held.
pub const ADDING: &[(&str, &str)] =
    &[("NODE_EXTRA_CA_CERTS", "node-extra.pem"), ("CODEX_CA_CERTIFICATE", "codex-extra.pem")];

const BUNDLE: &str = "ca-bundle.pem";
const STORE: &str = "ca-bundle.jks";

/// What a child needs to trust the CA.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The full bundle: also what the system's store files are covered with.
    pub bundle: PathBuf,
    /// The Java trust store with the same certificates.
    pub java_store: PathBuf,
    /// Variables to set.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to take away.
    pub unset: Vec<OsString>,
    /// How many certificates the full bundle holds, the CA included.
    pub certificates: usize,
    /// Inherited files that were left out, and why. For people.
    pub skipped: Vec<Skipped>,
}

impl Trust {
    /// The inherited environment with the variables of this trust.
    #[must_use]
    pub fn apply(&self, inherited: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let ours = |name: &OsStr| self.unset.iter().any(|n| n == name) || self.set.iter().any(|(n, _)| n == name);
        let mut all: Vec<_> = inherited.iter().filter(|(name, _)| !ours(name)).cloned().collect();
        all.extend(self.set.iter().cloned());
        all
    }
}

/// Why the trust files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The CA handed in is not one PEM certificate or more.
    #[error("the local CA is not a PEM certificate; `caracald ca show` tells what it is")]
    BadCa,
    /// A file could not be written.
    #[error("cannot write {path}: {source}; the directory must exist and be writable by this user")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrustError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            TrustError::BadCa => "trust_bad_ca",
            TrustError::Write { .. } => "trust_write",
        }
    }
}

/// Writes the bundle and the stores below `dir` (which exists, belongs to the caller, and is searchable by the child)
/// and gives the variables that name them. The files are public data: mode 0644.
///
/// # Errors
/// When `ca_pem` holds no certificate, or a file cannot be written.
pub fn prepare(ca_pem: &str, inherited: &[(OsString, OsString)], dir: &Path) -> Result<Trust, TrustError> {
    prepare_with(ca_pem, inherited, dir, bundle::SYSTEM_BUNDLES)
}

fn prepare_with(
    ca_pem: &str,
    inherited: &[(OsString, OsString)],
    dir: &Path,
    system: &[&str],
) -> Result<Trust, TrustError> {
    let ca = bundle::parse(ca_pem.as_bytes()).map_err(|_| TrustError::BadCa)?;
    let value = |name: &str| {
        inherited.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str()).filter(|v| !v.is_empty())
    };

    let mut collector = Collector::new(&ca);
    collector.add_system(system);
    for name in REPLACING {
        if let Some(path) = value(name) {
            collector.add_path(name, Path::new(path));
        }
    }
    if let Some(list) = value("SSL_CERT_DIR") {
        for dir in list.as_bytes().split(|b| *b == b':').filter(|d| !d.is_empty()) {
            collector.add_dir("SSL_CERT_DIR", Path::new(OsStr::from_bytes(dir)));
        }
    }
    let Collected { certificates, mut skipped } = collector.finish();

    let bundle_path = write(dir, BUNDLE, bundle::to_pem(&certificates).as_bytes())?;
    let java_store = write(dir, STORE, &jks::trust_store(&certificates))?;
    let mut set: Vec<(OsString, OsString)> =
        REPLACING.iter().map(|name| (name.into(), bundle_path.clone().into())).collect();
    for (name, file) in ADDING {
        let mut extra = Collector::new(&ca);
        if let Some(path) = value(name) {
            extra.add_path(name, Path::new(path));
        }
        let mut extra = extra.finish();
        skipped.append(&mut extra.skipped);
        set.push((name.into(), write(dir, file, bundle::to_pem(&extra.certificates).as_bytes())?.into()));
    }
    set.push(("JAVA_TOOL_OPTIONS".into(), java_options(value("JAVA_TOOL_OPTIONS"), &java_store)));
    Ok(Trust {
        bundle: bundle_path,
        java_store,
        set,
        unset: vec!["SSL_CERT_DIR".into()],
        certificates: certificates.len(),
        skipped,
    })
}

/// The inherited options, then ours: of two `-D` of one name the JVM keeps the last. A path with white space is quoted,
/// which is how `JAVA_TOOL_OPTIONS` is split (JVM TI, "JAVA_TOOL_OPTIONS").
fn java_options(inherited: Option<&OsStr>, store: &Path) -> OsString {
    let mut options = OsString::new();
    if let Some(inherited) = inherited {
        options.push(inherited);
        options.push(" ");
    }
    let quote = if store.as_os_str().as_bytes().iter().any(u8::is_ascii_whitespace) { "\"" } else { "" };
    options.push(quote);
    options.push("-Djavax.net.ssl.trustStore=");
    options.push(store);
    options.push(quote);
    // No password: the JVM then reads a JKS without checking its digest.
    options.push(" -Djavax.net.ssl.trustStoreType=JKS");
    options
}

/// Writes a new file. The directory is private and fresh, so a file or link that is there already is not ours.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, TrustError> {
    let path = dir.join(name);
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path).and_then(|mut file| {
            // The caller's umask may be narrower; a child that changes its uid must still read it.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.write_all(bytes)
        });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(TrustError::Write { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&key).unwrap().pem()
    }

    fn env(pairs: &[(&str, &Path)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(n, v)| (n.into(), v.as_os_str().into())).collect()
    }

    fn count(path: impl AsRef<Path>) -> usize {
        bundle::parse(&std::fs::read(path).unwrap()).unwrap().len()
    }

    fn set<'a>(trust: &'a Trust, name: &str) -> &'a OsStr {
        &trust.set.iter().find(|(n, _)| n == name).unwrap().1
    }

    #[test]
    fn replacing_gets_everything_and_adding_gets_the_ca_and_its_own() {
        let tmp = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = tmp.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (system, pip, node) = (file("s", &ca("system")), file("p", &ca("pip")), file("n", &ca("node")));
        let hashed = tmp.path().join("hashed");
        std::fs::create_dir(&hashed).unwrap();
        std::fs::write(hashed.join("one.0"), ca("in a directory")).unwrap();
        let junk = file("junk", "not a certificate");
        let dir = tempfile::tempdir().unwrap();
        let inherited = env(&[
            ("PIP_CERT", &pip),
            ("NODE_EXTRA_CA_CERTS", &node),
            ("SSL_CERT_DIR", &hashed),
            ("CURL_CA_BUNDLE", &junk),
            ("HOME", Path::new("/home/me")),
            ("NODE_USE_SYSTEM_CA", Path::new("1")),
        ]);
        let system = system.to_str().unwrap();
        let trust = prepare_with(&ca("ours"), &inherited, dir.path(), &[system]).unwrap();
        assert_eq!((trust.certificates, count(&trust.bundle)), (4, 4), "system, pip, directory, ours");
        assert_eq!(count(set(&trust, "NODE_EXTRA_CA_CERTS")), 2);
        assert_eq!(count(set(&trust, "CODEX_CA_CERTIFICATE")), 1);
        for name in REPLACING {
            assert_eq!(set(&trust, name), trust.bundle);
        }
        assert_eq!(trust.skipped.len(), 1);
        assert_eq!(trust.skipped[0].path, junk);

        let child = trust.apply(&inherited);
        let get = |name: &str| child.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        assert_eq!(get("HOME"), [OsString::from("/home/me")]);
        assert_eq!(get("NODE_USE_SYSTEM_CA"), [OsString::from("1")]);
        assert_eq!(get("SSL_CERT_DIR"), [] as [OsString; 0]);
        assert_eq!(get("PIP_CERT"), [trust.bundle.clone().into_os_string()]);
    }

    #[test]
    fn a_ca_that_is_none_and_a_directory_that_is_used_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(prepare("hello", &[], dir.path()).unwrap_err().code(), "trust_bad_ca");
        prepare_with(&ca("x"), &[], dir.path(), &[]).unwrap();
        assert_eq!(prepare_with(&ca("x"), &[], dir.path(), &[]).unwrap_err().code(), "trust_write");
    }

    #[test]
    fn java_options_are_appended_and_quoted() {
        let both = java_options(Some(OsStr::new("-Xmx1g")), Path::new("/a b/c.jks"));
        assert_eq!(both, "-Xmx1g \"-Djavax.net.ssl.trustStore=/a b/c.jks\" -Djavax.net.ssl.trustStoreType=JKS");
        let ours = java_options(None, Path::new("/c.jks"));
        assert_eq!(ours, "-Djavax.net.ssl.trustStore=/c.jks -Djavax.net.ssl.trustStoreType=JKS");
    }
}
