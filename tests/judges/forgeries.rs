//! The corpus: each kind of file flipped, cut, swapped and replayed. A case is a directory: `keys`, and `receipt` or `log`, and
//! perhaps `kept`, a checkpoint that the judge remembers.

mod keys;
mod receipts;
mod tree;

use crate::log::{Logs, size};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::{Path, PathBuf};

/// What was forged, so that a judge who does not read it is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A checkpoint's text: origin, size, root.
    Checkpoint,
    /// Its ECDSA line.
    EcdsaLine,
    /// Its Ed25519 line.
    Ed25519Line,
    /// A full tile of leaf hashes.
    Tile0,
    /// A tile of level 1.
    Tile1,
    /// The tile of leaf hashes at the right edge.
    PartialTile,
    /// A bundle of records.
    Bundle,
    /// A receipt.
    Receipt,
    /// The ECDSA line of its checkpoint.
    ReceiptEcdsaLine,
    /// The log's keys.
    Keys,
    /// Its ECDSA key.
    EcdsaKey,
    /// Nothing that the log says of itself: only a checkpoint that was kept shows it.
    Kept,
}

impl Part {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Part::Checkpoint => "checkpoint",
            Part::EcdsaLine => "a checkpoint's ECDSA line",
            Part::Ed25519Line => "a checkpoint's Ed25519 line",
            Part::Tile0 => "hash tiles of level 0",
            Part::Tile1 => "hash tiles of level 1",
            Part::PartialTile => "partial hash tiles",
            Part::Bundle => "entry bundles",
            Part::Receipt => "receipts",
            Part::ReceiptEcdsaLine => "a receipt's ECDSA line",
            Part::Keys => "keys",
            Part::EcdsaKey => "ECDSA keys",
            Part::Kept => "checkpoints that were kept",
        }
    }
}

/// A case for the judges.
#[derive(Debug)]
pub(crate) struct Forgery {
    /// Its name in the report, and of its directory.
    pub(crate) name: String,
    /// What was forged.
    pub(crate) part: Part,
    /// Where it is.
    pub(crate) dir: PathBuf,
}

/// Makes cases in a directory, from the logs.
struct Corpus<'a> {
    logs: &'a Logs,
    dir: &'a Path,
    cases: Vec<Forgery>,
}

/// Cases that everybody must accept.
pub(crate) fn sound(logs: &Logs, dir: &Path) -> Vec<Forgery> {
    let mut corpus = Corpus { logs, dir, cases: Vec::new() };
    corpus.case("sound log", Part::Checkpoint, |_| {});
    corpus.case("sound log, grown since a kept checkpoint", Part::Kept, |case| {
        copy(&logs.older.join("checkpoint"), &case.join("kept"));
    });
    corpus.case("sound log, with a stranger's signature", Part::Checkpoint, |case| {
        let path = case.join("log/checkpoint");
        let line = "\u{2014} witness.example/w AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n";
        put(&path, (text(&path) + line).as_bytes());
    });
    corpus.case("sound log, older", Part::Checkpoint, |case| corpus_log(&logs.older, case));
    corpus.case("sound log, another one", Part::Checkpoint, |case| {
        corpus_log(&logs.other, case);
        copy(&logs.keys[1], &case.join("keys"));
    });
    for (name, receipt) in ["older", "newer", "another"].iter().zip(&logs.receipts) {
        corpus.case(&format!("sound receipt, {name}"), Part::Receipt, |case| copy(receipt, &case.join("receipt")));
    }
    corpus.cases
}

/// Cases that nobody may accept.
pub(crate) fn forge(logs: &Logs, dir: &Path) -> Vec<Forgery> {
    let mut corpus = Corpus { logs, dir, cases: Vec::new() };
    corpus.checkpoints();
    corpus.files();
    corpus.histories();
    corpus.receipts();
    corpus.keys();
    corpus.cases
}

