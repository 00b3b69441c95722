//! Real programs against a local server whose leaf only the CA of the test vouches for: each connects with the
//! variables made here and fails without them.

use super::*;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

struct Server {
    port: u16,
    ca_pem: String,
}

/// Serves one fixed answer over TLS to whoever completes a handshake.
fn serve() -> Server {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Caracal trust test");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || answer(socket, config));
        }
    });
    Server { port, ca_pem }
}

fn answer(socket: std::net::TcpStream, config: Arc<rustls::ServerConfig>) {
    // What `git ls-remote` reads as a repository without refs; the others look at the status only.
    let body = "001e# service=git-upload-pack\n00000000";
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-advertisement\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let Ok(session) = rustls::ServerConnection::new(config) else { return };
    let mut tls = rustls::StreamOwned::new(session, socket);
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
        match tls.read(&mut chunk) {
            Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let _ = tls.write_all((head + body).as_bytes());
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// Runs `argv` with `{url}` and `{port}` filled in; true when it ends well.
fn runs(argv: &[&str], port: u16, variables: &[(OsString, OsString)], home: &Path) -> (bool, String) {
    let filled: Vec<String> = argv
        .iter()
        .map(|a| a.replace("{url}", &format!("https://localhost:{port}/")).replace("{port}", &port.to_string()))
        .collect();
    let out = Command::new(&filled[0])
        .args(&filled[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .envs(variables.iter().cloned())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn trusts(argv: &[&str]) {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(argv[0]).is_file());
    assert!(found, "{} is missing: `cargo xtask test unit` installs it", argv[0]);
    let server = serve();
    let dir = tempfile::tempdir().unwrap();
    let trust = prepare(&server.ca_pem, &[], dir.path()).unwrap();
    let (ok, text) = runs(argv, server.port, &trust.set, dir.path());
    assert!(ok, "with the variables: {argv:?}\n{text}");
    let (ok, text) = runs(argv, server.port, &[], dir.path());
    assert!(!ok, "without the variables it must fail: {argv:?}\n{text}");
}

#[test]
fn curl() {
    trusts(&["curl", "-sS", "-f", "-o", "/dev/null", "{url}"]);
}

#[test]
fn openssl() {
    trusts(&[
        "sh",
        "-c",
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -verify_return_error -verify_hostname localhost -quiet -connect localhost:{port}",
    ]);
}

#[test]
fn python_standard_library() {
    trusts(&["python3", "-c", "import urllib.request as u; u.urlopen('{url}')"]);
}

#[test]
fn python_requests() {
    // Debian's, which `cargo xtask test unit` installs.
    trusts(&["/usr/bin/python3", "-c", "import requests; requests.get('{url}').raise_for_status()"]);
}

#[test]
fn node_https_and_fetch() {
    trusts(&["node", "-e", "require('https').get('{url}').on('error', () => process.exit(1))"]);
    trusts(&["node", "-e", "fetch('{url}').catch(() => process.exit(1))"]);
}

#[test]
fn git() {
    trusts(&["git", "ls-remote", "{url}"]);
}

#[test]
fn java() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("Get.java");
    std::fs::write(
        &source,
        "public class Get { public static void main(String[] a) throws Exception {\
         new java.net.URI(a[0]).toURL().openStream().readAllBytes(); } }",
    )
    .unwrap();
    trusts(&["java", source.to_str().unwrap(), "{url}"]);
}
