//! Takes certificates; gives a Java key store ("JKS") of trusted entries. Refuses nothing. Never holds a key.
//!
//! The format is what OpenJDK's `sun.security.provider.JavaKeyStore` reads and documents: big-endian magic 0xFEEDFEED,
//! version 2, a count, the entries, and a SHA-1 over the password (UTF-16BE), the words "Mighty Aphrodite" and all
//! that stands before it. The digest only detects damage: a JVM that is given no password does not look at it.

use aws_lc_rs::digest;

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;
/// The password that Java's own stores have.
const PASSWORD: &str = "changeit";

/// A store of `certificates` (DER).
#[must_use]
pub fn trust_store(certificates: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
    out.extend(u32::try_from(certificates.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (i, der) in certificates.iter().enumerate() {
        out.extend(TRUSTED.to_be_bytes());
        string(&mut out, &format!("caracal-{i}"));
        // Date of the entry, milliseconds since 1970: nobody reads it, and a constant keeps the file reproducible.
        out.extend(0_u64.to_be_bytes());
        string(&mut out, "X.509");
        out.extend(u32::try_from(der.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(der);
    }
    let digest = digest(&out);
    out.extend(digest.as_ref());
    out
}

/// Java's `writeUTF`: a 16-bit length and the bytes. Only short ASCII comes here.
fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(text.bytes());
}

fn digest(body: &[u8]) -> digest::Digest {
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for unit in PASSWORD.encode_utf16() {
        sha1.update(&unit.to_be_bytes());
    }
    sha1.update(b"Mighty Aphrodite");
    sha1.update(body);
    sha1.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn certificate() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn an_empty_store_has_the_documented_bytes() {
        let store = trust_store(&[]);
        assert_eq!(store[..12], [0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(store.len(), 12 + 20);
    }

    /// keytool checks the digest when it is given the password, and must find it wrong when a byte is.
    #[test]
    fn keytool_reads_it_and_checks_the_digest() {
        let Ok(keytool) = which("keytool") else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.jks");
        let list = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let out = Command::new(&keytool)
                .args(["-list", "-storetype", "JKS", "-storepass", PASSWORD, "-keystore"])
                .arg(&path)
                .output()
                .unwrap();
            (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let mut store = trust_store(&[certificate(), certificate()]);
        let (ok, text) = list(&store);
        assert!(ok, "{text}");
        assert!(text.contains("contains 2 entries"), "{text}");
        if let Some(last) = store.last_mut() {
            *last ^= 1;
        }
        assert!(!list(&store).0, "a wrong digest must be noticed");
    }

    fn which(name: &str) -> Result<std::path::PathBuf, ()> {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or(())
    }
}