impl Corpus<'_> {
    /// A case that begins as the sound log.
    fn case(&mut self, name: &str, part: Part, forge: impl FnOnce(&Path)) {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        corpus_log(&self.logs.newer, &dir);
        copy(&self.logs.keys[0], &dir.join("keys"));
        forge(&dir);
        self.cases.push(Forgery { name: name.to_owned(), part, dir });
    }

    /// A case in which the checkpoint is this text.
    fn checkpoint(&mut self, name: &str, part: Part, forged: &str) {
        let path = Path::new("log/checkpoint");
        assert_ne!(forged, text(&self.logs.newer.join("checkpoint")), "{name} changes nothing");
        self.case(&format!("checkpoint {name}"), part, |case| put(&case.join(path), forged.as_bytes()));
    }

    fn checkpoints(&mut self) {
        let whole = text(&self.logs.newer.join("checkpoint"));
        let lines: Vec<&str> = whole.lines().collect();
        let [origin, size, root, _, ecdsa, ed25519] = lines[..] else { panic!("not our checkpoint: {whole}") };
        let of = |size: &str, root: &str, signatures: &[&str]| {
            format!("{origin}\n{size}\n{root}\n\n{}\n", signatures.join("\n"))
        };
        let both = [ecdsa, ed25519];
        self.checkpoint("flipped: size", Part::Checkpoint, &of(&flip_digit(size), root, &both));
        self.checkpoint("flipped: root", Part::Checkpoint, &of(size, &flip_base64(root), &both));
        self.checkpoint("flipped: origin", Part::Checkpoint, &whole.replacen("caracal/", "caracal0/", 1));
        self.checkpoint("flipped: ECDSA line", Part::EcdsaLine, &of(size, root, &[&flip_base64(ecdsa), ed25519]));
        self.checkpoint("flipped: Ed25519 line", Part::Ed25519Line, &of(size, root, &[ecdsa, &flip_base64(ed25519)]));
        self.checkpoint("cut: half of it", Part::Checkpoint, &whole[..root.len() + origin.len()]);
        self.checkpoint("cut: empty", Part::Checkpoint, "");
        self.checkpoint("cut: no ECDSA line", Part::EcdsaLine, &of(size, root, &[ed25519]));
        self.checkpoint("cut: no Ed25519 line", Part::Ed25519Line, &of(size, root, &[ecdsa]));
        self.checkpoint("cut: no signature", Part::Checkpoint, &format!("{origin}\n{size}\n{root}\n"));
        self.checkpoint("swapped: one line stands there twice", Part::EcdsaLine, &of(size, root, &[ed25519, ed25519]));
        self.checkpoint("swapped: another log's", Part::Checkpoint, &text(&self.logs.other.join("checkpoint")));
        let older = text(&self.logs.older.join("checkpoint"));
        let old: Vec<&str> = older.lines().collect();
        self.checkpoint("replayed: older signatures", Part::Checkpoint, &of(size, root, &old[4..]));
        self.checkpoint("replayed: older root", Part::Checkpoint, &of(size, old[2], &both));
    }

    /// Tiles and bundles.
    fn files(&mut self) {
        let (new, old) = (self.logs.size(), size(&self.logs.older));
        let path = |level: &str, size: u64, shift: u32| {
            let hashes = size >> shift;
            format!("tile/{level}/{}.p/{}", number(hashes / 256), hashes % 256)
        };
        let kinds = [
            (Part::Tile0, "tile of level 0", "tile/0/001".to_owned(), "tile/0/000".to_owned(), "tile/0/001".to_owned()),
            (Part::Tile1, "tile of level 1", path("1", new, 8), "tile/0/000".to_owned(), path("1", old, 8)),
            (Part::PartialTile, "partial tile", path("0", new, 0), "tile/0/000".to_owned(), path("0", old, 0)),
            (
                Part::Bundle,
                "bundle",
                "tile/entries/001".to_owned(),
                "tile/entries/000".to_owned(),
                "tile/entries/001".to_owned(),
            ),
            (
                Part::Bundle,
                "partial bundle",
                path("entries", new, 0),
                "tile/entries/000".to_owned(),
                path("entries", old, 0),
            ),
        ];
        for (part, kind, file, neighbour, replayed) in kinds {
            // A full file has stood still since the older log: what is replayed there is another log's.
            let from = if replayed.contains(".p/") { &self.logs.older } else { &self.logs.other };
            let (own, near, before) = (
                bytes(&self.logs.newer.join(&file)),
                bytes(&self.logs.newer.join(&neighbour)),
                bytes(&from.join(&replayed)),
            );
            let mut forge = |how: &str, forged: Option<Vec<u8>>| {
                assert_ne!(forged.as_ref(), Some(&own), "{kind} {how} changes nothing");
                self.case(&format!("{kind} {how}"), part, |case| {
                    let path = case.join("log").join(&file);
                    std::fs::remove_file(&path).expect("removed");
                    forged.iter().for_each(|forged| put(&path, forged));
                });
            };
            for (word, at) in [("first", 0), ("middle", own.len() / 2), ("last", own.len() - 1)] {
                let mut flipped = own.clone();
                flipped[at] ^= 1;
                forge(&format!("flipped: {word} byte"), Some(flipped));
            }
            forge("cut: last byte", Some(own[..own.len() - 1].to_vec()));
            forge("cut: half", Some(own[..own.len() / 2].to_vec()));
            forge("cut: empty", Some(Vec::new()));
            forge("cut: gone", None);
            forge("swapped: its neighbour's", Some(near[..near.len().min(own.len())].to_vec()));
            forge("replayed", Some(before));
        }
    }
}

/// The checkpoint `note` signed by the keys in `private`, whose lines `like` has.
pub(crate) fn sign_again(private: &Path, like: &str, note: &str) -> String {
    let lines: Vec<&str> = note.lines().collect();
    let root = STANDARD.decode(lines[2]).expect("base64").try_into().expect("a root");
    tree::sign(private, like, lines[1].parse().expect("a size"), &root)
}

/// The files of a log, as they are; what is changed is replaced, not written into.
fn corpus_log(log: &Path, case: &Path) {
    let to = case.join("log");
    if to.exists() {
        std::fs::remove_dir_all(&to).expect("removed");
    }
    link_missing(log, &to);
}

/// Adds the files that are not there.
pub(crate) fn link_missing(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a log") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            link_missing(&path, &target);
        } else if !target.exists() {
            std::fs::hard_link(&path, &target).expect("a link");
        }
    }
}

fn number(n: u64) -> String {
    assert!(n < 1_000, "a log of the contract is small");
    format!("{n:03}")
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> String {
    String::from_utf8(bytes(path)).expect("text")
}

fn put(path: &Path, bytes: &[u8]) {
    let _absent = std::fs::remove_file(path);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn copy(from: &Path, to: &Path) {
    put(to, &bytes(from));
}

/// Another number of as many digits.
fn flip_digit(number: &str) -> String {
    let (rest, last) = number.split_at(number.len() - 1);
    format!("{rest}{}", (last.parse::<u8>().expect("a digit") + 1) % 10)
}

/// Another base64 word: a character of its middle, all of whose bits count.
fn flip_base64(line: &str) -> String {
    let start = line.rfind(' ').map_or(0, |at| at + 1);
    let at = start + (line.len() - start) / 2;
    let flipped = if &line[at..=at] == "A" { "B" } else { "A" };
    format!("{}{flipped}{}", &line[..at], &line[at + 1..])
}
