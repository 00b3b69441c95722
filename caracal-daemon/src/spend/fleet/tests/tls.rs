//! Redis with TLS alone: who trusts whom.

use super::*;
use crate::config::Tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// Writes a CA's certificate, and a certificate and key that it signed for 127.0.0.1.
fn certified(dir: &Path, name: &str) -> Tls {
    let mut params = CertificateParams::default();
    // A leaf of the same name as its issuer would look self-signed.
    params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let mut leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let write = |kind: &str, pem: String| -> PathBuf {
        let path = dir.join(format!("{name}-{kind}.pem"));
        std::fs::write(&path, pem).expect("written");
        path
    };
    Tls {
        roots: Some(write("roots", issuer.pem())),
        certificate: Some(write("certificate", leaf.pem())),
        key: Some(write("key", key.serialize_pem())),
    }
}

/// A Redis that speaks TLS and nothing else; `asks`: to whom it knows.
async fn server(asks: bool) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = certified(dir.path(), "good");
    let port = free_port();
    let text = |path: &Option<PathBuf>| path.as_ref().expect("a path").display().to_string();
    let (roots, certificate, key) = (text(&tls.roots), text(&tls.certificate), text(&tls.key));
    let (port_text, asked) = (port.to_string(), if asks { "yes" } else { "no" });
    let words = [
        ["--port", "0"],
        ["--tls-port", &port_text],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &roots],
        ["--tls-auth-clients", asked],
    ];
    let tls = if asks { tls } else { Tls { roots: tls.roots, ..Tls::default() } };
    let redis = Redis { url: Some(format!("rediss://127.0.0.1:{port}")), url_file: None, tls: Some(tls) };
    Server::with(dir, words.as_flattened(), redis).await
}

/// What a view says that is configured like this.
async fn refused(redis: &Redis) -> FleetError {
    match FleetView::new(redis, "test") {
        Ok(mut view) => view.ping().await.expect_err("it got in"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_right_root_works_and_a_wrong_one_is_refused() {
    let server = server(false).await;
    server.view().add(1, 0, 7, &[charged("a", 5)]).await.expect("done over TLS");
    assert_eq!(server.view().sums(Width::Day, "").await.expect("sums").len(), 1);

    let with = |tls: Option<Tls>| Redis { tls, ..server.redis.clone() };
    let other = certified(server.dir.path(), "other");
    let error = refused(&with(Some(Tls { roots: other.roots, ..Tls::default() }))).await;
    assert_eq!(error.code(), "redis_untrusted", "{error}");
    assert!(error.to_string().contains("[redis.tls] roots"), "{error}");
    // The system's roots do not have it either.
    let error = refused(&with(None)).await;
    assert_eq!(error.code(), "redis_untrusted", "{error}");

    let empty = server.dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate\n").expect("written");
    for (roots, code) in [(empty, "redis_file"), ("/nowhere/ca.pem".into(), "redis_file")] {
        let error = refused(&with(Some(Tls { roots: Some(roots.clone()), ..Tls::default() }))).await;
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(&roots.display().to_string()), "{error}");
    }
    // A URL from a file, of the kind that encrypts nothing.
    let file = server.dir.path().join("url");
    std::fs::write(&file, "redis://127.0.0.1:1\n").expect("written");
    let error = refused(&Redis { url: None, url_file: Some(file), tls: server.redis.tls.clone() }).await;
    assert_eq!(error.code(), "redis_not_tls", "{error}");
}

#[tokio::test]
async fn a_redis_that_asks_for_a_certificate_takes_one_that_it_knows() {
    let server = server(true).await;
    server.view().add(1, 0, 7, &[charged("a", 5)]).await.expect("done");
    let known = server.redis.tls.clone().expect("TLS");
    let other = certified(server.dir.path(), "other");
    let stranger = Tls { roots: known.roots.clone(), ..other };
    for tls in [stranger, Tls { roots: known.roots, ..Tls::default() }] {
        let error = refused(&Redis { tls: Some(tls), ..server.redis.clone() }).await;
        assert_eq!(error.code(), "redis_unwelcome", "{error}");
    }
}
