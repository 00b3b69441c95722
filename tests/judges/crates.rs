//! Judges made of crates: `tlog_tiles` holds tiles, records and proofs against a root, `ct-merkle` makes the tree of the records. Both
//! open checkpoints with `signed_note`, which knows Ed25519 lines and no ECDSA.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{InclusionProof, RootHash};
use sha2::Sha256;
use signed_note::{Note, StandardVerifier, VerifierList};
use std::path::{Path, PathBuf};
use tlog_tiles::{Checkpoint, Hash, HashReader as _, Tile, TileHashReader, TileReader};

type Verdict = Result<(), String>;

const HEIGHT: u8 = 8;
const WIDTH: u64 = 1 << HEIGHT;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn must(truth: bool, why: &str) -> Verdict {
    if truth { Ok(()) } else { Err(why.to_owned()) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The tree that the log's Ed25519 key signed.
fn open(case: &Path, note: &[u8]) -> Result<Checkpoint, String> {
    let keys = String::from_utf8(read(&case.join("keys"))?).map_err(text)?;
    let is_ed25519 = |line: &&str| {
        let key = line.splitn(3, '+').nth(2).and_then(|key| STANDARD.decode(key).ok());
        key.is_some_and(|key| key.first() == Some(&1))
    };
    let key = keys.lines().find(is_ed25519).ok_or("no Ed25519 key")?;
    let verifier = StandardVerifier::new(key).map_err(text)?;
    let name = key.split('+').next().unwrap_or_default();
    let note = Note::from_bytes(note).map_err(text)?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(text)?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(text)?;
    must(checkpoint.origin() == name, "it is another log's checkpoint")?;
    Ok(checkpoint)
}

/// The path of a file, as C2SP has it: without the height.
fn path(tile: &Tile) -> String {
    format!("tile/{}", tile.path().trim_start_matches(&format!("tile/{HEIGHT}/")))
}

struct Folder(PathBuf);

impl TileReader for Folder {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &Tile| {
            let bytes = std::fs::read(self.0.join(path(tile))).map_err(|error| error.to_string());
            let whole = bytes.and_then(|bytes| {
                must(bytes.len() == tile.width() as usize * 32, "a tile of another length").map(|()| bytes)
            });
            whole.map_err(|why| tlog_tiles::Error::InvalidInput(format!("{}: {why}", path(tile))))
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}

/// Every record of the log, in order.
fn records(log: &Path, size: u64) -> Result<Vec<Vec<u8>>, String> {
    let mut out = Vec::new();
    for n in 0..size.div_ceil(WIDTH) {
        let width = (size - n * WIDTH).min(WIDTH);
        let partial = if width < WIDTH { format!(".p/{width}") } else { String::new() };
        let bundle = read(&log.join(format!("tile/entries/{n:03}{partial}")))?;
        let mut rest = bundle.as_slice();
        let before = out.len() as u64;
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let (record, behind) = behind.split_at_checked(length).ok_or("a bundle ends early")?;
            out.push(record.to_vec());
            rest = behind;
        }
        must(rest.is_empty() && out.len() as u64 - before == width, "a bundle has another number of records")?;
    }
    Ok(out)
}

struct Receipt {
    index: u64,
    record: Vec<u8>,
    path: Vec<[u8; 32]>,
    note: String,
}

fn receipt(case: &Path) -> Option<Result<Receipt, String>> {
    let file = case.join("receipt");
    file.exists().then(|| {
        let all = String::from_utf8(read(&file)?).map_err(text)?;
        let (proof, note) = all.split_once("\n\n").ok_or("no checkpoint")?;
        let mut lines = proof.split('\n');
        must(lines.next() == Some("c2sp.org/tlog-proof@v1"), "not a tlog-proof")?;
        let decode = |line: &str| STANDARD.decode(line).map_err(text);
        let record = decode(lines.next().and_then(|line| line.strip_prefix("extra ")).ok_or("no record")?)?;
        let index =
            lines.next().and_then(|line| line.strip_prefix("index ")).ok_or("no index")?.parse().map_err(text)?;
        let mut path = Vec::new();
        for line in lines {
            path.push(decode(line)?.try_into().map_err(|_| "a hash has 32 bytes")?);
        }
        Ok(Receipt { index, record, path, note: note.to_owned() })
    })
}

/// The judge `tlog_tiles`.
pub(crate) fn tlog_tiles(case: &Path) -> Verdict {
    if let Some(receipt) = receipt(case) {
        let receipt = receipt?;
        let tree = open(case, receipt.note.as_bytes())?;
        let path = receipt.path.iter().map(|hash| Hash(*hash)).collect();
        let leaf = tlog_tiles::record_hash(&receipt.record);
        return tlog_tiles::check_record(&path, tree.size(), *tree.hash(), receipt.index, leaf).map_err(text);
    }
    let tree = open(case, &read(&case.join("log/checkpoint"))?)?;
    let folder = Folder(case.join("log"));
    let hashes = TileHashReader::new(tree.size(), *tree.hash(), &folder);
    let root = tlog_tiles::tree_hash(tree.size(), &hashes).map_err(text)?;
    must(root == *tree.hash(), "the tiles do not give the root")?;
    for tile in Tile::new_tiles(HEIGHT, 0, tree.size()) {
        let data = folder.read_tiles(&[tile]).map_err(text)?;
        let again = tile.read_data(&hashes).map_err(text)?;
        must(data.first() == Some(&again), &format!("{} is not of this tree", path(&tile)))?;
    }
    for (index, record) in (0..).zip(records(&folder.0, tree.size())?) {
        let found = hashes.read_hashes(&[tlog_tiles::stored_hash_index(0, index)]).map_err(text)?;
        must(found == [tlog_tiles::record_hash(&record)], &format!("record {index} is not the one that was logged"))?;
    }
    if case.join("kept").exists() {
        let kept = open(case, &read(&case.join("kept"))?)?;
        must(kept.size() <= tree.size(), "the log was longer before")?;
        let path = tlog_tiles::prove_tree(tree.size(), kept.size(), &hashes).map_err(text)?;
        tlog_tiles::check_tree(&path, tree.size(), *tree.hash(), kept.size(), *kept.hash()).map_err(text)?;
    }
    Ok(())
}

/// The judge `ct-merkle`.
pub(crate) fn ct_merkle(case: &Path) -> Verdict {
    let root = |tree: &Checkpoint| RootHash::<Sha256>::new(tree.hash().0.into(), tree.size());
    if let Some(receipt) = receipt(case) {
        let receipt = receipt?;
        let tree = open(case, receipt.note.as_bytes())?;
        let proof = InclusionProof::<Sha256>::try_from_bytes(receipt.path.concat()).map_err(text)?;
        return root(&tree).verify_inclusion(&receipt.record, receipt.index, &proof).map_err(text);
    }
    let checkpoint = open(case, &read(&case.join("log/checkpoint"))?)?;
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for record in records(&case.join("log"), checkpoint.size())? {
        tree.push(record);
    }
    must(tree.root() == root(&checkpoint), "the records do not give the root")?;
    if case.join("kept").exists() {
        let kept = open(case, &read(&case.join("kept"))?)?;
        let more = checkpoint.size().checked_sub(kept.size()).ok_or("the log was longer before")?;
        if more == 0 {
            return must(kept.hash() == checkpoint.hash(), "the log has another root than before");
        }
        let proof = tree.prove_consistency(usize::try_from(more).map_err(text)?);
        tree.root().verify_consistency(&root(&kept), &proof).map_err(text)?;
    }
    Ok(())
}
