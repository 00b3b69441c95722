//! Each target over its seeds in `tests/fuzz/seeds`, and over some thousand mutations of them that are the same every time.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The longest input.
const MOST: usize = 16 * 1_024;
/// What parsers look for.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e9",
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\x7f",
    b" ",
    b":",
    b"=",
    b"data: ",
    b"Content-Length: ",
    b"chunked",
    b"\xf0\x9f\x90\x86",
];

/// A generator of numbers that are the same on every machine (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 1).expect("63 bits")
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).expect("a byte"),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => {
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            5 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
        }
        bytes.truncate(MOST);
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no seed");
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

fn try_on(name: &str, target: fn(&[u8]), bytes: &[u8]) {
    let outcome: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    assert!(outcome.is_ok(), "{name} fails on this input; make it a seed:\n{}", bytes.escape_ascii());
}

/// How many times as many inputs are tried as usual.
fn times() -> usize {
    std::env::var("CARACAL_FUZZ_TIMES").map_or(1, |times| times.parse().expect("CARACAL_FUZZ_TIMES is a number"))
}

fn run(name: &str, target: fn(&[u8]), rounds: usize) {
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| try_on(name, target, seed));
    try_on(name, target, &[]);
    let mut numbers = Numbers(1);
    for _ in 0..rounds * times() {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.below(4) {
            numbers.mutate(&mut bytes, &seeds);
        }
        try_on(name, target, &bytes);
    }
}

/// One test for each target; the number is of mutated inputs, and as large as a second or less allows.
macro_rules! targets {
    ($($name:ident $rounds:literal)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), super::$name, $rounds);
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    first_bytes 20_000
    client_hello 2_000
    http1_stream 5_000
    http_target 5_000
    dns_query 2_000
    proxy_answer 5_000
    paid_request 1_000
    usage_answer 200
    provider_request 1_000
    provider_answer 1_000
    tool_call 5_000
    tool_stream 2_000
    socket_messages 2_000
    frame 5_000
    record 5_000
    checkpoint 2_000
    receipt 5_000
    journal_segment 300
    bus_message 5_000
    key_history 2_000
    log_path 10_000
    kernel_denial 5_000
    config 300
    policy_table 1_000
    price_book 500
    provider_export 5_000
}

#[test]
fn every_target_of_cargo_fuzz_is_tried_here() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/targets");
    let files: BTreeSet<String> = std::fs::read_dir(dir)
        .expect("the targets")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, NAMES.iter().map(|name| (*name).to_owned()).collect());
}
