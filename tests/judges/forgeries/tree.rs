//! Whole histories that are not the log's: told anew with all tiles made to fit, and rolled back.

use super::{Corpus, Part, copy, corpus_log, number, put, text};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use std::path::Path;

type Hash = [u8; 32];

impl Corpus<'_> {
    pub(super) fn histories(&mut self) {
        let logs = self.logs;
        self.case("log rolled back: an older checkpoint over the files", Part::Kept, |case| {
            copy(&logs.newer.join("checkpoint"), &case.join("kept"));
            corpus_log(&logs.older, case);
            super::link_missing(&logs.newer, &case.join("log"));
        });
        self.case("log rolled back: all of it", Part::Kept, |case| {
            copy(&logs.newer.join("checkpoint"), &case.join("kept"));
            corpus_log(&logs.older, case);
        });
        let records = self.records();
        // Who forges keeps the rest: the hash of the record before stands in each, so the chain breaks, but a tree does not care.
        let mut changed = records.clone();
        let last = changed[7].iter().rposition(|byte| byte.is_ascii_digit()).expect("a digit");
        changed[7][last] ^= 1;
        self.case("log told anew: the tiles fit, the signatures are the old ones", Part::Checkpoint, |case| {
            let root = write(&changed, &case.join("log"));
            let note = text(&logs.newer.join("checkpoint"));
            let old = note.lines().nth(2).expect("a root");
            put(&case.join("log/checkpoint"), note.replacen(old, &STANDARD.encode(root), 1).as_bytes());
        });
        let histories = [
            ("a record changed", changed),
            ("a record left out", [&records[..9], &records[10..]].concat()),
            ("two records swapped", [&records[..3], &[records[4].clone(), records[3].clone()], &records[5..]].concat()),
        ];
        for (name, records) in histories {
            self.case(&format!("log told anew, with its keys: {name}"), Part::Kept, |case| {
                copy(&logs.older.join("checkpoint"), &case.join("kept"));
                std::fs::remove_dir_all(case.join("log")).expect("removed");
                let root = write(&records, &case.join("log"));
                let note = sign(&logs.private, &text(&logs.newer.join("checkpoint")), records.len(), &root);
                put(&case.join("log/checkpoint"), note.as_bytes());
            });
        }
    }

    /// The log's records.
    fn records(&self) -> Vec<Vec<u8>> {
        let size = self.logs.size();
        let mut out = Vec::new();
        for n in 0..size.div_ceil(256) {
            let width = (size - n * 256).min(256);
            let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
            let bundle = super::bytes(&self.logs.newer.join(format!("tile/entries/{}{partial}", number(n))));
            let mut rest = bundle.as_slice();
            while let Some((length, behind)) = rest.split_first_chunk::<2>() {
                let (record, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)));
                out.push(record.to_vec());
                rest = behind;
            }
        }
        assert_eq!(out.len() as u64, size);
        out
    }
}

/// Writes a log of these records without its checkpoint, as the format says; gives its root.
fn write(records: &[Vec<u8>], log: &Path) -> Hash {
    let name = |at: usize, width: usize| {
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        format!("{}{partial}", number(at as u64))
    };
    for (at, bundle) in records.chunks(256).enumerate() {
        let framed =
            |record: &Vec<u8>| [&u16::try_from(record.len()).expect("short").to_be_bytes()[..], record].concat();
        let data: Vec<u8> = bundle.iter().flat_map(framed).collect();
        put(&log.join("tile/entries").join(name(at, bundle.len())), &data);
    }
    let leaf = |record: &Vec<u8>| Sha256::new().chain_update([0]).chain_update(record).finalize().into();
    let leaves: Vec<Hash> = records.iter().map(leaf).collect();
    let (mut level, mut hashes) = (0, leaves.clone());
    while !hashes.is_empty() {
        for (at, tile) in hashes.chunks(256).enumerate() {
            put(&log.join(format!("tile/{level}")).join(name(at, tile.len())), tile.as_flattened());
        }
        hashes = hashes.chunks_exact(256).map(root).collect();
        level += 1;
    }
    root(&leaves)
}

/// RFC 6962 section 2.1.
fn root(hashes: &[Hash]) -> Hash {
    if let [one] = hashes {
        return *one;
    }
    let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
    Sha256::new().chain_update([1]).chain_update(root(left)).chain_update(root(right)).finalize().into()
}

/// The checkpoint of this size and root, signed with the log's own keys. `like` has the names and ids of the lines.
pub(super) fn sign(private: &Path, like: &str, size: usize, root: &Hash) -> String {
    let lines: Vec<&str> = like.lines().collect();
    let signed = format!("{}\n{size}\n{}\n", lines[0], STANDARD.encode(root));
    let pkcs8 = |name: &str| {
        let key = PrivateKeyDer::from_pem_file(private.join(name)).expect("a private key");
        key.secret_der().to_vec()
    };
    let ecdsa = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8("ledger-p256.pem")).expect("a key");
    let ed25519 = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8("ledger-ed25519.pem")).expect("a key");
    let signatures = [
        ecdsa.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed").as_ref().to_vec(),
        ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
    ];
    let line = |(like, signature): (&&str, &Vec<u8>)| {
        let (name, blob) = like.rsplit_once(' ').expect("a signature line");
        let id = STANDARD.decode(blob).expect("base64")[..4].to_vec();
        format!("{name} {}\n", STANDARD.encode([id, signature.clone()].concat()))
    };
    let made: String = lines[4..].iter().zip(&signatures).map(line).collect();
    format!("{signed}\n{made}")
}
