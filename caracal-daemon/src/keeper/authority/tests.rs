use super::*;

fn clock() -> Clock {
    Clock::fixed(UnixNanos(1_764_000_000_000_000_000))
}

fn spki() -> Vec<u8> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key").subject_public_key_info()
}

#[test]
fn is_made_once_and_read_again() {
    let directory = tempfile::tempdir().expect("directory");
    let first = Authority::open(directory.path(), clock()).expect("made");
    let again = Authority::open(directory.path(), clock()).expect("read");
    assert_eq!(first.certificate(), again.certificate());
    let mode = fs::metadata(directory.path().join(KEY_FILE)).expect("key file").mode();
    assert_eq!(mode & 0o777, 0o600);
    let facts = show(first.certificate_pem()).expect("show");
    assert!(facts.subject.contains("Caracal local CA"), "{}", facts.subject);
    assert_eq!(facts.sha256.len(), 95);
    // 2025-11-24 16:00 less an hour, and ten years of 365 days later.
    assert!(facts.not_before.starts_with("Nov 24 15:00:00 2025"), "{}", facts.not_before);
    assert!(facts.not_after.starts_with("Nov 22 16:00:00 2035"), "{}", facts.not_after);
    assert!(show("no certificate").is_err());
}

#[test]
fn a_crash_between_key_and_certificate_is_mended() {
    let directory = tempfile::tempdir().expect("directory");
    Authority::open(directory.path(), clock()).expect("made");
    fs::remove_file(directory.path().join(CERTIFICATE_FILE)).expect("removed");
    Authority::open(directory.path(), clock()).expect("certified anew");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    Authority::open(directory.path(), clock()).expect("made");
    let key = directory.path().join(KEY_FILE);
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("chmod");
        let error = Authority::open(directory.path(), clock()).expect_err("refused").to_string();
        assert!(error.contains("chmod 0600"), "{error}");
    }
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let (one, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("other"));
    Authority::open(one.path(), clock()).expect("one");
    Authority::open(other.path(), clock()).expect("other");
    fs::copy(other.path().join(CERTIFICATE_FILE), one.path().join(CERTIFICATE_FILE)).expect("copied");
    let error = Authority::open(one.path(), clock()).expect_err("refused").to_string();
    assert!(error.contains("another key"), "{error}");
    fs::remove_file(one.path().join(KEY_FILE)).expect("removed");
    assert!(Authority::open(one.path(), clock()).is_err());
}

#[test]
fn a_leaf_is_a_leaf() {
    let directory = tempfile::tempdir().expect("directory");
    let authority = Authority::open(directory.path(), clock()).expect("made");
    for name in ["api.example.com", "192.0.2.1", "2001:db8::1"] {
        let der = authority.issue_leaf(name, &spki()).expect("issued");
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).expect("certificate");
        assert!(!leaf.is_ca());
        assert_eq!(leaf.validity().not_before.timestamp(), 1_764_000_000 - 3_600);
        assert_eq!(leaf.validity().not_after.timestamp(), 1_764_000_000 + 7 * 86_400);
        let usage = leaf.extended_key_usage().expect("well-formed").expect("there").value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let names = leaf.subject_alternative_name().expect("well-formed").expect("there").value;
        assert_eq!(names.general_names.len(), 1);
        let (_, ca) = x509_parser::parse_x509_certificate(authority.certificate()).expect("CA");
        assert_eq!(ca.basic_constraints().expect("well-formed").expect("there").value.path_len_constraint, Some(0));
        assert_eq!(leaf.issuer(), ca.subject());
    }
    let (one, two) = (
        authority.issue_leaf("a.example", &spki()).expect("issued"),
        authority.issue_leaf("a.example", &spki()).expect("issued"),
    );
    let serial = |der: &[u8]| x509_parser::parse_x509_certificate(der).expect("certificate").1.raw_serial().to_vec();
    assert_ne!(serial(&one), serial(&two));
}

#[test]
fn what_is_no_name_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let authority = Authority::open(directory.path(), clock()).expect("made");
    let long = "a".repeat(64);
    for name in [
        "",
        ".",
        "a..b",
        "*.example.com",
        "A.example",
        "a b",
        "a\0b",
        "-a.b",
        "a-.b",
        "1.2.3",
        "ex\u{e4}mple.com",
        &long,
        "a.b.",
    ] {
        assert!(matches!(authority.issue_leaf(name, &spki()), Err(KeeperError::BadName(_))), "{name:?}");
    }
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key").subject_public_key_info();
    assert!(authority.issue_leaf("a.example", &p384).is_err());
    assert!(authority.issue_leaf("a.example", b"nonsense").is_err());
}
